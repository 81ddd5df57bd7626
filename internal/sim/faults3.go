package sim

import (
	"fmt"
	"slices"
	"time"

	"ringfence/internal/cluster"
)

// deafPair cuts the path between two guests alone, most often in one direction:
// all others hear both. Sometimes the one that is not heard learns late of it.
func (a *attack) deafPair() string {
	from, to, span := a.guest(), a.guest(), a.span(time.Second, 8*time.Second)
	if from == to {
		return "nobody"
	}
	ways := [][2]string{{from.name, to.name}}
	if a.r.IntN(3) == 0 {
		ways = append(ways, [2]string{to.name, from.name})
	}
	a.cuts(span, ways)
	lag := time.Duration(0)
	if l := from.link(); l != nil && a.r.IntN(2) == 0 {
		lag = a.span(time.Second, 4*time.Second)
		l.setLag(lag)
		a.later(span, func() { l.setLag(0) })
	}
	return fmt.Sprintf("%s is not heard by %s alone for %v (both ways: %v), and sees changes %v late",
		from.name, to.name, span.Round(time.Millisecond), len(ways) > 1, lag.Round(time.Millisecond))
}

// newService adds a service to the configuration that somebody has started by
// hand before, on a guest that at times cannot stop it at once.
func (a *attack) newService() string {
	var config cluster.Config
	a.history.read(func(s *cluster.State) { config = s.Config.Value })
	if len(config.Services) == len(serviceNames) {
		return "there are enough"
	}
	c := config.Services[0]
	c.Name = serviceNames[len(config.Services)]
	g, wait := a.virtual(), a.span(10*time.Millisecond, time.Second)
	runs := g.byHand(c.Name)
	if runs && a.r.IntN(3) == 0 {
		g.setFaults([]AgentFaults{{StopFails: true}, {StopHangs: true}, {Blind: true}}[a.r.IntN(3)])
		a.later(a.span(time.Second, 8*time.Second), func() { g.setFaults(AgentFaults{}) })
	}
	a.later(wait, func() {
		var next cluster.Config
		a.history.read(func(s *cluster.State) { next = s.Config.Value })
		if len(next.Services) == len(config.Services) { // else another fault came first
			next.Services = append(slices.Clone(next.Services), c)
			a.put(cluster.KeyConfig, next)
		}
	})
	return fmt.Sprintf("%s, in %v; it runs on %s, started by hand: %v", c.Name, wait.Round(time.Millisecond), g.name, runs)
}

// moveAway has a service that a guest owns moved for so long, if it owns any.
func (a *attack) moveAway(g *guest, span time.Duration) (moved cluster.ServiceName) {
	a.history.read(func(s *cluster.State) {
		for _, name := range serviceNames {
			if moved == "" && s.Owners[name].Value.Node == g.node() {
				moved = name
			}
		}
	})
	to := a.virtual()
	if moved == "" || to == g {
		return ""
	}
	a.put(cluster.KeyWish(moved), cluster.Wish{Service: moved, MoveTo: to.node(), By: "sim"})
	a.later(span, func() { a.commit(cluster.Remove(cluster.KeyWish(moved))) })
	return moved
}

// doomSoon has a guest fenced within so long, whatever its host says of it: it
// must stop its services, and cannot.
func (a *attack) doomSoon(g *guest, most time.Duration) {
	at, span := time.Duration(a.r.Int64N(int64(most))), a.span(time.Second, 5*time.Second)
	a.later(at, func() {
		g.setFaults(AgentFaults{StopFails: true})
		a.put(cluster.KeyStandby(g.node()), cluster.Standby{Node: g.node(), By: "sim"})
	})
	a.later(at+span, func() {
		g.setFaults(AgentFaults{})
		a.commit(cluster.Remove(cluster.KeyStandby(g.node())))
	})
}

// stuckName is the fault that nothing else comes in between of, and stuckSpan how
// long it lasts: longer than what a node may take that has to end and cannot.
const (
	stuckName = "cannot stop"
	stuckSpan = 65 * time.Second
)

// stuck lets a guest that runs services have to stop them, when it cannot, and
// nobody else can end it: no node reaches its host, but its own channel works.
func (a *attack) stuck() string {
	var busy []*guest
	for _, g := range a.sortedGuests() {
		if _, runs := g.runsOwn(); runs && !g.bare {
			busy = append(busy, g)
		}
	}
	if len(busy) == 0 {
		return "nobody runs anything"
	}
	g := busy[a.r.IntN(len(busy))]
	hangs, alone := a.r.IntN(2) == 0, a.r.IntN(2) == 0
	g.setFaults(AgentFaults{StopHangs: hangs, StopFails: !hangs})
	a.later(stuckSpan, func() { g.setFaults(AgentFaults{}) })
	guests, _ := a.names()
	for _, n := range guests {
		ways := [][2]string{{n, g.place().name}, {g.place().name, n}}
		if alone && n != g.name {
			ways = append(ways, [2]string{n, g.name}, [2]string{g.name, n})
		}
		a.cuts(stuckSpan, ways)
	}
	if !alone {
		a.put(cluster.KeyStandby(g.node()), cluster.Standby{Node: g.node(), By: "sim"})
		a.later(stuckSpan, func() { a.commit(cluster.Remove(cluster.KeyStandby(g.node()))) })
	}
	return fmt.Sprintf("%s must stop all, since it is cut off from the store: %v, else on standby; its stops hang: %v", g.name, alone, hangs)
}

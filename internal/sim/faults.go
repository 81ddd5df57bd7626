package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"ringfence/internal/cluster"
)

// Fault is one thing that goes wrong at one time. What exactly it hits is drawn
// from its own numbers, so that leaving another fault out changes nothing here.
type Fault struct {
	Number int
	At     time.Duration
	Name   string
	seed   uint64
}

// kind is a sort of fault. do makes it happen and says what it did; what it
// begins it also ends, by w.later or when the world heals.
type kind struct {
	name   string
	weight int
	only   func(Plan) bool // worlds where it can be; nil: all
	do     func(f *attack) string
}

func mobile(p Plan) bool { return p.Mobile }

func long(p Plan) bool { return p.Long }

func (k kind) fits(p Plan) bool { return k.only == nil || k.only(p) }

// attack is one fault while it is made.
type attack struct {
	*World
	r *rand.Rand
}

// kinds are all faults. The weights are chosen so that a world sees a dozen
// different ones, and often two at a time.
var kinds = []kind{
	{"crash", 6, nil, (*attack).crash},
	{"silent crash", 5, nil, (*attack).silentCrash},
	{"hang", 4, nil, (*attack).hang},
	{"daemon restart", 4, nil, (*attack).daemonRestart},
	{"daemon dies", 3, nil, (*attack).daemonDies},
	{"partition", 6, nil, (*attack).partition},
	{"one-way cut", 4, nil, (*attack).oneWay},
	{"cut from hosts", 4, nil, (*attack).cutFromHosts},
	{"pause", 6, nil, (*attack).pause},
	{"stall", 6, nil, (*attack).stall},
	{"host stall", 3, nil, (*attack).hostStall},
	{"resumed behind the host's back", 2, nil, (*attack).secretResume},
	{"trip", 8, nil, (*attack).trip},
	{"reboot inside", 4, nil, (*attack).rebootInside},
	{"power cycle", 4, nil, (*attack).powerCycle},
	{"disk revert", 3, nil, (*attack).diskRevert},
	{"host loss", 4, nil, (*attack).hostLoss},
	{"hostd restart", 4, nil, (*attack).hostdRestart},
	{"hostd loses its tail", 2, nil, (*attack).hostdLosesTail},
	{"journal full", 3, nil, (*attack).journalFull},
	{"store stall", 4, nil, (*attack).storeStall},
	{"stale reads", 5, nil, (*attack).staleReads},
	{"commits lost", 4, nil, (*attack).commitsLost},
	{"power calls", 6, nil, (*attack).powerCalls},
	{"hypervisor", 4, nil, (*attack).hypervisorTrouble},
	{"beats lost", 6, nil, (*attack).beatsLost},
	{"forged certificate", 3, nil, (*attack).forgedCertificate},
	{"deaf pair", 4, nil, (*attack).deafPair},
	{"weather", 5, nil, (*attack).badWeather},
	{"clock step", 3, nil, (*attack).clockStep},
	{"service crash", 4, nil, (*attack).serviceCrash},
	{"agents", 5, nil, (*attack).agents},
	{"new service", 2, nil, (*attack).newService},
	{stuckName, 3, long, (*attack).stuck},
	{"standby", 3, nil, (*attack).standby},
	{"move", 3, nil, (*attack).move},
	{"leave", 3, nil, (*attack).leaveCluster},
	{"disarm", 2, nil, (*attack).disarm},
	{"migrate", 8, mobile, (*attack).migrate},
	{"evacuate", 3, mobile, (*attack).evacuate},
	{"save", 4, mobile, (*attack).save},
	{"revert", 3, mobile, (*attack).revert},
}

// schedule draws what goes wrong in a world of this shape and when.
func (w *World) schedule() []Fault {
	r := w.random("schedule")
	total := 0
	for _, k := range kinds {
		if k.fits(w.Plan) {
			total += k.weight
		}
	}
	var out []Fault
	at := 3*time.Second + time.Duration(r.IntN(4000))*time.Millisecond
	end := at + 5*time.Second + time.Duration(r.IntN(25000))*time.Millisecond
	if w.Plan.Long {
		end += time.Minute
	}
	for at < end {
		out = append(out, Fault{Number: len(out) + 1, At: at, Name: pick(r, total, w.Plan), seed: r.Uint64()})
		if out[len(out)-1].Name == stuckName {
			at += stuckSpan // nothing else, or it would seldom come to its end
		} else if r.IntN(3) > 0 { // else two at once
			at += time.Duration(r.IntN(4000)) * time.Millisecond
		}
	}
	return out
}

func pick(r *rand.Rand, total int, p Plan) string {
	n := r.IntN(total)
	for _, k := range kinds {
		if !k.fits(p) {
			continue
		}
		if n -= k.weight; n < 0 {
			return k.name
		}
	}
	return kinds[0].name
}

// make lets a fault happen.
func (w *World) make(f Fault) {
	for _, k := range kinds {
		if k.name == f.Name {
			a := &attack{World: w, r: rand.New(rand.NewPCG(w.Seed, f.seed))}
			w.note("fault %d: %s: %s", f.Number, f.Name, k.do(a))
		}
	}
}

// fresh is a reason to hold a machine that no other fault has.
func (a *attack) fresh(why string) string { return fmt.Sprintf("%s %d", why, a.r.Uint64()) }

// a guest, most often one that owns a service or leads: what goes wrong there
// matters.
func (a *attack) guest() *guest {
	all := a.sortedGuests()
	if a.r.IntN(2) == 0 {
		var leader cluster.NodeName
		owners := map[cluster.NodeName]bool{}
		a.history.read(func(s *cluster.State) {
			leader = s.Leader.Value.Node
			for _, o := range s.Owners {
				owners[o.Value.Node] = true
			}
		})
		var busy []*guest
		for _, g := range all {
			if owners[g.node()] || g.node() == leader {
				busy = append(busy, g)
			}
		}
		if len(busy) > 0 {
			return busy[a.r.IntN(len(busy))]
		}
	}
	return all[a.r.IntN(len(all))]
}

// virtual is a guest of a hypervisor.
func (a *attack) virtual() *guest {
	for {
		if g := a.guest(); !g.bare {
			return g
		}
	}
}

func (a *attack) host() *host {
	all := a.sortedHosts()
	return all[a.r.IntN(len(all))]
}

// span draws how long a fault lasts. In a long world the long ones outlast every
// budget.
func (a *attack) span(least, most time.Duration) time.Duration {
	span := least + time.Duration(a.r.Int64N(int64(most-least)))
	if a.Plan.Long && span > 5*time.Second {
		span *= 4
	}
	return span
}

// pauseSpan is often close to the limits of detection, where mistakes are.
func (a *attack) pauseSpan() time.Duration {
	switch a.r.IntN(3) {
	case 0:
		return a.span(100*time.Millisecond, 1500*time.Millisecond)
	case 1:
		return a.span(time.Second, 6*time.Second)
	}
	return a.span(5*time.Second, 20*time.Second)
}

func (a *attack) crash() string {
	g := a.guest()
	if g.bare {
		return a.bareCrash(g)
	}
	a.later(0, func() { g.place().dies(g, true) })
	a.returns(g)
	return g.name + ", and its host tells"
}

func (a *attack) bareCrash(g *guest) string {
	g.halt()
	a.later(a.span(time.Second, 15*time.Second), g.boot)
	return g.name + ", which stands on a machine of its own"
}

func (a *attack) silentCrash() string {
	g := a.guest()
	if g.bare {
		return a.bareCrash(g)
	}
	a.later(0, func() { g.place().dies(g, false) })
	a.returns(g)
	return g.name + ", and nobody tells"
}

// returns has somebody start the guest again some time.
func (a *attack) returns(g *guest) {
	if a.r.IntN(2) == 0 {
		return // not before the world heals, or by policy
	}
	a.later(a.span(500*time.Millisecond, 10*time.Second), func() {
		if h := g.place(); g.now() == nil && h.isUp() {
			h.powerOn(g)
		}
	})
}

func (a *attack) hang() string {
	g := a.guest()
	g.freeze(heldHung, a.r.IntN(2) == 0)
	return g.name + " stands still for good; its hypervisor shows it running"
}

func (a *attack) daemonRestart() string {
	g := a.guest()
	wait := a.span(50*time.Millisecond, 3*time.Second)
	a.stopDaemon(g, wait)
	return fmt.Sprintf("%s for %v", g.name, wait.Round(time.Millisecond))
}

// stopDaemon ends the daemon, as SIGKILL does: what it started runs on. After
// wait it is started again; 0: by nobody, until the world heals.
func (a *attack) stopDaemon(g *guest, wait time.Duration) {
	g.mu.Lock()
	d, m := g.daemon, g.machine
	g.mu.Unlock()
	if d == nil || m == nil {
		return
	}
	d.killed = true
	d.cancel()
	if wait > 0 {
		a.later(wait, func() { g.startDaemon(m) })
	}
}

func (a *attack) daemonDies() string {
	g := a.guest()
	a.stopDaemon(g, 0)
	return g.name + ", and what it started runs on"
}

// cuts lays cuts and mends them after a while.
func (a *attack) cuts(span time.Duration, ways [][2]string) {
	for _, way := range ways {
		a.later(span, a.net.cutOff(way[0], way[1]))
	}
}

func (a *attack) names() (guests, hosts []string) {
	for _, g := range a.sortedGuests() {
		guests = append(guests, g.name)
	}
	for _, h := range a.sortedHosts() {
		hosts = append(hosts, h.name)
	}
	return guests, hosts
}

func (a *attack) partition() string {
	guests, hosts := a.names()
	side := map[string]bool{}
	one := a.guest().name
	side[one] = true
	for _, n := range append(guests, hosts...) {
		if n != one && a.r.IntN(4) == 0 {
			side[n] = true
		}
	}
	span := a.span(500*time.Millisecond, 30*time.Second)
	var ways [][2]string
	var here []string
	all := append(guests, hosts...)
	for _, x := range all {
		if side[x] {
			here = append(here, x)
		}
		for _, y := range all {
			if side[x] != side[y] {
				ways = append(ways, [2]string{x, y})
			}
		}
	}
	a.cuts(span, ways)
	return fmt.Sprintf("%v from the others for %v", here, span.Round(time.Millisecond))
}

func (a *attack) oneWay() string {
	guests, hosts := a.names()
	g, span := a.guest().name, a.span(500*time.Millisecond, 15*time.Second)
	out := a.r.IntN(2) == 0
	var ways [][2]string
	for _, x := range append(guests, hosts...) {
		if x == g {
			continue
		}
		way := [2]string{x, g}
		if out {
			way = [2]string{g, x}
		}
		ways = append(ways, way)
	}
	a.cuts(span, ways)
	return fmt.Sprintf("%s for %v (nothing from it: %v)", g, span.Round(time.Millisecond), out)
}

func (a *attack) cutFromHosts() string {
	_, hosts := a.names()
	g, span := a.guest().name, a.span(time.Second, 20*time.Second)
	var ways [][2]string
	for _, h := range hosts {
		ways = append(ways, [2]string{g, h}, [2]string{h, g})
	}
	a.cuts(span, ways)
	return fmt.Sprintf("%s for %v", g, span.Round(time.Millisecond))
}

func (a *attack) pause() string {
	g, span := a.virtual(), a.pauseSpan()
	h := g.place()
	life := h.driver.Life(g.id())
	if life == "" {
		return g.name + " is off"
	}
	clockStops := a.r.IntN(2) == 0
	if err := h.driver.Driver.Pause(context.Background(), g.id(), life); err != nil {
		return err.Error()
	}
	g.freeze(heldPaused, clockStops)
	a.later(span, func() { _ = g.place().driver.Unpause(context.Background(), g.id(), life) })
	return fmt.Sprintf("%s for %v (its clock stops: %v)", g.name, span.Round(time.Millisecond), clockStops)
}

func (a *attack) stall() string {
	g, span, clockStops := a.guest(), a.pauseSpan(), a.r.IntN(2) == 0
	m := g.now()
	if m == nil {
		return g.name + " is off"
	}
	why := a.fresh("stall")
	m.pause(why, clockStops)
	deaf := a.r.IntN(2) == 0
	if deaf {
		m.loses()
	}
	a.later(span, func() { m.unpause(why) })
	return fmt.Sprintf("%s for %v, and its host knows nothing (its clock stops: %v, packets are lost: %v)", g.name, span.Round(time.Millisecond), clockStops, deaf)
}

func (a *attack) hostStall() string {
	h, span, clockStops := a.host(), a.pauseSpan(), a.r.IntN(2) == 0
	deaf := a.r.IntN(2) == 0
	for _, g := range a.sortedGuests() {
		if m := g.now(); g.place() == h && m != nil {
			why := a.fresh("stall")
			m.pause(why, clockStops)
			if deaf {
				m.loses()
			}
			a.later(span, func() { m.unpause(why) })
		}
	}
	return fmt.Sprintf("all guests of %s for %v (packets are lost: %v)", h.name, span.Round(time.Millisecond), deaf)
}

// secretResume: paused by the hypervisor's word, running in truth.
func (a *attack) secretResume() string {
	g := a.virtual()
	h, span := g.place(), a.pauseSpan()
	life := h.driver.Life(g.id())
	if life == "" || h.driver.Driver.Pause(context.Background(), g.id(), life) != nil {
		return g.name + " is off"
	}
	g.freeze(heldPaused, true)
	a.later(span, g.thaw)
	return fmt.Sprintf("%s after %v", g.name, span.Round(time.Millisecond))
}

// trip stops a machine between two steps of its programs, wherever that is:
// often the leader's.
func (a *attack) trip() string {
	g := a.guest()
	m := g.now()
	if m == nil {
		return g.name + " is off"
	}
	steps, span, dies := 1+a.r.IntN(120), a.pauseSpan(), a.r.IntN(3) == 0
	if dies && !g.bare {
		m.tripAfter(steps, func() {
			m.pause(heldHung, true)
			a.later(0, func() { g.place().dies(g, a.r.IntN(2) == 0) })
		})
		return fmt.Sprintf("%s dies at its step %d from now", g.name, steps)
	}
	stops := a.r.IntN(2) == 0
	m.tripAfter(steps, func() {
		why := a.fresh("trip")
		m.pause(why, stops)
		a.note("%s stands still at that step", g.name)
		a.later(span, func() { m.unpause(why) })
	})
	return fmt.Sprintf("%s stands still at its step %d from now, for %v", g.name, steps, span.Round(time.Millisecond))
}

package sim

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor/mem"
)

// streamBack is how long hostd may take to watch again once it can.
const streamBack = 6 * time.Second

// offHangs is how long a call that was hung may hold up the next one.
const offHangs = 15 * time.Second

func (a *attack) rebootInside() string {
	g := a.guest()
	m := g.now()
	if m == nil {
		return g.name + " is off"
	}
	g.reboot(m)
	return g.name
}

// powerCycle ends a life and begins another at once, as an administrator does
// who is not patient.
func (a *attack) powerCycle() string {
	g := a.virtual()
	h := g.place()
	a.later(0, func() {
		h.dies(g, true)
		h.powerOn(g)
	})
	return g.name
}

func (a *attack) hostLoss() string {
	h, away := a.host(), a.span(time.Second, 25*time.Second)
	if !h.isUp() {
		return h.name + " is down"
	}
	a.later(0, func() {
		h.down()
		a.later(away, func() {
			h.back()
			for _, g := range a.sortedGuests() {
				if g.place() == h && a.r.IntN(2) == 0 {
					h.powerOn(g)
				}
			}
		})
	})
	return fmt.Sprintf("%s for %v", h.name, away.Round(time.Millisecond))
}

func (a *attack) hostdRestart() string {
	h, away := a.host(), a.span(10*time.Millisecond, 8*time.Second)
	a.later(0, func() {
		h.stopHostd()
		a.later(away, h.startHostd)
	})
	return fmt.Sprintf("%s for %v", h.name, away.Round(time.Millisecond))
}

// hostdLosesTail: the host's disk had promised more than it kept.
func (a *attack) hostdLosesTail() string {
	h, away, entries, torn := a.host(), a.span(10*time.Millisecond, 8*time.Second), a.r.IntN(4), a.r.IntN(40)
	a.later(0, func() {
		h.stopHostd()
		h.storage.LoseFrames(entries)
		h.storage.LoseBytes(torn) // and one was written in part
		a.mu.Lock()
		a.doubt = true
		a.mu.Unlock()
		a.later(away, h.startHostd)
	})
	return fmt.Sprintf("%s, %d entries and %d bytes, for %v", h.name, entries, torn, away.Round(time.Millisecond))
}

func (a *attack) journalFull() string {
	h, span := a.host(), a.span(time.Second, 20*time.Second)
	h.hinder(span)
	h.storage.SetFail(errFull)
	a.later(span, func() { h.storage.SetFail(nil) })
	return fmt.Sprintf("%s for %v", h.name, span.Round(time.Millisecond))
}

// storeStall makes the voter of one node lag.
func (a *attack) storeStall() string {
	g, lag, span := a.guest(), a.span(200*time.Millisecond, 5*time.Second), a.span(time.Second, 15*time.Second)
	l := g.link()
	if l == nil {
		return g.name + " has no daemon"
	}
	l.setLag(lag)
	a.later(span, func() { l.setLag(0) })
	return fmt.Sprintf("%s sees changes %v late for %v", g.name, lag.Round(time.Millisecond), span.Round(time.Millisecond))
}

// staleReads has a daemon read the store as it is now, for a while, also when
// it starts anew.
func (a *attack) staleReads() string {
	g, span := a.guest(), a.span(time.Second, 10*time.Second)
	l := g.link()
	if l == nil {
		return g.name + " has no daemon"
	}
	l.freeze(true)
	l.setLag(a.span(500*time.Millisecond, 4*time.Second))
	a.later(span, func() { g.store.mend() })
	again, moved := a.r.IntN(2) == 0, cluster.ServiceName("")
	if again {
		moved = a.moveAway(g, span)
		a.later(a.span(0, span), func() { a.stopDaemon(g, 100*time.Millisecond) })
	}
	return fmt.Sprintf("%s for %v (its daemon restarts: %v; moved away: %q)", g.name, span.Round(time.Millisecond), again, moved)
}

func (a *attack) commitsLost() string {
	g, span := a.guest(), a.span(time.Second, 10*time.Second)
	l := g.link()
	if l == nil {
		return g.name + " has no daemon"
	}
	l.setLost(0.3)
	a.later(span, func() { l.setLost(0) })
	dies := !g.bare && a.r.IntN(2) == 0
	if dies { // while it opens a start, which may arrive behind its tombstone
		l.setLost(0.5)
		s := a.service()
		a.put(cluster.KeyWish(s), cluster.Wish{Service: s, MoveTo: g.node(), By: "sim"})
		a.later(a.span(300*time.Millisecond, 2*time.Second), func() {
			g.place().dies(g, true)
			a.commit(cluster.Remove(cluster.KeyWish(s)))
		})
		a.returns(g)
	}
	return fmt.Sprintf("of %s for %v (it dies meanwhile: %v)", g.name, span.Round(time.Millisecond), dies)
}

// powerCalls makes a host's fence method slow, failing or hanging, and repairs it.
func (a *attack) powerCalls() string {
	h, span := a.host(), a.span(time.Second, 20*time.Second)
	fault := []PowerFault{PowerSlow, PowerFails, PowerFailsAfter, PowerHangs}[a.r.IntN(4)]
	h.hinder(span + offHangs)
	h.driver.setFault(fault)
	a.later(span, func() { h.driver.setFault(PowerGood) })
	return fmt.Sprintf("%s for %v: %s", h.name, span.Round(time.Millisecond), []string{"", "slow", "fail", "fail, they say", "hang"}[fault])
}

// hypervisorTrouble: the management layer of a host is down, quiet, or loses
// its event streams.
func (a *attack) hypervisorTrouble() string {
	h, span := a.host(), a.span(500*time.Millisecond, 12*time.Second)
	h.hinder(span + streamBack)
	switch a.r.IntN(4) {
	case 0:
		h.driver.SetAvailable(false)
		a.later(span, func() { h.driver.SetAvailable(true) })
		return fmt.Sprintf("%s down for %v", h.name, span.Round(time.Millisecond))
	case 1:
		h.driver.SetQuiet(true)
		a.later(span, func() { h.driver.SetQuiet(false) })
		return fmt.Sprintf("%s tells nothing for %v", h.name, span.Round(time.Millisecond))
	case 2:
		h.driver.SetFault(mem.FaultOn(mem.OpList, mem.Fault{Hang: true}))
		a.later(span, func() { h.driver.SetFault(nil) })
		return fmt.Sprintf("%s lists nothing for %v", h.name, span.Round(time.Millisecond))
	}
	h.driver.BreakStreams()
	return h.name + " loses its streams"
}

func (a *attack) badWeather() string {
	weather := Weather{Loss: 0.1 * a.r.Float64(), Repeat: 0.3 * a.r.Float64(), Late: 0.3 * a.r.Float64(), Delay: a.span(10*time.Millisecond, 4*time.Second)}
	span := a.span(time.Second, 15*time.Second)
	a.net.setWeather(weather)
	a.later(span, func() { a.net.setWeather(Weather{}) })
	return fmt.Sprintf("lost %.2f, repeated %.2f, late %.2f by up to %v, for %v", weather.Loss, weather.Repeat, weather.Late, weather.Delay.Round(time.Millisecond), span.Round(time.Millisecond))
}

// beatsLost is a firewall that drops heartbeats everywhere while all else
// passes; sometimes the voters lag as well, so that answers come late.
func (a *attack) beatsLost() string {
	span, lag := a.span(time.Second, 15*time.Second), time.Duration(0)
	a.net.setMute(true)
	a.later(span, func() { a.net.setMute(false) })
	if a.r.IntN(4) > 0 {
		lag = a.span(time.Second, 4*time.Second)
		for _, g := range a.sortedGuests() {
			if l := g.link(); l != nil && a.r.IntN(2) == 0 {
				l.setLag(lag)
				a.later(span, func() { l.setLag(0) })
			}
		}
	}
	return fmt.Sprintf("for %v, with changes up to %v late", span.Round(time.Millisecond), lag.Round(time.Millisecond))
}

// forgedBoot marks what no run of hostd has said.
const forgedBoot = "forged"

// forgedCertificate is the word of a host about a life that is at another one: it
// stands in the store, signed well, and is false.
func (a *attack) forgedCertificate() string {
	g, h := a.virtual(), a.host()
	var boot cluster.Boot
	a.history.read(func(s *cluster.State) {
		for _, b := range s.Boots {
			if _, ended := s.Ended[b.Value.ID]; b.Value.Node == g.node() && !ended {
				boot = b.Value
			}
		}
	})
	if boot.Life == "" || slices.Contains(boot.Places, cluster.HostName(h.name)) {
		return h.name + " has a say about " + g.name
	}
	cert := cluster.DeathCertificate{
		Cluster: clusterID, Guest: boot.Guest, Life: boot.Life, Host: cluster.HostName(h.name), HostBoot: forgedBoot, Seq: 1 << 40, Cause: cluster.CauseDestroyed,
	}
	cert.Signature = ed25519.Sign(h.key, cert.SigningBytes())
	a.put(cluster.KeyCertificate(boot.Life, cert.Host), cert)
	return fmt.Sprintf("%s says that %s has ended", h.name, boot.ID)
}

func (a *attack) clockStep() string {
	g, step := a.guest(), a.span(100*time.Millisecond, 20*time.Second)
	m := g.now()
	if m == nil {
		return g.name + " is off"
	}
	m.step(step)
	return fmt.Sprintf("%s by %v", g.name, step.Round(time.Millisecond))
}

func (a *attack) service() cluster.ServiceName {
	names := a.configured()
	return names[a.r.IntN(len(names))]
}

// serviceCrash ends a service's process, not its guest.
func (a *attack) serviceCrash() string {
	s := a.service()
	for _, g := range a.sortedGuests() {
		g.mu.Lock()
		p := g.processes[s]
		if p != nil {
			close(p.ended)
			delete(g.processes, s)
		}
		g.mu.Unlock()
		if p != nil {
			return fmt.Sprintf("%s on %s", s, g.name)
		}
	}
	return string(s) + " runs nowhere"
}

func (a *attack) agents() string {
	g, span := a.guest(), a.span(time.Second, 15*time.Second)
	f := []AgentFaults{{StartFails: true}, {StartHangs: true}, {StopFails: true}, {StopHangs: true}, {Blind: true}}[a.r.IntN(5)]
	g.setFaults(f)
	a.later(span, func() { g.setFaults(AgentFaults{}) })
	return fmt.Sprintf("on %s for %v: %+v", g.name, span.Round(time.Millisecond), f)
}

func (a *attack) standby() string {
	g, span := a.guest(), a.span(time.Second, 15*time.Second)
	a.put(cluster.KeyStandby(g.node()), cluster.Standby{Node: g.node(), By: "sim"})
	a.later(span, func() { a.commit(cluster.Remove(cluster.KeyStandby(g.node()))) })
	return fmt.Sprintf("%s for %v", g.name, span.Round(time.Millisecond))
}

func (a *attack) move() string {
	s, g := a.service(), a.guest()
	a.put(cluster.KeyWish(s), cluster.Wish{Service: s, MoveTo: g.node(), By: "sim"})
	a.later(a.span(time.Second, 10*time.Second), func() { a.commit(cluster.Remove(cluster.KeyWish(s))) })
	return fmt.Sprintf("%s to %s", s, g.name)
}

func (a *attack) leaveCluster() string {
	g := a.guest()
	g.mu.Lock()
	d := g.daemon
	if d != nil && d.node != nil {
		d.node.Leave()
	}
	g.mu.Unlock()
	return g.name
}

func (a *attack) disarm() string {
	span := a.span(time.Second, 10*time.Second)
	a.put(cluster.KeyDisarm, cluster.Disarm{By: "sim", Reason: "work on the network"})
	a.later(span, func() { a.commit(cluster.Remove(cluster.KeyDisarm)) })
	return span.Round(time.Millisecond).String()
}

// other draws a host that is not this one.
func (a *attack) other(than *host) *host {
	for {
		if h := a.host(); h != than {
			return h
		}
	}
}

// migrate moves a guest to another host, or fails at it half-way.
func (a *attack) migrate() string {
	g := a.virtual()
	from := g.place()
	to := a.other(from)
	takes, downtime, how := a.span(100*time.Millisecond, 8*time.Second), a.span(10*time.Millisecond, 1500*time.Millisecond), a.r.IntN(4)
	a.later(0, func() { a.carry(g, from, to, takes, downtime, how) })
	doomed := a.r.IntN(4) == 0
	if doomed {
		a.doomSoon(g, takes)
	}
	return fmt.Sprintf("%s from %s to %s in %v, standing still for %v; %s (to be fenced meanwhile: %v)", g.name, from.name, to.name,
		takes.Round(time.Millisecond), downtime.Round(time.Millisecond), []string{"", "", "fails before the switch", "fails behind the switch"}[how], doomed)
}

// evacuate moves a guest off a host whose hostd has died, to one that has no grant
// for it, and then restarts the host.
func (a *attack) evacuate() string {
	g := a.virtual()
	from := g.place()
	to := a.other(from)
	takes, away, late := a.span(100*time.Millisecond, 3*time.Second), a.span(time.Second, 8*time.Second), a.span(time.Second, 8*time.Second)
	if !from.isUp() {
		return from.name + " is down"
	}
	to.hinder(takes + away + late + streamBack)
	a.later(0, func() {
		to.grant(g.id(), false)
		from.stopHostd()
		a.carry(g, from, to, takes, 10*time.Millisecond, 1)
		from.down()
		a.later(away, func() {
			from.back()
			if g.place() == from {
				from.powerOn(g)
			}
		})
		a.later(away+late, func() { to.grant(g.id(), true) })
	})
	return fmt.Sprintf("%s from %s, whose hostd has died, to %s, which has no grant for it for %v; %s is down for %v", g.name, from.name, to.name,
		(away + late).Round(time.Millisecond), from.name, away.Round(time.Millisecond))
}

// carry migrates a guest.
func (w *World) carry(g *guest, from, to *host, takes, downtime time.Duration, how int) {
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	if !g.setMoving(true) {
		return
	}
	defer g.setMoving(false)
	if err := from.driver.BeginMove(ctx, to.driver.Driver, g.id()); err != nil {
		w.note("migration of %s does not begin: %v", g.name, err)
		return
	}
	w.note("migration of %s begins", g.name)
	time.Sleep(takes)
	m := g.now()
	if m == nil || !from.isUp() || !to.isUp() {
		_ = from.driver.FailMove(g.id(), false)
		return
	}
	if how == 2 {
		w.note("migration of %s fails: %v", g.name, from.driver.FailMove(g.id(), false))
		return
	}
	m.pause(heldMoved, true)
	time.Sleep(downtime)
	g.drained()
	var err error
	if how == 3 {
		err = from.driver.FailMove(g.id(), true)
	} else {
		err = from.driver.FinishMove(g.id())
	}
	if err == nil {
		g.mu.Lock()
		g.host = to
		g.mu.Unlock()
	}
	w.note("migration of %s ends: %v", g.name, err)
	if how == 3 && err == nil {
		m.pause(heldPaused, true) // as the hypervisor shows it at the target
	}
	m.unpause(heldMoved)
}

// setMoving notes that a migration begins, if that may be, or has ended. A
// hypervisor reverts no guest that migrates, and migrates none that it is
// about to be made to destroy.
func (g *guest) setMoving(moving bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if moving && g.reverted {
		return false
	}
	g.moving = moving
	return true
}

// save keeps a guest's memory, and restores it after a while.
func (a *attack) save() string {
	g, span := a.virtual(), a.span(500*time.Millisecond, 20*time.Second)
	h := g.place()
	if err := h.driver.Save(g.id()); err != nil {
		return err.Error()
	}
	m := g.now()
	g.freeze(heldSaved, a.r.IntN(2) == 0)
	a.later(span, func() { a.restore(g, h, m) })
	return fmt.Sprintf("%s for %v", g.name, span.Round(time.Millisecond))
}

// restore brings a saved guest back, if its host allows it, and says whether.
func (w *World) restore(g *guest, h *host, m *machine) bool {
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	if err := h.driver.Restore(ctx, g.id()); err != nil {
		w.note("%s is not restored: %v", g.name, err)
		return false
	}
	w.note("%s is restored", g.name)
	if m != nil {
		m.unpause(heldSaved)
	}
	return true
}

// revert gives a guest the memory back that it had before, with its services
// as they ran then. What happens until its host destroys it is outside of what
// Ringfence promises: the image writes before any program could know.
func (a *attack) revert() string {
	g, span := a.virtual(), a.span(time.Second, 15*time.Second)
	image := g.takeImage()
	if image == nil {
		return g.name + " is off"
	}
	a.later(span, func() { g.revertTo(image) })
	return fmt.Sprintf("%s to its memory of now, in %v", g.name, span.Round(time.Millisecond))
}

// link returns the store as the present daemon sees it.
func (g *guest) link() *link {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.daemon == nil {
		return nil
	}
	return g.daemon.link
}

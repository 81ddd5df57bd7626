package sim

import (
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor/mem"
)

func (r *race) ownerStalls() {
	end := r.stall(r.owner())
	r.last()
	end()
}

func (r *race) leaderStalls() {
	end := r.stall(r.leader())
	r.last()
	end()
}

// ownerStallsUnseen: nobody can ask the owner's host.
func (r *race) ownerStallsUnseen() {
	g := r.owner()
	mend := r.cutApart(r.nodes(), []string{g.place().name})
	r.sleep(5 * time.Second) // until the streams are noticed to be dead
	end := r.stall(g)
	r.last()
	end()
	r.sleep(raceRest)
	mend()
}

// ownerPaused: by the hypervisor's word.
func (r *race) ownerPaused() {
	g := r.owner()
	h := g.place()
	life := h.driver.Life(g.id())
	if err := h.driver.Pause(r.ctx, g.id(), life); err != nil {
		r.missed = err.Error()
		return
	}
	r.last()
	_ = h.driver.Unpause(r.ctx, g.id(), life) // or it was fenced meanwhile
}

func (r *race) away(g *guest) *host {
	for _, h := range r.sortedHosts() {
		if h != g.place() {
			return h
		}
	}
	return nil
}

// ownerMoves: the migration stands still for as long.
func (r *race) ownerMoves() {
	g := r.owner()
	r.carry(g, g.place(), r.away(g), 0, r.span, 0)
}

func (r *race) ownerSilentAfterMove() {
	g := r.owner()
	m := g.now()
	r.later(1500*time.Millisecond, func() { m.pause("race", false) })
	r.carry(g, g.place(), r.away(g), 500*time.Millisecond, 2*time.Second, 0)
	r.last()
	m.unpause("race")
}

// answersLate: nobody hears the owner's beats any more, and it learns late of
// what it must answer.
func (r *race) answersLate() {
	g := r.owner()
	l := g.link()
	l.setLag(r.span)
	r.net.setUnheard(g.name, true)
	r.note("nobody hears %s", g.name)
	r.sleep(r.span + 4*time.Second)
	r.net.setUnheard(g.name, false)
	l.setLag(0)
}

// executorStalls: who is to end a boot that cannot stop its service stands
// still, and no power call ends meanwhile. The boot itself votes on.
func (r *race) executorStalls() {
	g := r.owner()
	g.setFaults(AgentFaults{StopHangs: true})
	r.allDrivers(func(d *driver) { d.setFault(PowerHangs) })
	r.moveAway()
	if executor := r.awaitFence(r.bootOf(g)); executor != nil {
		end := r.stall(executor)
		r.last()
		end()
	}
	r.allDrivers(func(d *driver) { d.setFault(PowerGood) })
	g.setFaults(AgentFaults{})
}

func (r *race) powerFails() {
	r.allDrivers(func(d *driver) { d.setFault(PowerFails) })
	boot := r.bootOf(r.hangOwner())
	r.awaitFence(boot)
	r.last()
	r.allDrivers(func(d *driver) { d.setFault(PowerGood) })
	r.awaitEnded(boot)
}

func (r *race) powerTakes() {
	r.allDrivers(func(d *driver) { d.setTakes(r.span) })
	r.awaitFence(r.bootOf(r.hangOwner()))
	r.sleep(r.span + raceRest)
	r.allDrivers(func(d *driver) { d.setTakes(0) })
}

func (r *race) powerOnFails() {
	r.awaitEnded(r.bootOf(r.hangOwner()))
	r.allDrivers(func(d *driver) { d.setFault(PowerFails) })
	r.last()
	r.allDrivers(func(d *driver) { d.setFault(PowerGood) })
}

func (r *race) powerOnTakes() {
	r.awaitEnded(r.bootOf(r.hangOwner()))
	r.allDrivers(func(d *driver) { d.setTakes(r.span) })
	r.sleep(r.span + raceRest)
	r.allDrivers(func(d *driver) { d.setTakes(0) })
}

// storeSlow: every answer of the store takes that long while a service dies
// and its node hangs.
func (r *race) storeSlow() {
	r.allLinks(func(l *link) { l.setSlow(r.span) })
	r.crashService()
	r.sleep(r.span + 2*time.Second)
	r.hangOwner()
	r.sleep(2*r.span + 2*time.Second)
	r.allLinks(func(l *link) { l.setSlow(0) })
}

func (r *race) ticketSlow() {
	l := r.owner().link()
	l.setSlow(r.span)
	r.moveAway()
	r.sleep(r.span + time.Second)
	r.crashService()
	r.sleep(2*r.span + 2*time.Second)
	l.setSlow(0)
}

func (r *race) leaderSlow() {
	l := r.leader().link()
	l.setSlow(r.span)
	r.hangOwner()
	r.sleep(2*r.span + 2*time.Second)
	l.setSlow(0)
}

// leaderLate: the leader sees the store later than views are refreshed, when
// somebody is to be fenced.
func (r *race) leaderLate() {
	l := r.leader().link()
	l.setLag(2500 * time.Millisecond)
	r.hangOwner()
	r.sleep(r.span + 3*time.Second) // until a first decision can be void
	l.setLag(0)
}

func (r *race) storeAway() {
	mend := r.blackout()
	r.last()
	mend()
}

// stopHangsWithoutStore: the services must stop and do not.
func (r *race) stopHangsWithoutStore() {
	g := r.owner()
	g.setFaults(AgentFaults{StopHangs: true})
	mend := r.blackout()
	r.sleep(15*time.Second + modelAgent)
	r.last()
	g.setFaults(AgentFaults{})
	mend()
}

// resetTakes: the host needs as long to destroy a guest that asks for it.
func (r *race) resetTakes() {
	g := r.owner()
	g.setFaults(AgentFaults{StopHangs: true})
	g.place().driver.setTakes(r.span)
	mend := r.blackout()
	resets := func(*cluster.State) bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.resetting
	}
	r.await("a reset", resets)
	r.sleep(r.span + raceRest)
	g.setFaults(AgentFaults{})
	g.place().driver.setTakes(0)
	mend()
}

// viewsLost: what the leader and a peer say of a stalled owner is not written.
func (r *race) viewsLost() {
	g := r.owner()
	others := func(lost float64) {
		for _, name := range r.nodes(g) {
			r.guests[name].link().setLost(lost)
		}
	}
	others(1)
	end := r.stall(g)
	r.last()
	end()
	others(0)
}

// placeWaits: a guest moves while the store is away, and its new place cannot
// be written before.
func (r *race) placeWaits() {
	g := r.owner()
	mend := r.blackout()
	r.later(r.span, mend)
	r.carry(g, g.place(), r.away(g), 500*time.Millisecond, 100*time.Millisecond, 0)
	r.last()
}

// restartDaemon starts the daemon anew; what it had started runs on.
func (r *race) restartDaemon(g *guest) {
	g.mu.Lock()
	d, m := g.daemon, g.machine
	d.killed = true
	g.mu.Unlock()
	d.cancel()
	r.sleep(100 * time.Millisecond)
	g.startDaemon(m)
	r.note("daemon of %s restarts", g.name)
}

func (r *race) probeBlind() {
	g := r.bystander()
	g.setFaults(AgentFaults{Blind: true})
	r.restartDaemon(g)
	r.last()
	g.setFaults(AgentFaults{})
}

func (r *race) loadSlow() {
	g := r.owner()
	r.restartDaemon(g)
	l := g.link()
	l.setSlow(r.span)
	r.sleep(2*r.span + time.Second)
	l.setSlow(0)
}

func (r *race) leave(g *guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.daemon.node.Leave()
	r.note("%s leaves", g.name)
}

func (r *race) leavesUnannounced() {
	g := r.owner()
	mend := r.blackout()
	r.leave(g)
	r.last()
	mend()
}

// leavesUnrecorded: the store is gone when all has stopped.
func (r *race) leavesUnrecorded() {
	g := r.owner()
	r.leave(g)
	r.await("the stop of the service", func(*cluster.State) bool { return g.process("db") == nil })
	mend := r.blackout()
	r.last()
	mend()
}

// doomedStopHangs: the owner reads of its end, and cannot stop.
func (r *race) doomedStopHangs() {
	g := r.owner()
	boot, d := r.bootOf(g), g.place().driver
	g.setFaults(AgentFaults{StopHangs: true})
	d.setFault(PowerFails)
	mend := r.cutApart([]string{g.name}, r.nodes(g))
	r.awaitFence(boot)
	mend()
	r.last()
	d.setFault(PowerGood)
	g.setFaults(AgentFaults{})
}

// hostCutOff: no node reaches the host of the owner, whose guest then dies.
func (r *race) hostCutOff() {
	g := r.owner()
	h := g.place()
	mend := r.cutApart(r.nodes(), []string{h.name})
	r.later(r.span/2, func() { h.dies(g, true) })
	r.last()
	mend()
}

func (r *race) stopFails() {
	g := r.owner()
	g.setFaults(AgentFaults{StopFails: true})
	r.moveAway()
	r.last()
	g.setFaults(AgentFaults{})
}

func (r *race) stopHangs() {
	g := r.owner()
	g.setFaults(AgentFaults{StopHangs: true})
	r.moveAway()
	r.last()
	g.setFaults(AgentFaults{})
}

func (r *race) startHangs() {
	all := func(f AgentFaults) {
		for _, g := range r.sortedGuests() {
			g.setFaults(f)
		}
	}
	all(AgentFaults{StartHangs: true})
	r.crashService()
	r.last()
	all(AgentFaults{})
}

// journalFull: the owner's host cannot write down what it does.
func (r *race) journalFull() {
	g := r.hangOwner()
	h := g.place()
	r.awaitFence(r.bootOf(g))
	h.hinder(r.span)
	h.storage.SetFail(errFull)
	r.last()
	h.storage.SetFail(nil)
}

// hypervisorAwayAtStart: hostd starts and can ask nobody.
func (r *race) hypervisorAwayAtStart() {
	g := r.owner()
	h := g.place()
	h.stopHostd()
	h.driver.SetAvailable(false)
	h.startHostd()
	h.dies(g, true)
	r.last()
	h.driver.SetAvailable(true)
}

func (r *race) hypervisorAway() {
	g := r.owner()
	h := g.place()
	h.driver.SetAvailable(false)
	h.dies(g, true)
	r.last()
	h.driver.SetAvailable(true)
}

// hypervisorQuiet: only a listing shows the end of the owner's guest.
func (r *race) hypervisorQuiet() {
	g := r.owner()
	h := g.place()
	h.driver.SetQuiet(true)
	h.dies(g, false)
	r.last()
	h.driver.SetQuiet(false)
}

func (r *race) callHangs(op mem.Op) {
	g := r.owner()
	h := g.place()
	h.driver.SetFault(mem.FaultOn(op, mem.Fault{Hang: true}))
	h.dies(g, false)
	r.last()
	h.driver.SetFault(nil)
}

func (r *race) listHangs() { r.callHangs(mem.OpList) }

func (r *race) stateHangs() { r.callHangs(mem.OpState) }

package sim

import (
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// image is the memory of a guest at one moment: its machine with the daemon and
// the processes in it, held still. The guest goes on with a new daemon, which
// takes over what runs, as after a restart of the daemon at that moment: so
// both, the image and what became of the guest, are runs of production code.
type image struct {
	machine   *machine
	daemon    *daemon
	processes map[cluster.ServiceName]*process
}

// revertGrace is how long a reverted image may live while its host can destroy
// it: time in which hostd serves and the hypervisor does what it is told.
const revertGrace = 3 * time.Second

// takeImage keeps the memory of now, nil when the guest does not run.
func (g *guest) takeImage() *image {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.machine == nil || !g.machine.running() || g.daemon == nil {
		return nil
	}
	old := g.machine
	kept := &image{machine: old, daemon: g.daemon, processes: g.processes}
	old.pause(heldImage, true)
	g.machine, g.daemon = newMachine(g.w, g.name), nil
	g.machine.ahead = old.ahead
	g.processes = map[cluster.ServiceName]*process{}
	for s, p := range kept.processes {
		twin := *p
		twin.m, twin.ended = g.machine, make(chan struct{})
		g.processes[s] = &twin
		g.w.wg.Go(twin.live)
	}
	m := g.machine
	g.w.later(0, func() { g.startDaemon(m) })
	return kept
}

// revertTo replaces the guest's memory by an image of it.
func (g *guest) revertTo(kept *image) {
	h := g.place()
	life := g.mayRevert(h)
	if life == "" {
		kept.machine.end()
		return
	}
	g.halt()
	g.drained()
	g.fate.Lock()
	defer g.fate.Unlock()
	if g.mayRevert(h) != life { // it has died while its last writes arrived
		kept.machine.end()
		return
	}
	g.mu.Lock()
	g.machine, g.daemon, g.processes = kept.machine, kept.daemon, kept.processes
	g.reverted = true
	g.mu.Unlock()
	for _, p := range kept.processes {
		p.reverted = true
	}
	g.w.note("%s has its old memory", g.name)
	h.driver.Inside(g.id(), hypervisor.ReasonFromSnapshot)
	kept.machine.unpause(heldImage)
	g.w.wg.Go(func() { g.mustGo(kept.machine) })
}

// mayRevert returns the life of a guest that may be reverted now, "" for any
// other: never one that migrates, nor behind hostd's back, which is assumed.
func (g *guest) mayRevert(h *host) cluster.LifeID {
	g.mu.Lock()
	moving := g.moving
	g.mu.Unlock()
	if h == nil || moving || !h.able() {
		return ""
	}
	return h.driver.Life(g.id())
}

// mustGo checks P7: a reverted image is destroyed as soon as its host can.
func (g *guest) mustGo(image *machine) {
	able := time.Duration(0)
	for image.isUp() && g.w.ctx.Err() == nil {
		time.Sleep(wirePoll)
		if h := g.place(); h.able() && image.running() && !g.w.inDoubt() {
			able += wirePoll
		}
		if able > revertGrace {
			g.w.violate("P7", "%s lives on in its old memory for %v", g.name, able)
			return
		}
	}
}

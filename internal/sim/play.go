package sim

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd"
	"ringfence/internal/hostd/hostdtest"
	"ringfence/internal/store"
)

// Bounds of a play.
const (
	// recoverLimit is how long a healed cluster may take to run everything
	// again (I4): the slowest chain is a hung power call (15 s), two attempts of
	// the next, an election and a start on the last node that had not failed.
	recoverLimit = 2 * time.Minute
	// minorityLimit is how long a node without the store may run services (I5):
	// the budget, two stops that take their whole time, and some pauses.
	minorityLimit = 24 * time.Second
	// resetLimit is the same where stops do not work: the node must have reset
	// itself by then (P20), if its host can be asked: the budget, the time of two
	// stops, the margin, and another try.
	resetLimit = 50 * time.Second
	watchPause = 250 * time.Millisecond
)

// Result is what became of one world.
type Result struct {
	Violations []string
	Story      string
	Faults     []Fault
	Simulated  time.Duration
	Writes     int
}

// Play lives through the world of a seed, without the faults whose numbers are
// in skip. It must be called within a testing/synctest bubble. log may be nil.
func Play(seed uint64, skip []int, log *recorder) Result {
	if log == nil {
		log = newRecorder()
	}
	w := NewWorld(seed, log)
	faults := w.schedule()
	w.note("%d hosts, guests at %v, witness %v, %d services, mobile %v", w.Plan.Hosts, w.Plan.Places, w.Plan.Witness, w.Plan.Services, w.Plan.Mobile)
	watch := &watch{w: w, since: map[string]time.Duration{}}
	w.begin()
	for _, f := range faults {
		if slices.Contains(skip, f.Number) {
			continue
		}
		watch.until(f.At)
		if len(w.Violations()) > 0 {
			break
		}
		w.make(f)
	}
	watch.until(w.now() + w.between("play", time.Second, 8*time.Second))
	if len(w.Violations()) == 0 {
		w.settle(watch)
	}
	w.Close()
	return Result{Violations: w.Violations(), Story: w.Story(), Faults: faults, Simulated: w.now(), Writes: w.disk.count}
}

// begin starts all hosts and guests.
func (w *World) begin() {
	for _, h := range w.sortedHosts() {
		h.startHostd()
	}
	for _, g := range w.sortedGuests() {
		if g.bare {
			g.boot()
			continue
		}
		g.place().powerOn(g)
	}
	w.wg.Go(func() {
		for w.ctx.Err() == nil {
			for _, g := range w.sortedGuests() {
				g.look()
			}
			time.Sleep(watchPause)
		}
	})
}

// watch looks at what only time can show.
type watch struct {
	w     *World
	since map[string]time.Duration // since when something has been so, by what it is
}

// until lets the world live until t.
func (o *watch) until(t time.Duration) {
	for o.w.now() < t && len(o.w.Violations()) == 0 {
		time.Sleep(min(watchPause, t-o.w.now()))
		o.minority()
		o.doomed()
		o.outside()
		o.w.askHosts()
	}
}

// askHosts asks the hosts what runs, as status and people do; one question at a
// time is under way.
func (w *World) askHosts() {
	if !w.chance("ask", 0.05) {
		return
	}
	all := w.sortedHosts()
	h := all[w.intn("ask", len(all))]
	g := w.sortedGuests()[0]
	w.later(0, func() {
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		defer cancel()
		for _, path := range []string{"/v1/host", "/v1/guests", "/v1/guests/" + string(g.id())} {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://host"+path, nil)
			d := h.serving()
			if err != nil || d == nil {
				return
			}
			t := &hostdtest.Transport{Handler: d.Handler(), Caller: hostd.Caller{Cluster: clusterID, Name: "operator"}}
			if resp, err := t.RoundTrip(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		}
	})
}

// minority checks I5: a node that has not reached the store for longer than
// its budget runs nothing, unless it is paused or cannot stop: then its host ends
// it. Each time counts from when its agents, or its host, could.
func (o *watch) minority() {
	for _, g := range o.w.sortedGuests() {
		must := g.mustStop() && !o.w.raft.reaches(g.name)
		ordinary := o.lasting("minority "+g.name, must && g.canStop(), minorityLimit)
		stuck := o.lasting("stuck minority "+g.name, must && (g.canStop() || !g.bare && g.place().able()), resetLimit)
		if ordinary || stuck {
			o.w.violate("I5", "%s runs services without reaching the store for at least %v", g.name, minorityLimit)
		}
	}
}

// mustStop reports whether the guest runs services and has a daemon that could
// stop them.
func (g *guest) mustStop() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	runs := false
	for _, p := range g.processes {
		runs = runs || !p.outside
	}
	return runs && g.machine != nil && g.machine.running() && g.daemon != nil && g.daemon.node != nil && g.daemon.ctx.Err() == nil
}

// canStop reports whether the agents there do what they are told.
func (g *guest) canStop() bool { return g.agentFaults() == AgentFaults{} }

// settle ends all faults and waits until everything runs (I4).
func (w *World) settle(o *watch) {
	w.note("everything is repaired")
	w.heal()
	limit, operator := w.now()+recoverLimit, w.now()+recoverLimit/2
	if w.alone(o); len(w.Violations()) > 0 {
		return
	}
	missing := "?"
	for missing != "" && w.now() < limit && len(w.Violations()) == 0 {
		o.until(w.now() + time.Second)
		w.revive()
		if w.now() > operator {
			w.confirmDead()
		}
		missing = w.missing()
	}
	if missing != "" && len(w.Violations()) == 0 {
		w.violate("I4", "%v after the repair: %s", recoverLimit, missing)
	}
}

// aloneLimit is how long the cluster gets to recover what it can without help.
const aloneLimit = 45 * time.Second

// alone checks I4 in its narrow form: where hosts can prove every end and two
// guests of three are well, the cluster recovers from a third that hangs, or
// whose daemon is gone, without an administrator.
func (w *World) alone(o *watch) {
	if w.Plan.Mobile || w.inDoubt() || w.Plan.Witness || len(w.Plan.Places) != w.Plan.Hosts || !w.wellEnough() {
		return
	}
	missing := "?"
	for limit := w.now() + aloneLimit; missing != "" && w.now() < limit && len(w.Violations()) == 0; missing = w.missing() {
		o.until(w.now() + time.Second)
		if !w.wellEnough() {
			return
		}
	}
	if missing != "" && w.wellEnough() && len(w.Violations()) == 0 {
		w.violate("I4", "%v after the repair, and without help: %s", aloneLimit, missing)
	}
}

// wellEnough reports whether all guests but one run with their daemons.
func (w *World) wellEnough() bool {
	ill := 0
	for _, g := range w.sortedGuests() {
		g.mu.Lock()
		if g.machine == nil || !g.machine.running() || g.daemon == nil || g.daemon.node == nil || g.daemon.ctx.Err() != nil {
			ill++
		}
		g.mu.Unlock()
	}
	return ill <= 1
}

// confirmDead is the operator's true word on boots whose end no host can prove.
// Where hosts always can, there is no operator.
func (w *World) confirmDead() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.Plan.Mobile && !w.doubt {
		return
	}
	var dead []cluster.Boot
	w.history.read(func(s *cluster.State) {
		for id, boot := range s.Boots {
			_, ended := s.Ended[id]
			if !ended && !slices.ContainsFunc(w.bodies[id], (*machine).isUp) {
				dead = append(dead, boot.Value)
			}
		}
	})
	w.settleContradictions()
	for _, b := range dead {
		_, _ = w.raft.server.Client("operator").Commit(w.ctx, store.Tx{
			Guards: []cluster.Guard{{Key: cluster.KeyEnded(b.ID)}},
			Writes: []cluster.Write{cluster.Put(cluster.KeyEnded(b.ID), cluster.Ended{
				Boot: b.ID, Node: b.Node, Evidence: cluster.EvidenceOperator, Detail: "looked at the machine",
			})},
		})
	}
}

// settleContradictions is the operator's word, after a look at the machine, that
// a boot which ran after its tombstone has ended by now.
func (w *World) settleContradictions() {
	var settled []cluster.Write
	w.history.read(func(s *cluster.State) {
		for id, c := range s.Contras {
			if c.Value.Settled == "" && !slices.ContainsFunc(w.bodies[id], (*machine).isUp) {
				next := c.Value
				next.Settled, next.Hosts = "looked at the machine", nil
				settled = append(settled, cluster.Put(cluster.KeyContradiction(id), next))
			}
		}
	})
	if len(settled) > 0 {
		w.commit(settled...)
	}
}

// missing names the services that have not written for a second.
func (w *World) missing() string {
	var out []string
	w.history.read(func(s *cluster.State) {
		for _, c := range s.Config.Value.Services {
			x, ok := w.disk.wrote(c.Name)
			if !ok || w.now()-x.at > time.Second {
				out = append(out, fmt.Sprintf("%s does not run (owner %s %s)", c.Name, s.Owners[c.Name].Value.Boot, s.Owners[c.Name].Value.Want))
			}
		}
	})
	return strings.Join(out, "; ")
}

// heal ends what does not end by itself.
func (w *World) heal() {
	w.net.mend()
	for _, h := range w.sortedHosts() {
		h.storage.SetFail(nil)
		h.back()
		h.startHostd()
		h.driver.setFault(PowerGood)
		h.driver.setTakes(0)
		h.driver.SetFault(nil)
		h.driver.SetAvailable(true)
		h.driver.SetQuiet(false)
	}
	var undo []cluster.Write
	w.history.read(func(s *cluster.State) {
		for name := range s.Standby {
			undo = append(undo, cluster.Remove(cluster.KeyStandby(name)))
		}
		for name := range s.Wishes {
			undo = append(undo, cluster.Remove(cluster.KeyWish(name)))
		}
		undo = append(undo, cluster.Remove(cluster.KeyDisarm))
	})
	w.commit(undo...)
	for _, g := range w.sortedGuests() {
		g.setFaults(AgentFaults{})
		g.store.mend()
	}
}

// revive does what an administrator does with guests that do not come back by
// themselves.
func (w *World) revive() {
	for _, g := range w.sortedGuests() {
		m := g.now()
		h := g.place()
		switch {
		case g.bare && m == nil:
			g.boot()
		case g.bare:
			m.release(func(string) bool { return true })
			g.startDaemon(m)
		case m != nil && g.isReverted(): // its host has lost the memory by which it would destroy it
			h.dies(g, true)
		case h.driver.isSaved(g.id()):
			// A cluster without quorum takes no image back: where too many of its
			// voters were saved, their administrator starts them cold.
			if !w.restore(g, h, m) {
				h.powerOn(g)
			}
		case m == nil && h.driver.Life(g.id()) == "":
			h.powerOn(g)
		case m == nil:
			h.dies(g, true)
		case !m.running():
			_ = h.driver.Unpause(w.ctx, g.id(), h.driver.Life(g.id()))
			m.release(func(why string) bool { return why != heldSaved && why != heldMoved })
		case g.idle():
			if g.hasStaleDisk() {
				g.rejoin()
			}
			g.startDaemon(m)
		}
	}
}

func (g *guest) hasStaleDisk() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.staleDisk
}

func (g *guest) isReverted() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reverted
}

// idle reports whether no daemon runs though nothing but an administrator
// would start one.
func (g *guest) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.daemon != nil && g.daemon.ctx.Err() != nil && !g.rebooting
}

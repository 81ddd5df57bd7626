package sim

import (
	"bytes"
	"encoding/base64"
	"slices"
	"time"

	"ringfence/internal/cluster"
)

// ear is what a machine really heard of one sender, whatever its programs make of
// it. Times are of its running, see machine.ranLocked, but for over.
type ear struct {
	last  time.Duration // when the last beat arrived
	quiet time.Duration // when a real silence was last over
	over  time.Duration // the same by the world's time; 0: there was none
}

// Bounds of what the judge of accusations takes for real.
const (
	// listened is how long a machine must have run without hearing a sender before
	// it may call it silent: half of the shortest limit, since steps of its clock
	// below detect.GapLimit count as silence.
	listened = 300 * time.Millisecond
	// viewDelay is how long after that its word may arrive: a commit that was
	// lost arrives up to 3 s late; and commitDelay how long it may run until it has
	// sent it: a pause may come between.
	viewDelay   = 4 * time.Second
	commitDelay = time.Second
	// joinedFor is how long a member counts as an observer by the judge: a leader
	// learns up to 5 s late who has joined.
	joinedFor = 6 * time.Second
)

// heard notes that a beat of a boot has arrived.
func (m *machine) heard(boot cluster.BootID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, now := m.ears[boot], ear{last: m.ranLocked()}
	if now.quiet, now.over = was.quiet, was.over; now.last-was.last >= listened {
		now.quiet, now.over = now.last, m.w.now()
	}
	m.ears[boot] = now
}

// silence reports whether the machine may call a boot silent: it has run and not
// heard it, now or a moment ago.
func (m *machine) silence(boot cluster.BootID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ran := m.ears[boot], m.ranLocked()
	return ran-e.last >= listened || e.over != 0 && (m.w.now()-e.over < viewDelay || ran-e.quiet < commitDelay)
}

// judgeView checks the word of an observer against what it heard (P17): who
// accuses a boot has run, and listened, while nothing of it arrived. So nobody
// is accused for a pause of the observer.
func (h *history) judgeView(view cluster.View) {
	h.w.mu.Lock()
	g := h.w.guests[string(view.Node)]
	h.w.mu.Unlock()
	g.mu.Lock()
	m, same := g.machine, g.bootIDLocked() == view.Boot && !g.reverted
	g.mu.Unlock()
	if m == nil || !same || view.Abstain {
		return
	}
	for boot, silence := range view.Silent {
		if !m.silence(boot) {
			h.w.violate("P17", "%s calls %s %s, of which it has heard all the time that it ran", view.Boot, boot, silence)
		}
	}
}

// judgeAccusers checks P17 in the records: a majority of those who may accuse a
// boot calls it lost. It counts as few observers as the rule allows: members for
// a while that are neither ended nor doomed and do not abstain.
func (h *history) judgeAccusers(fence cluster.Fence) {
	s := &h.state
	observers, accusers := 0, 0
	for id, b := range s.Boots {
		_, ended := s.Ended[id]
		_, doomed := s.Fences[id]
		view := s.Views[b.Value.Node].Value
		says := view.Boot == id
		switch {
		case ended || doomed || b.Value.Node == fence.Node || b.Value.Phase == cluster.PhaseJoining || h.superseded(id) || says && view.Abstain:
		case says && view.Silent[fence.Boot] == cluster.SilenceLost:
			accusers++
			observers++
		case h.w.now()-b.Since > joinedFor:
			observers++
		}
	}
	if 2*accusers <= observers {
		h.w.violate("P17", "%s is fenced though only %d of %d observers call it lost: %s", fence.Boot, accusers, observers, fence.Detail)
	}
}

// superseded reports whether a newer boot of the node is on record.
func (h *history) superseded(id cluster.BootID) bool {
	for _, other := range h.state.Boots {
		if slices.Contains(other.Value.Predecessors, id) {
			return true
		}
	}
	return false
}

// judgeOutside checks P24: a service that nobody owned is given to nobody while
// it runs on a member, where somebody had started it by hand.
func (h *history) judgeOutside(name cluster.ServiceName, is cluster.Owner) {
	for _, g := range h.w.sortedGuests() {
		g.mu.Lock()
		p, id, reverted := g.processes[name], g.bootIDLocked(), g.reverted
		g.mu.Unlock()
		_, ended := h.state.Ended[id]
		member := h.state.Boots[id].Value.Phase == cluster.PhaseMember
		if p != nil && p.outside && !reverted && member && !ended {
			h.w.violate("P24", "%s is given to %s while it runs on %s, where it was started by hand", name, is.Boot, id)
		}
	}
}

// Bounds of what a watch waits for.
const (
	// doomLimit is how long a boot may run services that has to end and can be
	// reset: one round of stops that hang (30 s), the pause between two resets, and
	// the reset.
	doomLimit = 45 * time.Second
	// outsideLimit is how long a member may leave alone what somebody started on
	// it: two rounds of probes.
	outsideLimit = 10 * time.Second
)

// lasting reports whether something has been so, each time that it was looked
// at, for longer than limit.
func (o *watch) lasting(what string, is bool, limit time.Duration) bool {
	if !is {
		delete(o.since, what)
		return false
	}
	if _, known := o.since[what]; !known {
		o.since[what] = o.w.now()
	}
	return o.w.now()-o.since[what] > limit
}

// doomed checks P20 and P7: a boot that is to end stops what it runs or is reset,
// where it can read of that and its host can be asked.
func (o *watch) doomed() {
	for _, g := range o.w.sortedGuests() {
		id, runs := g.runsOwn()
		dead := false
		o.w.history.read(func(s *cluster.State) {
			_, fenced := s.Fences[id]
			_, ended := s.Ended[id]
			dead = fenced || ended
		})
		can := runs && dead && !g.bare && g.reads() && g.place().able()
		if o.lasting("doomed "+string(id), can, doomLimit) {
			o.w.violate("P20", "%s is doomed and runs services for more than %v", id, doomLimit)
		}
	}
}

// outside checks P24: a member stops what was started on it by hand, where it can
// read that the service is its cluster's.
func (o *watch) outside() {
	for _, g := range o.w.sortedGuests() {
		left := g.startedByHand()
		id, _ := g.runsOwn()
		known, member := slices.Contains(o.w.configured(), left), false
		o.w.history.read(func(s *cluster.State) { member = s.Boots[id].Value.Phase == cluster.PhaseMember })
		is := known && member && g.serves() && g.canStop() && g.reads()
		if o.lasting("outside "+string(id), is, outsideLimit) {
			o.w.violate("P24", "%s leaves %s alone, which was started by hand", id, left)
		}
	}
}

// runsOwn returns the present boot of a guest, and whether services run there
// that its daemon has started, which nothing but a fault keeps from going on.
func (g *guest) runsOwn() (id cluster.BootID, runs bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	id = g.bootIDLocked()
	if g.machine == nil || !g.machine.running() || g.daemon == nil || g.daemon.killed || g.staleDisk || g.reverted {
		return id, false
	}
	for _, p := range g.processes {
		runs = runs || !p.outside
	}
	return id, runs
}

// reads reports whether the guest learns in time what stands in the store. A
// voter that lags falls the further behind the more is written.
func (g *guest) reads() bool { return g.w.raft.reaches(g.name) && g.store.whole() }

// serves reports whether the guest's daemon runs.
func (g *guest) serves() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.machine != nil && g.machine.running() && g.daemon != nil && g.daemon.node != nil && g.daemon.ctx.Err() == nil
}

// startedByHand returns a service that was started by hand and runs, "": none.
func (g *guest) startedByHand() cluster.ServiceName {
	g.mu.Lock()
	defer g.mu.Unlock()
	for s, p := range g.processes {
		if p.outside && !p.reverted {
			return s
		}
	}
	return ""
}

// judgeDurable checks P9: what a host has told stands in its journal, as long as
// no disk has lost what it had promised to keep.
func (h *history) judgeDurable(cert cluster.DeathCertificate) {
	h.w.mu.Lock()
	host := h.w.hosts[string(cert.Host)]
	h.w.mu.Unlock()
	signature := base64.StdEncoding.EncodeToString(cert.Signature)
	if cert.HostBoot != forgedBoot && !h.w.inDoubt() && !bytes.Contains(host.storage.Bytes(), []byte(signature)) {
		h.w.violate("P9", "%s has told that life %s ended, and does not remember it", host.name, cert.Life)
	}
}

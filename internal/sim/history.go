package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/plan"
	"ringfence/internal/store/mem"
)

// history follows the store commit by commit, as a judge that knows the
// records but not the code that writes them.
type history struct {
	w      *World
	client *mem.Client

	mu     sync.Mutex // guards everything below
	state  cluster.State
	seen   map[cluster.BootID]cluster.Ended
	fences map[cluster.BootID]int // decisions, by boot (I3)
	doomed map[cluster.LifeID]bool
	epoch  cluster.Epoch
	cancel context.CancelFunc
	done   chan struct{}
}

func newHistory(w *World, client *mem.Client) *history {
	return &history{w: w, client: client, seen: map[cluster.BootID]cluster.Ended{}, fences: map[cluster.BootID]int{}, doomed: map[cluster.LifeID]bool{}, done: make(chan struct{})}
}

// endedBy returns the evidence that a boot has ended, "" while there is none
// or it is the boot's own word or a person's.
func (h *history) endedBy(boot cluster.BootID) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	ended, ok := h.seen[boot]
	if !ok || ended.Evidence == cluster.EvidenceOperator {
		return ""
	}
	return string(ended.Evidence) + ", " + ended.Detail
}

// read calls f with the state of the store.
func (h *history) read(f func(s *cluster.State)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(&h.state)
}

func (h *history) run(ctx context.Context) {
	ctx, h.cancel = context.WithCancel(ctx)
	batches := h.client.Watch(ctx, cluster.Prefix, 1)
	go func() {
		defer close(h.done)
		for batch := range batches {
			h.mu.Lock()
			before := h.state.Clone()
			for _, c := range batch.Changes {
				if err := h.state.Apply(c.KV, c.Deleted, h.w.now()); err != nil {
					h.w.violate("store", "record cannot be read: %v", err)
				}
			}
			h.state.Rev = batch.Rev
			h.judge(&before)
			h.mu.Unlock()
		}
	}()
}

func (h *history) stop() {
	h.cancel()
	<-h.done
}

// judge compares two neighbouring states.
func (h *history) judge(before *cluster.State) {
	s := &h.state
	for id, boot := range s.Boots {
		_, doomed := s.Fences[id]
		if _, ended := s.Ended[id]; doomed || ended {
			h.doomed[boot.Value.Life] = true
		}
	}
	if epoch := s.Leader.Value.Epoch; epoch < h.epoch {
		h.w.violate("epoch", "falls from %d to %d", h.epoch, epoch)
	} else {
		h.epoch = epoch
	}
	for id, ended := range s.Ended {
		if _, known := h.seen[id]; !known {
			h.w.note("%s has ended: %s", id, ended.Value.Evidence)
			h.seen[id] = ended.Value
		}
	}
	for id, fence := range before.Fences {
		is, stands := s.Fences[id]
		_, ended := s.Ended[id]
		switch {
		case !stands && !ended:
			h.w.violate("P19", "the fence decision on %s is withdrawn", id)
		case stands && is.Value.Attempt < fence.Value.Attempt:
			h.w.violate("I3", "%s is decided on anew: attempt %d after %d", id, is.Value.Attempt, fence.Value.Attempt)
		}
	}
	for id, fence := range s.Fences {
		if _, stood := before.Fences[id]; stood {
			continue
		}
		h.w.note("fence decision on %s: %s", id, fence.Value.Reason)
		if h.fences[id]++; h.fences[id] > 1 {
			h.w.violate("I3", "%d fence decisions on %s", h.fences[id], id)
		}
		if fence.Value.Reason == cluster.FenceSilent {
			h.judgeSilence(id)
			h.judgeNeed(fence.Value)
			h.judgeBrake(fence.Value)
			h.judgeAccusers(fence.Value)
		}
	}
	for _, view := range s.Views {
		if view.Rev == s.Rev {
			h.judgeView(view.Value)
		}
	}
	for name, ticket := range s.Tickets {
		if ticket.Rev == s.Rev {
			h.judgeTicket(name, ticket.Value)
		}
	}
	for _, cert := range s.Certs {
		if cert.Rev == s.Rev {
			h.judgeDurable(cert.Value)
		}
	}
	for name, owner := range s.Owners {
		h.judgeOwner(name, before.Owners[name].Value, owner.Value)
	}
}

// judgeSilence checks I6: no decision for silence while the accused has
// answered the newest view of somebody who is still entitled to accuse it.
func (h *history) judgeSilence(id cluster.BootID) {
	s := &h.state
	appeal, ok := s.Appeals[id]
	if !ok || h.w.now()-appeal.Since >= plan.AppealAge {
		return
	}
	for accuser, rev := range appeal.Value.Answers {
		view, stands := s.Views[accuser]
		if fresh := h.w.now()-view.Since < plan.AppealAge; stands && fresh && view.Rev == rev && view.Value.Silent[id] == cluster.SilenceLost && !view.Value.Abstain {
			h.w.violate("I6", "%s is fenced for silence though it has answered the view of %s at revision %d", id, accuser, rev)
		}
	}
}

// cleanSpan is how long a node must have been out of all trouble to be healthy
// beyond doubt.
const cleanSpan = 5 * time.Second

// judgeNeed checks P17: nobody is fenced for silence who was well, and joined
// with all others, for longer than any limit of detection.
func (h *history) judgeNeed(fence cluster.Fence) {
	h.w.mu.Lock()
	g := h.w.guests[string(fence.Node)]
	h.w.mu.Unlock()
	g.mu.Lock()
	former := g.bootIDLocked() != fence.Boot
	g.mu.Unlock()
	if span := h.w.now() - g.lastTrouble(); !former && span > cleanSpan {
		h.w.violate("P17", "%s is fenced for silence though it was well for %v: %s", fence.Boot, span, fence.Detail)
	}
}

// judgeBrake checks P18: while half or more of the members are silent at once,
// nobody is fenced for silence without a host's word.
func (h *history) judgeBrake(fence cluster.Fence) {
	if strings.Contains(fence.Detail, "its host says") {
		return
	}
	s := &h.state
	var members []cluster.Boot
	for id, b := range s.Boots {
		_, ended := s.Ended[id]
		superseded := false
		for _, other := range s.Boots {
			superseded = superseded || slices.Contains(other.Value.Predecessors, id)
		}
		if !ended && !superseded && b.Value.Phase == cluster.PhaseMember && !s.Nodes[b.Value.Node].Value.Witness {
			members = append(members, b.Value)
		}
	}
	silent := 0
	for _, b := range members {
		if h.allAccuse(members, b.ID) {
			silent++
		}
	}
	if silent > 1 && 2*silent >= len(members) && len(s.Nodes) == len(members) {
		h.w.violate("P18", "%s is fenced while %d of %d members are silent at once", fence.Boot, silent, len(members))
	}
}

// allAccuse reports whether every other member calls a boot lost in a fresh
// view, and it has not answered anybody a moment ago.
func (h *history) allAccuse(members []cluster.Boot, id cluster.BootID) bool {
	s := &h.state
	if appeal := s.Appeals[id]; len(appeal.Value.Answers) > 0 && h.w.now()-appeal.Since < plan.AppealAge {
		return false
	}
	for _, m := range members {
		view := s.Views[m.Node]
		if m.ID != id && (view.Value.Boot != m.ID || view.Value.Abstain || view.Value.Silent[id] != cluster.SilenceLost || h.w.now()-view.Since >= plan.AppealAge) {
			return false
		}
	}
	return true
}

// judgeOff checks P8: hostd ends only lives of which some boot was to be fenced
// or had ended by the records.
func (h *history) judgeOff(g *guest, life cluster.LifeID) {
	g.mu.Lock()
	excused := g.reverted || g.resetting
	g.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !excused && !h.doomed[life] {
		h.w.violate("P8", "%s is switched off in its life %s, and no decision says so", g.name, life)
	}
}

// judgeTicket checks P15: who opens a start owns the service and has not ended.
func (h *history) judgeTicket(name cluster.ServiceName, t cluster.Ticket) {
	owner := h.state.Owners[name].Value
	if owner.Boot != t.Boot || owner.Generation != t.Generation {
		h.w.violate("P15", "%s opens a start of %s, generation %d, which %s owns in generation %d", t.Boot, name, t.Generation, owner.Boot, owner.Generation)
	}
	if _, ended := h.state.Ended[t.Boot]; ended {
		h.w.violate("P15", "%s opens a start of %s behind its tombstone", t.Boot, name)
	}
}

// judgeOwner checks I2: a service leaves its owner only behind the owner's
// word that it is verified stopped, or behind the proof that its boot ended.
func (h *history) judgeOwner(name cluster.ServiceName, was, is cluster.Owner) {
	if was.Boot == "" && is.Boot != "" {
		h.judgeOutside(name, is)
	}
	if was.Boot == "" || was.Boot == is.Boot && was.Generation == is.Generation {
		return
	}
	s := &h.state
	if is.Generation < was.Generation {
		h.w.violate("I2", "generation of %s falls from %d to %d", name, was.Generation, is.Generation)
	}
	ticket := s.Tickets[name]
	ticketed := ticket.Value.Boot == was.Boot && ticket.Value.Generation == was.Generation
	if ended, ok := s.Ended[was.Boot]; ok {
		if ticketed && ended.Rev <= ticket.Rev {
			h.w.violate("I2", "%s moves from %s, whose start ticket is newer than its tombstone", name, was.Boot)
		}
		return
	}
	report := s.Reports[name]
	said := report.Value.Boot == was.Boot && report.Value.Generation == was.Generation &&
		slices.Contains([]cluster.ReportState{cluster.ReportStopped, cluster.ReportFailed}, report.Value.State)
	if !said || ticketed && report.Rev <= ticket.Rev {
		h.w.violate("I2", "%s moves from %s to %s without evidence: %s", name, was.Boot, is.Boot, fmt.Sprintf("last report %q", report.Value.State))
	}
}

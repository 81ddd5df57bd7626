package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/plan"
	"ringfence/internal/store"
)

// Timings of leadership.
const (
	// claimPoll is how often a node looks again while there is reason to claim;
	// watchPoll while there is none: the silence of the leader wakes the loop.
	claimPoll = 100 * time.Millisecond
	watchPoll = time.Second
	// claimStagger keeps the members from claiming all at once: each waits so
	// long for every healthy member before it in the order of names.
	claimStagger = 50 * time.Millisecond
	// answerTime is how long a silent leader gets to answer through the store.
	answerTime = 200 * time.Millisecond
	// tickLimit is how long the planner's tick of a leader that beats may stand
	// still before it may be replaced (O-8).
	tickLimit = 3 * time.Second
	// planPoll is how often the leader plans when nothing changes.
	planPoll = time.Second
	// voidLimit is for how long all fence decisions of a leader may be void, since
	// what they were derived from does not stand any more, before it lets another
	// lead: it sees the store too late.
	voidLimit = 3 * time.Second
	// planGap is the pause between two plans from which on this node may have
	// stood still in between: a plan may wait that long for its commits.
	planGap = planPoll + 2*commitTimeout
)

// leadership is the state of the lead loop.
type leadership struct {
	leads bool
	rev   cluster.Revision // of our claim
	tick  uint64
	since time.Duration // when the present reason to claim was first seen
	why   string
	// planned is when the last plan was made, and away until when a gap before
	// one counts.
	planned, away time.Duration
	// void is since when all fence decisions are void, and lastVoid when the last one
	// was; void 0: none is.
	void, lastVoid time.Duration
	yields         bool
}

// leadLoop plans while this node leads, and claims the lead when the holder is
// gone or stands still.
func (n *Node) leadLoop(ctx context.Context) error {
	err := n.eachOr(ctx, n.pulse.heard, n.leadIterate)
	n.pulse.setTick(0)
	return err
}

func (n *Node) leadIterate(ctx context.Context, now time.Duration) (time.Duration, error) {
	var leader cluster.Rec[cluster.Leader]
	why, rank := "", 0
	n.Mirror.Read(func(s *cluster.State) {
		leader = s.Leader
		if why = n.whyClaim(s, now); why != "" {
			rank = n.rank(s)
		}
	})
	if n.lead.leads && (leader.Value.Boot != n.Self.ID || leader.Value.Epoch != n.epoch) {
		n.Log.Warn("lead lost", "component", "lead", "epoch", n.epoch, "leader", leader.Value.Node)
		n.lead = leadership{}
		n.pulse.setTick(0)
	}
	if !n.lead.leads && n.claimed != 0 && leader.Value.Boot == n.Self.ID && leader.Value.Epoch == n.claimed {
		n.takeLead(leader.Rev, "a claim of unknown outcome stands") // claimed again, it would be lost again
	}
	if n.lead.leads {
		return n.planOnce(ctx, now), nil
	}
	n.maybeClaim(ctx, leader, why, rank, now)
	if why == "" {
		return watchPoll, nil
	}
	return claimPoll, nil
}

// maybeClaim takes the lead by compare-and-set when there is reason to, in turn.
func (n *Node) maybeClaim(ctx context.Context, leader cluster.Rec[cluster.Leader], why string, rank int, now time.Duration) {
	if why == "" {
		n.lead.why = ""
		return
	}
	if n.lead.why == "" {
		n.lead.since = now
	}
	n.lead.why = why
	wait := time.Duration(rank) * claimStagger
	if why == leaderSilent {
		wait += answerTime
	}
	if now-n.lead.since < wait {
		return
	}
	next := cluster.Leader{Node: n.Self.Node, Boot: n.Self.ID, Epoch: leader.Value.Epoch + 1}
	n.claimed = next.Epoch
	rev, err := n.commit(ctx, store.Tx{
		Guards: []cluster.Guard{
			{Key: cluster.KeyLeader, Rev: leader.Rev},
			{Key: cluster.KeyEnded(n.Self.ID)},
			{Key: cluster.KeyFence(n.Self.ID)},
		},
		Writes: []cluster.Write{cluster.Put(cluster.KeyLeader, next)},
	})
	if err != nil {
		n.Log.Debug("lead not claimed", "component", "lead", "reason", why, "err", err)
		return
	}
	n.takeLead(rev, why)
}

// takeLead begins to lead behind the claim that stands at rev.
func (n *Node) takeLead(rev cluster.Revision, why string) {
	n.epoch = n.claimed
	n.lead = leadership{leads: true, rev: rev}
	n.Log.Info("lead claimed", "component", "lead", "epoch", n.epoch, "reason", why)
}

// whyClaim says why this node may claim the lead; "" when it may not.
func (n *Node) whyClaim(s *cluster.State, now time.Duration) string {
	me := s.Boots[n.Self.ID].Value
	if me.Phase != cluster.PhaseMember {
		return ""
	}
	if _, doomed := s.Fences[n.Self.ID]; doomed {
		return ""
	}
	moving := n.pulse.current().Moving
	if moving[n.Self.ID] && len(n.fit(s, s.Leader.Value.Boot)) > 0 {
		return "" // a guest that is about to stand still is no good leader (P12)
	}
	leader := s.Leader.Value
	boot, known := s.Boots[leader.Boot]
	switch _, ended := s.Ended[leader.Boot]; {
	case leader.Boot == "":
		return "nobody leads"
	case leader.Boot == n.Self.ID:
		return "an earlier run of this daemon led"
	case ended || !known:
		return "the leader's boot has ended"
	case boot.Value.Phase == cluster.PhaseLeaving:
		return "the leader is leaving"
	case plan.Certified(s, boot.Value):
		return "a host certified the end of the leader"
	case moving[leader.Boot] && !moving[n.Self.ID]:
		return "the guest of the leader is moving to another host"
	case n.pulse.current().Silent[leader.Boot] != "":
		return n.unanswered(s, now)
	}
	seen := n.pulse.leaderSeen()
	if seen.boot == leader.Boot && now-seen.at > tickLimit || seen.boot != leader.Boot && now-s.Leader.Since > tickLimit {
		return "the leader's planner stands still"
	}
	return ""
}

// leaderSilent is the one reason to claim that the leader can answer.
const leaderSilent = "the leader is silent"

// unanswered is the reason to claim when the leader is not heard: none while
// its answer to this node's accusation is at hand, for then only the path of
// the beats is broken, and a claim would start a storm of claims (O-7).
func (n *Node) unanswered(s *cluster.State, now time.Duration) string {
	appeal := s.Appeals[s.Leader.Value.Boot]
	if appeal.Value.Answers[n.Self.Node] != 0 && now-appeal.Since < plan.AppealAge {
		return ""
	}
	return leaderSilent
}

// rank is how many members stand before this node in the queue of claimants:
// those that own nothing come first, then by name.
func (n *Node) rank(s *cluster.State) int {
	owners := map[cluster.BootID]bool{}
	for _, owner := range s.Owners {
		owners[owner.Value.Boot] = true
	}
	before := 0
	for _, boot := range n.fit(s, s.Leader.Value.Boot) {
		idler := !owners[boot.ID] && owners[n.Self.ID]
		sameLoad := owners[boot.ID] == owners[n.Self.ID]
		if idler || sameLoad && boot.Node < n.Self.Node {
			before++
		}
	}
	return before
}

// fit returns the other members that this node hears and that do not move: who
// may lead in its stead.
func (n *Node) fit(s *cluster.State, except cluster.BootID) []cluster.Boot {
	verdict := n.pulse.current()
	var out []cluster.Boot
	for id, boot := range s.Boots {
		_, ended := s.Ended[id]
		_, doomed := s.Fences[id]
		if !ended && !doomed && !verdict.Moving[id] && verdict.Silent[id] == "" && id != n.Self.ID && id != except && boot.Value.Phase == cluster.PhaseMember {
			out = append(out, boot.Value)
		}
	}
	return out
}

// planOnce plans from the newest snapshot and commits the orders. An order
// whose guards fail is void: the next snapshot is planned anew.
func (n *Node) planOnce(ctx context.Context, now time.Duration) time.Duration {
	s, _ := n.Mirror.Snapshot()
	if s.Rev < n.lead.rev {
		return claimPoll // not before the mirror shows our own claim (O-7)
	}
	n.lead.tick++
	n.tell(now)
	if n.lead.planned != 0 && now-n.lead.planned > planGap {
		n.lead.away = now + plan.AppealAge // until every answer that is at hand was given after the gap
	}
	n.lead.planned = now
	snapshot := plan.Snapshot{State: s, Now: now, Self: n.Self.Node, Abstain: now < n.lead.away || n.pulse.current().Abstain}
	result := plan.Plan(snapshot)
	if len(result.Orders) > 0 && n.SaveDecision != nil {
		n.SaveDecision(snapshot, result)
	}
	again := n.carryOut(ctx, result.Orders)
	pause := planPoll
	if result.Wake > 0 {
		pause = min(pause, max(result.Wake-n.Clock.Now(), time.Millisecond))
	}
	if snapshot.Abstain {
		pause = min(pause, viewRefresh/4)
	}
	if again {
		pause = commitRetry
	}
	return pause
}

// carryOut commits orders one after the other, since later ones may compare
// what earlier ones wrote; it stops at the first that may not be repeated blindly.
func (n *Node) carryOut(ctx context.Context, orders []plan.Order) (again bool) {
	for _, o := range orders {
		commitCtx, cancel := n.Clock.WithTimeout(ctx, commitTimeout)
		rev, err := n.Store.Commit(commitCtx, store.Tx{Guards: o.Guards, Writes: o.Writes})
		if err == nil {
			if o.Kind == plan.OrderFence {
				n.noteVoid(true)
			}
			n.Log.Info("order committed", "component", "lead", "epoch", n.epoch, "order", string(o.Kind), "subject", o.Subject, "text", o.Text, "revision", rev)
			_ = n.Mirror.WaitFor(commitCtx, rev)
			cancel()
			continue
		}
		cancel()
		n.Log.Debug("order void", "component", "lead", "order", string(o.Kind), "subject", o.Subject, "err", err)
		again = true
		if !errors.Is(err, store.ErrConflict) {
			return true
		}
		if o.Kind == plan.OrderFence {
			n.noteVoid(false)
		}
	}
	return again
}

// noteVoid notes what became of a fence decision. One that stands ends the doubt; a
// plan without any does not: who sees the store late decides now and then only.
func (n *Node) noteVoid(stands bool) {
	now := n.Clock.Now()
	if stands || now-n.lead.lastVoid > voidLimit {
		n.lead.void = 0
	}
	if stands {
		return
	}
	if n.lead.void == 0 {
		n.lead.void = now
	}
	n.lead.lastVoid = now
}

// tell publishes that the planner is alive, unless its fence decisions have been
// void for long: then it lets another lead, as one that stands still (O-8).
func (n *Node) tell(now time.Duration) {
	yields := n.lead.void != 0 && n.lead.lastVoid-n.lead.void > voidLimit && now-n.lead.lastVoid <= voidLimit
	if yields && !n.lead.yields {
		n.Log.Warn("fence decisions are void again and again: this leader sees the store too late, and another may lead", "component", "lead", "epoch", n.epoch)
	}
	n.lead.yields = yields
	if yields {
		n.pulse.setTick(0)
	} else {
		n.pulse.setTick(n.lead.tick)
	}
}

// steerPause is how often the raft leader looks whether another should lead.
const steerPause = 2 * time.Second

// steerLoop hands raft's leadership to a witness, or else to a member that owns
// no service, since an election costs 0.5 to 0.9 s (DESIGN section 6): the death
// of an owner then finds a store that can commit its certificate at once.
func (n *Node) steerLoop(ctx context.Context) error {
	for ctx.Err() == nil {
		n.sleep(ctx, steerPause)
		if n.Raft == nil {
			continue
		}
		if _, isMe, ok := n.Raft.Leader(); !ok || !isMe {
			continue
		}
		s, _ := n.Mirror.Snapshot()
		target := n.steerTarget(&s)
		if target == "" {
			continue
		}
		moveCtx, cancel := n.Clock.WithTimeout(ctx, commitTimeout)
		err := n.Raft.MoveLeader(moveCtx, string(target))
		cancel()
		n.Log.Debug("raft leadership handed over", "component", "steer", "to", target, "err", err)
	}
	return ctx.Err()
}

// steerTarget picks the healthy member that should lead raft in place of this
// node: a witness, else one without services; "" when nobody is better. A
// witness keeps the lead, and so does an idle node where there is no witness.
// While this node's guest moves, every member whose guest does not is better
// (P12).
func (n *Node) steerTarget(s *cluster.State) cluster.NodeName {
	moving := n.pulse.current().Moving[n.Self.ID]
	load := map[cluster.BootID]int{}
	for _, owner := range s.Owners {
		load[owner.Value.Boot]++
	}
	mine := s.Nodes[n.Self.Node].Value
	if mine.Witness && !moving {
		return ""
	}
	witness := func(b cluster.Boot) bool { return s.Nodes[b.Node].Value.Witness }
	better := slices.DeleteFunc(n.fit(s, ""), func(b cluster.Boot) bool {
		idle := load[n.Self.ID] > 0 && load[b.ID] == 0
		return b.ID == n.Self.ID || !moving && !witness(b) && !idle
	})
	if len(better) == 0 {
		return ""
	}
	rank := func(b cluster.Boot) int {
		if witness(b) {
			return -1
		}
		return load[b.ID]
	}
	return slices.MinFunc(better, func(a, b cluster.Boot) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Node, b.Node))
	}).Node
}

package node

import (
	"testing"
	"time"

	"ringfence/internal/cluster"
)

// "not done only if none may have happened": one method, certainly not done.
func TestOneMethodThatDidNothingIsNotDone(t *testing.T) {
	n := &Node{}
	s := &cluster.State{Boots: map[cluster.BootID]cluster.Rec[cluster.Boot]{"b": {Value: cluster.Boot{ID: "b", Node: "n1"}}}}
	if got := n.fenceLevel(t.Context(), s, cluster.Fence{Boot: "b", Node: "n1"}); got.Outcome != cluster.OutcomeNotDone {
		t.Errorf("outcome %q (%s), want not done", got.Outcome, got.Detail)
	}
}

// A first attempt hangs and is done after all, while the second one, by another
// executor, ends as unknown: done stands, in whatever order they report.
func TestADoneThatComesLateIsNeverHidden(t *testing.T) {
	for _, order := range [][]cluster.Outcome{
		{cluster.OutcomeDone, cluster.OutcomeUnknown},
		{cluster.OutcomeUnknown, cluster.OutcomeDone},
	} {
		play(t, func(w *world) {
			g := w.guests["n2"]
			w.kill("n3", false) // owns nothing; its fencing is played by hand
			first := cluster.Fence{Boot: "x", Node: "n9", Attempt: 1, Executor: "n9"}
			w.put(cluster.KeyFence("x"), first)
			time.Sleep(time.Second)
			s, _ := g.node.Mirror.Snapshot()
			old := s.Fences["x"]
			second := first
			second.Attempt = 2
			w.put(cluster.KeyFence("x"), second)
			time.Sleep(time.Second)
			s, _ = g.node.Mirror.Snapshot()
			recs := map[cluster.Outcome]cluster.Rec[cluster.Fence]{cluster.OutcomeDone: old, cluster.OutcomeUnknown: s.Fences["x"]}
			for _, outcome := range order {
				g.node.reportAttempt(w.ctx, recs[outcome], cluster.FenceReport{Boot: "x", Outcome: outcome, Detail: "played"})
			}
			s, _ = g.node.Mirror.Snapshot()
			if got := s.FenceRp["x"].Value.Outcome; got != cluster.OutcomeDone {
				t.Errorf("reported %v: %q stands, want done", order, got)
			}
		})
	}
}

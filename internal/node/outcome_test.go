package node

import (
	"testing"

	"ringfence/internal/cluster"
)

// "not done only if none may have happened": one method, certainly not done.
func TestOneMethodThatDidNothingIsNotDone(t *testing.T) {
	n := &Node{}
	s := &cluster.State{Boots: map[cluster.BootID]cluster.Rec[cluster.Boot]{"b": {Value: cluster.Boot{ID: "b", Node: "n1"}}}}
	if outcome, detail := n.fenceLevel(t.Context(), s, cluster.Fence{Boot: "b", Node: "n1"}); outcome != cluster.OutcomeNotDone {
		t.Errorf("outcome %q (%s), want not done", outcome, detail)
	}
}

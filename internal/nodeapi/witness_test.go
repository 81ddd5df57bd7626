package nodeapi

import (
	"testing"
	"time"

	"ringfence/internal/cluster"
)

// All three nodes were powered off and on where no host can prove the end of
// their former boots. A person confirms the former boot of n3 at n1; n1 and n2
// do not hear it. The former boots of n1 and n2 hear nothing and say nothing.
func TestAFormerBootIsNoWitnessAgainstAPersonsWord(t *testing.T) {
	s := &Server{Deps: Deps{Self: "n1", Now: func() time.Duration { return time.Hour }}}
	state := &cluster.State{Boots: map[cluster.BootID]cluster.Rec[cluster.Boot]{}, Views: map[cluster.NodeName]cluster.Rec[cluster.View]{}}
	for _, n := range []cluster.NodeName{"n1", "n2", "n3"} {
		old, now := cluster.BootID(n+"-b1"), cluster.BootID(n+"-b2")
		state.Boots[old] = cluster.Rec[cluster.Boot]{Rev: 1, Value: cluster.Boot{ID: old, Node: n, Phase: cluster.PhaseMember}}
		state.Boots[now] = cluster.Rec[cluster.Boot]{Rev: 2, Value: cluster.Boot{ID: now, Node: n, Phase: cluster.PhaseMember, Predecessors: []cluster.BootID{old}}}
		state.Views[n] = cluster.Rec[cluster.View]{Rev: 3, Value: cluster.View{Node: n, Boot: now, Silent: map[cluster.BootID]cluster.Silence{"n3-b1": "lost"}}}
	}
	if _, err := s.silent(state, "n3", "n3-b1"); err != nil {
		t.Errorf("the only way out of a whole power loss is refused: %v", err)
	}
}

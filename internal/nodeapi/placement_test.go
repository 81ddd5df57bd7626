package nodeapi

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
)

func TestAWitnessBesideAnotherVoterIsAFault(t *testing.T) {
	node := func(name, host string, witness, voter bool) NodeStatus {
		return NodeStatus{Name: cluster.NodeName(name), State: "member", Hosts: []cluster.HostName{cluster.HostName(host)}, Witness: witness, Voter: voter}
	}
	for _, c := range []struct {
		rule     string
		nodes    []NodeStatus
		want     []string
		survives bool
	}{
		{"on a host of its own", []NodeStatus{node("a", "h1", false, true), node("b", "h2", false, true), node("w", "h3", true, true)}, nil, true},
		{
			"beside a voter",
			[]NodeStatus{node("a", "h1", false, true), node("b", "h2", false, true), node("w", "h2", true, true)},
			[]string{"fault: witness w is on host h2, which carries voter b too: its loss takes both votes; run the witness on a host without another voter"},
			false,
		},
		{
			"beside a voter, where quorum survives that all the same",
			[]NodeStatus{node("a", "h1", false, true), node("b", "h2", false, true), node("c", "h3", false, true), node("d", "h4", false, true), node("w", "h4", true, true)},
			[]string{"fault: witness w is on host h4, which carries voter d too: its loss takes both votes; run the witness on a host without another voter"},
			true,
		},
		{"beside a node that has no vote yet", []NodeStatus{node("a", "h1", false, true), node("b", "h2", false, true), node("w", "h3", true, true), node("d", "h3", false, false)}, nil, true},
	} {
		if diff := cmp.Diff(c.want, misplacedWitnesses(c.nodes)); diff != "" {
			t.Errorf("%s: %s", c.rule, diff)
		}
		if got := quorumSurvives(c.nodes); got != c.survives {
			t.Errorf("%s: quorum survives any loss: %v", c.rule, got)
		}
	}
}

func TestWhoJoinsIsToldWhetherQuorumSurvivesALoss(t *testing.T) {
	d := openDoor(t)
	joined, err := Join(t.Context(), d.options(d.token(), "n4", "127.0.0.9"))
	must(t, err)
	if len(joined.Warnings) != 0 {
		t.Errorf("four voters on four machines: %q", joined.Warnings)
	}
	d = openDoor(t)
	d.commit(cluster.Remove(cluster.KeyNode("n2")), cluster.Remove(cluster.KeyBoot("boot-n2")), cluster.Remove(cluster.KeyNode("n3")), cluster.Remove(cluster.KeyBoot("boot-n3")))
	o := d.options(d.token(), "w1", "127.0.0.9")
	o.Witness = true
	joined, err = Join(t.Context(), o)
	must(t, err)
	want := []string{"the store has 2 voters, so the loss of one costs quorum: join nodes, or a witness (`ringfence witness join`), until there are three"}
	if diff := cmp.Diff(want, joined.Warnings); diff != "" {
		t.Error(diff)
	}
	if !joined.Witness || !d.state().Nodes["w1"].Value.Witness {
		t.Errorf("joined as %+v, on record as %+v", joined.Identity, d.state().Nodes["w1"].Value)
	}
}

package nodeapi

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
)

func (b *bench) remove(node string) (Done, error) {
	return b.api.Node(b.t.Context(), node, "remove", NodeOrder{By: "ann"})
}

// left makes a node one that has left, with records of every kind.
func (b *bench) leave(node cluster.NodeName) {
	boot := bootOf(node)
	b.put(cluster.KeyEnded(boot), cluster.Ended{Boot: boot, Node: node, Evidence: cluster.EvidenceLeave})
	life := b.state().Boots[boot].Value.Life
	b.put(cluster.KeyCertificate(life, "h3"), cluster.DeathCertificate{Life: life, Host: "h3"})
	b.put(cluster.KeyView(node), cluster.View{Node: node, Boot: boot})
	b.put(cluster.KeyAppeal(boot), cluster.Appeal{Node: node, Boot: boot})
	b.put(cluster.KeyStandby(node), cluster.Standby{Node: node, By: "ann"})
	b.put(cluster.KeyFailure("web", node), cluster.Failure{Service: "web", Node: node})
	b.put(cluster.KeyWish("web"), cluster.Wish{Service: "web", MoveTo: node, By: "ann"})
}

func TestRemoveTakesVoterAndRecordsAndKeepsTombstones(t *testing.T) {
	b := newBench(t)
	b.leave("n3")
	done, err := b.remove("n3")
	must(t, err)
	want := "n3 is removed; nodes are n1, n2; its data directory is void: delete it there; take [[node]] n3 out of the configuration, unless that name joins again\n" +
		"warning: the store has 2 voters, so the loss of one costs quorum: join nodes, or a witness (`ringfence witness join`), until there are three"
	if !done.Changed || done.Message != want {
		t.Errorf("done %+v", done)
	}
	if diff := cmp.Diff([]uint64{3}, b.voters.removed); diff != "" {
		t.Errorf("voters removed: %s", diff)
	}
	s := b.state()
	_, node := s.Nodes["n3"]
	_, boot := s.Boots["boot-n3"]
	_, view := s.Views["n3"]
	_, probe := s.Probes["n3"]
	_, standby := s.Standby["n3"]
	_, appeal := s.Appeals["boot-n3"]
	_, failure := s.FailureOf("web", "n3")
	_, wish := s.Wishes["web"]
	_, tomb := s.Ended["boot-n3"]
	if node || boot || view || probe || standby || appeal || failure || wish || !tomb {
		t.Errorf("left of n3: node %v boot %v view %v probe %v standby %v appeal %v failure %v wish %v tombstone %v",
			node, boot, view, probe, standby, appeal, failure, wish, tomb)
	}
	if len(s.Nodes) != 2 || len(s.Certs) != 0 || len(s.Boots) != 2 || s.Owners["web"].Value.Boot != "boot-n1" {
		t.Errorf("others were touched: %v %v", s.Nodes, s.Boots)
	}
	_, err = b.remove("n3")
	refused(t, err, CodeNotFound, `there is no node "n3"; nodes are n1, n2`)
}

func TestRemovalsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		rule, node string
		prepare    func(b *bench)
		code, text string
	}{
		{"an unknown node", "n9", func(*bench) {}, CodeNotFound, `there is no node "n9"; nodes are n1, n2, n3`},
		{"the node that is asked", "n1", func(*bench) {}, CodeRefused, "n1 is the node that you are asking: stop it, and give this order on another node"},
		{"the last node", "n1", func(b *bench) {
			b.commit(cluster.Remove(cluster.KeyNode("n2")), cluster.Remove(cluster.KeyNode("n3")))
		}, CodeRefused, "n1 is the last node of the cluster; to give the cluster up, stop it and remove its data directory"},
		{"a node that is alive", "n3", func(*bench) {}, CodeRefused, "n3 is member, in boot boot-n3: stop its daemon there first (SIGTERM, as by systemctl stop, or `ringfence node leave`), which lets it leave; if it is dead for good, say so with `ringfence node confirm-dead n3 --boot boot-n3`"},
		{"a node that is leaving", "n3", func(b *bench) {
			b.put(cluster.KeyBoot("boot-n3"), cluster.Boot{ID: "boot-n3", Node: "n3", Phase: cluster.PhaseLeaving})
		}, CodeRefused, "n3 is leaving, in boot boot-n3: "},
		{"a node whose earlier boot is not proved ended", "n3", func(b *bench) {
			b.leave("n3")
			b.put(cluster.KeyBoot("old"), cluster.Boot{ID: "old", Node: "n3", Phase: cluster.PhaseMember})
			b.put(cluster.KeyBoot("boot-n3"), cluster.Boot{ID: "boot-n3", Node: "n3", Phase: cluster.PhaseMember, Predecessors: []cluster.BootID{"old"}})
		}, CodeRefused, "n3 is left, in boot old: "},
		{"a node that still owns", "n2", func(b *bench) {
			b.own("db", "n2", 1)
			b.leave("n2")
		}, CodeRefused, "n2 still owns db, until another node can take it: see `ringfence explain db`"},
		{"a voter whose removal leaves too few", "n3", func(b *bench) {
			for _, n := range []cluster.NodeName{"n4", "n5"} {
				b.put(cluster.KeyNode(n), cluster.Node{Name: n, Address: string(n), Member: 9})
				b.put(cluster.KeyBoot(bootOf(n)), cluster.Boot{ID: bootOf(n), Node: n, Phase: cluster.PhaseMember})
				b.put(cluster.KeyEnded(bootOf(n)), cluster.Ended{Boot: bootOf(n), Node: n, Evidence: cluster.EvidenceOperator})
			}
			b.leave("n3")
		}, CodeRefused, "without n3 2 voters of 4 would be there, 3 are needed: bring the others back first"},
		{"without quorum", "n3", func(b *bench) {
			b.leave("n3")
			b.set(func() { b.quorum = false })
		}, CodeUnavailable, "node n1 has no quorum, so nobody can be removed: start more of the voters first"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			b := newBench(t)
			c.prepare(b)
			before := b.state().Rev
			_, err := b.remove(c.node)
			refused(t, err, c.code, c.text)
			if s := b.state(); s.Rev != before || len(b.voters.removed) != 0 {
				t.Errorf("a refusal changed something: revision %d after %d, voters removed %v", s.Rev, before, b.voters.removed)
			}
		})
	}
}

func TestARemovalThatBrokeOffIsCompletedByTheSameOrder(t *testing.T) {
	b := newBench(t)
	b.leave("n3")
	b.voters.keep = errors.New("no answer of the voters")
	_, err := b.remove("n3")
	refused(t, err, CodeUnavailable, "n3 is marked for removal, but its voter cannot be taken out now: no answer of the voters; run `ringfence node remove n3` again")
	status, err := b.api.Status(t.Context())
	must(t, err)
	n3, _ := status.Member("n3")
	if !strings.Contains(strings.Join(n3.Why, "; "), "is being removed: `ringfence node remove n3` again completes it") {
		t.Errorf("status says of n3: %q", n3.Why)
	}
	b.voters.keep = nil
	_, err = b.remove("n3")
	must(t, err)
	if _, still := b.state().Nodes["n3"]; still {
		t.Error("n3 is still on record")
	}
}

func TestARemovalWhoseCommitsLostTheirAnswers(t *testing.T) {
	b := newBench(t)
	b.leave("n3")
	b.mem.SetFault(mem.Fault{Commit: mem.CommitUnacknowledged})
	_, err := b.remove("n3")
	b.mem.SetFault(mem.Fault{})
	must(t, err)
	if _, still := b.state().Nodes["n3"]; still {
		t.Error("n3 is still on record")
	}
}

// sneak registers a boot of n3 right before the first commit, as a node does that starts
// at the moment of its removal.
type sneak struct {
	store.Store
	b    *bench
	done bool
}

func (s *sneak) Commit(ctx context.Context, tx store.Tx) (cluster.Revision, error) {
	if !s.done {
		s.done = true
		if _, err := s.Store.Commit(ctx, store.Tx{Writes: []cluster.Write{cluster.Put(cluster.KeyBoot("new"), cluster.Boot{ID: "new", Node: "n3", Phase: cluster.PhaseJoining})}}); err != nil {
			return 0, err
		}
	}
	return s.Store.Commit(ctx, tx)
}

func TestABootThatRegistersBesideTheMarkStopsTheRemoval(t *testing.T) {
	b := newBench(t)
	b.leave("n3")
	b.deps.Store = &sneak{Store: b.mem, b: b}
	b.serve()
	_, err := b.remove("n3")
	refused(t, err, CodeRefused, "in boot new: stop its daemon there first")
	if n3 := b.state().Nodes["n3"].Value; n3.Removing || len(b.voters.removed) != 0 {
		t.Errorf("n3 is %+v, voters removed %v", n3, b.voters.removed)
	}
}

func TestANodeThatNeverBootedCanBeRemoved(t *testing.T) {
	d := openDoor(t)
	_, err := Join(t.Context(), d.options(d.token(), "n4", "127.0.0.9"))
	must(t, err)
	_, err = d.remove("n4")
	must(t, err)
	if _, still := d.state().Nodes["n4"]; still || len(d.voters.waiting) != 0 {
		t.Errorf("left of n4: record %v, voters %v", still, d.voters.waiting)
	}
	// Its join died before the voter's id was noted.
	d.put(cluster.KeyNode("n5"), cluster.Node{Name: "n5", Address: "127.0.0.10", PeerPort: 7402})
	_, _, err = d.voters.AddVoter(t.Context(), "n5", "https://127.0.0.10:7402")
	must(t, err)
	_, err = d.remove("n5")
	must(t, err)
	if len(d.voters.waiting) != 0 {
		t.Errorf("voters that nobody knows: %v", d.voters.waiting)
	}
}

func TestARemovedNameMayJoinAgain(t *testing.T) {
	d := openDoor(t)
	d.leave("n3")
	d.voters.keep = errors.New("later")
	_, _ = d.remove("n3")
	o := d.options(d.token(), "n3", "127.0.0.9")
	_, err := Join(t.Context(), o)
	refused(t, err, CodeConflict, "node n3 is being removed: complete that with `ringfence node remove n3` first")
	d.voters.keep = nil
	_, err = d.remove("n3")
	must(t, err)
	joined, err := Join(t.Context(), o)
	must(t, err)
	// It has not started: others wait for it, and it may join once more.
	_, err = Join(t.Context(), d.options(d.token(), "n5", "127.0.0.10"))
	refused(t, err, CodeConflict, "node n3 has joined and never started")
	if joined.Node != "n3" || d.state().Nodes["n3"].Value.Member == 3 {
		t.Errorf("joined as %+v, record %+v", joined.Identity, d.state().Nodes["n3"].Value)
	}
	status, err := d.api.Status(t.Context())
	must(t, err)
	if n3, _ := status.Member("n3"); n3.Voter {
		t.Error("a node that never started counts as a voter, for its name's tombstones")
	}
	_, err = Join(t.Context(), d.options(d.token(), "n3", "127.0.0.11"))
	must(t, err)
}

func TestANodeThatIsRemovedWhileItJoinsLeavesNoVoter(t *testing.T) {
	d := openDoor(t)
	d.voters.onAdd = func() { d.commit(cluster.Remove(cluster.KeyNode("n4"))) }
	_, err := Join(t.Context(), d.options(d.token(), "n4", "127.0.0.9"))
	refused(t, err, CodeConflict, "node n4 was removed while it joined")
	if len(d.voters.waiting) != 0 {
		t.Errorf("voters that nobody knows: %v", d.voters.waiting)
	}
}

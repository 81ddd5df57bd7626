package hostd

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
	"ringfence/internal/wire/voter"
)

var voterIdentity = strings.Repeat("a", 64)

func claimOf(node cluster.NodeName, run string, previous uint64) voter.Claim {
	return voter.Claim{Cluster: alpha, Incarnation: 1, Node: node, Identity: voterIdentity, Run: run, Count: previous + 1, Previous: previous}
}

func (b *bench) vote(c voter.Claim) (voter.Answer, error) {
	return b.Voter(hypervisor.Guest{ID: g1, State: hypervisor.StateRunning, Life: lifeA}, c)
}

// P22: a disk older than the host's memory is refused, also after a restart of
// hostd, and a memory that cannot be written confirms nothing.
func TestARolledBackVoterIsRefusedByItsHost(t *testing.T) {
	b := newBench(t, true)
	for n := range uint64(3) {
		if answer, err := b.vote(claimOf("db1", fmt.Sprint("run", n), n)); err != nil || !answer.Known {
			t.Fatalf("start %d: %+v %v", n+1, answer, err)
		}
	}
	b.run(boots1, true)
	if _, err := b.vote(claimOf("db1", "run3", 1)); code(err) != hostapi.CodeStaleVoter || !strings.Contains(err.Error(), "rolled back") {
		t.Errorf("a disk from before the last start: %v", err)
	}
	b.storage.SetFail(syscall.ENOSPC)
	if answer, err := b.vote(claimOf("db1", "run4", 3)); err == nil || answer.Known || code(err) == hostapi.CodeStaleVoter {
		t.Errorf("not durable: %+v %v", answer, err)
	}
	b.storage.SetFail(nil)
	if answer, err := b.vote(claimOf("db1", "run5", 3)); err != nil || !answer.Known {
		t.Errorf("the next start: %+v %v", answer, err)
	}
	if answer, err := b.vote(claimOf("other", "run", 5)); err != nil || answer.Known {
		t.Errorf("a voter that this host has never seen: %+v %v", answer, err)
	}
}

// P22: while its guest was at another host a voter may have started there, of
// which this host knows nothing: its memory refuses still, and confirms nothing
// until others have vouched, also after a restart of hostd (simulator, seed 6663).
func TestAHostDoesNotConfirmAVoterThatWasElsewhere(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(b *bench)
	}{
		{"saved", func(b *bench) { b.event(ended, lifeA, hypervisor.ReasonSaved) }},
		{"migrated", func(b *bench) { b.event(ended, lifeA, hypervisor.ReasonMigrated) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, false)
			b.claimed()
			for n := range uint64(2) {
				if answer, err := b.vote(claimOf("db1", fmt.Sprint("run", n), n)); err != nil || !answer.Known {
					t.Fatalf("start %d: %+v %v", n+1, answer, err)
				}
			}
			test.do(b)
			b.run(boots1, false)
			start := func(c voter.Claim) (voter.Answer, error) {
				return b.Voter(hypervisor.Guest{ID: g1, State: hypervisor.StateRunning, Life: lifeB}, c)
			}
			if _, err := start(claimOf("db1", "old", 1)); code(err) != hostapi.CodeStaleVoter {
				t.Errorf("a disk from before the last start here: %v", err)
			}
			c := claimOf("db1", "back", 2)
			if answer, err := start(c); err != nil || answer.Known {
				t.Errorf("a start that nobody vouches for: %+v %v, want no word", answer, err)
			}
			c.Vouched = true
			if answer, err := start(c); err != nil || !answer.Known {
				t.Errorf("a start that others vouch for: %+v %v", answer, err)
			}
			if answer, err := start(claimOf("db1", "next", 3)); err != nil || !answer.Known {
				t.Errorf("the next start: %+v %v", answer, err)
			}
		})
	}
}

// P21: what speaks for an older incarnation than anything else has, is void.
func TestVotersAndOrdersOfAnOlderIncarnationAreRefused(t *testing.T) {
	b := newBench(t, true)
	b.claimed()
	if _, _, err := b.carry(order(hostapi.ActionPause, 9, "d1", lifeA), Result{}); err != nil {
		t.Fatal(err)
	}
	next := claimOf("db1", "run", 0)
	next.Incarnation = 2
	if _, err := b.vote(next); err != nil {
		t.Fatal(err)
	}
	if _, err := b.vote(claimOf("db2", "run", 0)); code(err) != hostapi.CodeStaleVoter || !strings.Contains(err.Error(), "recovered as incarnation 2") {
		t.Errorf("a voter of incarnation 1: %v", err)
	}
	if _, asked, err := b.carry(order(hostapi.ActionOff, 10, "d2", lifeA), Result{}); asked || code(err) != hostapi.CodeStaleEpoch {
		t.Errorf("an order of incarnation 1: asked %v, %v", asked, err)
	}
	first := order(hostapi.ActionOff, 1, "d1", lifeA)
	first.Incarnation = 2
	if _, asked, err := b.carry(first, Result{}); !asked || err != nil {
		t.Errorf("the first order of incarnation 2: asked %v, %v", asked, err)
	}
}

func TestVotersThatAHostHasNoWordFor(t *testing.T) {
	b := newBench(t, true)
	bad := claimOf("db1", "", 0)
	if _, err := b.vote(bad); code(err) != hostapi.CodeBadRequest {
		t.Errorf("without a run: %v", err)
	}
	foreign := claimOf("db1", "run", 0)
	foreign.Cluster = beta
	if _, err := b.vote(foreign); code(err) != hostapi.CodeForbidden {
		t.Errorf("of a cluster without a grant: %v", err)
	}
	b.claimed()
	b.event(ended, lifeA, hypervisor.ReasonCrashed)
	if _, err := b.vote(claimOf("db1", "run", 0)); code(err) != hostapi.CodeOtherLife {
		t.Errorf("of a life that has ended: %v", err)
	}
	b = newBench(t, true)
	for n := range 65 {
		_, err := b.vote(claimOf(cluster.NodeName(fmt.Sprint("n", n)), "run", 0))
		if full := n >= 64; (code(err) == hostapi.CodeForbidden) != full {
			t.Errorf("voter no. %d: %v", n+1, err)
		}
	}
}

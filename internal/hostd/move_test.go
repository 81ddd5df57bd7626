package hostd

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

const (
	leaves  = hypervisor.EventLeaving
	arrives = hypervisor.EventArriving
	stays   = hypervisor.EventStayed
)

// absences returns what was pushed so far, each verified.
func (b *bench) absences() []cluster.Absence {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []cluster.Absence
	for _, e := range b.told {
		if e.Absence != nil {
			if err := hostapi.VerifyAbsence(testKey.Public().(ed25519.PublicKey), *e.Absence); err != nil {
				b.t.Error(err)
			}
			out = append(out, *e.Absence)
		}
	}
	return out
}

func (b *bench) resolves() (out []Resolve) {
	for _, e := range b.told {
		if e.Resolve != nil {
			out = append(out, *e.Resolve)
		}
	}
	return out
}

// asks puts the guard's question for lifeA, which carries the claim that it has got.
func (b *bench) asks() (*cluster.Arrival, error) {
	arrival, effects, err := b.Arrive(hypervisor.Incoming{Guest: g1, Life: lifeA, Claimed: b.carried, Why: hypervisor.ReasonMigrated})
	b.told = append(b.told, effects...)
	return arrival, err
}

// placed lets lifeA arrive with the word of alpha.
func (b *bench) placed() cluster.Arrival {
	b.t.Helper()
	arrival, err := b.asks()
	if err != nil || arrival == nil {
		b.t.Fatalf("arrival %v, error %v", arrival, err)
	}
	_, effects, err := b.Placed(alpha, hostapi.Placed{Arriving: hostapi.Arriving{Guest: g1, Life: lifeA, Arrival: *arrival}, Revision: 5, Member: true})
	if err != nil || len(effects) != 1 || effects[0].Answered == nil || effects[0].Answered.Refused != "" {
		b.t.Fatalf("effects %+v, error %v", effects, err)
	}
	return *arrival
}

// What a host that a guest leaves certifies, and when it says that it is gone.
func TestTheSourceOfAMigration(t *testing.T) {
	gone := func(b *bench) { b.list(hypervisor.StateOff, "") }
	for _, c := range []struct {
		name   string
		play   func(b *bench)
		status journal.Status
		absent bool
	}{
		{"C-1: its process exits while it leaves", func(b *bench) { b.event(leaves, lifeA, ""); b.event(ended, lifeA, hypervisor.ReasonDestroyed) }, journal.Left, false},
		{"C-1: and the next look does not show it", func(b *bench) {
			b.event(leaves, lifeA, "")
			b.event(ended, lifeA, hypervisor.ReasonCrashed)
			gone(b)
		}, journal.Left, true},
		{"it runs here until it has switched over", func(b *bench) { b.event(leaves, lifeA, ""); b.list(hypervisor.StateRunning, lifeA) }, journal.Leaving, false},
		{"it has left, and the next look does not show it", func(b *bench) { b.event(leaves, lifeA, ""); b.event(ended, lifeA, hypervisor.ReasonMigrated); gone(b) }, journal.Left, true},
		{"it has left, and nothing was missed but the end", func(b *bench) { b.event(leaves, lifeA, ""); gone(b); gone(b) }, journal.Left, true},
		{"a look from before it left says nothing", func(b *bench) {
			mark := b.Mark()
			b.event(leaves, lifeA, "")
			b.event(ended, lifeA, hypervisor.ReasonMigrated)
			b.told = append(b.told, b.Listing(mark, []hypervisor.Guest{{ID: g1, State: hypervisor.StateOff}})...)
		}, journal.Left, false},
		{"it stayed and was not seen running yet", func(b *bench) { b.event(leaves, lifeA, ""); b.event(stays, lifeA, "") }, journal.Leaving, false},
		{"it stayed, was not seen running, and its process exits", func(b *bench) {
			b.event(leaves, lifeA, "")
			b.event(stays, lifeA, "")
			b.event(ended, lifeA, hypervisor.ReasonCrashed)
		}, journal.Left, false},
		{"it stayed and runs", func(b *bench) {
			b.event(leaves, lifeA, "")
			b.event(stays, lifeA, "")
			b.list(hypervisor.StateRunning, lifeA)
		}, journal.Here, false},
		{"hostd restarts while it leaves", func(b *bench) {
			b.event(leaves, lifeA, "")
			b.run(boots1, false)
			b.list(hypervisor.StateRunning, lifeA)
			b.event(ended, lifeA, hypervisor.ReasonCrashed)
		}, journal.Left, false},
		{"the host restarts while it leaves", func(b *bench) { b.event(leaves, lifeA, ""); b.run(boots2, false) }, journal.Left, true},
		{"the host restarts while it leaves, where guests cannot be saved", func(b *bench) { b.event(leaves, lifeA, ""); b.run(boots2, true) }, journal.Left, true},
		{"it is saved: its image may come back", func(b *bench) { b.event(ended, lifeA, hypervisor.ReasonSaved); b.list(hypervisor.StateSaved, "") }, journal.Left, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, false)
			b.claimed()
			c.play(b)
			b.wantUnknown(c.status)
			if got := b.absences(); (len(got) == 1) != c.absent || len(got) > 1 {
				t.Errorf("absences %+v", got)
			}
		})
	}
}

func TestALifeThatStayedEndsAsBefore(t *testing.T) {
	b := newBench(t, false)
	b.claimed()
	b.event(leaves, lifeA, "")
	b.event(stays, lifeA, "")
	b.list(hypervisor.StateRunning, lifeA)
	b.event(ended, lifeA, hypervisor.ReasonCrashed)
	b.wantEnded(cluster.CauseCrashed)
}

// The guard: who may come, who must wait for the cluster, who must not come.
func TestWhoMayArrive(t *testing.T) {
	for _, c := range []struct {
		name string
		play func(b *bench)
		want string // part of the refusal; "" waits for alpha
	}{
		{"a life that was never here", func(*bench) {}, ""},
		{"a life that migrated away", func(b *bench) {
			b.claimed()
			b.event(ended, lifeA, hypervisor.ReasonMigrated)
			b.list(hypervisor.StateOff, "")
		}, ""},
		{"P7: a life that has ended here", func(b *bench) { b.claimed(); b.event(ended, lifeA, hypervisor.ReasonCrashed) }, "has ended"},
		{"a life that was saved here", func(b *bench) { b.claimed(); b.event(ended, lifeA, hypervisor.ReasonSaved) }, ""},
		{"a life that was saved here and is being ended: it can be ended only when it runs", func(b *bench) {
			b.claimed()
			b.event(ended, lifeA, hypervisor.ReasonSaved)
			_, _, _ = b.carry(order(hostapi.ActionOff, 1, "d", lifeA), Result{Err: hypervisor.ErrNotRunning})
		}, ""},
		{"a life that runs here", func(b *bench) { b.claimed() }, "held for here"},
		{"a life that leaves", func(b *bench) { b.claimed(); b.event(leaves, lifeA, "") }, "held for leaving"},
		{"a life whose arrival is not over", func(b *bench) { b.placed() }, "held for arriving"},
		{"a life that its cluster was to end here", func(b *bench) {
			b.placed()
			_, _, _ = b.carry(order(hostapi.ActionOff, 1, "d", lifeA), Result{Err: hypervisor.ErrNotRunning})
		}, "refused here for good"},
		{"a guest of two grants that nobody has claimed", func(b *bench) { b.permits[beta] = []cluster.GuestID{g1} }, "none has claimed it"},
		{"a guest of two grants that one has claimed", func(b *bench) {
			b.claimed()
			b.event(ended, lifeA, hypervisor.ReasonMigrated)
			b.list(hypervisor.StateOff, "")
			b.permits[beta] = []cluster.GuestID{g1}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) { wantArrive(t, c.play, c.want) })
	}
	b := newBench(t, false)
	b.permits = permits{}
	b.cfg.Permissions = b.permits
	if arrival, err := b.asks(); arrival != nil || err != nil {
		t.Errorf("a guest of no cluster: arrival %v, error %v; want it to come at once", arrival, err)
	}
}

// A claim that the life carries is as good as one that this host has.
func TestWhoMayArriveWithAClaim(t *testing.T) {
	for _, c := range []struct {
		name string
		play func(b *bench)
		want string
	}{
		{"a guest of two grants whose life carries the claim of one", func(b *bench) {
			b.permits[beta] = []cluster.GuestID{g1}
			b.carried = alpha
		}, ""},
		{"a life that carries a claim, where its cluster has no grant", func(b *bench) {
			delete(b.permits, alpha)
			b.carried = alpha
		}, `cluster "alpha", for which this host has no grant`},
		{"the same, where another cluster has the grant", func(b *bench) {
			b.permits[beta] = []cluster.GuestID{g1}
			delete(b.permits, alpha)
			b.carried = alpha
		}, `cluster "alpha", for which this host has no grant`},
		{"a life that carries another claim than its guest has here", func(b *bench) {
			b.claimed()
			b.event(ended, lifeA, hypervisor.ReasonMigrated)
			b.list(hypervisor.StateOff, "")
			b.permits[beta] = []cluster.GuestID{g1}
			b.carried = beta
		}, "take it out of the grant of one"},
		{"a claim that is no name", func(b *bench) { b.carried = "\x1b[31m" }, `cluster "\x1b[31m"`},
		{"an image of the life that is older than its claim", func(b *bench) {
			b.claimed()
			b.event(ended, lifeA, hypervisor.ReasonSaved)
			b.carried = ""
		}, "older than the claim of cluster alpha"},
	} {
		t.Run(c.name, func(t *testing.T) { wantArrive(t, c.play, c.want) })
	}
}

// wantArrive expects that lifeA is refused for a reason that has the words, or
// without any that it waits for alpha.
func wantArrive(t *testing.T, play func(b *bench), refused string) {
	t.Helper()
	b := newBench(t, false)
	play(b)
	arrival, err := b.asks()
	switch {
	case refused == "" && (err != nil || arrival == nil || len(b.Since(alpha, 0).Arriving) != 1):
		t.Errorf("arrival %v, error %v; want it to wait", arrival, err)
	case refused != "" && (err == nil || !strings.Contains(err.Error(), refused)):
		t.Errorf("error %v, want %q", err, refused)
	}
}

// An arrival is durable before anybody is asked, and a cluster's word ends the
// wait once, for that arrival and from that cluster.
func TestPlacedEndsTheWait(t *testing.T) {
	b := newBench(t, false)
	arrival, err := b.asks()
	if err != nil {
		t.Fatal(err)
	}
	b.wantStatus(journal.Arriving)
	right := hostapi.Placed{Arriving: hostapi.Arriving{Guest: g1, Life: lifeA, Arrival: *arrival}, Revision: 5, Member: true}
	older, nothing := right, right
	older.Arrival.Number--
	nothing.Revision = 0
	for _, wrong := range []struct {
		from cluster.ClusterID
		p    hostapi.Placed
	}{{beta, right}, {alpha, older}, {alpha, nothing}} {
		if _, effects, _ := b.Placed(wrong.from, wrong.p); len(effects) != 0 {
			t.Errorf("%s with %+v: effects %+v", wrong.from, wrong.p, effects)
		}
	}
	if _, effects, err := b.Placed(alpha, right); err != nil || len(effects) != 1 {
		t.Errorf("effects %+v, error %v", effects, err)
	}
	if _, effects, _ := b.Placed(alpha, right); len(effects) != 0 {
		t.Errorf("told twice: %+v", effects)
	}
	b.event(arrives, lifeA, "")
	b.event(start, lifeA, hypervisor.ReasonMigrated)
	b.wantStatus(journal.Here)
	b.event(ended, lifeA, hypervisor.ReasonCrashed)
	if got := b.certificates(); len(got) != 1 || got[0].Cluster != alpha {
		t.Errorf("certificates %+v, want one for the cluster that has its boot", got)
	}
}

// Nothing is said of an arrival before its migration is aborted and the life was
// looked for, and nothing of one that has another behind it.
func TestAnArrivalThatComesToNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		play func(b *bench, a cluster.Arrival)
	}{
		{"the cluster is silent", func(b *bench, a cluster.Arrival) { b.told = append(b.told, b.Withdrawn(g1, lifeA, a)...) }},
		{"it stayed at its source", func(b *bench, _ cluster.Arrival) { b.event(arrives, lifeA, ""); b.event(stays, lifeA, "") }},
		{"its process here dies before it runs", func(b *bench, _ cluster.Arrival) {
			b.event(arrives, lifeA, "")
			b.event(ended, lifeA, hypervisor.ReasonCrashed)
		}},
		{"it never began", func(b *bench, _ cluster.Arrival) { b.list(hypervisor.StateOff, ""); b.list(hypervisor.StateOff, "") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, false)
			arrival := b.placed()
			c.play(b, arrival)
			b.wantUnknown(journal.Arriving)
			if got := b.absences(); len(got) != 0 {
				t.Fatalf("said before it was resolved: %+v", got)
			}
			want := []Resolve{{Target: Target{Guest: g1, Life: lifeA}, Arrival: arrival}}
			if diff := cmp.Diff(want, b.resolves()); diff != "" {
				t.Fatalf("to resolve (-want +got):\n%s", diff)
			}
			b.told = append(b.told, b.Resolved(want[0])...)
			got := b.absences()
			if len(got) != 1 || !got[0].Covers(arrival) || got[0].Final {
				t.Fatalf("absences %+v", got)
			}
			again := b.placed()
			if got[0].Covers(again) {
				t.Error("the absence covers the arrival behind it")
			}
			b.told = nil
			b.told = append(b.told, b.Resolved(want[0])...)
			if got := b.absences(); len(got) != 0 {
				t.Errorf("a late look denied the next arrival: %+v", got)
			}
		})
	}
}

// off where a life was to arrive, or has left: refused for good, and said so.
// It is no certificate.
func TestOffAtAPlaceWhereItDoesNotRun(t *testing.T) {
	notHere := Result{Err: hypervisor.ErrNotRunning}
	for _, c := range []struct {
		name string
		play func(b *bench)
		res  Result
		want cluster.Outcome
	}{
		{"C-3: it was to arrive", func(b *bench) { b.placed() }, notHere, cluster.OutcomeDone},
		{"C-3: it arrives and cannot be aborted", func(b *bench) { b.placed(); b.event(arrives, lifeA, "") }, Result{Err: errTimeout}, cluster.OutcomeUnknown},
		{"it has migrated away", func(b *bench) { b.claimed(); b.event(ended, lifeA, hypervisor.ReasonMigrated) }, notHere, cluster.OutcomeDone},
		{"it has migrated away, and that was said", func(b *bench) {
			b.claimed()
			b.event(ended, lifeA, hypervisor.ReasonMigrated)
			b.list(hypervisor.StateOff, "")
		}, notHere, cluster.OutcomeDone},
		{"the hypervisor does not know the guest any more", func(b *bench) { b.claimed(); b.event(ended, lifeA, hypervisor.ReasonMigrated) }, Result{Err: hypervisor.ErrNoGuest}, cluster.OutcomeDone},
		{"C-2: nobody saw how it left", func(b *bench) { b.claimed(); b.list(hypervisor.StateOff, "") }, notHere, cluster.OutcomeUnknown},
		{"C-3: it leaves, and is not there any more", func(b *bench) { b.claimed(); b.event(leaves, lifeA, "") }, notHere, cluster.OutcomeUnknown},
		{"C-6: it was saved", func(b *bench) { b.claimed(); b.event(ended, lifeA, hypervisor.ReasonSaved) }, notHere, cluster.OutcomeUnknown},
		{"hostd has no memory of it", func(*bench) {}, notHere, cluster.OutcomeUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, false)
			c.play(b)
			reply, _, err := b.carry(order(hostapi.ActionOff, 1, "d", lifeA), c.res)
			if err != nil || reply.Outcome != c.want || reply.Certificate != nil || (reply.Absence != nil) != (c.want == cluster.OutcomeDone) {
				t.Fatalf("reply %+v, error %v", reply, err)
			}
			if reply.Absence != nil && !reply.Absence.Final {
				t.Errorf("absence %+v, want it final", *reply.Absence)
			}
			if len(b.certificates()) != 0 {
				t.Error("certified")
			}
		})
	}
}

// off at the source: the migration is aborted, then the life is ended there. Its
// events come before or behind the answer.
func TestOffOfALifeThatLeavesIsItsEnd(t *testing.T) {
	b := newBench(t, false)
	b.claimed()
	b.event(leaves, lifeA, "")
	o := order(hostapi.ActionOff, 1, "d", lifeA)
	if reply, _, err := b.Admit(o); reply != nil || err != nil {
		t.Fatalf("reply %+v, error %v", reply, err)
	}
	b.event(stays, lifeA, "")
	b.event(ended, lifeA, hypervisor.ReasonDestroyed)
	if got := b.certificates(); len(got) != 0 {
		t.Fatalf("certified before the order was settled: %+v", got)
	}
	reply, effects, err := b.Settle(o, Result{})
	b.told = append(b.told, effects...)
	if err != nil || reply.Outcome != cluster.OutcomeDone || reply.Certificate == nil {
		t.Fatalf("reply %+v, error %v", reply, err)
	}
	b.wantEnded(cluster.CauseFenced)
}

// A waiting arrival is refused by an order to end the life, at once.
func TestOffRefusesAWaitingArrival(t *testing.T) {
	b := newBench(t, false)
	arrival, err := b.asks()
	if err != nil {
		t.Fatal(err)
	}
	_, effects, err := b.Admit(order(hostapi.ActionOff, 1, "d", lifeA))
	if err != nil || len(effects) != 1 || effects[0].Answered == nil || effects[0].Answered.Life != lifeA || effects[0].Answered.Refused == "" {
		t.Fatalf("effects %+v, error %v", effects, err)
	}
	if _, effects, _ := b.Placed(alpha, hostapi.Placed{Arriving: hostapi.Arriving{Guest: g1, Life: lifeA, Arrival: *arrival}, Revision: 5}); len(effects) != 0 {
		t.Errorf("the cluster's late word let it come: %+v", effects)
	}
	b.run(boots1, false)
	if _, err := b.asks(); err == nil {
		t.Error("forgotten over a restart of hostd")
	}
}

// A refused life that is shown running after all is destroyed.
func TestARefusedLifeThatRunsIsDestroyed(t *testing.T) {
	b := newBench(t, false)
	b.placed()
	_, _, _ = b.carry(order(hostapi.ActionOff, 1, "d", lifeA), Result{Err: hypervisor.ErrNotRunning})
	b.event(start, lifeA, hypervisor.ReasonMigrated)
	if diff := cmp.Diff([]Target{{g1, lifeA}}, b.kills()); diff != "" {
		t.Errorf("to kill (-want +got):\n%s", diff)
	}
	b.told = nil
	b.list(hypervisor.StateRunning, lifeA)
	if diff := cmp.Diff([]Target{{g1, lifeA}}, b.kills()); diff != "" {
		t.Errorf("to kill once more, since the first may have failed (-want +got):\n%s", diff)
	}
}

// Both hosts tell that a migration is under way.
func TestMovingIsTold(t *testing.T) {
	moving := func(b *bench) (out []bool) {
		for _, e := range b.told {
			if e.Guest != nil {
				out = append(out, e.Guest.Moving)
			}
		}
		return out
	}
	b := newBench(t, false)
	b.claimed()
	b.told = nil
	b.event(leaves, lifeA, "")
	b.event(stays, lifeA, "")
	if diff := cmp.Diff([]bool{true, false}, moving(b)); diff != "" {
		t.Errorf("at the source (-want +got):\n%s", diff)
	}
	b = newBench(t, false)
	b.placed()
	b.event(arrives, lifeA, "")
	b.event(start, lifeA, hypervisor.ReasonMigrated)
	if got := moving(b); len(got) < 2 || !got[0] || got[len(got)-1] {
		t.Errorf("at the target: %v", got)
	}
}

// Absences are kept until they are acknowledged, over restarts, and a newer
// arrival makes the old one void.
func TestAbsencesAreKeptUntilAcknowledged(t *testing.T) {
	b := newBench(t, false)
	b.claimed()
	b.event(ended, lifeA, hypervisor.ReasonMigrated)
	b.list(hypervisor.StateOff, "")
	b.run(boots1, false)
	past := b.Since(alpha, 99)
	if len(past.Absences) != 1 || len(b.Since(beta, 0).Absences) != 0 {
		t.Fatalf("absences %+v", past.Absences)
	}
	if err := b.Ack(beta, hostapi.Ack{Seq: past.Absences[0].Seq, Revision: 7}); err == nil {
		t.Error("another cluster's ack was taken")
	}
	if err := b.Ack(alpha, hostapi.Ack{Seq: past.Absences[0].Seq, Revision: 7}); err != nil {
		t.Error(err)
	}
	if got := b.Since(alpha, 99).Absences; len(got) != 0 {
		t.Errorf("acknowledged, and repeated: %+v", got)
	}
	b.placed()
	if got := b.Since(alpha, 0).Absences; len(got) != 0 {
		t.Errorf("it is to arrive, and is still said not to be here: %+v", got)
	}
}

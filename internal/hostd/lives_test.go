package hostd

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

const (
	g1      cluster.GuestID = "00000000-0000-4000-8000-000000000001"
	g2      cluster.GuestID = "00000000-0000-4000-8000-000000000002"
	lifeA   cluster.LifeID  = "hb1:100:1"
	lifeB   cluster.LifeID  = "hb1:200:2"
	alpha                   = cluster.ClusterID("alpha")
	beta                    = cluster.ClusterID("beta")
	boots1                  = "hb1"
	boots2                  = "hb2"
	ended                   = hypervisor.EventEnded
	start                   = hypervisor.EventStarted
	offDone                 = cluster.OutcomeDone
)

var quiet = slog.New(slog.DiscardHandler)

var testKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// permits is a table of permissions.
type permits map[cluster.ClusterID][]cluster.GuestID

func (p permits) Allows(c cluster.ClusterID, g cluster.GuestID) bool {
	for _, id := range p[c] {
		if id == g {
			return true
		}
	}
	return false
}

func (p permits) Clusters(g cluster.GuestID) []cluster.ClusterID {
	var out []cluster.ClusterID
	for c := range p {
		if p.Allows(c, g) {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out
}

// bench is one hostd's Lives over a journal that survives its runs.
type bench struct {
	*Lives
	t       *testing.T
	storage *journal.Memory
	permits permits
	runs    int
	mu      sync.Mutex // guards told where a keeper runs
	told    []Effect
	refused error
	// bare: the hypervisor keeps no claims. carried is the one that lifeA carries.
	bare    bool
	carried cluster.ClusterID
}

func newBench(t *testing.T, immobile bool) *bench {
	b := &bench{t: t, storage: &journal.Memory{}, permits: permits{alpha: {g1, g2}, beta: {g2}}}
	b.run(boots1, immobile)
	return b
}

// run starts hostd anew over the same journal.
func (b *bench) run(hostBoot string, immobile bool) {
	b.t.Helper()
	j, err := journal.Open(b.storage, quiet)
	if err != nil {
		b.t.Fatal(err)
	}
	b.runs++
	b.Lives = NewLives(LivesConfig{Journal: j, Host: "h1", HostBoot: hostBoot, Run: fmt.Sprintf("run %d", b.runs), Key: testKey, Permissions: b.permits, Immobile: immobile, Log: quiet})
	effects, err := b.Begin()
	if err != nil {
		b.t.Fatal(err)
	}
	b.told = effects
}

// stop is what the server writes when hostd is stopped and the host goes on.
func (b *bench) stop() {
	b.t.Helper()
	if err := b.cfg.Journal.Append(journal.Entry{Watch: journal.WatchStopped}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) event(kind hypervisor.EventKind, life cluster.LifeID, reason hypervisor.Reason) {
	b.told = append(b.told, b.Event(hypervisor.Event{Guest: g1, Life: life, Kind: kind, Reason: reason})...)
}

// list gives a listing that was asked for now, of g1 alone.
func (b *bench) list(state hypervisor.GuestState, life cluster.LifeID) {
	b.told = append(b.told, b.Listing(b.Mark(), []hypervisor.Guest{{ID: g1, Name: "db1", State: state, Life: life}})...)
}

// claimed lets lifeA of g1 run and bind to alpha.
func (b *bench) claimed() {
	b.t.Helper()
	b.event(start, lifeA, hypervisor.ReasonBooted)
	b.bind(lifeA, alpha)
	if b.refused != nil {
		b.t.Fatal(b.refused)
	}
}

func (b *bench) bind(life cluster.LifeID, c cluster.ClusterID) cluster.Binding {
	var binding cluster.Binding
	binding, _, b.refused = b.Bind(hypervisor.Guest{ID: g1, State: hypervisor.StateRunning, Life: life}, "", hostapi.BindRequest{Cluster: c, Node: "db1", Boot: "b1", Nonce: "n"}, !b.bare)
	if b.refused == nil && life == lifeA && !b.bare {
		b.carried = c
	}
	return binding
}

// certificates returns what was pushed so far, each verified.
func (b *bench) certificates() []cluster.DeathCertificate {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []cluster.DeathCertificate
	for _, e := range b.told {
		if e.Certificate != nil {
			if err := hostapi.VerifyCertificate(testKey.Public().(ed25519.PublicKey), *e.Certificate); err != nil {
				b.t.Error(err)
			}
			out = append(out, *e.Certificate)
		}
	}
	return out
}

func (b *bench) kills() (out []Target) {
	for _, e := range b.told {
		if e.Kill != nil {
			out = append(out, *e.Kill)
		}
	}
	return out
}

// wantEnded checks that exactly one certificate was told, for lifeA.
func (b *bench) wantEnded(cause cluster.Cause) {
	b.t.Helper()
	got := b.certificates()
	for i := range got {
		got[i].Signature = nil
	}
	want := []cluster.DeathCertificate{{Cluster: alpha, Guest: g1, Life: lifeA, Host: "h1", HostBoot: b.cfg.HostBoot, Seq: 1, Cause: cause}}
	if diff := cmp.Diff(want, got); diff != "" {
		b.t.Errorf("certificates (-want +got):\n%s", diff)
	}
	b.wantStatus(journal.Ended)
}

func (b *bench) wantStatus(want journal.Status) {
	b.t.Helper()
	j, err := journal.Open(b.storage, quiet)
	if err != nil {
		b.t.Fatal(err)
	}
	if got := j.State().Lives[lifeA].Status; got != want {
		b.t.Errorf("the journal holds the life for %q, want %q", got, want)
	}
}

// wantUnknown checks that nothing was certified.
func (b *bench) wantUnknown(status journal.Status) {
	b.t.Helper()
	if got := b.certificates(); len(got) > 0 {
		b.t.Errorf("certified: %+v", got)
	}
	b.wantStatus(status)
}

// An end that the hypervisor reports of a life that was seen running here.
func TestAnObservedEndIsCertified(t *testing.T) {
	for reason, cause := range map[hypervisor.Reason]cluster.Cause{
		hypervisor.ReasonShutdown:  cluster.CauseShutdown,
		hypervisor.ReasonDestroyed: cluster.CauseDestroyed,
		hypervisor.ReasonCrashed:   cluster.CauseCrashed,
		hypervisor.ReasonFailed:    cluster.CauseCrashed,
	} {
		t.Run(string(reason), func(t *testing.T) {
			b := newBench(t, false)
			b.claimed()
			b.event(ended, lifeA, reason)
			b.wantEnded(cause)
			b.event(ended, lifeA, reason) // reported twice, certified once
			b.wantEnded(cause)
		})
	}
}

// C-1, C-6: the source of a migration, a saved guest and an exit that the
// hypervisor cannot explain are no ends, also when the rest dies later.
func TestLeavingIsNoEnd(t *testing.T) {
	for _, reason := range []hypervisor.Reason{hypervisor.ReasonMigrated, hypervisor.ReasonSaved} {
		t.Run(string(reason), func(t *testing.T) {
			b := newBench(t, false)
			b.claimed()
			b.event(ended, lifeA, reason)
			b.event(ended, lifeA, hypervisor.ReasonDestroyed)
			b.list(hypervisor.StateOff, "")
			b.wantUnknown(journal.Left)
		})
	}
	b := newBench(t, false)
	b.claimed()
	b.event(ended, lifeA, hypervisor.ReasonUnknown)
	b.wantUnknown(journal.Left)
}

// A failed migration: the guest runs here again, and then dies here.
func TestALifeThatCameBackCanEnd(t *testing.T) {
	b := newBench(t, false)
	b.claimed()
	b.event(ended, lifeA, hypervisor.ReasonMigrated)
	b.event(start, lifeA, hypervisor.ReasonMigrated)
	b.event(ended, lifeA, hypervisor.ReasonCrashed)
	b.wantEnded(cluster.CauseCrashed)
}

// C-5: a panic or reset inside the life ends nothing.
func TestWhatHappensInsideALifeEndsNothing(t *testing.T) {
	b := newBench(t, true)
	b.claimed()
	b.event(hypervisor.EventInside, lifeA, hypervisor.ReasonPanicked)
	b.event(hypervisor.EventInside, lifeA, hypervisor.ReasonReset)
	b.wantUnknown(journal.Here)
}

// C-2: a shut-off definition is no evidence; the life was never seen here.
func TestTheEndOfALifeNeverSeenHereIsNoEvidence(t *testing.T) {
	b := newBench(t, true)
	b.event(ended, lifeA, hypervisor.ReasonShutdown)
	b.list(hypervisor.StateOff, "")
	b.wantUnknown("")
}

// C-10 and a quiet event stream: the listing shows the life gone.
func TestALifeGoneFromTheListing(t *testing.T) {
	t.Run("has ended where guests cannot leave", func(t *testing.T) {
		b := newBench(t, true)
		b.claimed()
		b.list(hypervisor.StateOff, "")
		b.wantEnded(cluster.CauseCrashed)
	})
	t.Run("has ended where guests cannot leave and another life runs", func(t *testing.T) {
		b := newBench(t, true)
		b.claimed()
		b.list(hypervisor.StateRunning, lifeB)
		b.wantEnded(cluster.CauseCrashed)
	})
	t.Run("stays open elsewhere while its event may come", func(t *testing.T) {
		b := newBench(t, false)
		b.claimed()
		b.list(hypervisor.StateOff, "")
		b.wantUnknown(journal.Here)
		b.event(ended, lifeA, hypervisor.ReasonCrashed)
		b.wantEnded(cluster.CauseCrashed)
	})
	t.Run("is unknown elsewhere after the stream was lost", func(t *testing.T) {
		b := newBench(t, false)
		b.claimed()
		b.WatchLost()
		b.list(hypervisor.StateOff, "")
		b.wantUnknown(journal.Left)
	})
	t.Run("is unknown when saved", func(t *testing.T) {
		b := newBench(t, false)
		b.claimed()
		b.list(hypervisor.StateSaved, "")
		b.event(ended, lifeA, hypervisor.ReasonDestroyed)
		b.wantUnknown(journal.Left)
	})
	for _, g := range []hypervisor.Guest{{ID: g2, State: hypervisor.StateOff}, {ID: g1}, {ID: g1, State: hypervisor.StateRunning}} {
		t.Run(fmt.Sprintf("is as it was when the listing says %q of guest %s", g.State, g.ID), func(t *testing.T) {
			b := newBench(t, true)
			b.claimed()
			b.told = append(b.told, b.Listing(b.Mark(), []hypervisor.Guest{g})...)
			b.wantUnknown(journal.Here)
		})
	}
}

// A listing is older than an event that came after it was asked for.
func TestAStaleListing(t *testing.T) {
	t.Run("does not end a life that started since", func(t *testing.T) {
		b := newBench(t, true)
		mark := b.Mark()
		b.claimed()
		b.told = append(b.told, b.Listing(mark, []hypervisor.Guest{{ID: g1, State: hypervisor.StateOff}})...)
		b.wantUnknown(journal.Here)
	})
	t.Run("does not show an ended life again", func(t *testing.T) {
		b := newBench(t, true)
		b.claimed()
		mark := b.Mark()
		b.event(ended, lifeA, hypervisor.ReasonCrashed)
		b.told = append(b.told, b.Listing(mark, []hypervisor.Guest{{ID: g1, State: hypervisor.StateRunning, Life: lifeA}})...)
		if got := b.kills(); len(got) > 0 {
			t.Errorf("kills %v", got)
		}
	})
}

// C-10, H-4: hostd restarts, the host did not.
func TestAfterARestartOfHostd(t *testing.T) {
	t.Run("a life that runs on is still its life", func(t *testing.T) {
		b := newBench(t, false)
		b.claimed()
		b.run(boots1, false)
		b.list(hypervisor.StateRunning, lifeA)
		b.event(ended, lifeA, hypervisor.ReasonShutdown)
		b.wantEnded(cluster.CauseShutdown)
	})
	t.Run("a life that is gone is unknown", func(t *testing.T) {
		b := newBench(t, false)
		b.claimed()
		b.run(boots1, false)
		b.list(hypervisor.StateOff, "")
		b.wantUnknown(journal.Left)
	})
	t.Run("a life that is gone has ended where guests cannot leave", func(t *testing.T) {
		b := newBench(t, true)
		b.claimed()
		b.run(boots1, true)
		b.list(hypervisor.StateOff, "")
		b.wantEnded(cluster.CauseCrashed)
	})
}

// C-9: the host came back with a new boot id.
func TestAfterARestartOfTheHost(t *testing.T) {
	t.Run("its lives have ended where guests cannot leave", func(t *testing.T) {
		b := newBench(t, true)
		b.claimed()
		b.run(boots2, true)
		b.wantEnded(cluster.CauseHostRestarted)
		b.run(boots2, true)
		if len(b.told) > 0 {
			t.Errorf("told again: %+v", b.told)
		}
	})
	t.Run("H-5: hostd was stopped before, they may have been saved or moved: unknown", func(t *testing.T) {
		b := newBench(t, false)
		b.claimed()
		b.stop()
		b.run(boots2, false)
		b.wantUnknown(journal.Left)
		if got := b.absences(); len(got) > 0 {
			t.Errorf("said to be absent: %+v", got)
		}
		b.event(start, lifeA, hypervisor.ReasonRestored)
		if got := b.kills(); len(got) > 0 {
			t.Errorf("kills %v", got)
		}
	})
}

// P6: memory that was here in an earlier boot of the host is gone.
func TestALifeThatIsLostWithItsHost(t *testing.T) {
	t.Run("it was seen to the last: absent for good, and what shows up as it is destroyed", func(t *testing.T) {
		b := newBench(t, false)
		b.claimed()
		b.run(boots2, false)
		b.list(hypervisor.StateUnknown, "")
		if got := b.absences(); len(got) > 0 {
			t.Errorf("said to be absent though nobody could look: %+v", got)
		}
		b.list(hypervisor.StateOff, "")
		b.wantUnknown(journal.Left)
		got := b.absences()
		if len(got) != 1 || !got[0].Restarted || !got[0].Final || got[0].Life != lifeA {
			t.Fatalf("absences %+v, want one of a life that is lost for good", got)
		}
		b.event(start, lifeA, hypervisor.ReasonRestored)
		if diff := cmp.Diff([]Target{{g1, lifeA}}, b.kills()); diff != "" {
			t.Errorf("kills: %s", diff)
		}
		// The kill may fail, or hostd may die before it: its cluster has recovered
		// by now what that image runs.
		for _, again := range []func(){func() {}, func() { b.run(boots2, false) }, func() { b.run("hb3", false) }} {
			again()
			b.told = nil
			b.list(hypervisor.StateRunning, lifeA)
			if diff := cmp.Diff([]Target{{g1, lifeA}}, b.kills()); diff != "" {
				t.Errorf("kills once more: %s", diff)
			}
			if got := b.absences(); len(got) > 0 || b.state().Absences[lifeA].Seq != 0 {
				t.Errorf("said to be absent while it runs: %+v", got)
			}
			if b.bind(lifeA, alpha); b.refused == nil {
				t.Error("an image of a lost life could bind")
			}
		}
	})
	t.Run("it came here and carries its claim", func(t *testing.T) {
		b := newBench(t, false)
		b.carried = alpha
		b.placed()
		b.event(arrives, lifeA, "")
		b.event(start, lifeA, hypervisor.ReasonMigrated)
		b.run(boots2, false)
		b.list(hypervisor.StateOff, "")
		if got := b.absences(); len(got) != 1 || !got[0].Restarted {
			t.Errorf("absences %+v, want one of a life that is lost", got)
		}
	})
	t.Run("a run that has listed the guests watches again", func(t *testing.T) {
		b := newBench(t, false)
		b.claimed()
		b.stop()
		b.run(boots1, false)
		b.list(hypervisor.StateRunning, lifeA)
		b.run(boots2, false)
		b.told = append(b.told, b.Listing(b.Mark(), nil)...) // the hypervisor has it no more
		if got := b.absences(); len(got) != 1 || !got[0].Restarted {
			t.Errorf("absences %+v, want one of a life that is lost", got)
		}
	})
}

// What hostd cannot say that of.
func TestWhatIsNotLostWithItsHost(t *testing.T) {
	t.Run("what was saved while hostd was dead is not lost", func(t *testing.T) {
		b := newBench(t, false)
		b.claimed()
		b.run(boots2, false)
		b.list(hypervisor.StateSaved, "")
		b.list(hypervisor.StateSaved, "")
		b.wantUnknown(journal.Left)
		if got := b.absences(); len(got) > 0 {
			t.Errorf("said to be absent: %+v", got)
		}
		if _, err := b.asks(); err != nil {
			t.Errorf("its image may not come back: %v", err)
		}
	})
	t.Run("what runs here is not lost, whatever the journal knows: it was restored from a backup, or the guest was", func(t *testing.T) {
		for name, show := range map[string]func(b *bench){
			"by listing": func(b *bench) { b.list(hypervisor.StateRunning, lifeA) },
			"by event":   func(b *bench) { b.event(start, lifeA, hypervisor.ReasonRestored) },
			"by binding": func(b *bench) { b.bind(lifeA, alpha) },
		} {
			b := newBench(t, false)
			b.claimed()
			b.run(boots2, false)
			show(b)
			b.list(hypervisor.StateRunning, lifeA)
			if got, kills := b.absences(), b.kills(); len(got)+len(kills) > 0 || b.state().Lives[lifeA].Refused {
				t.Errorf("%s: absences %+v, kills %+v of a life that runs", name, got, kills)
			}
		}
	})
	t.Run("a run that has listed nothing has not seen them", func(t *testing.T) {
		b := newBench(t, false)
		b.claimed()
		b.stop()
		b.run(boots1, false)
		b.run(boots2, false)
		b.list(hypervisor.StateOff, "")
		if got := b.absences(); len(got) > 0 {
			t.Errorf("said to be absent: %+v", got)
		}
	})
	t.Run("what was saved or moving is not lost", func(t *testing.T) {
		for _, ev := range []hypervisor.Event{{Kind: ended, Reason: hypervisor.ReasonSaved}, {Kind: hypervisor.EventLeaving}} {
			b := newBench(t, false)
			b.claimed()
			b.event(ev.Kind, lifeA, ev.Reason)
			b.run(boots2, false)
			b.list(hypervisor.StateOff, "")
			for _, a := range b.absences() {
				if a.Restarted {
					t.Errorf("%s: said to be lost: %+v", ev.Kind, a)
				}
			}
		}
	})
}

// A life that carries no claim, or another than its guest's, may be on a host that
// asked nobody.
func TestALifeWithoutItsClaimIsNotLostWithItsHost(t *testing.T) {
	for name, play := range map[string]func(b *bench){
		"no cluster has bound it":              func(b *bench) { b.event(start, lifeA, hypervisor.ReasonBooted) },
		"the hypervisor keeps no claims":       func(b *bench) { b.bare = true; b.claimed() },
		"its cluster has lost its grant since": func(b *bench) { b.claimed(); delete(b.permits, alpha) },
		"it came here and carried none": func(b *bench) {
			b.placed()
			b.event(arrives, lifeA, "")
			b.event(start, lifeA, hypervisor.ReasonMigrated)
		},
	} {
		b := newBench(t, false)
		play(b)
		b.run(boots2, false)
		b.list(hypervisor.StateOff, "")
		b.wantUnknown(journal.Left)
		if got := b.absences(); len(got) > 0 || b.state().Lives[lifeA].Refused {
			t.Errorf("%s: said to be absent: %+v", name, got)
		}
	}
}

// P7: an ended life seen again is destroyed.
func TestAnEndedLifeSeenAgainIsDestroyed(t *testing.T) {
	want := []Target{{g1, lifeA}}
	b := newBench(t, false)
	b.claimed()
	b.event(ended, lifeA, hypervisor.ReasonCrashed)
	b.event(start, lifeA, hypervisor.ReasonFromSnapshot)
	if diff := cmp.Diff(want, b.kills()); diff != "" {
		t.Errorf("by event: %s", diff)
	}
	b.run(boots2, false) // tombstones outlive the host's boot
	b.list(hypervisor.StatePaused, lifeA)
	if diff := cmp.Diff(want, b.kills()); diff != "" {
		t.Errorf("by listing: %s", diff)
	}
	if b.bind(lifeA, alpha); b.refused == nil {
		t.Error("an ended life could bind")
	}
	if reply, _, _ := b.Admit(order(hostapi.ActionOff, 1, "d", lifeA)); reply != nil {
		t.Errorf("off is answered from memory while the life runs: %+v", reply)
	}
}

// P9: while the disk is full nothing is told, and nothing is lost.
func TestWithAFullJournalEndsWait(t *testing.T) {
	b := newBench(t, true)
	b.claimed()
	b.storage.SetFail(syscall.ENOSPC)
	b.event(ended, lifeA, hypervisor.ReasonCrashed)
	for range 3 {
		b.list(hypervisor.StateRunning, lifeB)
	}
	if got := b.certificates(); len(got) > 0 {
		t.Fatalf("told before it was durable: %+v", got)
	}
	if len(b.pending) != 2 {
		t.Errorf("%d facts wait, want 2: %+v", len(b.pending), b.pending)
	}
	b.storage.SetFail(nil)
	b.list(hypervisor.StateRunning, lifeB)
	b.wantEnded(cluster.CauseCrashed)
}

// A life that ends before any cluster has bound the guest needs no certificate.
func TestAnUnclaimedLifeIsJournalledWithoutCertificate(t *testing.T) {
	b := newBench(t, true)
	b.event(start, lifeA, hypervisor.ReasonBooted)
	b.event(ended, lifeA, hypervisor.ReasonShutdown)
	b.wantUnknown(journal.Ended)
	b.event(start, lifeB, hypervisor.ReasonBooted)
	b.bind(lifeB, alpha)
	if b.refused != nil {
		t.Fatal(b.refused)
	}
	b.wantUnknown(journal.Ended)
}

func TestBinding(t *testing.T) {
	t.Run("is signed", func(t *testing.T) {
		b := newBench(t, true)
		binding := b.bind(lifeA, alpha)
		if err := hostapi.VerifyBinding(testKey.Public().(ed25519.PublicKey), binding); err != nil {
			t.Fatal(err)
		}
		binding.Signature = nil
		want := cluster.Binding{Cluster: alpha, Node: "db1", Boot: "b1", Guest: g1, Life: lifeA, Host: "h1", HostBoot: boots1, Nonce: "n"}
		if diff := cmp.Diff(want, binding); diff != "" {
			t.Error(diff)
		}
		b.wantStatus(journal.Here)
	})
	t.Run("S-4: a second cluster is refused until the grant of the first ends", func(t *testing.T) {
		b := newBench(t, true)
		b.permits[beta] = []cluster.GuestID{g1}
		b.bind(lifeA, alpha)
		b.run(boots1, true)
		if b.bind(lifeA, beta); b.refused == nil || !strings.Contains(b.refused.Error(), "belongs to cluster alpha already") {
			t.Errorf("refusal %v", b.refused)
		}
		b.permits[alpha] = nil
		if b.bind(lifeA, beta); b.refused != nil {
			t.Errorf("refusal %v", b.refused)
		}
	})
	t.Run("without a grant is refused", func(t *testing.T) {
		b := newBench(t, true)
		if b.bind(lifeA, beta); b.refused == nil || !strings.Contains(b.refused.Error(), "does not allow cluster beta the guest") {
			t.Errorf("refusal %v", b.refused)
		}
	})
	t.Run("of a boot that the hypervisor does not run is refused", func(t *testing.T) {
		b := newBench(t, true)
		req := hostapi.BindRequest{Cluster: alpha, Node: "db1", Boot: "b1", Nonce: "n"}
		_, _, err := b.Bind(hypervisor.Guest{ID: g1, State: hypervisor.StateRunning, Life: lifeA}, "b2", req, false)
		if err == nil {
			t.Error("accepted")
		}
	})
	t.Run("is not given before the life is durable", func(t *testing.T) {
		b := newBench(t, true)
		b.storage.SetFail(syscall.ENOSPC)
		if binding := b.bind(lifeA, alpha); b.refused == nil || binding.Signature != nil {
			t.Error("given")
		}
	})
	for name, req := range map[string]hostapi.BindRequest{
		"cluster": {Cluster: "a/b", Node: "n", Boot: "b", Nonce: "n"},
		"node":    {Cluster: alpha, Node: "", Boot: "b", Nonce: "n"},
		"boot":    {Cluster: alpha, Node: "n", Boot: cluster.BootID(strings.Repeat("b", 129)), Nonce: "n"},
		"nonce":   {Cluster: alpha, Node: "n", Boot: "b", Nonce: strings.Repeat("n", 65)},
	} {
		t.Run("with a bad "+name+" is refused", func(t *testing.T) {
			var refused *Refusal
			b := newBench(t, true)
			_, _, err := b.Bind(hypervisor.Guest{ID: g1, State: hypervisor.StateRunning, Life: lifeA}, "", req, false)
			if !errors.As(err, &refused) || refused.Code != hostapi.CodeBadRequest || !strings.HasPrefix(refused.Message, name+":") {
				t.Errorf("refusal %v", err)
			}
		})
	}
}

// Acknowledged means: in that cluster's store.
func TestAckIsTakenFromTheCertificatesClusterOnly(t *testing.T) {
	b := newBench(t, true)
	b.claimed()
	b.event(ended, lifeA, hypervisor.ReasonCrashed)
	if err := b.Ack(beta, hostapi.Ack{Seq: 1, Revision: 5}); err == nil {
		t.Error("another cluster's ack was taken")
	}
	if past := b.Since(alpha, 1); len(past.Certificates) != 1 {
		t.Errorf("unacknowledged: %d certificates, want 1", len(past.Certificates))
	}
	if err := b.Ack(alpha, hostapi.Ack{Seq: 1, Revision: 5}); err != nil {
		t.Error(err)
	}
	if past := b.Since(alpha, 1); len(past.Certificates) != 0 {
		t.Errorf("acknowledged: %d certificates, want 0", len(past.Certificates))
	}
	if past := b.Since(alpha, 0); len(past.Certificates) != 1 {
		t.Errorf("from the beginning: %d certificates, want 1", len(past.Certificates))
	}
}

// TestARevertedGuestIsDestroyed: a claimed guest that runs from an old memory
// image goes at once, whether it was reverted inside its life or started anew,
// and is tried again as long as it is shown.
func TestARevertedGuestIsDestroyed(t *testing.T) {
	for _, kind := range []hypervisor.EventKind{hypervisor.EventInside, start} {
		b := newBench(t, false)
		b.event(start, lifeA, hypervisor.ReasonBooted)
		b.event(kind, lifeA, hypervisor.ReasonFromSnapshot)
		if killed := b.kills(); len(killed) != 0 {
			t.Errorf("%s: a guest that nobody claimed is destroyed: %v", kind, killed)
		}
		b.claimed()
		b.event(kind, lifeA, hypervisor.ReasonFromSnapshot)
		want := []Target{{Guest: g1, Life: lifeA}}
		if killed := b.kills(); !slices.Equal(killed, want) {
			t.Errorf("%s: destroyed %v, want %v", kind, killed, want)
		}
		b.run(boots1, false) // hostd died before it could
		b.list(hypervisor.StateRunning, lifeA)
		if killed := b.kills(); !slices.Equal(killed, want) {
			t.Errorf("%s: after a restart of hostd: destroyed %v, want %v", kind, killed, want)
		}
	}
}

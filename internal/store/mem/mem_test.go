package mem_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
	"ringfence/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		c := mem.New().Client("n1")
		t.Cleanup(func() { c.Close() })
		return c
	})
}

func put(key, value string) store.Tx {
	return store.Tx{Writes: []cluster.Write{{Key: key, Value: []byte(value)}}}
}

// show prints what a client sees as "key=value ...".
func show(t *testing.T, c *mem.Client) string {
	t.Helper()
	kvs, _, err := c.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for _, kv := range kvs {
		parts = append(parts, kv.Key+"="+string(kv.Value))
	}
	return strings.Join(parts, " ")
}

// drain takes what has been delivered so far, without waiting.
func drain(w <-chan store.Batch) string {
	var got []string
	for {
		select {
		case b, ok := <-w:
			if !ok {
				return strings.Join(append(got, "closed"), " ")
			}
			if b.Err != nil {
				got = append(got, b.Err.Error())
			}
			for _, c := range b.Changes {
				got = append(got, fmt.Sprintf("%d:%s=%s", b.Rev, c.KV.Key, c.KV.Value))
			}
		default:
			return strings.Join(got, " ")
		}
	}
}

func TestFaultsOfCommit(t *testing.T) {
	cases := []struct {
		rule        string
		fault       mem.Fault
		want        error
		then, later string // what another client sees at once, and after the fault
	}{
		{"no fault", mem.Fault{}, nil, "a=new", "a=new"},
		{"unavailable writes nothing", mem.Fault{Unavailable: true}, store.ErrUnavailable, "a=old", "a=old"},
		{"lost is never written", mem.Fault{Commit: mem.CommitLost}, store.ErrUnknown, "a=old", "a=old"},
		{"unacknowledged is written", mem.Fault{Commit: mem.CommitUnacknowledged}, store.ErrUnknown, "a=new", "a=new"},
		{"late is written afterwards", mem.Fault{Commit: mem.CommitLate}, store.ErrUnknown, "a=old", "a=new"},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			server := mem.New()
			faulty, other := server.Client("n1"), server.Client("n2")
			rev, err := other.Commit(t.Context(), put("a", "old"))
			if err != nil {
				t.Fatal(err)
			}
			faulty.SetFault(c.fault)
			tx := put("a", "new")
			tx.Guards = []cluster.Guard{{Key: "a", Rev: rev}}
			if _, err := faulty.Commit(t.Context(), tx); !errors.Is(err, c.want) {
				t.Errorf("commit: %v, want %v", err, c.want)
			}
			if got := show(t, other); got != c.then {
				t.Errorf("at once: %q, want %q", got, c.then)
			}
			faulty.SetFault(mem.Fault{})
			if got := show(t, other); got != c.later {
				t.Errorf("later: %q, want %q", got, c.later)
			}
		})
	}
}

func TestLateCommitStillObeysItsGuard(t *testing.T) {
	server := mem.New()
	faulty, other := server.Client("n1"), server.Client("n2")
	faulty.SetFault(mem.Fault{Commit: mem.CommitLate})
	tx := put("a", "late")
	tx.Guards = []cluster.Guard{{Key: "a"}}
	if _, err := faulty.Commit(t.Context(), tx); !errors.Is(err, store.ErrUnknown) {
		t.Fatal(err)
	}
	if _, err := other.Commit(t.Context(), put("a", "first")); err != nil {
		t.Fatal(err)
	}
	faulty.SetFault(mem.Fault{})
	if got := show(t, other); got != "a=first" {
		t.Errorf("store holds %q: the late commit ignored its guard", got)
	}
}

func TestLateCommitArrivesThoughItsSenderIsGone(t *testing.T) {
	server := mem.New()
	server.Client("n1").SetFault(mem.Fault{Commit: mem.CommitLate})
	_, err := server.Client("n1").Commit(t.Context(), put("a", "late"))
	if !errors.Is(err, store.ErrUnknown) {
		t.Fatal(err)
	}
	if err := server.Client("n1").Close(); err != nil {
		t.Fatal(err)
	}
	reopened := server.Client("n1") // inherits the fault of the link
	if _, err := reopened.Commit(t.Context(), put("b", "late")); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("commit by the reopened client: %v, want ErrUnknown", err)
	}
	reopened.SetFault(mem.Fault{})
	if got := show(t, reopened); got != "a=late b=late" {
		t.Errorf("store holds %q, want both", got)
	}
}

func TestCutClientHearsNothingAndThenEverything(t *testing.T) {
	server := mem.New()
	cut, other := server.Client("n1"), server.Client("n2")
	w := cut.Watch(t.Context(), "", 0)
	cut.SetFault(mem.Cut())
	for _, v := range []string{"1", "2"} {
		if _, err := other.Commit(t.Context(), put("a", v)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := cut.Load(t.Context(), ""); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("load: %v, want ErrUnavailable", err)
	}
	fresh := cut.Watch(t.Context(), "", 3)
	if got := drain(w) + drain(fresh); got != "" {
		t.Errorf("a cut client heard %q", got)
	}
	cut.SetFault(mem.Fault{})
	if diff := cmp.Diff("2:a=1 3:a=2", drain(w)); diff != "" {
		t.Errorf("after the cut (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("3:a=2", drain(fresh)); diff != "" {
		t.Errorf("watch opened in the cut (-want +got):\n%s", diff)
	}
}

func TestStalledWatchLosesCompactedHistory(t *testing.T) {
	server := mem.New()
	cut, other := server.Client("n1"), server.Client("n2")
	w := cut.Watch(t.Context(), "", 0)
	cut.SetFault(mem.Fault{StallWatches: true})
	for _, v := range []string{"1", "2"} {
		if _, err := other.Commit(t.Context(), put("a", v)); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Compact(server.Revision()); err != nil {
		t.Fatal(err)
	}
	if got := drain(w); got != "" {
		t.Errorf("a stalled watch heard %q", got)
	}
	cut.SetFault(mem.Fault{})
	if got, want := drain(w), store.ErrCompacted.Error()+" closed"; got != want {
		t.Errorf("after the stall: %q, want %q", got, want)
	}
}

func TestCommitHasReachedWatchesWhenItReturns(t *testing.T) {
	server := mem.New()
	a, b := server.Client("n1"), server.Client("n2")
	w := b.Watch(t.Context(), "", 0)
	for i := range 100 {
		if _, err := a.Commit(t.Context(), put("a", "x")); err != nil {
			t.Fatal(err)
		}
		if got, want := drain(w), fmt.Sprintf("%d:a=x", i+2); got != want {
			t.Fatalf("after commit %d: %q, want %q", i, got, want)
		}
	}
}

// The bubble fails when a pump or a context hook outlives its owner.
func TestSlowReaderKeepsItsBacklogUntilClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const commits = 2000
		c := mem.New().Client("n1")
		read, unread := c.Watch(t.Context(), "", 0), c.Watch(t.Context(), "", 0)
		for range commits {
			if _, err := c.Commit(t.Context(), put("a", "x")); err != nil {
				t.Fatal(err)
			}
		}
		for i := range commits {
			if b := <-read; b.Rev != cluster.Revision(i+2) || b.Err != nil {
				t.Fatalf("batch %d has revision %d, error %v", i, b.Rev, b.Err)
			}
		}
		synctest.Wait()
		if _, err := c.Commit(t.Context(), put("a", "again")); err != nil {
			t.Fatal(err)
		}
		if got, want := drain(read), fmt.Sprintf("%d:a=again", commits+2); got != want {
			t.Errorf("caught up, then %q, want %q", got, want)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		next := cluster.Revision(2)
		for b := range unread {
			if b.Rev != next {
				t.Fatalf("revision %d follows %d", b.Rev, next-1)
			}
			next++
		}
	})
}

func TestCompactionCutsTheBacklogOfASlowReader(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	server := mem.New()
	c := server.Client("n1")
	defer c.Close()
	w := c.Watch(ctx, "", 0)
	for range 1000 {
		if _, err := c.Commit(ctx, put("a", "x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Compact(server.Revision()); err != nil {
		t.Fatal(err)
	}
	next, last := cluster.Revision(2), store.Batch{}
	for last = range w {
		if last.Err == nil && last.Rev != next {
			t.Fatalf("revision %d follows %d", last.Rev, next-1)
		}
		next++
	}
	if !errors.Is(last.Err, store.ErrCompacted) {
		t.Errorf("last batch: revision %d, error %v; want ErrCompacted", last.Rev, last.Err)
	}
}

func TestCompactRefusesWhatCannotBe(t *testing.T) {
	server := mem.New()
	for _, rev := range []cluster.Revision{-1, 0, 2} {
		if err := server.Compact(rev); err == nil {
			t.Errorf("compact at %d of an empty store was accepted", rev)
		}
	}
}

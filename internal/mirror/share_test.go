package mirror

import (
	"fmt"
	"log/slog"
	"math/rand"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// anyChange changes or removes one of a few records of several kinds.
func anyChange(r *rand.Rand, rev cluster.Revision) store.Change {
	service := cluster.ServiceName(fmt.Sprintf("s%d", r.Intn(3)))
	w := [...]cluster.Write{
		cluster.Put(cluster.KeyOwner(service), cluster.Owner{Service: service, Generation: cluster.Generation(rev)}),
		cluster.Put(cluster.KeyReport(service), cluster.Report{Service: service, Generation: cluster.Generation(rev)}),
		cluster.Put(cluster.KeyFailure(service, "n1"), cluster.Failure{Service: service, Count: int(rev)}),
		cluster.Put(cluster.KeyLeader, cluster.Leader{Node: "n1", Epoch: cluster.Epoch(rev)}),
	}[r.Intn(4)]
	return store.Change{KV: cluster.KV{Key: w.Key, Value: w.Value, Rev: rev}, Deleted: r.Intn(4) == 0}
}

// Snapshots and what onChange is told share maps with the mirror. None of them
// may change afterwards, and each must be what the records were.
func TestWhatWasHandedOutNeverChanges(t *testing.T) {
	for seed := range int64(30) {
		r := rand.New(rand.NewSource(seed))
		var want cluster.State             // made by Apply alone
		var handed, copies []cluster.State // as handed out, and copied at once
		keep := func(s, is cluster.State) { handed, copies = append(handed, s), append(copies, is.Clone()) }
		m := New(nil, clock.New(time.Now()), slog.New(slog.DiscardHandler), func(before, after *cluster.State, c Change) {
			keep(*before, want.Only(c.KV.Key))
			if err := want.Apply(c.KV, c.Deleted, 0); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, *after, cmp.FilterPath(isSince, cmp.Ignore())); diff != "" {
				t.Fatalf("seed %d: after the change (-want +got):\n%s", seed, diff)
			}
		})
		m.isReady = true
		for rev := cluster.Revision(1); rev < 60; {
			var batch []store.Change
			for range 1 + r.Intn(3) {
				rev++
				batch = append(batch, anyChange(r, rev))
			}
			m.take(rev, batch, false)
			for range r.Intn(3) {
				s, _ := m.Snapshot()
				keep(s, want)
			}
		}
		if diff := cmp.Diff(copies, handed, cmp.FilterPath(isSince, cmp.Ignore())); diff != "" {
			t.Fatalf("seed %d: what was handed out (-then +now):\n%s", seed, diff)
		}
	}
}

// isSince: when a record was seen is not what these tests are about.
func isSince(p cmp.Path) bool { return p.Last().String() == ".Since" }

// The race detector, and the runtime's own check of maps, watch the readers.
func TestReadersOfASnapshotDoNotMeetTheMirror(t *testing.T) {
	m := New(nil, clock.New(time.Now()), slog.New(slog.DiscardHandler), func(_, _ *cluster.State, _ Change) {})
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				s, _ := m.Snapshot()
				for name, owner := range s.Owners {
					if owner.Value.Service != name || s.Reports[name].Rev > s.Rev || owner.Rev > s.Rev {
						t.Errorf("snapshot at %d: owner %+v, report %+v", s.Rev, owner, s.Reports[name])
						return
					}
				}
			}
		})
	}
	r := rand.New(rand.NewSource(1))
	for rev := cluster.Revision(1); rev < 3000; rev++ {
		m.take(rev, []store.Change{anyChange(r, rev)}, false)
	}
	close(stop)
	readers.Wait()
}

package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/mirror"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
)

// rig is a mirror that runs on a store in memory, in a synctest bubble. Wishes
// serve as records, their By as content.
type rig struct {
	t      *testing.T
	server *mem.Server
	writer *mem.Client
	link   *mem.Client // the mirror's
	m      *mirror.Mirror
	news   []string // what onChange was told, "name: before -> after"
	done   chan error
}

func inBubble(t *testing.T, before []string, test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server, began := mem.New(), time.Now()
		r := &rig{t: t, server: server, writer: server.Client("writer"), link: server.Client("mirror"), done: make(chan error, 1)}
		for _, name := range before {
			r.write(name, "old")
		}
		r.m = mirror.New(r.link, clock.New(began), slog.New(slog.DiscardHandler), r.note)
		ctx, cancel := context.WithCancel(context.Background())
		go func() { r.done <- r.m.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-r.done })
		synctest.Wait()
		test(r)
	})
}

func (r *rig) note(before, after *cluster.State, c mirror.Change) {
	name := cluster.ServiceName(strings.TrimPrefix(c.KV.Key, cluster.KeyWish("")))
	r.news = append(r.news, fmt.Sprintf("%s: %s -> %s", name, before.Wishes[name].Value.By, after.Wishes[name].Value.By))
}

func (r *rig) commit(w cluster.Write) cluster.Revision {
	r.t.Helper()
	rev, err := r.writer.Commit(context.Background(), store.Tx{Writes: []cluster.Write{w}})
	if err != nil {
		r.t.Fatal(err)
	}
	return rev
}

func (r *rig) write(name, by string) cluster.Revision {
	r.t.Helper()
	service := cluster.ServiceName(name)
	return r.commit(cluster.Put(cluster.KeyWish(service), cluster.Wish{Service: service, By: by}))
}

func (r *rig) remove(name string) {
	r.commit(cluster.Remove(cluster.KeyWish(cluster.ServiceName(name))))
}

// want compares what onChange was told since the last call.
func (r *rig) want(rule string, news ...string) {
	r.t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(news, r.news); diff != "" {
		r.t.Errorf("%s: news (-want +got):\n%s", rule, diff)
	}
	r.news = nil
}

// wantAll compares the whole mirrored content with the store's.
func (r *rig) wantAll() {
	r.t.Helper()
	synctest.Wait()
	kvs, rev, err := r.writer.Load(context.Background(), cluster.Prefix)
	if err != nil {
		r.t.Fatal(err)
	}
	want := map[cluster.ServiceName]cluster.Revision{}
	for _, kv := range kvs {
		want[cluster.ServiceName(strings.TrimPrefix(kv.Key, cluster.KeyWish("")))] = kv.Rev
	}
	state, _ := r.m.Snapshot()
	got := map[cluster.ServiceName]cluster.Revision{}
	for name, rec := range state.Wishes {
		got[name] = rec.Rev
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("mirrored records (-want +got):\n%s", diff)
	}
	if state.Rev != rev {
		r.t.Errorf("mirror is at revision %d, the store at %d", state.Rev, rev)
	}
}

func TestTheFirstLoadIsNoNews(t *testing.T) {
	inBubble(t, []string{"a", "b"}, func(r *rig) {
		r.want("what stood before")
		r.wantAll()
		select {
		case <-r.m.Ready():
		default:
			t.Error("loaded and not ready")
		}
	})
}

func TestNotReadyBeforeTheFirstLoad(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		link := r.server.Client("other")
		link.SetFault(mem.Cut())
		m := mirror.New(link, clock.New(time.Now()), slog.New(slog.DiscardHandler), nil)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		time.Sleep(time.Minute)
		select {
		case <-m.Ready():
			t.Error("ready without having read anything")
		default:
		}
		link.SetFault(mem.Fault{})
		<-m.Ready() // or the bubble deadlocks
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v, want the context's error", err)
		}
	})
}

func TestChangesAreToldInOrderWithWhatStoodBefore(t *testing.T) {
	inBubble(t, []string{"a"}, func(r *rig) {
		r.write("b", "1")
		r.write("a", "2")
		r.write("b", "3")
		r.remove("a")
		r.want("four commits", "b:  -> 1", "a: old -> 2", "b: 1 -> 3", "a: 2 -> ")
		r.wantAll()
	})
}

func TestNothingIsLostWhileTheStoreCannotBeFollowed(t *testing.T) {
	cases := []struct {
		rule    string
		compact bool
		news    []string
	}{
		{"the watch catches up: every change", false, []string{"z:  -> 1", "b: old -> 1", "c:  -> 1", "c: 1 -> ", "a: old -> ", "b: 1 -> 2"}},
		{"history is gone: the outcome in order of revisions, deletions last", true, []string{"z:  -> 1", "b: old -> 2", "a: old -> "}},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			inBubble(t, []string{"a", "b", "same"}, func(r *rig) {
				r.link.SetFault(mem.Cut())
				r.write("z", "1")
				r.write("b", "1")
				r.write("c", "1")
				r.remove("c")
				r.remove("a")
				r.write("b", "2")
				if c.compact {
					if err := r.server.Compact(r.server.Revision()); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Minute)
				r.want("nothing is heard meanwhile")
				r.link.SetFault(mem.Fault{})
				time.Sleep(time.Second)
				r.want(c.rule, c.news...)
				r.wantAll()
			})
		})
	}
}

func TestAReloadDoesNotMakeRecordsYounger(t *testing.T) {
	inBubble(t, []string{"a"}, func(r *rig) {
		time.Sleep(time.Minute)
		r.link.SetFault(mem.Cut())
		r.write("b", "1")
		if err := r.server.Compact(r.server.Revision()); err != nil {
			t.Fatal(err)
		}
		r.link.SetFault(mem.Fault{})
		time.Sleep(time.Second)
		state, _ := r.m.Snapshot()
		if a, b := state.Wishes["a"].Since, state.Wishes["b"].Since; a != 0 || b < time.Minute {
			t.Errorf("a since %v and b since %v; want 0s and a minute or more", a, b)
		}
	})
}

func TestARecordThatCannotBeReadIsPassedOver(t *testing.T) {
	inBubble(t, []string{"a"}, func(r *rig) {
		r.commit(cluster.Write{Key: cluster.KeyWish("a"), Value: []byte("{")})
		rev := r.write("b", "1")
		synctest.Wait()
		state, _ := r.m.Snapshot()
		if got := state.Wishes["a"].Value.By; got != "old" {
			t.Errorf("the former record is %q, want old", got)
		}
		if got := state.Wishes["b"].Rev; got != rev {
			t.Errorf("what came after it is at revision %d, want %d", got, rev)
		}
	})
}

func TestWaitForReturnsOnceTheRevisionIsMirrored(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		if err := r.m.WaitFor(context.Background(), r.write("a", "1")); err != nil {
			t.Fatal(err)
		}
		if state, _ := r.m.Snapshot(); state.Wishes["a"].Value.By != "1" {
			t.Error("the revision is reached without its record")
		}
		r.link.SetFault(mem.Cut())
		rev := r.write("b", "1")
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := r.m.WaitFor(ctx, rev); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cut off: %v, want the deadline", err)
		}
		r.link.SetFault(mem.Fault{})
		if err := r.m.WaitFor(context.Background(), rev); err != nil {
			t.Error(err)
		}
	})
}

func TestASnapshotDoesNotChangeAndSaysWhenItIsOld(t *testing.T) {
	inBubble(t, []string{"a"}, func(r *rig) {
		state, changed := r.m.Snapshot()
		select {
		case <-changed:
			t.Fatal("old before anything changed")
		default:
		}
		r.write("a", "new")
		<-changed // or the bubble deadlocks
		if got := state.Wishes["a"].Value.By; got != "old" {
			t.Errorf("the snapshot changed to %q", got)
		}
	})
}

func TestRunEndsWithAClosedStore(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		if err := r.link.Close(); err != nil {
			t.Fatal(err)
		}
		err := <-r.done
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("Run: %v, want ErrClosed", err)
		}
		r.done <- err // for the cleanup
	})
}

package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// watch opens a watch over the keys of this case that lasts as long as it.
func (f *fixture) watch(from cluster.Revision) <-chan store.Batch {
	return f.store.Watch(f.ctx, f.dir, from)
}

// receive returns the next batch, which must come and be no error.
func (f *fixture) receive(w <-chan store.Batch) store.Batch {
	f.Helper()
	batch, ok := <-w
	if !ok {
		f.Fatalf("watch was closed; context: %v", f.ctx.Err())
	}
	if batch.Err != nil {
		f.Fatalf("watch ended: %v", batch.Err)
	}
	return batch
}

// showBatch prints a batch as "+1:a=1 -b", changes sorted.
func (f *fixture) showBatch(b store.Batch, base cluster.Revision) string {
	var parts []string
	for _, c := range b.Changes {
		name := strings.TrimPrefix(c.KV.Key, f.dir)
		switch {
		case c.KV.Rev != b.Rev:
			parts = append(parts, fmt.Sprintf("%s: revision %d in batch %d", name, c.KV.Rev, b.Rev))
		case c.Deleted && len(c.KV.Value) == 0:
			parts = append(parts, "-"+name)
		case c.Deleted:
			parts = append(parts, "deleted with value "+name)
		default:
			parts = append(parts, name+"="+string(c.KV.Value))
		}
	}
	slices.Sort(parts)
	return fmt.Sprintf("%+d:%s", b.Rev-base, strings.Join(parts, " "))
}

// wantWatch compares the next batches of w with showBatch's notation.
func (f *fixture) wantWatch(w <-chan store.Batch, base cluster.Revision, want ...string) {
	f.Helper()
	var got []string
	for range want {
		got = append(got, f.showBatch(f.receive(w), base))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		f.Errorf("watch delivered (-want +got):\n%s", diff)
	}
}

func watchHistory(f *fixture) {
	base := f.write(f.put("a", "1"))
	f.write(f.put("a", "2"))
	f.write(f.put("b", "3"))
	all, tail := f.watch(base), f.watch(base+2)
	f.wantWatch(all, base, "+0:a=1", "+1:a=2", "+2:b=3")
	f.wantWatch(tail, base, "+2:b=3")
	f.write(f.put("a", "4"))
	f.write(f.put("b", "5"))
	f.wantWatch(all, base, "+3:a=4", "+4:b=5")
	f.wantWatch(tail, base, "+3:a=4", "+4:b=5")
}

func watchBatches(f *fixture) {
	base := f.write(f.put("a", "1"), f.put("b", "1"))
	live := f.watch(base)
	f.write(f.put("b", "2"), f.remove("a"), f.put("c", "2"))
	f.write(f.put("c", "3"))
	want := []string{"+0:a=1 b=1", "+1:-a b=2 c=2", "+2:c=3"}
	f.wantWatch(live, base, want...)
	f.wantWatch(f.watch(base), base, want...)
}

func watchDeletes(f *fixture) {
	base := f.write(f.put("a", "1"))
	live := f.watch(base + 1)
	f.write(f.remove("a"))
	f.write(f.put("a", "1"))
	f.write(f.remove("a"), f.put("b", "1"))
	want := []string{"+1:-a", "+2:a=1", "+3:-a b=1"}
	f.wantWatch(live, base, want...)
	f.wantWatch(f.watch(base+1), base, want...)
}

func watchOtherPrefix(f *fixture) {
	base := f.write(f.put("x/a", "1"), f.put("y/a", "1"), f.put("x", "1"))
	w := f.store.Watch(f.ctx, f.key("x/"), base)
	f.write(f.put("y/a", "2"))
	f.write(f.put("x/b", "3"), f.put("y/b", "3"))
	f.wantWatch(w, base, "+0:x/a=1", "+2:x/b=3")
	f.wantWatch(f.store.Watch(f.ctx, f.key("x/"), base), base, "+0:x/a=1", "+2:x/b=3")
}

func watchFuture(f *fixture) {
	base := f.write(f.put("a", "0"))
	w := f.watch(base + 3)
	for i := range 4 {
		f.write(f.put("a", strconv.Itoa(i+1)))
	}
	f.wantWatch(w, base, "+3:a=3", "+4:a=4")
}

func watchNoGap(f *fixture) {
	const commits, watchers = 120, 6
	base := f.write(f.put("n", "0"))
	f.parallel(watchers+1, func(i int) error {
		for n := 1; i == watchers && n <= commits; n++ {
			f.write(f.put("n", strconv.Itoa(n)))
		}
		if i == watchers {
			return nil
		}
		return f.follow(f.watch(base+1), base, commits)
	})
}

// follow takes the batches of n commits of a counter that stood at 0 at base.
func (f *fixture) follow(w <-chan store.Batch, base cluster.Revision, n int) error {
	for i := 1; i <= n; i++ {
		batch := <-w
		if batch.Err != nil {
			return fmt.Errorf("watch ended before batch %d of %d: %w", i, n, batch.Err)
		}
		want := fmt.Sprintf("%+d:n=%d", i, i)
		if got := f.showBatch(batch, base); got != want {
			return fmt.Errorf("batch %d is %q, want %q", i, got, want)
		}
	}
	return nil
}

func watchReplica(f *fixture) {
	for i := range 10 {
		f.write(f.put(strconv.Itoa(i), "old"))
	}
	kvs, rev := f.load()
	w := f.watch(rev + 1)
	replica := map[string]cluster.KV{}
	for _, kv := range kvs {
		replica[kv.Key] = kv
	}
	var last cluster.Revision
	for i := range 40 {
		// A fixed pattern that overwrites, deletes and recreates.
		f.write(f.put(strconv.Itoa(i*7%13), strconv.Itoa(i)), f.remove(strconv.Itoa((i*5+1)%13+13)), f.remove("x"+strconv.Itoa(i%3)))
		last = f.write(f.remove(strconv.Itoa(i*3%13)), f.put("x"+strconv.Itoa(i%2), "1"))
	}
	for at := rev; at < last; {
		batch := f.receive(w)
		at = batch.Rev
		for _, c := range batch.Changes {
			replica[c.KV.Key] = c.KV
			if c.Deleted {
				delete(replica, c.KV.Key)
			}
		}
	}
	kvs, _ = f.load()
	got := f.show(slices.SortedFunc(maps.Values(replica), func(a, b cluster.KV) int { return strings.Compare(a.Key, b.Key) }), rev)
	if diff := cmp.Diff(f.show(kvs, rev), got); diff != "" {
		f.Errorf("replica differs (-store +replica):\n%s", diff)
	}
}

func watchSlow(f *fixture) {
	const commits = 700
	base := f.write(f.put("n", "0"))
	slow, quick := f.watch(base+1), f.watch(base+1)
	f.parallel(2, func(i int) error {
		if i == 1 {
			return f.follow(quick, base, commits)
		}
		for n := 1; n <= commits; n++ {
			f.write(f.put("n", strconv.Itoa(n)))
		}
		return nil
	})
	// Only now does the slow one read: all of it, or an end without a gap.
	err := f.follow(slow, base, commits)
	if err != nil && !errors.Is(err, store.ErrCompacted) {
		f.Error(err)
	}
}

func watchContext(f *fixture) {
	base := f.write(f.put("a", "1"))
	ctx, cancel := context.WithCancel(f.ctx)
	w := f.store.Watch(ctx, f.dir, base)
	f.receive(w)
	cancel()
	f.wantEnd(w, nil)
	f.wantEnd(f.store.Watch(ctx, f.dir, base+1), nil)
	other := f.watch(base)
	f.wantWatch(other, base, "+0:a=1")
}

// wantEnd waits until w is closed. Its last batch must carry want, or, when
// want is nil, no batch may carry an error.
func (f *fixture) wantEnd(w <-chan store.Batch, want error) {
	f.Helper()
	var got error
	for {
		select {
		case batch, ok := <-w:
			if ok && got == nil {
				got = batch.Err
				continue
			}
			if ok {
				f.Fatalf("batch at revision %d after the end: %v", batch.Rev, got)
			}
			if !errors.Is(got, want) {
				f.Errorf("watch ended with %v, want %v", got, want)
			}
			return
		case <-f.ctx.Done():
			f.Fatal("watch was not closed")
		}
	}
}

func watchCompacted(f *fixture) {
	compactor, ok := f.store.(Compactor)
	if !ok {
		f.Skip("this store cannot be compacted by a test")
	}
	base := f.write(f.put("a", "1"))
	live := f.watch(base)
	f.wantWatch(live, base, "+0:a=1")
	f.write(f.put("a", "2"))
	f.write(f.put("b", "3"))
	if err := compactor.Compact(f.ctx, base+2); err != nil {
		f.Fatalf("compact at %d: %v", base+2, err)
	}
	f.wantEnd(f.watch(base), store.ErrCompacted)
	f.wantEnd(f.watch(0), store.ErrCompacted)
	f.write(f.put("c", "4"))
	f.wantWatch(f.watch(base+3), base, "+3:c=4")
	f.wantWatch(live, base, "+1:a=2", "+2:b=3", "+3:c=4")
	f.want(base, "a=2@+1 b=3@+2 c=4@+3")
}

func closed(f *fixture) {
	base := f.write(f.put("a", "1"))
	w := f.watch(base)
	f.receive(w)
	for range 2 {
		if err := f.store.Close(); err != nil {
			f.Errorf("close: %v", err)
		}
	}
	f.wantEnd(w, store.ErrClosed)
	f.wantEnd(f.watch(base), store.ErrClosed)
	if _, _, err := f.store.Load(f.ctx, f.dir); !errors.Is(err, store.ErrClosed) {
		f.Errorf("load: %v, want ErrClosed", err)
	}
	if _, err := f.store.Commit(f.ctx, store.Tx{Writes: []cluster.Write{f.put("a", "2")}}); !errors.Is(err, store.ErrClosed) {
		f.Errorf("commit: %v, want ErrClosed", err)
	}
}

package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

func guards(f *fixture) {
	first, err := f.store.Commit(f.ctx, store.Tx{
		Guards: []cluster.Guard{f.guard("a", 0)},
		Writes: []cluster.Write{f.put("a", "1")},
	})
	if err != nil {
		f.Fatalf("guard 0 on an absent key: %v", err)
	}
	f.wantConflict("guard 0 on a present key", f.guard("a", 0))
	f.wantConflict("guard on an older revision", f.guard("a", first-1))
	f.wantConflict("guard on a revision to come", f.guard("a", first+1))
	f.wantConflict("revision guard on an absent key", f.guard("b", first))
	second, err := f.store.Commit(f.ctx, store.Tx{
		Guards: []cluster.Guard{f.guard("a", first), f.guard("b", 0)},
		Writes: []cluster.Write{f.put("a", "2")},
	})
	if err != nil {
		f.Fatalf("guard on the current revision: %v", err)
	}
	if second <= first {
		f.Errorf("revision went from %d to %d", first, second)
	}
	f.wantConflict("guard on a revision that was overwritten", f.guard("a", first))
	f.wantConflict("one of two guards fails", f.guard("a", second), f.guard("b", second))
	f.want(second, "a=2@+0")
}

// wantConflict commits a write under the guards.
func (f *fixture) wantConflict(what string, guards ...cluster.Guard) {
	f.Helper()
	rev, err := f.store.Commit(f.ctx, store.Tx{Guards: guards, Writes: []cluster.Write{f.put("a", "wrong")}})
	if !errors.Is(err, store.ErrConflict) || rev != 0 {
		f.Errorf("%s: revision %d, error %v; want 0, ErrConflict", what, rev, err)
	}
}

func conflictWritesNothing(f *fixture) {
	base := f.write(f.put("a", "1"), f.put("b", "1"))
	_, err := f.store.Commit(f.ctx, store.Tx{
		Guards: []cluster.Guard{f.guard("a", base), f.guard("b", base+1)},
		Writes: []cluster.Write{f.put("a", "2"), f.remove("b"), f.put("c", "2")},
	})
	if !errors.Is(err, store.ErrConflict) {
		f.Fatalf("commit: %v, want ErrConflict", err)
	}
	f.want(base, "a=1@+0 b=1@+0")
	if _, rev := f.load(); rev != base {
		f.Errorf("the conflict moved the revision from %d to %d", base, rev)
	}
}

func oneRevision(f *fixture) {
	base := f.write(f.put("a", "1"), f.put("b", "1"), f.put("c", "1"))
	f.want(base, "a=1@+0 b=1@+0 c=1@+0")
	rev := f.write(f.put("a", "2"), f.remove("b"), f.put("d", ""))
	if rev != base+1 {
		f.Errorf("next revision is %d, want %d", rev, base+1)
	}
	f.want(base, "a=2@+1 c=1@+0 d=@+1")
}

func guardsOnly(f *fixture) {
	base := f.write(f.put("a", "1"))
	for _, tx := range []store.Tx{{}, {Guards: []cluster.Guard{f.guard("a", base), f.guard("b", 0)}}} {
		rev, err := f.store.Commit(f.ctx, tx)
		if err != nil || rev != base {
			f.Errorf("%d guards that hold: revision %d, error %v; want %d", len(tx.Guards), rev, err, base)
		}
	}
	_, err := f.store.Commit(f.ctx, store.Tx{Guards: []cluster.Guard{f.guard("a", base), f.guard("b", base)}})
	if !errors.Is(err, store.ErrConflict) {
		f.Errorf("guard that does not hold: %v, want ErrConflict", err)
	}
	if _, rev := f.load(); rev != base {
		f.Errorf("checking guards moved the revision from %d to %d", base, rev)
	}
}

func recreated(f *fixture) {
	old := f.write(f.put("a", "same"))
	f.write(f.remove("a"))
	f.wantConflict("old revision of a deleted record", f.guard("a", old))
	base := f.write(f.put("a", "same"))
	f.wantConflict("old revision of a recreated record", f.guard("a", old))
	f.want(base, "a=same@+0")
}

func deleteAbsent(f *fixture) {
	base := f.write(f.put("a", "1"))
	if rev := f.write(f.remove("b")); rev != base {
		f.Errorf("deleting an absent key moved the revision from %d to %d", base, rev)
	}
	f.write(f.remove("b"), f.put("c", "1"))
	f.want(base, "a=1@+0 c=1@+1")
	f.wantWatch(f.watch(base+1), base, "+1:c=1")
}

func malformed(f *fixture) {
	base := f.write(f.put("a", "1"))
	for what, tx := range map[string]store.Tx{
		"key written twice":           {Writes: []cluster.Write{f.put("a", "2"), f.put("a", "3")}},
		"key written and deleted":     {Writes: []cluster.Write{f.put("a", "2"), f.remove("a")}},
		"key deleted twice":           {Writes: []cluster.Write{f.put("b", "2"), f.remove("a"), f.remove("a")}},
		"write to the empty key":      {Writes: []cluster.Write{f.put("b", "2"), {Value: []byte("1")}}},
		"guard on the empty key":      {Guards: []cluster.Guard{{}}, Writes: []cluster.Write{f.put("a", "2")}},
		"deletion with a value":       {Writes: []cluster.Write{{Key: f.key("a"), Value: []byte("1"), Delete: true}}},
		"key longer than MaxKeyBytes": {Writes: []cluster.Write{f.put(strings.Repeat("k", store.MaxKeyBytes), "1")}},
	} {
		if rev, err := f.store.Commit(f.ctx, tx); !errors.Is(err, store.ErrRefused) || rev != 0 {
			f.Errorf("%s: revision %d, error %v; want 0, ErrRefused", what, rev, err)
		}
	}
	f.want(base, "a=1@+0")
}

func valueLimit(f *fixture) {
	big := bytes.Repeat([]byte{0, 0xff, '\n', 'x'}, store.MaxValueBytes/4)
	f.write(cluster.Write{Key: f.key("a"), Value: big})
	kvs, base := f.load()
	if len(kvs) != 1 || !bytes.Equal(kvs[0].Value, big) {
		f.Fatalf("a value of %d bytes did not come back as it was", len(big))
	}
	_, err := f.store.Commit(f.ctx, store.Tx{Writes: []cluster.Write{{Key: f.key("a"), Value: append(big, 1)}}})
	if !errors.Is(err, store.ErrRefused) || !strings.Contains(err.Error(), f.key("a")) {
		f.Errorf("a value of %d bytes: %v, want ErrRefused naming the key", len(big)+1, err)
	}
	if _, rev := f.load(); rev != base {
		f.Errorf("the refused commit moved the revision from %d to %d", base, rev)
	}
}

func txLimits(f *fixture) {
	var full store.Tx
	for i := range store.MaxTxOps {
		name := strconv.Itoa(i)
		full.Guards = append(full.Guards, f.guard(name, 0))
		full.Writes = append(full.Writes, f.put(name, "1"))
	}
	if _, err := f.store.Commit(f.ctx, full); err != nil {
		f.Errorf("%d guards and writes: %v", store.MaxTxOps, err)
	}
	half := strings.Repeat("x", store.MaxTxBytes/2)
	used := 2 * len(f.key("a"))
	f.write(f.put("a", half[used:]), f.put("b", half))
	_, base := f.load()
	for what, tx := range map[string]store.Tx{
		"one guard too many": {Guards: make([]cluster.Guard, store.MaxTxOps+1)},
		"one write too many": {Writes: append(full.Writes, f.put("more", "1"))},
		"one byte too many":  {Writes: []cluster.Write{f.put("a", half[used-1:]), f.put("b", half)}},
	} {
		if _, err := f.store.Commit(f.ctx, tx); !errors.Is(err, store.ErrRefused) {
			f.Errorf("%s: %v, want ErrRefused", what, err)
		}
	}
	if _, rev := f.load(); rev != base {
		f.Errorf("refused commits moved the revision from %d to %d", base, rev)
	}
}

func noAliases(f *fixture) {
	value := []byte("1")
	base := f.write(cluster.Write{Key: f.key("a"), Value: value})
	value[0] = 'x'
	kvs, _ := f.load()
	kvs[0].Value[0] = 'y'
	batch := f.receive(f.watch(base))
	batch.Changes[0].KV.Value[0] = 'z'
	f.want(base, "a=1@+0")
	f.wantWatch(f.watch(base), base, "+0:a=1")
}

func endedContext(f *fixture) {
	base := f.write(f.put("a", "1"))
	ended, cancel := context.WithCancel(f.ctx)
	cancel()
	if _, _, err := f.store.Load(ended, f.dir); !errors.Is(err, store.ErrUnavailable) {
		f.Errorf("load: %v, want ErrUnavailable", err)
	}
	_, err := f.store.Commit(ended, store.Tx{Writes: []cluster.Write{f.put("a", "2")}})
	if !errors.Is(err, store.ErrUnavailable) {
		f.Errorf("commit: %v, want ErrUnavailable", err)
	}
	f.want(base, "a=1@+0")
}

func oneWinner(f *fixture) {
	const writers, rounds = 8, 25
	rev := cluster.Revision(0)
	for round := range rounds {
		var wins atomic.Int64
		var won atomic.Int64
		f.parallel(writers, func(i int) error {
			got, err := f.store.Commit(f.ctx, store.Tx{
				Guards: []cluster.Guard{f.guard("a", rev)},
				Writes: []cluster.Write{f.put("a", strconv.Itoa(i))},
			})
			if errors.Is(err, store.ErrConflict) {
				return nil
			}
			wins.Add(1)
			won.Store(int64(got))
			return err
		})
		if n := wins.Load(); n != 1 {
			f.Fatalf("round %d at revision %d: %d winners, want 1", round, rev, n)
		}
		rev = cluster.Revision(won.Load())
	}
}

func noLostUpdate(f *fixture) {
	const writers, each = 4, 15
	f.write(f.put("n", "0"))
	f.parallel(writers, func(int) error {
		for done := 0; done < each; {
			err := f.increment("n")
			if err == nil {
				done++
			} else if !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
		return nil
	})
	kvs, base := f.load()
	f.want(base, fmt.Sprintf("n=%d@+0", writers*each))
	if len(kvs) == 1 && kvs[0].Rev != base {
		f.Errorf("record at revision %d, store at %d", kvs[0].Rev, base)
	}
}

// increment adds one to a counter, guarded by what it read.
func (f *fixture) increment(name string) error {
	kvs, _, err := f.store.Load(f.ctx, f.key(name))
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(string(kvs[0].Value))
	if err != nil {
		return err
	}
	_, err = f.store.Commit(f.ctx, store.Tx{
		Guards: []cluster.Guard{{Key: kvs[0].Key, Rev: kvs[0].Rev}},
		Writes: []cluster.Write{f.put(name, strconv.Itoa(n+1))},
	})
	return err
}

// parallel runs do n times at once and fails the case on any error.
func (f *fixture) parallel(n int, do func(i int) error) {
	f.Helper()
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		f.Fatal(err)
	}
}

package storetest

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
)

func loadPrefix(f *fixture) {
	base := f.write(f.put("b/2", "1"), f.put("b/10", "2"), f.put("b", "3"), f.put("b0", "4"), f.put("a", "5"))
	for prefix, want := range map[string]string{
		"":         "a=5@+0 b=3@+0 b/10=2@+0 b/2=1@+0 b0=4@+0",
		"b/":       "b/10=2@+0 b/2=1@+0",
		"b":        "b=3@+0 b/10=2@+0 b/2=1@+0 b0=4@+0",
		"b/2":      "b/2=1@+0",
		"b/2/":     "",
		"c":        "",
		"b/10\xff": "",
	} {
		kvs, rev, err := f.store.Load(f.ctx, f.key(prefix))
		if got := f.show(kvs, base); err != nil || got != want || rev != base {
			f.Errorf("load %q: %q at %d, error %v; want %q at %d", prefix, got, rev, err, want, base)
		}
	}
	all, rev, err := f.store.Load(f.ctx, "")
	if err != nil || len(all) < 5 || rev != base {
		f.Errorf("load of everything: %d records at %d, error %v; want at least 5 at %d", len(all), rev, err, base)
	}
}

func loadLinearizable(f *fixture) {
	const commits, readers = 100, 3
	f.write(f.put("n", "0"))
	var ended atomic.Int64 // the count whose commit has ended
	var endedRev atomic.Int64
	f.alongside(readers, func() {
		for i := 1; i <= commits; i++ {
			rev := f.write(f.put("n", strconv.Itoa(i)))
			endedRev.Store(int64(rev))
			ended.Store(int64(i))
		}
	}, func() error {
		n := ended.Load()
		floor := endedRev.Load()
		kvs, rev, err := f.store.Load(f.ctx, f.dir)
		if err != nil {
			return err
		}
		got, err := strconv.ParseInt(string(kvs[0].Value), 10, 64)
		if err != nil || got < n || int64(rev) < floor {
			return fmt.Errorf("stale load: %d at revision %d after %d at revision %d, error %v", got, rev, n, floor, err)
		}
		return nil
	})
}

func loadAtomic(f *fixture) {
	const commits, readers = 60, 3
	f.write(f.put("a", "0"), f.put("b", "0"))
	f.alongside(readers, func() {
		for i := 1; i <= commits; i++ {
			value := strconv.Itoa(i)
			f.write(f.put("a", value), f.put("b", value))
		}
	}, func() error {
		kvs, _, err := f.store.Load(f.ctx, f.dir)
		if err != nil {
			return err
		}
		if len(kvs) != 2 || string(kvs[0].Value) != string(kvs[1].Value) || kvs[0].Rev != kvs[1].Rev {
			return fmt.Errorf("half a transaction: %s", f.show(kvs, 0))
		}
		return nil
	})
}

// alongside repeats read in n goroutines, each at least once, until write returns.
func (f *fixture) alongside(n int, write func(), read func() error) {
	f.Helper()
	var wg sync.WaitGroup
	var done atomic.Bool
	errs := make(chan error, n)
	for range n {
		wg.Go(func() {
			for {
				last := done.Load()
				if err := read(); err != nil {
					errs <- err
					return
				}
				if last {
					return
				}
			}
		})
	}
	defer func() {
		done.Store(true)
		wg.Wait()
		close(errs)
		for err := range errs {
			f.Error(err)
		}
	}()
	write()
}

package hostd

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/mem"
)

// watched runs keeper and observer over a model in a bubble of synctest.
func watched(t *testing.T, immobile bool, test func(d *mem.Driver, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		d := mem.New(boots1, mem.Guest{ID: g1, Name: "db1"})
		b := newBench(t, immobile)
		k := newKeeper(b.Lives, func(e []Effect) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.told = append(b.told, e...)
		})
		o := &observer{driver: d, keeper: k, nudge: make(chan struct{}, 1), listed: func([]hypervisor.Guest) {}, warn: func(string, error) {}}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for _, f := range []func(context.Context){k.run, o.watch, o.list} {
			wg.Go(func() { f(ctx) })
		}
		synctest.Wait()
		life, err := d.On(context.Background(), g1)
		must(t, err)
		synctest.Wait()
		must(t, k.do(ctx, func(*Lives) []Effect { b.bind(life, alpha); return nil }))
		must(t, b.refused)
		test(d, b)
		cancel()
		wg.Wait()
	})
}

func causes(b *bench) (out []cluster.Cause) {
	for _, c := range b.certificates() {
		out = append(out, c.Cause)
	}
	return out
}

func wantCauses(t *testing.T, b *bench, want ...cluster.Cause) {
	t.Helper()
	got := causes(b)
	if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
		t.Errorf("certified %q, want %q", got, want)
	}
}

func TestAnEndIsCertifiedAtOnce(t *testing.T) {
	watched(t, false, func(d *mem.Driver, b *bench) {
		d.End(g1, hypervisor.ReasonShutdown)
		synctest.Wait() // no time passes
		wantCauses(t, b, cluster.CauseShutdown)
	})
}

func TestAQuietStreamIsMadeUpForByTheListing(t *testing.T) {
	watched(t, true, func(d *mem.Driver, b *bench) {
		d.EndSilently(g1)
		synctest.Wait()
		wantCauses(t, b)
		time.Sleep(relistInterval)
		synctest.Wait()
		wantCauses(t, b, cluster.CauseCrashed)
	})
}

// C-1 with a late event: the source's listing shows it off first.
func TestAMigrationWithALateEventIsNoEnd(t *testing.T) {
	watched(t, false, func(d *mem.Driver, b *bench) {
		d.SetQuiet(true)
		d.MoveTo(mem.New(boots2, mem.Guest{ID: g1}), g1)
		time.Sleep(3 * relistInterval)
		d.SetQuiet(false)
		time.Sleep(3 * relistInterval)
		synctest.Wait()
		wantCauses(t, b)
	})
}

func TestALostStreamIsOpenedAnew(t *testing.T) {
	watched(t, false, func(d *mem.Driver, b *bench) {
		d.SetAvailable(false)
		time.Sleep(time.Minute)
		d.SetAvailable(true)
		time.Sleep(watchBackoffMax + relistInterval)
		synctest.Wait()
		d.End(g1, hypervisor.ReasonDestroyed)
		synctest.Wait()
		wantCauses(t, b, cluster.CauseDestroyed)
	})
}

func TestAnEndInAGapOfTheStreamIsUnknown(t *testing.T) {
	watched(t, false, func(d *mem.Driver, b *bench) {
		d.BreakStreams()
		d.EndSilently(g1)
		time.Sleep(time.Minute)
		synctest.Wait()
		wantCauses(t, b)
	})
}

func TestAHungListingDelaysNoEvent(t *testing.T) {
	watched(t, false, func(d *mem.Driver, b *bench) {
		d.SetFault(mem.FaultOn(mem.OpList, mem.Fault{Hang: true}))
		time.Sleep(relistInterval + time.Second) // a listing hangs now
		d.End(g1, hypervisor.ReasonCrashed)
		synctest.Wait()
		wantCauses(t, b, cluster.CauseCrashed)
	})
}

// A guest's turn is given on, and a caller that gives up takes none.
func TestTurnsAreTakenOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all turns
		done, err := all.take(context.Background(), g1)
		must(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := all.take(ctx, g1); err == nil {
			t.Error("two have the turn of one guest")
		}
		other, err := all.take(context.Background(), g2)
		must(t, err)
		other()
		got := make(chan struct{})
		go func() {
			again, err := all.take(context.Background(), g1)
			if err == nil {
				again()
			}
			close(got)
		}()
		synctest.Wait()
		done()
		<-got
		if len(all.waiting) != 0 {
			t.Errorf("%d turns are left behind", len(all.waiting))
		}
	})
}

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// total is what many worlds add up to.
type total struct {
	worlds, faults, writes, broken int
	simulated                      time.Duration
}

// run plays what the options ask for and returns how many worlds broke a promise.
func run(ctx context.Context, path string, o options) (int, error) {
	m, err := newMachine(ctx, path)
	if err != nil {
		return 0, err
	}
	if o.seed != 0 {
		return one(ctx, m, o)
	}
	began := time.Now()
	var sum total
	failed, err := m.playAll(ctx, o, func(w world) {
		sum.worlds++
		sum.faults += w.faults
		sum.writes += w.writes
		sum.simulated += w.simulated
		if !o.quiet && sum.worlds%100 == 0 {
			fmt.Printf("%6d worlds, %6.1f h simulated, %d broken\n", sum.worlds, sum.simulated.Hours(), sum.broken)
		}
		if w.broken > 0 {
			sum.broken++
			fmt.Printf("seed %d broke a promise\n", w.seed)
		}
	})
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	fmt.Printf("%d worlds with %d faults and %d writes, %.1f h simulated in %v: %.1f h a minute; %d broke a promise\n",
		sum.worlds, sum.faults, sum.writes, sum.simulated.Hours(), took.Round(time.Second), sum.simulated.Hours()/took.Minutes(), sum.broken)
	for _, w := range failed {
		if err := m.report(ctx, w, o.shrink); err != nil {
			return 0, err
		}
	}
	return len(failed), nil
}

// one plays one seed and prints all of it.
func one(ctx context.Context, m *machine, o options) (int, error) {
	w, err := m.play(ctx, o.seed, o.skip, o.log)
	if err != nil {
		return 0, err
	}
	fmt.Print(w.output)
	return w.broken, nil
}

// playAll plays seeds until all are played, enough have failed or ctx ends.
func (m *machine) playAll(ctx context.Context, o options, done func(world)) (failed []world, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seeds := make(chan uint64)
	go func() {
		defer close(seeds)
		for seed := o.first; seed < o.first+uint64(o.seeds); seed++ {
			select {
			case seeds <- seed:
			case <-ctx.Done():
				return
			}
		}
	}()
	var mu sync.Mutex // guards failed and err, and the calls of done
	var wg sync.WaitGroup
	for range o.jobs {
		wg.Go(func() {
			for seed := range seeds {
				w, played := m.play(context.WithoutCancel(ctx), seed, "", false)
				mu.Lock()
				if played != nil {
					err = played
					cancel()
				} else {
					done(w)
				}
				if w.broken > 0 {
					failed = append(failed, w)
				}
				if len(failed) >= o.stop {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return failed, err
}

// report prints the story of a world that broke a promise, with as few faults
// as still break one.
func (m *machine) report(ctx context.Context, w world, shrink bool) error {
	skip := ""
	if shrink {
		var err error
		if w, skip, err = m.shrink(ctx, w); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stdout, "\n%s\n\nplay it again:  make sim SEED=%d%s\n", w.story(), w.seed, skipFlag(skip))
	return nil
}

func skipFlag(skip string) string {
	if skip == "" {
		return ""
	}
	return " SKIP=" + skip
}

// shrink leaves faults out, one after the other, as long as the world still
// breaks a promise.
func (m *machine) shrink(ctx context.Context, w world) (world, string, error) {
	var out []string
	for n := w.faults; n >= 1; n-- {
		try := strings.Join(append(out, strconv.Itoa(n)), ",")
		played, err := m.play(ctx, w.seed, try, false)
		if err != nil {
			return w, "", err
		}
		if played.broken > 0 {
			out = append(out, strconv.Itoa(n))
			w = played
		}
	}
	return w, strings.Join(out, ","), nil
}

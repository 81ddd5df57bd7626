package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// variants is how many orders of its programs a world is tried with until it
// breaks a promise in the module as well.
const variants = 40

// total is what many worlds add up to.
type total struct {
	worlds, faults, writes, broken int
	simulated                      time.Duration
}

func (t *total) add(w world) {
	t.worlds++
	t.faults += w.faults
	t.writes += w.writes
	t.simulated += w.simulated
	if w.broken > 0 {
		t.broken++
	}
}

// run plays what the options ask for and returns how many worlds broke a promise.
func run(ctx context.Context, o options) (int, error) {
	began := time.Now()
	var sum total
	failed, err := hunting{binary: o.binary, logs: o.logs}.all(ctx, o, func(w world) {
		sum.add(w)
		if sum.worlds%200 == 0 {
			fmt.Printf("%6d worlds, %6.1f h simulated, %d broken\n", sum.worlds, sum.simulated.Hours(), sum.broken)
		}
		if w.broken > 0 {
			fmt.Printf("seed %d broke %s\n", w.seed, w.promise())
		}
	})
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	fmt.Printf("%d worlds with %d faults and %d writes, %.1f h simulated in %v: %.1f h a minute; %d broke a promise\n",
		sum.worlds, sum.faults, sum.writes, sum.simulated.Hours(), took.Round(time.Second), sum.simulated.Hours()/took.Minutes(), sum.broken)
	if len(failed) == 0 {
		return 0, nil
	}
	m, err := newMachine(ctx, o.module)
	if err != nil {
		return 0, err
	}
	for _, w := range failed {
		if err := m.report(ctx, w, o); err != nil {
			return 0, err
		}
	}
	return len(failed), nil
}

// again plays one world in the module and prints all of it.
func again(ctx context.Context, o options) (int, error) {
	m, err := newMachine(ctx, o.module)
	if err != nil {
		return 0, err
	}
	w, err := m.play(ctx, o.seed, o.variant, o.skip, o.log)
	if err != nil {
		return 0, err
	}
	fmt.Print(w.output)
	return w.broken, nil
}

// same plays worlds twice in the module and reports those whose runs differ.
func same(ctx context.Context, o options) (int, error) {
	m, err := newMachine(ctx, o.module)
	if err != nil {
		return 0, err
	}
	differ := 0
	for seed := o.first; seed < o.first+uint64(o.seeds); seed++ {
		one, err := m.play(ctx, seed, 1, "", true)
		if err != nil {
			return 0, err
		}
		two, err := m.play(ctx, seed, 1, "", true)
		if err != nil {
			return 0, err
		}
		if one.output != two.output {
			differ++
			fmt.Printf("seed %d: two runs differ\n", seed)
		}
	}
	fmt.Printf("%d worlds played twice, logs compared: %d differ\n", o.seeds, differ)
	return differ, nil
}

// report prints the story of a world that broke a promise: as the module tells
// it, with as few faults as still break one, and how to play it again.
func (m *machine) report(ctx context.Context, w world, o options) error {
	for variant := uint64(1); variant <= variants; variant++ {
		found, err := m.play(ctx, w.seed, variant, "", false)
		if err != nil {
			return err
		}
		if found.broken == 0 {
			continue
		}
		found, skip, err := m.shrink(ctx, found, variant)
		if err != nil {
			return err
		}
		fmt.Printf("\n%s\n\nplay it again:  make sim SEED=%d VARIANT=%d%s\n", found.story, found.seed, variant, flagOf("SKIP", skip))
		return nil
	}
	fmt.Printf("\n%s\n\nseed %d broke this as a native program; %d orders of it in the module did not. Its whole log: %s/seed-%d.log\n",
		w.story, w.seed, variants, o.logs, w.seed)
	return nil
}

func flagOf(name, value string) string {
	if value == "" {
		return ""
	}
	return " " + name + "=" + value
}

// shrink leaves faults out, one after the other, as long as the world still
// breaks a promise.
func (m *machine) shrink(ctx context.Context, w world, variant uint64) (world, string, error) {
	var out []string
	for n := w.faults; n >= 1; n-- {
		try := strings.Join(append(out, strconv.Itoa(n)), ",")
		played, err := m.play(ctx, w.seed, variant, try, false)
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

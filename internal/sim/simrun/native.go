package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
)

// batch is how many worlds one process plays.
const batch = 20

// hunting plays many worlds as native programs, which is ten times faster than
// the module and leaves the order of goroutines to chance. A world that breaks
// a promise is then looked for again in the module.
type hunting struct {
	binary string // of the tests of package sim
	logs   string // directory for the logs of broken worlds; "": none
}

// play lives through a batch of worlds.
func (h hunting) play(ctx context.Context, first uint64, count int) ([]world, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, h.binary, "-test.run=^TestSim$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), "SIM_SEED="+strconv.FormatUint(first, 10), "SIM_SEEDS="+strconv.Itoa(count), "SIM_SKIP=", "SIM_LOG="+h.logs, "GOMAXPROCS=1", "GOGC=400")
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	worlds := read(out.String())
	if ctx.Err() == nil && len(worlds) != count {
		return worlds, fmt.Errorf("seed %d or one behind it ended without a result (%w):\n%s", first+uint64(len(worlds)), err, lastLines(out.String(), 60))
	}
	return worlds, nil // that worlds are broken is in their summaries
}

// all plays so many seeds, jobs at a time, until stop worlds have broken a
// promise. done is called for each world, by one goroutine at a time.
func (h hunting) all(ctx context.Context, o options, done func(world)) (failed []world, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batches := make(chan uint64)
	go func() {
		defer close(batches)
		for seed := o.first; seed < o.first+uint64(o.seeds); seed += batch {
			select {
			case batches <- seed:
			case <-ctx.Done():
				return
			}
		}
	}()
	var mu sync.Mutex // guards failed and err, and the calls of done
	var wg sync.WaitGroup
	for range o.jobs {
		wg.Go(func() {
			for first := range batches {
				count := min(batch, int(o.first)+o.seeds-int(first))
				worlds, played := h.play(ctx, first, count)
				mu.Lock()
				for _, w := range worlds {
					done(w)
					if w.broken > 0 {
						failed = append(failed, w)
					}
				}
				if played != nil {
					err = played
				}
				if played != nil || len(failed) >= o.stop {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return failed, err
}

// Command simrun plays worlds of package sim, compiled to WebAssembly, so that
// one seed is one run to the byte: such a program has one thread, and the
// runtime below it (wazero) gives it random numbers and clocks that follow from
// the seed alone. `make sim` builds the module and calls it:
//
//	simrun [flags] sim.wasm
//
// It prints how much was simulated, and for each seed that broke a promise the
// shortest story that it found and the command that plays it again. Exit codes:
// 0 every promise held, 1 one was broken, 2 the call was wrong.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
)

func main() {
	o := options{}
	flag.Uint64Var(&o.seed, "seed", 0, "play this seed alone, and print its story")
	flag.StringVar(&o.skip, "skip", "", "numbers of faults to leave out of -seed, with commas")
	flag.BoolVar(&o.log, "log", false, "with -seed: print the log of every program as well")
	flag.Uint64Var(&o.first, "first", 1, "first seed")
	flag.IntVar(&o.seeds, "seeds", 200, "how many seeds")
	flag.IntVar(&o.stop, "stop", 3, "stop after so many seeds that broke a promise")
	flag.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "worlds at a time")
	flag.BoolVar(&o.shrink, "shrink", true, "look for the faults that are needed to break the promise")
	flag.BoolVar(&o.quiet, "quiet", false, "print only the result")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "simrun: want one argument, the module that `make sim` builds")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	broken, err := run(ctx, flag.Arg(0), o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "simrun:", err)
		os.Exit(2)
	}
	if broken > 0 {
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	seed, first       uint64
	seeds, stop, jobs int
	skip              string
	log               bool
	shrink, quiet     bool
}

// Command simrun plays worlds of package sim, compiled to WebAssembly, so that
// one seed is one run to the byte: such a program has one thread, and the
// runtime below it (wazero) gives it random numbers and clocks that follow from
// the seed alone. `make sim` builds the module and calls it:
//
//	simrun [flags] sim.wasm
//	simrun -mutants .
//
// The second form takes guards out of the production code, one at a time, and
// shows that worlds notice (table.go).
//
// It prints how much was simulated, and for each seed that broke a promise the
// shortest story that it found and the command that plays it again. Exit codes:
// 0 every promise held and every mutant was
// noticed, 1 not so, 2 the call was wrong.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
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
	flag.StringVar(&o.mutants, "mutants", "", "build and hunt the mutants whose name contains this text; all of them: .")
	flag.BoolVar(&o.quiet, "quiet", false, "print only the result")
	flag.Parse()
	if (flag.NArg() == 1) == (o.mutants != "") {
		fmt.Fprintln(os.Stderr, "simrun: want one argument, the module that `make sim` builds, or -mutants")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	broken, err := 0, error(nil)
	if o.mutants != "" {
		broken, err = hunt(ctx, strings.Trim(o.mutants, "."), o)
	} else {
		broken, err = run(ctx, flag.Arg(0), o)
	}
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
	skip, mutants     string
	log               bool
	shrink, quiet     bool
}

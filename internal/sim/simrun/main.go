// Command simrun plays worlds of package sim. Many are played as native
// programs; one that breaks a promise is played again as WebAssembly, where one
// seed is one run to the byte: such a program has one thread, and the runtime
// below it (wazero) gives it random numbers and clocks that follow from the seed
// alone. `make sim` builds both programs and calls it.
//
// It prints how much was simulated, and for each seed that broke a promise the
// shortest story that it found and the command that plays it again. With
// -mutants it takes guards out of the production code, one at a time, and shows
// that worlds notice (table.go). Exit codes: 0 every promise held and every
// mutant was noticed, 1 not so, 2 the call was wrong.
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

// options are the flags.
type options struct {
	binary, module       string
	seed, variant, first uint64
	seeds, stop, jobs    int
	skip, logs, mutants  string
	log, twice           bool
}

func main() {
	o := options{}
	flag.StringVar(&o.binary, "native", "", "the tests of package sim, compiled for this machine")
	flag.StringVar(&o.module, "module", "", "the tests of package sim, compiled for wasip1")
	flag.Uint64Var(&o.first, "first", 1, "first seed")
	flag.IntVar(&o.seeds, "seeds", 200, "how many seeds")
	flag.IntVar(&o.stop, "stop", 3, "stop after so many seeds that broke a promise")
	flag.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "processes at a time")
	flag.StringVar(&o.logs, "logs", os.TempDir(), "directory for the logs of worlds that broke a promise")
	flag.Uint64Var(&o.seed, "seed", 0, "play this seed alone, in the module, and print its story")
	flag.Uint64Var(&o.variant, "variant", 1, "order of the programs in the world of -seed")
	flag.StringVar(&o.skip, "skip", "", "numbers of faults to leave out of -seed, with commas")
	flag.BoolVar(&o.log, "log", false, "print the log of every program of -seed as well")
	flag.BoolVar(&o.twice, "twice", false, "play the seeds twice in the module and compare")
	flag.StringVar(&o.mutants, "mutants", "", "build and hunt the mutants whose name contains this text; all of them: .")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	broken, err := choose(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "simrun:", err)
		os.Exit(2)
	}
	if broken > 0 {
		os.Exit(1)
	}
}

func choose(ctx context.Context, o options) (int, error) {
	switch {
	case flag.NArg() > 0:
		return 0, fmt.Errorf("%q: there are no arguments; see -help", flag.Arg(0))
	case o.mutants != "":
		return hunt(ctx, strings.Trim(o.mutants, "."), o)
	case o.twice:
		return same(ctx, o)
	case o.seed != 0:
		return again(ctx, o)
	}
	return run(ctx, o)
}

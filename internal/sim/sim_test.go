package sim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
)

// The environment chooses what TestSim plays, so that the runner of package
// simrun, and a person, can play one world again.
const (
	envSeed  = "SIM_SEED"  // one seed
	envSeeds = "SIM_SEEDS" // so many, from 1 on
	envSkip  = "SIM_SKIP"  // numbers of faults to leave out, with commas
	envLog   = "SIM_LOG"   // where the log of everything goes: a file, or - for the output
)

// TestSim plays worlds and fails for the promises that they broke.
func TestSim(t *testing.T) {
	first, count := uint64(1), 20
	if s := os.Getenv(envSeeds); s != "" {
		count, _ = strconv.Atoi(s)
	}
	if s := os.Getenv(envSeed); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
		count = 1
	}
	var skip []int
	for _, s := range strings.Split(os.Getenv(envSkip), ",") {
		if n, err := strconv.Atoi(s); err == nil {
			skip = append(skip, n)
		}
	}
	for seed := first; seed < first+uint64(count); seed++ {
		t.Run(fmt.Sprintf("seed-%d", seed), func(t *testing.T) { playOne(t, seed, skip) })
	}
}

func playOne(t *testing.T, seed uint64, skip []int) {
	var r Result
	log := newRecorder()
	synctest.Test(t, func(*testing.T) { r = Play(seed, skip, log) })
	fmt.Printf("sim: seed %d: %d faults, %.1f s, %d writes, %d violations\n", seed, len(r.Faults), r.Simulated.Seconds(), r.Writes, len(r.Violations))
	if out := os.Getenv(envLog); out == "-" {
		log.write(os.Stdout)
	}
	if len(r.Violations) > 0 {
		t.Errorf("seed %d broke %s\n%s", seed, strings.Join(r.Violations, "\n"), r.Story)
	}
}

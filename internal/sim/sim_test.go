package sim

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
)

// The environment chooses what TestSim plays, so that the runner (package
// simrun), and a person, can play one world again.
const (
	envSeed  = "SIM_SEED"  // the first seed
	envSeeds = "SIM_SEEDS" // how many
	envSkip  = "SIM_SKIP"  // numbers of faults to leave out, with commas
	envLog   = "SIM_LOG"   // "-": print the log of everything; else the directory for logs of broken worlds
)

// TestSim plays worlds and fails for the promises that they broke. What it
// prints is read by simrun.
func TestSim(t *testing.T) {
	first := number(t, envSeed, 1)
	count := number(t, envSeeds, 20)
	var skip []int
	for _, s := range strings.FieldsFunc(os.Getenv(envSkip), func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("%s: %v", envSkip, err)
		}
		skip = append(skip, n)
	}
	for seed := first; seed < first+count; seed++ {
		playOne(t, seed, skip)
	}
}

func number(t *testing.T, name string, missing uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return missing
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func playOne(t *testing.T, seed uint64, skip []int) {
	var r Result
	log := newRecorder()
	synctest.Test(t, func(*testing.T) { r = Play(seed, skip, log) })
	fmt.Printf("sim: seed %d: %d faults, %.1f s, %d writes, %d violations\n", seed, len(r.Faults), r.Simulated.Seconds(), r.Writes, len(r.Violations))
	to := os.Getenv(envLog)
	if to == "-" {
		log.write(os.Stdout)
	}
	if len(r.Violations) == 0 {
		return
	}
	t.Errorf("seed %d broke %s", seed, strings.Join(r.Violations, "\n"))
	fmt.Printf("sim: story\n%s\nsim: end of story\n", r.Story)
	if to == "" || to == "-" {
		return
	}
	file, err := os.Create(filepath.Join(to, fmt.Sprintf("seed-%d.log", seed)))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	log.write(file)
}

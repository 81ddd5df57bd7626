package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"
)

// machine runs the module, any number of times and concurrently.
type machine struct {
	runtime wazero.Runtime
	module  wazero.CompiledModule
}

// newMachine compiles the module; what it compiled before it finds in the
// user's cache directory.
func newMachine(ctx context.Context, path string) (*machine, error) {
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	config := wazero.NewRuntimeConfigCompiler()
	if dir, err := os.UserCacheDir(); err == nil {
		if cache, err := wazero.NewCompilationCacheWithDir(filepath.Join(dir, "ringfence-sim")); err == nil {
			config = config.WithCompilationCache(cache)
		}
	}
	m := &machine{runtime: wazero.NewRuntimeWithConfig(ctx, config)}
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, m.runtime); err != nil {
		return nil, err
	}
	m.module, err = m.runtime.CompileModule(ctx, binary)
	return m, err
}

// world is what became of one world.
type world struct {
	seed      uint64
	faults    int
	simulated time.Duration
	writes    int
	broken    int    // promises
	output    string // all that was printed
}

// summary is the line that the module prints for each world.
var summary = regexp.MustCompile(`(?m)^sim: seed (\d+): (\d+) faults, ([\d.]+) s, (\d+) writes, (\d+) violations$`)

// random is the machine's source of chance.
type random struct{ *rand.Rand }

func (r random) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return len(p), nil
}

// play lives through one world.
func (m *machine) play(ctx context.Context, seed uint64, skip string, log bool) (world, error) {
	var out bytes.Buffer
	var now int64 // nanoseconds; only the Go runtime asks: the world has a clock of its own
	tick := func() int64 { now += 1000; return now }
	config := wazero.NewModuleConfig().WithName("").WithArgs("sim", "-test.run=^TestSim$", "-test.v").
		WithEnv("SIM_SEED", strconv.FormatUint(seed, 10)).WithEnv("SIM_SKIP", skip).WithEnv("GOGC", "400").
		WithStdout(&out).WithStderr(&out).
		WithRandSource(random{rand.New(rand.NewPCG(seed, 1))}).
		WithNanotime(tick, 1).WithWalltime(func() (int64, int32) { n := tick(); return n / 1e9, int32(n % 1e9) }, 1).
		WithNanosleep(func(ns int64) { now += ns })
	if log {
		config = config.WithEnv("SIM_LOG", "-")
	}
	instance, err := m.runtime.InstantiateModule(ctx, m.module, config)
	if instance != nil {
		_ = instance.Close(ctx)
	}
	w := world{seed: seed, output: out.String()}
	var exit *sys.ExitError
	if err != nil && !errors.As(err, &exit) {
		return w, fmt.Errorf("seed %d: %w", seed, err)
	}
	found := summary.FindStringSubmatch(w.output)
	if found == nil {
		return w, fmt.Errorf("seed %d ended without a result:\n%s", seed, lastLines(w.output, 40))
	}
	w.faults, _ = strconv.Atoi(found[2])
	seconds, _ := strconv.ParseFloat(found[3], 64)
	w.simulated = time.Duration(seconds * float64(time.Second))
	w.writes, _ = strconv.Atoi(found[4])
	w.broken, _ = strconv.Atoi(found[5])
	return w, nil
}

// story is the part of the output that tells what happened.
func (w world) story() string {
	_, story, _ := strings.Cut(w.output, "sim_test.go:")
	story, _, _ = strings.Cut(story, "\n--- ")
	return "  " + strings.TrimSpace(story)
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

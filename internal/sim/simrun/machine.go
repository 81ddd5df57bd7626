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

// machine runs the module: one seed and one variant are one run, to the byte.
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

// random is the machine's source of chance.
type random struct{ *rand.Rand }

func (r random) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return len(p), nil
}

// play lives through one world. variant chooses among the orders in which its
// programs may take their turns.
func (m *machine) play(ctx context.Context, seed, variant uint64, skip string, log bool) (world, error) {
	var out bytes.Buffer
	var now int64 // nanoseconds; only the Go runtime asks: the world has a clock of its own
	tick := func() int64 { now += 1000; return now }
	config := wazero.NewModuleConfig().WithName("").WithArgs("sim", "-test.run=^TestSim$").
		WithEnv("SIM_SEED", strconv.FormatUint(seed, 10)).WithEnv("SIM_SEEDS", "1").WithEnv("SIM_SKIP", skip).WithEnv("GOGC", "400").
		WithStdout(&out).WithStderr(&out).
		WithRandSource(random{rand.New(rand.NewPCG(seed, variant))}).
		WithNanotime(tick, 1).WithWalltime(func() (int64, int32) { n := tick(); return n / 1e9, int32(n % 1e9) }, 1).
		WithNanosleep(func(ns int64) { now += ns })
	if log {
		config = config.WithEnv("SIM_LOG", "-")
	}
	instance, err := m.runtime.InstantiateModule(ctx, m.module, config)
	if instance != nil {
		_ = instance.Close(ctx)
	}
	var exit *sys.ExitError
	if err != nil && !errors.As(err, &exit) {
		return world{}, fmt.Errorf("seed %d: %w", seed, err)
	}
	worlds := read(out.String())
	if len(worlds) != 1 {
		return world{}, fmt.Errorf("seed %d ended without a result:\n%s", seed, lastLines(out.String(), 40))
	}
	worlds[0].output = out.String()
	return worlds[0], nil
}

// world is what became of one world.
type world struct {
	seed      uint64
	faults    int
	simulated time.Duration
	writes    int
	broken    int    // promises
	story     string // when one was broken
	output    string // all that was printed, of a single world
}

// summary is the line that TestSim prints for each world.
var summary = regexp.MustCompile(`(?m)^sim: seed (\d+): (\d+) faults, ([\d.]+) s, (\d+) writes, (\d+) violations$`)

// read finds the worlds in what TestSim printed.
func read(output string) []world {
	var worlds []world
	places := summary.FindAllStringSubmatchIndex(output, -1)
	for i, at := range places {
		end := len(output)
		if i+1 < len(places) {
			end = places[i+1][0]
		}
		field := func(n int) string { return output[at[2*n]:at[2*n+1]] }
		w := world{}
		w.seed, _ = strconv.ParseUint(field(1), 10, 64)
		w.faults, _ = strconv.Atoi(field(2))
		seconds, _ := strconv.ParseFloat(field(3), 64)
		w.simulated = time.Duration(seconds * float64(time.Second))
		w.writes, _ = strconv.Atoi(field(4))
		w.broken, _ = strconv.Atoi(field(5))
		_, story, _ := strings.Cut(output[at[1]:end], "sim: story\n")
		w.story, _, _ = strings.Cut(story, "\nsim: end of story")
		worlds = append(worlds, w)
	}
	return worlds
}

// promise is the first promise that a world broke, shortened.
func (w world) promise() string {
	_, line, _ := strings.Cut(w.story, "VIOLATED ")
	line, _, _ = strings.Cut(line, "\n")
	return line[:min(len(line), 100)]
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

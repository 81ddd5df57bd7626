package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// mutant is a guard of the production code taken out: a change of one file that
// exists only in the build of one module. If no world notices, the simulator
// does not watch over that guard.
type mutant struct {
	name string // also that of the row in doc/safety.md
	rule string // the promise or rule that it breaks
	file string
	old  string // stands once in the file
	new  string
}

// mutantSeeds is how many worlds may pass before a mutant has to be noticed.
const mutantSeeds = 1000

// hunt builds every mutant whose name contains only, plays worlds until one
// breaks a promise, and prints how many it took. It returns how many mutants
// were not noticed.
func hunt(ctx context.Context, only string, o options) (int, error) {
	dir, err := os.MkdirTemp("", "ringfence-mutants-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	fmt.Printf("%-4s %-32s %8s %8s  %s\n", "rule", "what is taken out", "worlds", "time", "what a world noticed")
	missed := 0
	for _, m := range mutants {
		if !strings.Contains(m.name, only) {
			continue
		}
		module, err := m.build(ctx, dir)
		if err != nil {
			return missed, fmt.Errorf("mutant %q: %w", m.name, err)
		}
		began := time.Now()
		needed, noticed, err := search(ctx, module, o)
		if err != nil {
			return missed, fmt.Errorf("mutant %q: %w", m.name, err)
		}
		if noticed == "" {
			missed++
			noticed = "NOTHING"
		}
		fmt.Printf("%-4s %-32s %8d %8v  %s\n", m.rule, m.name, needed, time.Since(began).Round(time.Second), noticed)
	}
	return missed, nil
}

// search plays worlds until one breaks a promise.
func search(ctx context.Context, module string, o options) (worlds int, noticed string, err error) {
	m, err := newMachine(ctx, module)
	if err != nil {
		return 0, "", err
	}
	o.seeds, o.stop = mutantSeeds, 1
	failed, err := m.playAll(ctx, o, func(w world) { worlds++ })
	if err != nil || len(failed) == 0 {
		return worlds, "", err
	}
	first := failed[0]
	for _, w := range failed {
		if w.seed < first.seed {
			first = w
		}
	}
	return int(first.seed), first.promise(), nil
}

// promise is the first promise that a world broke, shortened.
func (w world) promise() string {
	_, line, _ := strings.Cut(w.output, "VIOLATED ")
	line, _, _ = strings.Cut(line, "\n")
	return line[:min(len(line), 90)]
}

// build compiles the module with the mutant in it.
func (m mutant) build(ctx context.Context, dir string) (string, error) {
	text, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return "", fmt.Errorf("its text stands %d times in %s, want once: the code has changed, change the mutant", n, m.file)
	}
	changed := filepath.Join(dir, "mutant.go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600); err != nil {
		return "", err
	}
	path, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		return "", err
	}
	list, module := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "mutant.wasm")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", list, "-o", module, "./internal/sim")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return module, nil
}

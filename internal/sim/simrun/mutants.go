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
// exists only in one build. If no world notices, the simulator
// does not watch over that guard.
type mutant struct {
	name  string // also that of the row in doc/safety.md
	rule  string // the promise or rule that it breaks
	edits []edit
}

// edit replaces a text that stands once in a file.
type edit struct{ file, old, new string }

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
		binary, err := m.build(ctx, dir)
		if err != nil {
			return missed, fmt.Errorf("mutant %q: %w", m.name, err)
		}
		began := time.Now()
		needed, noticed, err := search(ctx, binary, o)
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
func search(ctx context.Context, binary string, o options) (worlds int, noticed string, err error) {
	o.first, o.seeds, o.stop = 1, mutantSeeds, 1
	failed, err := hunting{binary: binary}.all(ctx, o, func(world) { worlds++ })
	if err != nil || len(failed) == 0 {
		return worlds, "", err
	}
	return int(failed[0].seed), failed[0].promise(), nil
}

// build compiles the tests of package sim with the mutant in them.
func (m mutant) build(ctx context.Context, dir string) (string, error) {
	replaced := map[string]string{}
	for i, e := range m.edits {
		path, err := filepath.Abs(e.file)
		if err != nil {
			return "", err
		}
		from := path
		if replaced[path] != "" {
			from = replaced[path] // a second edit of the file
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		if n := strings.Count(string(text), e.old); n != 1 {
			return "", fmt.Errorf("its text stands %d times in %s, want once: the code has changed, change the mutant", n, e.file)
		}
		replaced[path] = filepath.Join(dir, fmt.Sprintf("mutant%d.go", i))
		if err := os.WriteFile(replaced[path], []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o600); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": replaced})
	if err != nil {
		return "", err
	}
	list, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "mutant.test")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", list, "-o", binary, "./internal/sim")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return binary, nil
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The shipped binary is what is tested: links to it are what runs.
func TestScripts(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "ringfence-agents"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"), RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", dir+string(os.PathListSeparator)+env.Getenv("PATH"))
			return nil
		},
	})
}

// An agent starts at each fencing, so it must not pull in what a daemon has.
func TestTheBinaryIsSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 50 {
		t.Fatalf("%d dependencies: the test looks in the wrong place", len(deps))
	}
	for _, dep := range deps {
		for _, banned := range []string{
			"net/http", "crypto/tls", "encoding/xml", "github.com/spf13/", "go.etcd.io/", "google.golang.org/", "ringfence/internal/cli",
			"ringfence/internal/app", "ringfence/internal/node", "ringfence/internal/hostd", "ringfence/internal/fencevirt",
		} {
			if dep == banned || strings.HasPrefix(dep, strings.TrimSuffix(banned, "/")+"/") {
				t.Errorf("ringfence-agents imports %s", dep)
			}
		}
	}
}

// A link that cannot be made leaves nothing half made.
func TestReplaceRemovesWhatItLeaves(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "fence_test")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := replace("/program", path); err == nil {
		t.Fatal("a directory was replaced")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

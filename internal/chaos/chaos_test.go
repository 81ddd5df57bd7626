package chaos

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// shortRun is how long faults go on in `make test`.
const shortRun = 30 * time.Second

// TestChaos plays with the shipped binary. `make chaos` sets how long.
func TestChaos(t *testing.T) {
	o := Options{Duration: shortRun, Seed: rand.Uint64N(1e6), Out: os.Stderr}
	if os.Getenv("RINGFENCE_TEST_LONG") == "" && os.Getenv("RINGFENCE_CHAOS") == "" {
		t.Skip("SKIPPED: plays a cluster for a minute; `make test` and `make chaos` do")
	}
	needNamespaces(t)
	if text := os.Getenv("RINGFENCE_CHAOS"); text != "" {
		duration, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("DURATION: %v", err)
		}
		o.Duration = duration
	}
	if text := os.Getenv("RINGFENCE_CHAOS_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("SEED: %v", err)
		}
		o.Seed = seed
	}
	dir, err := os.MkdirTemp("", "rc-") // short: paths of sockets are
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	o.Dir, o.Exe = filepath.Join(dir, "lab"), filepath.Join(dir, "ringfence")
	o.Logs = filepath.Join(os.TempDir(), "ringfence-chaos-"+strconv.FormatUint(o.Seed, 10))
	if out, err := exec.Command("go", "build", "-o", o.Exe, "ringfence/cmd/ringfence").CombinedOutput(); err != nil {
		t.Fatalf("build the shipped binary: %v\n%s", err, out)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := Run(ctx, o)
	if len(report.Services) > 0 {
		_ = report.Write(o.Out)
	}
	if err != nil || !report.OK() {
		t.Errorf("%v\nthe same faults again (what becomes of them may differ, since time is real):\n  make chaos SEED=%d DURATION=%v",
			err, o.Seed, o.Duration)
	}
}

// needNamespaces skips where no lab can be.
func needNamespaces(t *testing.T) {
	t.Helper()
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET}
	if err := cmd.Run(); os.Geteuid() != 0 && err != nil {
		t.Skipf("SKIPPED: needs root, or user namespaces: %v", err)
	}
}

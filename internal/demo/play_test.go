package demo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/demo/judge"
)

// nobody is an ordinary user.
const nobody = 65534

// shipped builds the shipped binary where every user may run it.
func shipped(t *testing.T) (exe, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rd-") // short: paths of sockets are
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	exe = filepath.Join(dir, "ringfence")
	if out, err := exec.Command("go", "build", "-o", exe, "ringfence/cmd/ringfence").CombinedOutput(); err != nil {
		t.Fatalf("build the shipped binary: %v\n%s", err, out)
	}
	return exe, dir
}

// demoCommandOf runs the demo with a lab directory of its own.
func demoCommandOf(exe, labDir string, asUser bool, args ...string) *exec.Cmd {
	cmd := exec.Command(exe, append([]string{"demo"}, args...)...)
	cmd.Env = append(os.Environ(), "RINGFENCE_LAB="+labDir)
	cmd.Dir = "/"
	if asUser {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// needNamespaces skips where the demo cannot be played, or not in a hurry.
func needNamespaces(t *testing.T) {
	t.Helper()
	if os.Getenv("RINGFENCE_TEST_LONG") == "" {
		t.Skip("SKIPPED: plays the whole demo several times, 2 min; `make test` does")
	}
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET}
	if err := cmd.Run(); os.Geteuid() != 0 && err != nil {
		t.Skipf("SKIPPED: needs root, or user namespaces: %v", err)
	}
}

// TestDemo plays everything with the shipped binary, and a little as an
// ordinary user; then it interrupts one. Nothing may stay behind.
func TestDemo(t *testing.T) {
	needNamespaces(t)
	exe, dir := shipped(t)
	t.Run("all scenarios", func(t *testing.T) {
		r := playShipped(t, demoCommandOf(exe, filepath.Join(dir, "a"), false, "--json"))
		if len(r.Results) != len(scenarios()) {
			t.Errorf("%d scenarios were played, want %d", len(r.Results), len(scenarios()))
		}
		wantEvidence(t, r)
	})
	t.Run("of an ordinary user", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Log("that is what the first was")
			return
		}
		playShipped(t, demoCommandOf(exe, filepath.Join(dir, "b"), true, "--json", "--scenario", "1,3,6,7,8"))
	})
	t.Run("a double run on purpose", func(t *testing.T) { doubleRun(t, exe, filepath.Join(dir, "d")) })
	t.Run("interrupted", func(t *testing.T) { interrupt(t, demoCommandOf(exe, filepath.Join(dir, "c"), false)) })
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind in %s: %v (%v), want the binary alone", dir, left, err)
	}
}

// wantEvidence expects that only what must have ended has, and by what.
func wantEvidence(t *testing.T, r Report) {
	t.Helper()
	const calm = "none needed: nothing failed over"
	want := map[int][]string{
		1: {"death certificate"}, 2: {"fenced"}, 3: {"fenced"},
		6: {calm, "fenced"}, 7: {calm, "death certificate"}, 8: {calm, "fenced"},
	}
	got := map[int][]string{}
	for _, one := range r.Results {
		if want[one.Scenario] != nil {
			got[one.Scenario] = append(got[one.Scenario], one.Evidence)
		}
		if one.Calm != (one.Evidence == calm) {
			t.Errorf("scenario %d is calm: %v, evidence %q", one.Scenario, one.Calm, one.Evidence)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("evidence (-want +got):\n%s", diff)
	}
}

func playShipped(t *testing.T, cmd *exec.Cmd) Report {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("the demo ended with %v\n%s%s", err, &stdout, &stderr)
	}
	var r Report
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v in\n%s", err, &stdout)
	}
	for _, one := range r.Results {
		if !one.OK() {
			t.Errorf("%+v", one)
		}
		if one.Questions == 0 || one.Lines == 0 {
			t.Errorf("scenario %d rests on %d questions and %d lines", one.Scenario, one.Questions, one.Lines)
		}
	}
	if !r.OK {
		t.Errorf("not well: %s", &stdout)
	}
	return r
}

// doubleRun starts the service's program a second time, in another guest, while
// the demo plays: the demo must see it, say so and fail.
func doubleRun(t *testing.T, exe, labDir string) {
	cmd := demoCommandOf(exe, labDir, false, "--json", "--scenario", "4", "--runs", "3")
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	second := exec.Command(exe, "lab", "exec", "n3", "--", "env", "RINGFENCE_NODE=n3", "RINGFENCE_BOOT=second", "RINGFENCE_GENERATION=1",
		exe, "demo-app", "--journal", filepath.Join(labDir, "shared", "journal"), "--listen", "127.0.0.1:80")
	second.Env = cmd.Env
	said, err := follow(t, cmd, "now things go wrong", func() {
		if err := second.Start(); err != nil {
			t.Fatal(err)
		}
	})
	_ = second.Wait() // it ends with the lab
	var r Report
	if jsonErr := json.Unmarshal(stdout.Bytes(), &r); jsonErr != nil {
		t.Fatalf("%v in\n%s%s", jsonErr, &stdout, said)
	}
	rules := map[judge.Rule]bool{}
	for _, o := range r.Overlaps {
		rules[o.Rule] = true
	}
	if err == nil || r.OK || !rules[judge.FileOrder] || !rules[judge.TimeOrder] || !rules[judge.Generations] {
		t.Errorf("the demo ended with %v, ok %v, overlaps %v\n%s", err, r.OK, r.Overlaps, said)
	}
	if !strings.Contains(said, "OVERLAP") {
		t.Errorf("no word of an overlap in\n%s", said)
	}
}

// follow runs a command to its end, and do when its standard error says a word.
func follow(t *testing.T, cmd *exec.Cmd, word string, do func()) (said string, err error) {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		said += lines.Text() + "\n"
		if strings.Contains(lines.Text(), word) {
			do()
		}
	}
	return said, cmd.Wait()
}

// interrupt sends Ctrl-C when guests run already.
func interrupt(t *testing.T, cmd *exec.Cmd) {
	said, err := follow(t, cmd, "joining n2", func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	})
	if err == nil || !strings.Contains(said, "interrupted; the lab is gone") {
		t.Errorf("the demo ended with %v\n%s", err, said)
	}
}

package exec

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
	"ringfence/internal/resource/proctree"
)

// Verbs of the test binary when it is run as a helper process.
const (
	verbReaper  = "test-reaper"  // what a daemon's hidden verb does
	verbService = "test-service" // a service with one worker; args: token, ready file
	verbWorker  = "test-worker"  // args: token
	verbDaemon  = "test-daemon"  // a node daemon that is going to be killed; args: run dir, mode, command
)

func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case verbReaper:
		os.Exit(proctree.RunReaper(os.Args[2:]))
	case verbService:
		os.Exit(serve(os.Args[2], os.Args[3]))
	case verbWorker:
		fmt.Println("working")
		os.Exit(block())
	case verbDaemon:
		os.Exit(daemon(os.Args[2], os.Args[3], os.Args[4]))
	}
	os.Exit(m.Run())
}

func serve(token, ready string) int {
	worker := osexec.Command("/proc/self/exe", verbWorker, token)
	out, err := worker.StdoutPipe()
	if err == nil {
		err = worker.Start()
	}
	if err == nil {
		_, err = bufio.NewReader(out).ReadString('\n')
	}
	if err == nil {
		err = os.WriteFile(ready, nil, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return block()
}

func daemon(runDir, mode, command string) int {
	a, err := New(options(runDir, mode, slog.New(slog.DiscardHandler)))
	if err == nil {
		err = a.Start(context.Background(), shellCall(command))
	}
	fmt.Println("started:", err)
	return block()
}

// block waits to be killed.
func block() int {
	time.Sleep(time.Hour)
	return 1
}

// modes are the two ways to hold a tree together.
var modes = []string{"cgroup", "reaper"}

func options(runDir, mode string, log *slog.Logger) Options {
	return Options{
		RunDir: runDir, Logger: log, NoCgroup: mode == "reaper",
		Reaper: []string{"/proc/self/exe", verbReaper},
	}
}

// inModes runs a case with both kinds of trees.
func inModes(t *testing.T, run func(t *testing.T, mode string)) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			if mode == "cgroup" {
				needCgroup(t)
			}
			run(t, mode)
		})
	}
}

func needCgroup(t *testing.T) {
	t.Helper()
	parent, err := makeParent(Options{RunDir: t.TempDir()})
	if err != nil {
		t.Skipf("SKIPPED: needs root and a writable cgroup v2: %v", err)
	}
	if err := os.Remove(parent); err != nil {
		t.Fatal(err)
	}
}

func newAgent(t *testing.T, runDir, mode string) *Agent {
	t.Helper()
	a, err := New(options(runDir, mode, slog.New(slog.NewTextHandler(t.Output(), nil))))
	if err != nil {
		t.Fatal(err)
	}
	if held := a.cgroup != ""; held != (mode == "cgroup") {
		t.Fatalf("mode %s, but the agent's cgroup is %q", mode, a.cgroup)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// callOf makes a call with short but sufficient times.
func callOf(params map[string]string) resource.Call {
	return resource.Call{Service: "web", Node: "n1", Generation: 7, Resource: cluster.Resource{
		Name: "app", Agent: "exec", Params: params, StopTimeout: time.Minute,
	}}
}

func shellCall(command string) resource.Call {
	return callOf(map[string]string{"command": command, "shell": "true", "stop_grace": "30s"})
}

func monitor(t *testing.T, a *Agent, call resource.Call) resource.Status {
	t.Helper()
	status, err := a.Monitor(t.Context(), call)
	t.Logf("monitor: %q %v", status, err)
	return status
}

func mustStart(t *testing.T, a *Agent, call resource.Call) {
	t.Helper()
	if err := a.Start(t.Context(), call); err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() { // after a failed case
		call.Resource.Params["stop_grace"] = "0s"
		_ = a.Stop(context.Background(), call)
	})
}

func mustStop(t *testing.T, a *Agent, call resource.Call) {
	t.Helper()
	if err := a.Stop(t.Context(), call); err != nil {
		t.Fatalf("stop: %v", err)
	}
}

var tokens atomic.Int64

// newToken returns a number of seconds that no other process's command line
// holds, so that `sleep <token>` can be found.
func newToken() string {
	return strconv.FormatInt(int64(os.Getpid())*1_000_000+tokens.Add(1), 10)
}

// holding lists the processes, but zombies, that have the token in their
// command line; the agent is not asked.
func holding(t *testing.T, token string) []string {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range entries {
		text, err := os.ReadFile(entry)
		if err == nil && strings.Contains(string(text), token) && !strings.Contains(string(text), verbReaper) {
			found = append(found, filepath.Base(filepath.Dir(entry)))
		}
	}
	return found
}

// kill kills processes of the test by pid.
func kill(t *testing.T, pids ...string) {
	t.Helper()
	for _, text := range pids {
		pid, err := strconv.Atoi(text)
		if err == nil {
			err = unix.Kill(pid, unix.SIGKILL)
		}
		if err != nil {
			t.Fatalf("kill %s: %v", text, err)
		}
	}
}

// eventually waits for what another process does soon; the test's own
// deadline is the bound.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for !happened() {
		if t.Context().Err() != nil {
			t.Fatalf("waited in vain for: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func readLog(t *testing.T, a *Agent) string {
	t.Helper()
	text, err := os.ReadFile(a.path("web@app", ".log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// startDaemon runs a node daemon that starts command, and returns a function
// that kills it.
func startDaemon(t *testing.T, runDir, mode, command string) (crash func()) {
	t.Helper()
	cmd := osexec.Command("/proc/self/exe", verbDaemon, runDir, mode, command)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "started: <nil>\n" {
		t.Fatalf("daemon says %q, %v", line, err)
	}
	return func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // killed
	}
}

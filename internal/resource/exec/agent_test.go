package exec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ringfence/internal/resource"
	"ringfence/internal/resource/proctree"
	"ringfence/internal/resource/resourcetest"
)

// readyAgent waits until the test's service has all its processes.
type readyAgent struct {
	*Agent
	ready string
	left  func() []string
}

func (r readyAgent) Start(ctx context.Context, call resource.Call) error {
	if len(r.left()) == 0 {
		_ = os.Remove(r.ready) // of an earlier start
	}
	if err := r.Agent.Start(ctx, call); err != nil {
		return err
	}
	for {
		if _, err := os.Stat(r.ready); err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func TestConformance(t *testing.T) {
	inModes(t, func(t *testing.T, mode string) {
		resourcetest.Run(t, func(t *testing.T) resourcetest.Harness { return harness(t, mode) })
	})
}

func harness(t *testing.T, mode string) resourcetest.Harness {
	a, token := newAgent(t, t.TempDir(), mode), newToken()
	ready := filepath.Join(t.TempDir(), "ready")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	call := callOf(map[string]string{"command": exe + " " + verbService + " " + token + " " + ready})
	left := func(t *testing.T) []string { return holding(t, token) }
	endMain := func(t *testing.T) {
		st, _, err := a.load("web@app")
		if err != nil {
			t.Fatal(err)
		}
		kill(t, fmt.Sprint(st.Main.PID))
		eventually(t, "the main process to end", func() bool { alive, _ := proctree.Alive(st.Main); return !alive })
	}
	return resourcetest.Harness{
		Agent: readyAgent{a, ready, func() []string { return left(t) }}, Call: call, Left: left, End: endMain, Damage: endMain,
		Blind: func(t *testing.T) func() {
			path := a.path("web@app", ".json")
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			write := func(text []byte) {
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(whole[:len(whole)/2])
			return func() { write(whole) }
		},
		Bad: badParams,
	}
}

// badParams holds one case for every rule of config.go.
var badParams = []resourcetest.BadParams{
	{Name: "no command", Params: map[string]string{}, Want: []string{"params.command", "required"}},
	{Name: "unknown key", Params: map[string]string{"command": "true", "comand": "x"}, Want: []string{"params.comand", `"x"`, "stop_signal"}},
	{Name: "quotes without shell", Params: map[string]string{"command": "echo 'a b'"}, Want: []string{"params.command", "'a b'", "shell"}},
	{Name: "command too long", Params: map[string]string{"command": strings.Repeat("x", commandLimitBytes+1)}, Want: []string{"params.command", "65537", "65536"}},
	{Name: "shell is no boolean", Params: map[string]string{"command": "true", "shell": "yes"}, Want: []string{"params.shell", `"yes"`, `"true"`}},
	{Name: "relative dir", Params: map[string]string{"command": "true", "dir": "data"}, Want: []string{"params.dir", `"data"`, "absolute"}},
	{Name: "unknown signal", Params: map[string]string{"command": "true", "stop_signal": "SIGTERM"}, Want: []string{"params.stop_signal", `"SIGTERM"`, "TERM"}},
	{Name: "grace is no duration", Params: map[string]string{"command": "true", "stop_grace": "5"}, Want: []string{"params.stop_grace", `"5"`, "5s"}},
	{Name: "grace not below stop timeout", Params: map[string]string{"command": "true", "stop_grace": "60s"}, Want: []string{"params.stop_grace", `"60s"`, "stop_timeout = 1m0s"}},
	{Name: "bad variable name", Params: map[string]string{"command": "true", "env.A-B": "v"}, Want: []string{"params.env.A-B", `"v"`, "letters"}},
	{Name: "reserved variable", Params: map[string]string{"command": "true", "env.RINGFENCE_NODE": "n9"}, Want: []string{"params.env.RINGFENCE_NODE", `"n9"`, "set by ringfence"}},
	{Name: "zero byte", Params: map[string]string{"command": "true", "env.A": "v\x00"}, Want: []string{"params.env.A", "zero byte"}},
	{Name: "two wrongs are both named", Params: map[string]string{"command": "true", "shell": "no", "dir": "x"}, Want: []string{"params.shell", "params.dir"}},
}

func TestStopCatchesDaemons(t *testing.T) {
	cases := map[string]string{
		"setsid, double fork, clean environment": "(env -i setsid sleep %s &); exec sleep %[1]s",
		"whole chain ignores the stop signal":    "trap '' TERM; (setsid sleep %s &); sleep %[1]s",
	}
	for name, form := range cases {
		t.Run(name, func(t *testing.T) {
			inModes(t, func(t *testing.T, mode string) {
				a, token := newAgent(t, t.TempDir(), mode), newToken()
				call := shellCall(fmt.Sprintf(form, token))
				call.Resource.Params["stop_grace"] = "50ms"
				mustStart(t, a, call)
				eventually(t, "two processes", func() bool { return len(holding(t, token)) >= 2 })
				mustStop(t, a, call)
				if left := holding(t, token); len(left) > 0 {
					t.Fatalf("left after stop: %v", left)
				}
			})
		})
	}
}

func TestStopCatchesOneThatKeepsMoving(t *testing.T) {
	inModes(t, func(t *testing.T, mode string) {
		script := filepath.Join(t.TempDir(), newToken())
		text := "#!/bin/sh\ntrap '' TERM\nsleep 0.005\nsetsid $0 &\nexit\n"
		if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		a := newAgent(t, t.TempDir(), mode)
		call := shellCall(script + "; exec sleep 1000")
		call.Resource.Params["stop_grace"] = "20ms"
		mustStart(t, a, call)
		eventually(t, "the chain", func() bool { return len(holding(t, script)) > 0 })
		mustStop(t, a, call)
		if left := holding(t, script); len(left) > 0 {
			t.Fatalf("left after stop: %v", left)
		}
	})
}

func TestStopSignalComesFirst(t *testing.T) {
	inModes(t, func(t *testing.T, mode string) {
		a := newAgent(t, t.TempDir(), mode)
		dir := t.TempDir()
		call := shellCall("trap 'echo saved >data; exit 0' USR1; touch up; while :; do sleep 0.01; done")
		call.Resource.Params["stop_signal"], call.Resource.Params["dir"] = "USR1", dir
		mustStart(t, a, call)
		eventually(t, "the trap", func() bool { _, err := os.Stat(dir + "/up"); return err == nil })
		mustStop(t, a, call)
		if text, err := os.ReadFile(dir + "/data"); string(text) != "saved\n" {
			t.Fatalf("data = %q, %v: the command could not end by itself", text, err)
		}
	})
}

func TestStopEndedByCtxKillsAndErrs(t *testing.T) {
	inModes(t, func(t *testing.T, mode string) {
		a, token := newAgent(t, t.TempDir(), mode), newToken()
		call := shellCall("trap 'echo asked' TERM; echo up; while :; do sleep 0.01; done # " + token)
		mustStart(t, a, call)
		eventually(t, "the trap", func() bool { return strings.Contains(readLog(t, a), "up") })
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error, 1)
		go func() { got <- a.Stop(ctx, call) }()
		eventually(t, "the stop signal", func() bool { return strings.Contains(readLog(t, a), "asked") })
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Fatalf("stop = %v although it could not wait for the end", err)
		}
		eventually(t, "the kill", func() bool { return len(holding(t, token)) == 0 })
		mustStop(t, a, call)
		if left := holding(t, token); len(left) > 0 {
			t.Fatalf("left after stop: %v", left)
		}
	})
}

func TestNextDaemonTakesOver(t *testing.T) {
	const command = "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; exec sleep "
	inModes(t, func(t *testing.T, mode string) {
		runDir, token, cwd := t.TempDir(), newToken(), t.TempDir()
		crash := startDaemon(t, runDir, mode, "cd "+cwd+"; (env -i setsid sleep "+token+" &) ; "+command+token)
		crash()
		a := newAgent(t, runDir, mode)
		call := shellCall(command)
		t.Cleanup(func() { _ = a.Stop(context.Background(), call) })
		if got := monitor(t, a, call); got != resource.StatusActive {
			t.Fatalf("monitor by the next daemon = %q, want active", got)
		}
		if err := os.WriteFile(cwd+"/go", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		eventually(t, "output written after the crash", func() bool { return strings.Contains(readLog(t, a), "two\n") })
		got := make(chan error, 1)
		go func() { got <- a.Watch(t.Context(), call) }()
		st, _, err := a.load("web@app")
		if err != nil {
			t.Fatal(err)
		}
		kill(t, fmt.Sprint(st.Main.PID))
		if err := <-got; err == nil || !strings.Contains(err.Error(), "main process") {
			t.Fatalf("watch by the next daemon = %v", err)
		}
		if got := monitor(t, a, call); got != resource.StatusFailed {
			t.Fatalf("main ended, the rest left: monitor = %q, want failed", got)
		}
		mustStop(t, a, call)
		if left := holding(t, token); len(left) > 0 {
			t.Fatalf("left after stop: %v", left)
		}
	})
}

func TestStartWithAnotherGenerationIsRefused(t *testing.T) {
	inModes(t, func(t *testing.T, mode string) {
		a := newAgent(t, t.TempDir(), mode)
		call := callOf(map[string]string{"command": "sleep " + newToken()})
		mustStart(t, a, call)
		next := call
		next.Generation++
		if err := a.Start(t.Context(), next); err == nil || !strings.Contains(err.Error(), "stop it first") {
			t.Fatalf("start = %v", err)
		}
		mustStop(t, a, call)
		mustStart(t, a, next)
		mustStop(t, a, next)
	})
}

func TestEnvironmentAndDirectory(t *testing.T) {
	inModes(t, func(t *testing.T, mode string) {
		t.Setenv("OF_THE_DAEMON", "1")
		a, dir := newAgent(t, t.TempDir(), mode), t.TempDir()
		call := callOf(map[string]string{
			"command": "env | grep -v ^PWD= | sort >env; pwd >>env", "shell": "true",
			"dir": dir, "env.B": "b  b", "env.A": "a",
		})
		mustStart(t, a, call)
		if err := a.Watch(t.Context(), call); err == nil || !strings.Contains(err.Error(), "exit status 0") {
			t.Fatalf("watch = %v, want the exit status", err)
		}
		got, err := os.ReadFile(dir + "/env")
		want := "A=a\nB=b  b\nPATH=" + defaultPath + "\nRINGFENCE_GENERATION=7\nRINGFENCE_NODE=n1\n" +
			"RINGFENCE_RESOURCE=app\nRINGFENCE_SERVICE=web\n" + dir + "\n"
		if string(got) != want || err != nil {
			t.Fatalf("environment = %q, %v\nwant %q", got, err, want)
		}
		eventually(t, "the tree to be empty", func() bool { return monitor(t, a, call) == resource.StatusInactive })
		mustStop(t, a, call)
	})
}

func TestCommandThatCannotBeExecutedIsNamed(t *testing.T) {
	inModes(t, func(t *testing.T, mode string) {
		noFormat := filepath.Join(t.TempDir(), "noformat")
		if err := os.WriteFile(noFormat, []byte("\x01\x02"), 0o700); err != nil {
			t.Fatal(err)
		}
		for command, want := range map[string]string{
			"/no/such/file":       "no such file",
			"no-such-command arg": "/usr/bin/no-such-command",
			"/etc":                "is a directory",
			noFormat:              "exec format error",
		} {
			a := newAgent(t, t.TempDir(), mode)
			call := callOf(map[string]string{"command": command})
			err := a.Start(t.Context(), call)
			if err == nil || !strings.Contains(err.Error(), strings.Fields(command)[0]) || !strings.Contains(err.Error(), want) {
				t.Errorf("start of %q = %v, want the command and %q", command, err, want)
			}
			if got := monitor(t, a, call); got != resource.StatusInactive {
				t.Errorf("after the refused start of %q monitor = %q", command, got)
			}
			mustStop(t, a, call)
		}
	})
}

func TestReaperKilledProvesNothing(t *testing.T) {
	a, token := newAgent(t, t.TempDir(), "reaper"), newToken()
	call := callOf(map[string]string{"command": "sleep " + token, "stop_grace": "1s"})
	mustStart(t, a, call)
	st, _, err := a.load("web@app")
	if err != nil {
		t.Fatal(err)
	}
	kill(t, fmt.Sprint(st.Reaper.PID))
	eventually(t, "the reaper's end", func() bool { alive, _ := proctree.Alive(st.Reaper); return !alive })
	if got := monitor(t, a, call); got != resource.StatusUnknown {
		t.Fatalf("monitor = %q, want unknown", got)
	}
	if err := a.Stop(t.Context(), call); err == nil {
		t.Fatal("stop said nil without a proof")
	}
	eventually(t, "what can be found to be killed all the same", func() bool { return len(holding(t, token)) == 0 })
	st.MachineRun = "an earlier boot"
	if err := a.save("web@app", st); err != nil {
		t.Fatal(err)
	}
	if got := monitor(t, a, call); got != resource.StatusInactive {
		t.Fatalf("after a restart of the machine monitor = %q, want inactive", got)
	}
	mustStop(t, a, call)
}

func TestProcessesWithoutRecordAreFoundAndStopped(t *testing.T) {
	needCgroup(t)
	a := newAgent(t, t.TempDir(), "cgroup")
	call := callOf(map[string]string{"command": "sleep " + newToken()})
	mustStart(t, a, call)
	if err := a.erase("web@app"); err != nil {
		t.Fatal(err)
	}
	if got := monitor(t, a, call); got != resource.StatusFailed {
		t.Fatalf("monitor = %q, want failed", got)
	}
	if err := a.Start(t.Context(), call); err == nil {
		t.Fatal("started beside processes without a record")
	}
	mustStop(t, a, call)
	if got := monitor(t, a, call); got != resource.StatusInactive {
		t.Fatalf("monitor = %q, want inactive", got)
	}
}

func TestNothingIsLeftOfCgroups(t *testing.T) {
	needCgroup(t)
	a := newAgent(t, t.TempDir(), "cgroup")
	call := callOf(map[string]string{"command": "sleep " + newToken()})
	mustStart(t, a, call)
	inner := filepath.Join(a.cgroupOf("web@app").Dir(), "made", "by-the-service")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	mustStop(t, a, call)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Access(a.cgroup, unix.F_OK); err != unix.ENOENT {
		t.Fatalf("cgroup %s is still there: %v", a.cgroup, err)
	}
}

func TestNewFailsWhereNothingCanHoldATree(t *testing.T) {
	o := options(t.TempDir(), "reaper", newAgent(t, t.TempDir(), "reaper").log)
	o.Reaper = nil
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "no reaper command") {
		t.Errorf("new = %v", err)
	}
	o.RunDir = "run"
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), `"run"`) {
		t.Errorf("new with a relative run directory = %v", err)
	}
	o = options(t.TempDir(), "cgroup", o.Logger)
	o.CgroupBase = t.TempDir()
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), o.CgroupBase) {
		t.Errorf("new with a base that is no cgroup = %v", err)
	}
}

package ocf

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ringfence/internal/resource"
)

// debianCase is one of Debian's agents with something real to run.
type debianCase struct {
	agent  string
	needs  string // what must be installed besides the agent
	params map[string]string
	// active tells whether it is, seen from outside.
	active func() bool
	// kill ends it behind the agent's back.
	kill func(t *testing.T)
}

func TestDebianAgents(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []debianCase{dummy(dir), address(), filesystem(t, dir), nginx(t, dir)} {
		t.Run(c.agent, func(t *testing.T) { lifecycle(t, c) })
	}
}

// lifecycle: started, monitored, killed, found dead, recovered, stopped.
func lifecycle(t *testing.T, c debianCase) {
	needDebian(t, c)
	a := newAgent(t, DefaultRoot)
	call := callOf("ocf:heartbeat:"+c.agent, c.params)
	t.Cleanup(func() { _ = a.Stop(context.Background(), call) }) // after a failed case
	expect := func(step string, want resource.Status) {
		t.Helper()
		status, err := a.Monitor(t.Context(), call)
		if status != want || c.active() != (want == resource.StatusActive) {
			t.Fatalf("%s: monitor = %q, %v, want %q; from outside active = %v", step, status, err, want, c.active())
		}
	}
	do := func(step string, action error) {
		t.Helper()
		if action != nil {
			t.Fatalf("%s: %v", step, action)
		}
	}
	expect("before", resource.StatusInactive)
	do("start", a.Start(t.Context(), call))
	expect("started", resource.StatusActive)
	do("start again", a.Start(t.Context(), call))
	expect("started again", resource.StatusActive)
	c.kill(t)
	expect("killed", resource.StatusInactive)
	do("stop of a dead one", a.Stop(t.Context(), call))
	do("recovery", a.Start(t.Context(), call))
	expect("recovered", resource.StatusActive)
	do("stop", a.Stop(t.Context(), call))
	expect("stopped", resource.StatusInactive)
	do("stop again", a.Stop(t.Context(), call))
}

func needDebian(t *testing.T, c debianCase) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root, for mount and network namespaces")
	}
	for _, path := range []string{filepath.Join(DefaultRoot, "resource.d/heartbeat", c.agent), c.needs} {
		if _, err := os.Stat(path); err != nil {
			t.Skipf("SKIPPED: needs %s: install resource-agents, nginx-light and kmod", path)
		}
	}
}

func dummy(dir string) debianCase {
	state := filepath.Join(dir, "dummy")
	return debianCase{
		agent: "Dummy", needs: "/", params: map[string]string{"state": state},
		active: func() bool { _, err := os.Stat(state); return err == nil },
		kill:   func(t *testing.T) { must(t, os.Remove(state)) },
	}
}

func address() debianCase {
	return debianCase{
		agent: "IPaddr2", needs: "/", params: map[string]string{"ip": "192.0.2.20", "cidr_netmask": "24", "nic": "nic0"},
		active: func() bool {
			out, err := exec.Command("ip", "-o", "addr", "show", "dev", "nic0").Output()
			return err == nil && strings.Contains(string(out), " 192.0.2.20/24 ")
		},
		kill: func(t *testing.T) { must(t, exec.Command("ip", "addr", "del", "192.0.2.20/24", "dev", "nic0").Run()) },
	}
}

func filesystem(t *testing.T, dir string) debianCase {
	point := filepath.Join(dir, "mount")
	must(t, os.Mkdir(point, 0o755))
	return debianCase{
		agent: "Filesystem", needs: "/usr/sbin/modprobe", params: map[string]string{"device": "tmpfs", "fstype": "tmpfs", "directory": point},
		active: func() bool {
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			return err == nil && strings.Contains(string(mounts), " "+point+" ")
		},
		kill: func(t *testing.T) { must(t, unix.Unmount(point, 0)) },
	}
}

// nginx listens on a port of the test's own network namespace.
func nginx(t *testing.T, dir string) debianCase {
	config, pidFile := filepath.Join(dir, "nginx.conf"), filepath.Join(dir, "nginx.pid")
	text := fmt.Sprintf("pid %s;\nerror_log %s/error.log;\nworker_processes 1;\nevents {}\n"+
		"http { access_log off; server { listen 127.0.0.1:8080; return 200 ok; } }\n", pidFile, dir)
	must(t, os.WriteFile(config, []byte(text), 0o644))
	return debianCase{
		agent: "nginx", needs: "/usr/sbin/nginx", params: map[string]string{"configfile": config},
		active: func() bool { return processAlive(pidFile) },
		kill: func(t *testing.T) {
			pid := readPID(pidFile)
			group, err := unix.Getpgid(pid)
			must(t, err)
			must(t, unix.Kill(-group, unix.SIGKILL)) // master and workers
			for processAlive(pidFile) {
			}
		},
	}
}

func readPID(path string) int {
	text, _ := os.ReadFile(path)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

func processAlive(pidFile string) bool {
	pid := readPID(pidFile)
	return pid > 0 && unix.Kill(pid, 0) == nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

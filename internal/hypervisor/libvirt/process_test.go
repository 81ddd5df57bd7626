package libvirt

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/proc"
	lv "ringfence/internal/libvirt"
)

const exampleUUID = "22222222-2222-3333-4444-000000000001"

// pretend runs a process whose command line is that of a QEMU.
func pretend(t *testing.T, args ...string) int {
	t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{"-c", "read -r _", "qemu-system-x86_64"}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	await(t, "the process has its command line", func() bool {
		line, _ := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/cmdline")
		return strings.Contains(string(line), "qemu-system")
	})
	return cmd.Process.Pid
}

func TestAProcessSaysWhoseItIs(t *testing.T) {
	dir := t.TempDir()
	q := qemuProcesses{hostBoot: "boot", runDir: dir, pid: func(pid int) (int, error) { return pid, nil }}
	uuid, err := lv.ParseUUID(exampleUUID)
	if err != nil {
		t.Fatal(err)
	}
	dom := lv.Domain{Name: "db1", UUID: uuid, ID: 1}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "db1.pid"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := q.find(dom, nil); !errors.Is(err, errNoProcess) {
		t.Errorf("without a pid file: %v", err)
	}
	for _, bad := range []string{"", "x", "-4", "0", strings.Repeat("9", 40)} {
		write(bad)
		if id, err := q.find(dom, nil); err == nil {
			t.Errorf("pid file %q names %+v", bad, id)
		}
	}
	cold := pretend(t, "-name", "guest=db1", "-uuid", exampleUUID)
	write(strconv.Itoa(cold) + "\n")
	id, err := q.find(dom, nil)
	if err != nil {
		t.Fatal(err)
	}
	start, err := proc.StartTicks(cold)
	if err != nil {
		t.Fatal(err)
	}
	want := cluster.NewLifeID("boot", cold, start)
	if id.fresh != want || id.key != string(want) || id.image || id.reverted {
		t.Errorf("a cold start is %+v, want life %s", id, want)
	}
	for _, c := range []struct {
		args            []string
		image, reverted bool
	}{
		{[]string{"-uuid", exampleUUID, "-incoming", "defer"}, true, false},
		{[]string{"-loadvm", "s1", "-uuid", strings.ToUpper(exampleUUID)}, true, true},
	} {
		write(strconv.Itoa(pretend(t, c.args...)))
		if id, err := q.find(dom, nil); err != nil || id.image != c.image || id.reverted != c.reverted {
			t.Errorf("%v: %+v, %v", c.args, id, err)
		}
	}
	for _, other := range [][]string{{"-uuid", "22222222-2222-3333-4444-000000000002"}, {"-name", exampleUUID}, {"-uuid"}} {
		write(strconv.Itoa(pretend(t, other...)))
		if id, err := q.find(dom, nil); !errors.Is(err, errNoProcess) {
			t.Errorf("a pid file that was left behind names %v's process: %+v, %v", other, id, err)
		}
	}
	dom.Name = "../db1"
	if _, err := q.find(dom, nil); !errors.Is(err, errNoProcess) {
		t.Errorf("a name with a slash: %v", err)
	}
}

// A process that is held is known again by its pid, for as long as it lives.
func TestAHeldProcessIsKnownAgain(t *testing.T) {
	dir := t.TempDir()
	q := qemuProcesses{hostBoot: "boot", runDir: dir, pid: func(pid int) (int, error) { return pid, nil }}
	uuid, err := lv.ParseUUID(exampleUUID)
	if err != nil {
		t.Fatal(err)
	}
	dom := lv.Domain{Name: "db1", UUID: uuid, ID: 1}
	names := func(pid int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "db1.pid"), []byte(strconv.Itoa(pid)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	held, other := pretend(t, "-uuid", exampleUUID), pretend(t, "-uuid", exampleUUID)
	names(held)
	first, err := q.find(dom, nil)
	if err != nil {
		t.Fatal(err)
	}
	process, err := first.hold()
	if err != nil {
		t.Fatal(err)
	}
	defer process.Close()
	known := &run{ident: first, process: process}
	known.fresh = "this one"
	if id, err := q.find(dom, known); err != nil || id.fresh != "this one" {
		t.Errorf("the process that is held: %+v, %v", id, err)
	}
	names(other)
	if id, err := q.find(dom, known); err != nil || id.pid != other || id.fresh == "this one" {
		t.Errorf("another process than the one that is held: %+v, %v", id, err)
	}
	names(held)
	if err := process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the process ends", process.Exited)
	if id, err := q.find(dom, known); !errors.Is(err, errNoProcess) {
		t.Errorf("a process that was held and has ended: %+v, %v", id, err)
	}
}

func TestSharedDisksAreFlushedBeforeAnEndIsOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := &guest{h: &host{log: testLog(t)}}
	text := strings.NewReplacer("/b", path, "/dev/c", path).Replace(exampleXML)
	config, err := parseDomain(text)
	if err != nil {
		t.Fatal(err)
	}
	if got := g.flushed(t.Context(), &run{config: config}, hypervisor.ReasonCrashed); got != hypervisor.ReasonCrashed {
		t.Errorf("behind a flush the end is %q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := g.flushed(t.Context(), &run{config: config}, hypervisor.ReasonCrashed); got.Ends() {
		t.Errorf("without a flush the end is %q, which counts", got)
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	for want, c := range map[string]Config{
		"want 1 to 16":     {},
		"stands there twi": {URIs: []string{"qemu:///system", "qemu:///system"}},
		"absolute path":    {URIs: []string{"qemu:///system"}, RunDir: "run"},
		"hook_socket":      {URIs: []string{"qemu:///system"}, HookSocket: "hook"},
		"driver":           {URIs: []string{"vbox:///session"}},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", c, err, want)
		}
	}
	socket := "?socket=" + filepath.Join(t.TempDir(), "none")
	d, err := New(Config{URIs: []string{"qemu+tcp://127.0.0.1:1/system", "xen:///system" + socket, "test:///default" + socket}}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if !d.Remote() {
		t.Error("a driver with a connection to another machine does not say so")
	}
}

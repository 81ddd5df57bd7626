package libvirt

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/hypervisortest"
	lv "ringfence/internal/libvirt"
	"ringfence/internal/libvirt/libvirtlab"
)

// TestMain lets libvirt's hook script run this binary as ringfence.
func TestMain(m *testing.M) {
	if len(os.Args) < 6 || os.Args[1] != "hostd" || os.Args[2] != "hook" {
		os.Exit(m.Run())
	}
	call := HookCall{Socket: os.Args[4], Args: os.Args[6:], XML: os.Stdin} // hostd hook --hook-socket SOCKET -- ...
	if err := call.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// callTimeout bounds what a test does to a host by itself.
const callTimeout = 30 * time.Second

// real is a real libvirtd with guests that prove by their logs that they live.
type real struct {
	*libvirtlab.Host
	t *testing.T
}

// startReal starts one, with the hook script in place.
func startReal(t *testing.T, name string) *real {
	t.Helper()
	r := &real{libvirtlab.StartWith(t, name, libvirtlab.Options{Idle: true}), t}
	hooks := Hooks{Dir: r.Path("etc/hooks"), Program: os.Args[0], Socket: r.hookSocket()}
	if _, _, err := hooks.Install(); err != nil {
		t.Fatal(err)
	}
	r.StartDaemon()
	return r
}

func (r *real) hookSocket() string { return r.Path("run/ringfence/hook.sock") }

// hostPID translates a pid of the lab's namespace.
func (r *real) hostPID(inner int) (int, error) {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", r.PID()))
	if err != nil {
		return 0, err
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range all {
		if ns, err := os.Readlink(dir + "/ns/pid"); err != nil || ns != own {
			continue
		}
		status, err := os.ReadFile(dir + "/status")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "NSpid:" && fields[2] == strconv.Itoa(inner) {
				return strconv.Atoi(fields[1])
			}
		}
	}
	return 0, errNoProcess
}

// driver returns a driver of this host.
func (r *real) driver(t *testing.T, change ...func(*Config)) *Driver {
	t.Helper()
	config := Config{URIs: []string{r.URI("qemu", "/system")}, RunDir: r.Path("run/libvirt/qemu"), HookSocket: r.hookSocket()}
	for _, c := range change {
		c(&config)
	}
	d, err := newDriver(config, testLog(t), seams{pid: r.hostPID})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	d.SetGuard(func(context.Context, hypervisor.Incoming) error { return nil })
	await(t, "the driver is connected", func() bool { return d.awaitUp(t.Context()) == nil })
	return d
}

// testLog shows what a driver says, when a test fails.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// await fails the test when a condition does not come true.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(callTimeout); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come true that %s", what)
		}
	}
}

// session returns a connection of the test's own, which knows nothing of drivers.
func (r *real) session(t *testing.T) *lv.Session {
	t.Helper()
	uri, err := lv.ParseURI(r.URI("qemu", "/system"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := lv.Open(context.Background(), uri, lv.Options{}) // cleanups call it too
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// define defines a guest, which is destroyed and undefined with the test.
func (r *real) define(t *testing.T, s *lv.Session, text string) lv.Domain {
	t.Helper()
	dom, err := s.DefineXML(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s := r.session(t)
		_ = s.Destroy(context.Background(), dom, 0)
		_ = s.Undefine(context.Background(), dom, lv.UndefineManagedSave|lv.UndefineSnapshots)
	})
	return dom
}

// qemuOf returns the living QEMU process of a guest by its command line, 0 for
// none. It goes neither through the driver nor through libvirt.
func (r *real) qemuOf(id cluster.GuestID) int {
	own, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", r.PID()))
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		if ns, err := os.Readlink(dir + "/ns/pid"); err != nil || ns != own {
			continue
		}
		line, err := os.ReadFile(dir + "/cmdline") // empty for a zombie
		if err == nil && bytes.Contains(line, []byte("-uuid\x00"+string(id)+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			return pid
		}
	}
	return 0
}

func (r *real) kill(t *testing.T, id cluster.GuestID) {
	t.Helper()
	pid := r.qemuOf(id)
	if pid == 0 {
		t.Fatalf("guest %s has no process to kill", id)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// fixture returns a driver with two guests that are off. first is the number of
// the first; no other test on the host may have it.
func (r *real) fixture(t *testing.T, first int) hypervisortest.Fixture {
	return r.fixtureOf(t, r.Guest(first), r.Guest(first+1))
}

func (r *real) fixtureOf(t *testing.T, guests ...libvirtlab.Guest) hypervisortest.Fixture {
	s := r.session(t)
	f := hypervisortest.Fixture{Killed: hypervisor.ReasonFailed}
	logs := map[cluster.GuestID]libvirtlab.Guest{}
	for _, g := range guests {
		r.define(t, s, g.XML)
		f.Guests = append(f.Guests, hypervisor.Guest{ID: cluster.GuestID(g.UUID), Name: g.Name})
		logs[cluster.GuestID(g.UUID)] = g
	}
	f.Driver = r.driver(t)
	f.Kill = r.kill
	f.Shutdown = func(t *testing.T, id cluster.GuestID) {
		for deadline := time.Now().Add(hypervisortest.Timeout); logs[id].Beats() == 0; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("guest %s does not boot", id)
			}
		}
		r.PressKey(logs[id])
	}
	f.Gone = func(_ *testing.T, id cluster.GuestID) bool { return r.qemuOf(id) == 0 }
	f.Progress = func(t *testing.T, id cluster.GuestID) uint64 {
		info, err := os.Stat(logs[id].Log)
		if err != nil {
			t.Fatal(err)
		}
		return uint64(info.Size())
	}
	return f
}

func TestRealQEMU(t *testing.T) {
	t.Parallel()
	r := startReal(t, "real")
	next := 1
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Fixture {
		next += 2
		return r.fixture(t, next)
	})
}

package xvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"

	"ringfence/internal/fence"
)

func TestMain(m *testing.M) {
	if device := os.Getenv(lockEnv); device != "" {
		os.Exit(holdLock(device))
	}
	agent := func(program string) func() {
		return func() {
			os.Exit(run(context.Background(), program, fence.Invocation{
				Name: program, Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Version: "v0.0.0-test",
				Log: slog.New(slog.DiscardHandler),
			}))
		}
	}
	testscript.Main(m, map[string]func(){FenceXVM: agent(FenceXVM), FenceVirt: agent(FenceVirt)})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"), RequireExplicitExec: true, RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exit": expectExit},
	})
}

// exit CODE PROGRAM ARGS... runs a program and wants that exit code.
func expectExit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE PROGRAM ARGS...")
	}
	got := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// outcome is what one run of an agent left.
type outcome struct {
	code     int
	out, err string
	log      string
}

// start runs an agent in this process, with options on its command line.
func start(program string, args ...string) outcome {
	return startWith(program, "", args...)
}

func startWith(program, input string, args ...string) outcome {
	var out, errs, log bytes.Buffer
	code := run(context.Background(), program, fence.Invocation{
		Name: program, Args: args, In: strings.NewReader(input), Out: &out, Err: &errs, Version: "v0.0.0-test",
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	return outcome{code: code, out: out.String(), err: errs.String(), log: log.String()}
}

// inside marks the test binary that runs in a network namespace of its own.
const inside = "RINGFENCE_FENCE_TEST_INSIDE"

// inNamespace returns true in a network namespace of the test's own, with a
// loopback interface that can multicast. Elsewhere it runs the test once more in
// such a namespace, passes on what became of it, and returns false.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		loopback(t)
		return true
	}
	t.Parallel() // a namespace is enough to be alone
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Skipf("SKIPPED: needs root, or user namespaces: %v", err)
	case err != nil:
		t.Errorf("%s", out)
	case bytes.Contains(out, []byte("--- SKIP: "+t.Name())):
		t.Skipf("%s", out)
	default:
		t.Logf("%s", out)
	}
	return false
}

func loopback(t *testing.T) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	_, group4, _ := net.ParseCIDR("224.0.0.0/4")
	_, group6, _ := net.ParseCIDR("ff00::/8")
	address6, err := netlink.ParseAddr("fd00:77::1/128")
	if err != nil {
		t.Fatal(err)
	}
	address6.Flags = syscall.IFA_F_NODAD
	for _, err := range []error{
		netlink.LinkSetUp(lo),
		netlink.LinkSetMulticastOn(lo),
		netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: group4, Scope: netlink.SCOPE_LINK}),
		netlink.AddrAdd(lo, address6),
		netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: group6, Scope: netlink.SCOPE_LINK}),
	} {
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			t.Fatal(err)
		}
	}
}

// The addresses of another host, and of the test on the way to it.
const (
	otherAddress = "10.78.0.1"
	otherLink    = "rf-other"
)

// otherHost makes another network namespace, behind an interface of this one, and
// returns what runs a function in it: sockets that it opens are there.
func otherHost(t *testing.T) func(func()) {
	t.Helper()
	work, ready := make(chan func()), make(chan error)
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // for good: this thread ends with the goroutine
		ready <- syscall.Unshare(syscall.CLONE_NEWNET)
		for f := range work {
			f()
		}
	})
	t.Cleanup(func() {
		close(work)
		wg.Wait()
	})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	do := func(f func()) {
		done := make(chan struct{})
		work <- func() {
			defer close(done)
			f()
		}
		<-done
	}
	var tid int
	do(func() { tid = syscall.Gettid() })
	space, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", tid))
	if err != nil {
		t.Fatal(err)
	}
	defer space.Close()
	err = netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "rf-here"}, PeerName: otherLink, PeerNamespace: netlink.NsFd(space.Fd()),
	})
	if err == nil {
		err = addAddress("rf-here", "10.78.0.11/24")
	}
	if err != nil {
		t.Fatal(err)
	}
	do(func() { err = addAddress(otherLink, otherAddress+"/24") })
	if err != nil {
		t.Fatal(err)
	}
	return do
}

func addAddress(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(link, a), netlink.LinkSetUp(link))
}

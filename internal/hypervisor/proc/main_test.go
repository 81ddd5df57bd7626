package proc

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The test binary plays every part: called with one of these words it is not a
// test but that part.
func TestMain(m *testing.M) {
	parts := map[string]func([]string) int{
		"guest-init":  func([]string) int { return GuestInit() },
		"guest-work":  guestWork,
		"guest-fork":  guestFork,
		"namespaced":  namespaced,
		"first":       first,
		"dial":        dialChannel,
		"talk":        talkChannel,
		"driver-life": driverLife,
	}
	if len(os.Args) > 1 {
		if part, ok := parts[os.Args[1]]; ok {
			os.Exit(part(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// insideEnv tells the tests that they run in namespaces of their own.
const insideEnv = "RINGFENCE_TEST_INSIDE"

const (
	testBridge = "br0"
	testPort   = "7"
)

// runInside runs every case; the process is in namespaces of its own by then.
func runInside(t *testing.T) {
	t.Run("conformance", testConformance)
	t.Run("mover conformance", testMoverConformance)
	t.Run("a broken migration leaves one owner", testABrokenMoveLeavesOneOwner)
	t.Run("the channel follows the guest", testTheChannelFollowsTheGuest)
	t.Run("a guard that is gone refuses", testAGuardThatIsGoneRefuses)
	t.Run("immobile guests stay", testImmobileGuestsStay)
	t.Run("guests outlive the driver and its successor notices their end", testGuestsOutliveTheDriverAndItsSuccessorNoticesTheirEnd)
	t.Run("two drivers share a state directory", testTwoDriversShareAStateDirectory)
	t.Run("quiet holds events and nothing else", testQuietHoldsEventsAndNothingElse)
	t.Run("a new host boot has no lives", testANewHostBootHasNoLives)
	t.Run("set link holds beside pause", testSetLinkHoldsBesidePause)
	t.Run("a guest that forks all the time can be paused", testAGuestThatForksAllTheTimeCanBePaused)
	t.Run("exec runs in the guest", testExecRunsInTheGuest)
	t.Run("a channel belongs to its guest", testChannelBelongsToItsGuest)
	t.Run("a guest that cannot start leaves nothing", testAGuestThatCannotStartLeavesNothing)
	t.Run("there is one boot per life", testBootOfIsOnePerLife)
	t.Run("two may kill one cgroup", testTwoMayKillOneCgroup)
}

// TestInNamespaces runs the cases in fresh namespaces: as root, and as an
// ordinary user in a user namespace.
func TestInNamespaces(t *testing.T) {
	if os.Getenv(insideEnv) != "" {
		runInside(t)
		return
	}
	binary := sharedBinary(t)
	run := func(t *testing.T, credential *syscall.Credential) {
		args := []string{"namespaced", binary, "-test.run=^TestInNamespaces$", "-test.timeout=5m"}
		if testing.Verbose() {
			args = append(args, "-test.v")
		}
		cmd := exec.Command(binary, args...)
		cmd.Dir, cmd.Env = "/", append(os.Environ(), insideEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("tests inside: %v\n%s", err, out)
		} else if testing.Verbose() {
			t.Logf("%s", out)
		}
	}
	t.Run("root with cgroups", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("SKIPPED: needs root")
		}
		run(t, nil)
	})
	t.Run("ordinary user in a user namespace", func(t *testing.T) {
		if raw, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err != nil || string(raw) == "0\n" {
			t.Skip("SKIPPED: needs user namespaces")
		}
		if os.Geteuid() == 0 && os.Getenv("RINGFENCE_TEST_LONG") == "" {
			t.Skip("SKIPPED: everything once more as another user; `make test` does it")
		}
		if os.Geteuid() == 0 {
			run(t, &syscall.Credential{Uid: 65534, Gid: 65534})
		} else {
			run(t, nil)
		}
	})
}

// sharedBinary copies the test binary to where every user may run it.
func sharedBinary(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ringfence-proc-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "proc.test")
	if err := os.WriteFile(path, self, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// namespaced runs a command in fresh namespaces behind "first".
func namespaced(args []string) int {
	cmd := exec.Command("/proc/self/exe", append([]string{"first"}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// first is PID 1 of the tests: it makes the bridge and collects orphans.
func first(args []string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "first:", err)
		return 1
	}
	if err := MountPrivateProc(); err != nil {
		return fail(err)
	}
	if err := makeBridge(); err != nil {
		return fail(err)
	}
	process, err := os.StartProcess(args[0], args, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return fail(err)
	}
	return ReapUntil(process.Pid)
}

func makeBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = testBridge
	attrs.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, 254}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	bridge, err := netlink.LinkByName(testBridge)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr("10.77.0.254/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(bridge, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(bridge)
}

// guestWork is what runs in a guest: it counts into a file and accepts
// connections. It starts a child that becomes an orphan, as daemons do.
func guestWork(args []string) int {
	orphan := exec.Command("/bin/sh", "-c", "sleep 1000 & exit 0")
	if err := orphan.Run(); err != nil {
		return 3
	}
	terminated := catchTerm() // before anybody can see that the guest is there
	l, err := net.Listen("tcp", ":"+testPort)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 4
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	for n := 1; ; n++ {
		if err := writeFile(args[0], []byte(strconv.Itoa(n))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 5
		}
		select {
		case <-terminated:
			return 0
		case <-time.After(time.Millisecond):
		}
	}
}

package ocf

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// inside marks the test binary that runs in namespaces of its own.
const inside = "RINGFENCE_OCF_TEST_INSIDE"

// TestMain runs the tests in new mount and network namespaces when it is root,
// with a /run, /var/log and nginx directories of their own: Debian's agents mount,
// add addresses and start daemons there, and nothing of the machine is touched.
func TestMain(m *testing.M) {
	fuzzing := slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.fuzz") })
	if os.Geteuid() != 0 || fuzzing { // go test speaks to a fuzzing process over pipes of its own
		os.Exit(m.Run())
	}
	if os.Getenv(inside) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "run tests in namespaces: %v\n", err)
		os.Exit(1)
	}
	_ = cmd.Wait() // the exit code says it
	os.Exit(cmd.ProcessState.ExitCode())
}

func furnish() error {
	for _, dir := range []string{"/run", "/var/log", "/var/lib/nginx"} {
		if _, err := os.Stat(dir); err != nil {
			continue // no nginx here: its test is skipped
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("mount on %s: %w", dir, err)
		}
	}
	if err := os.MkdirAll("/var/log/nginx", 0o755); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "nic0", "type", "veth", "peer", "name", "peer0"},
		{"link", "set", "nic0", "up"},
		{"link", "set", "peer0", "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	return nil
}

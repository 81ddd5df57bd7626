// Package nstest runs the tests of a package in a user and network namespace of
// their own, so that they touch nothing of the machine and need no root. Their
// TestMain calls it; nothing that ships does.
package nstest

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// inside marks the test binary that runs in the namespaces.
const inside = "RINGFENCE_TEST_IN_NAMESPACE"

// Main runs the tests, in new namespaces where the kernel allows that, and exits.
// Otherwise the tests that Need them are skipped. setUp, unless nil, is called in the
// namespaces before the tests.
func Main(m *testing.M, setUp func() error) {
	if Inside() {
		if setUp != nil {
			if err := setUp(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "no user and network namespace: %v\n", err)
		os.Exit(m.Run())
	}
	_ = cmd.Wait() // the exit code says it
	os.Exit(cmd.ProcessState.ExitCode())
}

// Inside reports whether this is the test binary in the namespaces.
func Inside() bool { return os.Getenv(inside) != "" }

// Need skips the test outside of the namespaces.
func Need(t testing.TB) {
	t.Helper()
	if !Inside() {
		t.Skip("SKIPPED: needs a user and network namespace, or root")
	}
}

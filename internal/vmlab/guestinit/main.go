// Command guestinit is the init of the VM lab's Linux guests: it loads the
// modules that it was given, mounts what a service needs, brings eth0 up, says
// so on the console, and obeys the agent's port. The VM lab builds it and packs
// it as /init; nothing else runs it.
//
// The first process only reaps, since it inherits every orphan; all the rest is
// in its child. When that ends, the guest powers off.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// childArgument tells the child from the first process.
const childArgument = "agent"

func main() {
	if len(os.Args) == 2 && os.Args[1] == childArgument {
		if err := serve(); err != nil {
			fmt.Println("vmlab: failed:", err)
			os.Exit(1)
		}
		return
	}
	if err := first(); err != nil {
		fmt.Println("vmlab: failed:", err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("vmlab: cannot power off:", err)
	}
	os.Exit(1) // the kernel panics without its first process
}

// first starts the child and reaps until it ends.
func first() error {
	if err := mountAll(); err != nil {
		return err
	}
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	child := exec.Command("/init", childArgument)
	child.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C"}
	child.Stdout, child.Stderr = console, console
	if err := child.Start(); err != nil {
		return err
	}
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid == child.Process.Pid {
			return err
		}
	}
}

func mountAll() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"devtmpfs", "/dev"},
		{"cgroup2", "/sys/fs/cgroup"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return nil
}

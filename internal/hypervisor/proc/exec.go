package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// Exec starts cmd inside the running guest: in its namespaces and cgroup, with
// the environment that its own command has unless cmd.Env is set, in a session
// of its own. The caller waits for cmd; since the kernel cannot end a guest
// before that, it must do so at once. A paused guest is refused.
func (d *Driver) Exec(ctx context.Context, id cluster.GuestID, cmd *exec.Cmd) error {
	guest, unlock, err := d.change(ctx, id)
	if err != nil {
		return err
	}
	defer unlock() // held over the start: a freeze half way through a fork would block this process
	rec, err := d.settle(ctx, guest)
	if err != nil {
		return err
	}
	if !rec.here() {
		return fmt.Errorf("guest %s: %w", guest.Name, hypervisor.ErrNotRunning)
	}
	if rec.Paused {
		return fmt.Errorf("guest %s is paused: nothing can run in it", guest.Name)
	}
	if cmd.Env == nil {
		cmd.Env = guest.environ()
	}
	if cmd.Path, err = lookPath(cmd.Args[0], cmd.Env); err != nil {
		return err
	}
	cmd.Err = nil
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if rec.Cgroup != "" {
		cgroup, err := os.Open(rec.Cgroup)
		if err != nil {
			return fmt.Errorf("enter guest %s: %w", guest.Name, err)
		}
		defer cgroup.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(cgroup.Fd())
	}
	if err := startInside(rec, cmd); err != nil {
		return fmt.Errorf("run %s in guest %s: %w", cmd.Args[0], guest.Name, err)
	}
	return nil
}

// startInside starts cmd from a thread that has entered the guest. The thread
// is never used for anything else: its goroutine ends while locked to it.
func startInside(rec record, cmd *exec.Cmd) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread never ends and would keep the guest's namespaces
			// alive; while it is held here, another takes its turn.
			result <- startInside(rec, cmd)
			runtime.UnlockOSThread()
			return
		}
		result <- enterAndStart(rec, cmd)
	}()
	return <-result
}

func enterAndStart(rec record, cmd *exec.Cmd) error {
	init, err := OpenProcess(rec.PID, rec.Start)
	if err != nil {
		return err
	}
	defer init.Close()
	// A thread that shares its root and working directory may not change its
	// mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	conn, err := init.file.SyscallConn()
	if err != nil {
		return err
	}
	var entered error
	err = conn.Control(func(fd uintptr) {
		entered = unix.Setns(int(fd), unix.CLONE_NEWPID|unix.CLONE_NEWNS|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC|unix.CLONE_NEWNET)
	})
	if err = errors.Join(err, entered); err != nil {
		return fmt.Errorf("enter namespaces: %w", err)
	}
	return cmd.Start()
}

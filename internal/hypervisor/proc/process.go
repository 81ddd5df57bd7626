package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one process held by a pidfd: its pid cannot come to mean another.
type Process struct {
	pid  int
	file *os.File
}

// OpenProcess returns the process with that pid and start time.
// os.ErrProcessDone: it is gone altogether.
func OpenProcess(pid int, start uint64) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, os.ErrProcessDone
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &Process{pid: pid, file: os.NewFile(uintptr(fd), "pidfd")}
	now, err := StartTicks(pid)
	if err == nil && now == start {
		return p, nil
	}
	p.Close()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return nil, err
	}
	return nil, os.ErrProcessDone
}

// Close lets go of the process, which goes on.
func (p *Process) Close() { p.file.Close() }

// Exited reports whether the whole thread group has exited. For the init of a
// pid namespace that means that every other process in it is gone too.
func (p *Process) Exited() bool {
	gone := false
	conn, err := p.file.SyscallConn()
	if err != nil {
		return false
	}
	err = conn.Control(func(fd uintptr) { gone = readable(fd) })
	return err == nil && gone
}

// readable reports whether a pidfd is, which means that its process has exited.
func readable(fd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

// Wait returns nil when the process has exited, or the error of ctx.
func (p *Process) Wait(ctx context.Context) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.Read(readable); err != nil {
		return fmt.Errorf("wait for process %d: %w", p.pid, errors.Join(ctx.Err(), err))
	}
	return nil
}

// Signal sends a signal. A process that has exited is no error.
func (p *Process) Signal(sig syscall.Signal) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	if sent != nil && !errors.Is(sent, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.pid, sent)
	}
	return nil
}

// Reap collects the exited process when it is a child of this one.
func (p *Process) Reap() {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		_ = unix.Waitid(unix.P_PIDFD, int(fd), nil, unix.WEXITED|unix.WNOHANG, nil)
	})
}

// stat returns the fields of /proc/TASK/stat behind the command, the first being
// the state (field 3). os.ErrProcessDone: no such process.
func stat(task string) ([][]byte, error) {
	raw, err := os.ReadFile("/proc/" + task + "/stat")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, os.ErrProcessDone
	}
	if err != nil {
		return nil, fmt.Errorf("read state of process %s: %w", task, err)
	}
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	if len(fields) < 20 {
		return nil, fmt.Errorf("read state of process %s: %d fields in its stat file", task, len(fields))
	}
	return fields, nil
}

// StartTicks returns when a process started, in clock ticks since the boot.
func StartTicks(pid int) (uint64, error) {
	fields, err := stat(strconv.Itoa(pid))
	if err != nil {
		return 0, err
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	return start, nil
}

// waitingLooks is how many looks in a row may find a thread in an
// uninterruptible wait, as for a disk, before stopAll takes it for stopped: the
// signal is pending and takes effect before the thread runs on. A thread that
// has forked and waits for its child to exec never leaves that wait, since the
// child is stopped.
const waitingLooks = 100

// stopAll stops every process of a pid namespace, given one of its processes.
// It returns when two looks in a row have found nothing running.
func stopAll(ctx context.Context, pid int) error {
	calm, waited := 0, 0
	return poll(ctx, func() (bool, error) {
		members, err := namespaceOf(pid)
		if err != nil {
			return false, err
		}
		running, waiting := false, false
		for _, member := range members {
			// Each thread gets the signal: one for the process as a whole may be
			// given to a thread in a wait, and the others would run on.
			switch lookAt(member, func(thread int) { _ = unix.Tgkill(member, thread, unix.SIGSTOP) }) {
			case threadsWaiting:
				waiting = true
			case threadsRunning:
				running = true
			}
		}
		if waited++; !waiting {
			waited = 0
		}
		if calm++; running || waiting && waited < waitingLooks {
			calm = 0
		}
		return calm >= 2, nil
	})
}

// continueAll undoes stopAll.
func continueAll(pid int) error {
	members, err := namespaceOf(pid)
	for _, member := range members {
		_ = unix.Kill(member, unix.SIGCONT)
	}
	return err
}

// threads says what the busiest thread of a process does.
type threads int

const (
	threadsStopped threads = iota // or ended
	threadsWaiting                // uninterruptibly, e.g. for a disk
	threadsRunning                // or able to, at any time
)

// lookAt returns what the threads of a process do and calls notStopped for each
// that is not stopped.
func lookAt(pid int, notStopped func(thread int)) threads {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return threadsStopped // gone
	}
	busiest := threadsStopped
	for _, task := range tasks {
		fields, err := stat(fmt.Sprintf("%d/task/%s", pid, task.Name()))
		thread, _ := strconv.Atoi(task.Name()) // the kernel's names are numbers
		if err != nil || bytes.Contains([]byte("TtZX"), fields[0]) {
			continue
		}
		if string(fields[0]) == "D" {
			busiest = max(busiest, threadsWaiting)
		} else {
			busiest = threadsRunning
		}
		notStopped(thread)
	}
	return busiest
}

// namespaceOf returns every process in the pid namespace of pid.
func namespaceOf(pid int) ([]int, error) {
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return nil, fmt.Errorf("find the processes of a guest: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("find the processes of a guest: %w", err)
	}
	var members []int
	for _, entry := range entries {
		if member, err := strconv.Atoi(entry.Name()); err == nil && inNamespace(member, namespace) {
			members = append(members, member)
		}
	}
	return members, nil
}

func inNamespace(pid int, namespace string) bool {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return err == nil && own == namespace
}

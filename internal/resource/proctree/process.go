package proctree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Process is an open handle of one process. It need not be a child, and a
// Process never refers to another process than the one it was opened for.
type Process struct {
	id   Ident
	file *os.File // a pidfd
}

// Open returns a handle of the process. ErrEnded: it has ended, or its pid
// belongs to another process now. A zombie can be opened; its Wait returns at
// once.
func Open(id Ident) (*Process, error) {
	if id.IsZero() {
		return nil, fmt.Errorf("no process: %w", ErrEnded)
	}
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("process %d: %w", id.PID, ErrEnded)
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	p := &Process{id: id, file: os.NewFile(uintptr(fd), "pidfd")}
	// The handle is fixed now; if the pid still shows the wanted start time,
	// then the handle is of that process.
	stat, err := ReadStat(id.PID)
	if err == nil && stat.Ident != id {
		err = fmt.Errorf("process %d: its pid was given to another process: %w", id.PID, ErrEnded)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Alive reports whether the process is there and not a zombie.
func Alive(id Ident) (bool, error) {
	p, err := Open(id)
	if errors.Is(err, ErrEnded) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var over bool
	err = p.control(func(fd int) (err error) { over, err = ended(fd); return err })
	return !over, errors.Join(err, p.Close())
}

// Wait returns nil once the process has ended, with all its threads, or
// ctx.Err(). It occupies no thread while it waits.
func (p *Process) Wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	raw, err := p.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", p.id.PID, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var pollErr error
	err = raw.Read(func(fd uintptr) bool {
		var over bool
		over, pollErr = ended(int(fd))
		return over || pollErr != nil
	})
	if ctxErr := ctx.Err(); ctxErr != nil && err != nil {
		return ctxErr
	}
	if err := errors.Join(err, pollErr); err != nil {
		return fmt.Errorf("wait for process %d: %w", p.id.PID, err)
	}
	return nil
}

// Signal sends a signal to exactly this process. ErrEnded: it has ended.
func (p *Process) Signal(signal unix.Signal) error {
	err := p.control(func(fd int) error { return unix.PidfdSendSignal(fd, signal, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: %w", p.id.PID, ErrEnded)
	}
	if err != nil {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(signal), p.id.PID, err)
	}
	return nil
}

// control calls do with the descriptor. os.File.Fd would end its use in Wait.
func (p *Process) control(do func(fd int) error) error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	err = raw.Control(func(fd uintptr) { doErr = do(int(fd)) })
	return errors.Join(err, doErr)
}

// Close releases the handle; the process is not touched.
func (p *Process) Close() error { return p.file.Close() }

// Signal sends a signal to the process if it is still there; one that has
// ended is no error.
func Signal(id Ident, signal unix.Signal) error {
	p, err := Open(id)
	if err == nil {
		err = errors.Join(p.Signal(signal), p.Close())
	}
	if errors.Is(err, ErrEnded) {
		return nil
	}
	return err
}

// ended polls a pidfd: it is readable from the end of the process on.
func ended(fd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0, err
	}
}

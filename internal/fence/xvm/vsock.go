package xvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dialVsock connects to a port of a machine by its CID. The context has a deadline.
func dialVsock(ctx context.Context, cid, port uint32) (stream, error) {
	return dialSocket(ctx, unix.AF_VSOCK, &unix.SockaddrVM{CID: cid, Port: port}, fmt.Sprintf("vsock:%d:%d", cid, port))
}

// dialSocket connects a stream socket of any family: package net knows no vsock.
func dialSocket(ctx context.Context, family int, to unix.Sockaddr, name string) (stream, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a socket (does this machine have that kind?): %w", err)
	}
	err = unix.Connect(fd, to)
	f := os.NewFile(uintptr(fd), name)
	if errors.Is(err, unix.EINPROGRESS) {
		err = connected(ctx, f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// connected waits until a socket that connects is connected.
func connected(ctx context.Context, f *os.File) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := f.SetDeadline(deadline); err != nil {
			return err
		}
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		state, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failed = err
			return true
		case state != 0:
			failed = unix.Errno(state)
			return true
		}
		// No error is no connection yet.
		_, err = unix.Getpeername(int(fd))
		return err == nil
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	return f.SetDeadline(time.Time{})
}

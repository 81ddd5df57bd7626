package xvm

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// There is no vsock that tests may use. How it is dialled is tried with TCP on
// loopback instead.
func dialLoopback(t *testing.T, port int) (stream, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	return dialSocket(ctx, unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}, "loopback")
}

func TestDialSocketSpeaks(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s, err := dialLoopback(t, ln.Addr().(*net.TCPAddr).Port)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := s.Write([]byte("ask")); err != nil {
		t.Fatal(err)
	}
	var got [3]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil || string(got[:]) != "ask" {
		t.Fatalf("%q, %v", got, err)
	}
	// The deadline of the dialling is over, and a deadline of its own counts.
	if err := s.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(got[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read of a silent connection: %v", err)
	}
}

func TestDialSocketIsRefused(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	if _, err := dialLoopback(t, port); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port on which nobody listens: %v", err)
	}
}

func TestDialSocketEndsInTime(t *testing.T) {
	// A queue that is full takes no connection, and refuses none.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		s, err := dialLoopback(t, name.(*unix.SockaddrInet4).Port)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a full queue: %v", err)
			}
			return
		}
		defer s.Close()
	}
	t.Error("ten connections went into a queue for one")
}

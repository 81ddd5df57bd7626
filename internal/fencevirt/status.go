package fencevirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/wire/xvmdiag"
)

// StatusSocket is where a daemon tells `ringfence doctor` on its host about itself:
// an abstract socket, which belongs to the network namespace as the listeners do,
// and leaves no file behind. Both ends look at who is at the other one.
const StatusSocket = "@ringfence/fence_virt"

const (
	statusTimeout = 2 * time.Second
	statusLimit   = 1 << 20 // bytes
	dropMemory    = 64      // drops that are remembered
)

// Status is what a daemon tells of itself.
type Status struct {
	Version   string           `json:"version"`
	PID       int              `json:"pid"`
	Listeners []ListenerStatus `json:"listeners"`
	// Drops are the latest requests that were dropped, oldest first.
	Drops []Drop `json:"drops"`
}

// ListenerStatus is one listener that is open.
type ListenerStatus struct {
	Kind    Kind   `json:"kind"`
	Where   string `json:"where"`
	Address string `json:"address,omitempty"`
	Port    uint16 `json:"port,omitempty"`
	// Joined are the interfaces on which multicast has joined its group.
	Joined []string    `json:"joined,omitempty"`
	Keys   []KeyStatus `json:"keys,omitempty"`
}

// KeyStatus is one key of a listener.
type KeyStatus struct {
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"`
}

// Drop is what of one source was dropped at one listener for one reason.
type Drop struct {
	Listener string    `json:"listener"` // where it stands
	Source   string    `json:"source"`
	Reason   string    `json:"reason"`
	Count    int       `json:"count"`
	Last     time.Time `json:"last"`
}

// Status says what is open and what was dropped.
func (s *Server) Status() Status {
	out := Status{PID: os.Getpid(), Drops: s.daemon.drops.recent()}
	for _, e := range s.all() {
		l, joined := e.describe()
		out.Version = l.cfg.Version
		one := ListenerStatus{Kind: l.Kind, Where: l.Where, Port: l.Port}
		if l.Address.IsValid() {
			one.Address = l.Address.String()
		}
		for _, name := range joined {
			one.Joined = append(one.Joined, name)
		}
		slices.Sort(one.Joined)
		for _, k := range l.Keys {
			one.Keys = append(one.Keys, KeyStatus{k.Name, xvmdiag.FingerprintOf(k.Secret).String()})
		}
		out.Listeners = append(out.Listeners, one)
	}
	slices.SortFunc(out.Listeners, func(a, b ListenerStatus) int {
		if c := compareWhere(a.Where, b.Where); c != 0 {
			return c
		}
		return int(a.Port) - int(b.Port)
	})
	return out
}

func compareWhere(a, b string) int {
	if len(a) != len(b) { // f:9 before f:10
		return len(a) - len(b)
	}
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

// ServeStatus tells whoever asks at the socket, which is StatusSocket but in tests,
// as the user that the daemon runs as or as root, what the server is doing. It
// returns when ctx ends; without the socket
// it logs why and returns, since a daemon fences as well without it.
func ServeStatus(ctx context.Context, socket string, s interface{ Status() Status }, log *slog.Logger) {
	ln, err := net.Listen("unix", socket)
	if err != nil {
		log.Warn("`ringfence doctor` on this host cannot ask the daemon", "component", "fencevirt", "err", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			serving.Go(func() {
				defer conn.Close()
				if err := tellStatus(conn, s.Status()); err != nil {
					log.Debug("the status was not told", "component", "fencevirt", "err", err)
				}
			})
		case errors.Is(err, net.ErrClosed):
			return
		default:
			sleep(ctx, acceptRetry)
		}
	}
}

func tellStatus(conn net.Conn, status Status) error {
	if err := trusted(conn); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(statusTimeout)); err != nil {
		return err
	}
	return json.NewEncoder(conn).Encode(status)
}

// AskStatus asks the daemon that serves the fence_virt protocols on this host, in
// this network namespace, at its StatusSocket. The error says when there is none.
func AskStatus(ctx context.Context, socket string) (Status, error) {
	var status Status
	dialer := net.Dialer{Timeout: statusTimeout}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return status, fmt.Errorf("ask the daemon of this host: %w", err)
	}
	defer conn.Close()
	if err := trusted(conn); err != nil {
		return status, fmt.Errorf("ask the daemon of this host: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(statusTimeout)); err != nil {
		return status, err
	}
	if err := json.NewDecoder(io.LimitReader(conn, statusLimit)).Decode(&status); err != nil {
		return status, fmt.Errorf("what the daemon of this host says: %w", err)
	}
	return status, nil
}

// trusted checks that at the other end is root, or the user of this process: anybody
// can take the name of an abstract socket, and connect to it.
func trusted(conn net.Conn) error {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d is at the other end, want root or the user of this process", cred.Uid)
	}
	return nil
}

package proc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

const (
	// guardSocket, in the state directory, is where the guard of a host listens.
	// Once it has been made, a host without a guard that answers refuses.
	guardSocket = "guard.sock"
	// guardTimeout bounds one question to a guard.
	guardTimeout = 10 * time.Second
	// guardLimitBytes bounds question and answer.
	guardLimitBytes = 16 << 10
)

// guardQuestion and guardAnswer are JSON, one each for a connection.
type guardQuestion struct {
	Guest   cluster.GuestID   `json:"guest"`
	Life    cluster.LifeID    `json:"life"`
	Claimed cluster.ClusterID `json:"claimed,omitempty"`
	Why     hypervisor.Reason `json:"why"`
}

type guardAnswer struct {
	Refused string `json:"refused,omitempty"` // why; "" when it is allowed
}

// SetGuard implements hypervisor.Mover. Guests are moved by a driver of another
// process, so the guard is asked through a socket. A guard that cannot listen
// refuses everything.
func (d *Driver) SetGuard(ask hypervisor.Guard) {
	l, err := listenIn(d.config.StateDir, guardSocket)
	if err != nil {
		d.log.Error("guard of incoming guests cannot listen; all are refused", "err", err)
		if err := writeFile(filepath.Join(d.config.StateDir, guardSocket), nil); err != nil {
			d.log.Error("incoming guests cannot be refused", "err", err)
		}
		return
	}
	d.mu.Lock()
	former := d.guard
	d.guard = l
	d.mu.Unlock()
	if former != nil {
		former.Close()
	}
	d.group.Go(func() { d.serveGuard(l, ask) })
}

// serveGuard answers questions until the listener closes.
func (d *Driver) serveGuard(l net.Listener, ask hypervisor.Guard) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				d.log.Error("guard of incoming guests ends; all are refused", "err", err)
			}
			return
		}
		d.group.Go(func() {
			defer conn.Close()
			if err := d.answerGuard(conn, ask); err != nil {
				d.log.Warn("question about an incoming guest not answered", "err", err)
			}
		})
	}
}

func (d *Driver) answerGuard(conn net.Conn, ask hypervisor.Guard) error {
	ctx, cancel := context.WithTimeout(d.ctx, guardTimeout)
	defer cancel()
	defer closeWith(ctx, conn)()
	var q guardQuestion
	if err := json.NewDecoder(io.LimitReader(conn, guardLimitBytes)).Decode(&q); err != nil {
		return err
	}
	var answer guardAnswer
	if err := ask(ctx, hypervisor.Incoming(q)); err != nil {
		answer.Refused = err.Error()
	}
	return json.NewEncoder(conn).Encode(answer)
}

// closeWith closes conn when ctx ends; what it returns stops that.
func closeWith(ctx context.Context, conn net.Conn) (stop func()) {
	cancel := context.AfterFunc(ctx, func() { conn.Close() })
	return func() { cancel() }
}

// askGuard asks the guard of this host, if it ever had one; nil is a yes.
func (d *Driver) askGuard(ctx context.Context, q guardQuestion) error {
	ctx, cancel := context.WithTimeout(ctx, guardTimeout)
	defer cancel()
	conn, err := dialIn(ctx, d.config.StateDir, guardSocket)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the daemon that guards the host does not answer; start it: %w", err)
	}
	defer conn.Close()
	defer closeWith(ctx, conn)()
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return fmt.Errorf("ask the guard of the host: %w", errors.Join(ctx.Err(), err))
	}
	var answer guardAnswer
	if err := json.NewDecoder(io.LimitReader(conn, guardLimitBytes)).Decode(&answer); err != nil {
		return fmt.Errorf("ask the guard of the host: %w", errors.Join(ctx.Err(), err))
	}
	if answer.Refused != "" {
		return errors.New(answer.Refused)
	}
	return nil
}

// dialIn is the other end of listenIn.
func dialIn(ctx context.Context, path, name string) (net.Conn, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(int(dir.Fd()))+"/"+name)
}

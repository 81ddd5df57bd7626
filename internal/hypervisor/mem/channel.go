package mem

import (
	"context"
	"fmt"
	"net"
	"sync"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// Channel implements hypervisor.Channeler. Connections come from DialChannel.
func (d *Driver) Channel(ctx context.Context, id cluster.GuestID) (net.Listener, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("channel of guest %s: %w", id, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if _, err := d.find(id); err != nil {
		return nil, err
	}
	if former := d.channels[id]; former != nil {
		former.Close()
	}
	l := &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
	d.channels[id] = l
	return l, nil
}

// DialChannel connects as the guest would. It waits until the connection is
// accepted or ctx ends; without a listener, or when the guest is not running,
// it fails at once. That a guest is paused is for its machine to heed: one that
// somebody resumed behind the hypervisor's back speaks, and is heard.
func (d *Driver) DialChannel(ctx context.Context, id cluster.GuestID) (net.Conn, error) {
	mu.Lock()
	l, g := d.channels[id], d.guests[id]
	running := g != nil && (g.State == hypervisor.StateRunning || g.State == hypervisor.StatePaused)
	mu.Unlock()
	if l == nil || !running {
		return nil, fmt.Errorf("dial channel of guest %s: nobody listens or the guest is not running", id)
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, fmt.Errorf("dial channel of guest %s: %w", id, net.ErrClosed)
	case <-ctx.Done():
		return nil, fmt.Errorf("dial channel of guest %s: %w", id, ctx.Err())
	}
}

// listener hands out one end of an in-memory pipe for each connection.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: "mem", Net: "unix"} }

package lane

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	wire "ringfence/internal/wire/lane"
)

const (
	// redial is the pause before a stream that was lost, or that the guest has not
	// opened, is connected anew.
	redial = 500 * time.Millisecond
	// dialTimeout bounds one attempt.
	dialTimeout = 3 * time.Second
	// backlog is how many connections may wait to be accepted.
	backlog = 16
)

// Listener is the host's end. It keeps the stream connected until it is closed.
type Listener struct {
	addr   net.Addr
	conns  chan net.Conn
	ctx    context.Context
	cancel context.CancelFunc
	wait   sync.WaitGroup
}

// Listen returns the host's end of a stream that dial connects. name is for its
// address. The caller must Close it.
func Listen(name string, dial func(ctx context.Context) (io.ReadWriteCloser, error)) *Listener {
	l := &Listener{addr: &net.UnixAddr{Name: name, Net: "lane"}, conns: make(chan net.Conn, backlog)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.wait.Go(func() { l.run(dial) })
	return l
}

func (l *Listener) run(dial func(ctx context.Context) (io.ReadWriteCloser, error)) {
	for l.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(l.ctx, dialTimeout)
		port, err := dial(ctx)
		cancel()
		if err == nil {
			l.serve(port)
		}
		pauseFor(l.ctx.Done(), redial)
	}
}

// serve serves one connection of the stream to its end.
func (l *Listener) serve(port io.ReadWriteCloser) {
	k := newLink(port)
	defer k.end()
	stop := context.AfterFunc(l.ctx, k.fail)
	defer stop()
	var answered time.Time // when an unknown session was last answered
	_ = k.read(func(f wire.Frame) {
		switch {
		case f.Kind == wire.Hello && f.Session != 0:
			if k.now() != f.Session {
				k.begin(f.Session)
			}
			l.reply(k, wire.Welcome, f.Session)
		case f.Session != k.now():
			if f.Kind != wire.Close && time.Since(answered) > redial {
				answered = time.Now()
				l.reply(k, wire.Unknown, f.Session)
			}
		case f.Kind == wire.Open:
			l.open(k, f)
		case f.Kind == wire.Data, f.Kind == wire.Close:
			k.data(f)
		}
	})
}

// reply answers without waiting for a guest that does not read.
func (l *Listener) reply(k *link, kind wire.Kind, session uint64) {
	k.wait.Go(func() { k.send(wire.Frame{Kind: kind, Session: session}, true) })
}

func (l *Listener) open(k *link, f wire.Frame) {
	conn := k.add(f.Session, f.Stream)
	if conn == nil {
		k.wait.Go(func() { k.send(wire.Frame{Kind: wire.Close, Session: f.Session, Stream: f.Stream}, false) })
		return
	}
	select {
	case l.conns <- conn:
	default:
		conn.Close()
	}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.ctx.Done():
		return nil, fmt.Errorf("accept at %s: %w", l.addr, net.ErrClosed)
	}
}

// Close implements net.Listener. It may be called again.
func (l *Listener) Close() error {
	l.cancel()
	l.wait.Wait()
	for {
		select {
		case conn := <-l.conns:
			conn.Close()
		default:
			return nil
		}
	}
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.addr }

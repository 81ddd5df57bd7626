package hostd

import (
	"context"
	"net"
	"sync"

	"ringfence/internal/cluster"
)

// inflight lets requests in while hostd serves and counts them, so that Run can
// wait for them.
type inflight struct {
	opened chan struct{} // closed when hostd begins to serve
	closed chan struct{} // closed when it ends
	mu     sync.Mutex    // guards the closing of closed and the start of each request
	wg     sync.WaitGroup
}

func newInflight() *inflight {
	return &inflight{opened: make(chan struct{}), closed: make(chan struct{})}
}

// open lets requests in. It is called once, before close.
func (i *inflight) open() { close(i.opened) }

// enter waits until requests are let in. Without an error leave must follow.
func (i *inflight) enter(ctx context.Context) error {
	select {
	case <-i.opened:
	case <-i.closed:
	case <-ctx.Done():
		return ctx.Err()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	select {
	case <-i.closed:
		return errStopped
	default:
	}
	i.wg.Add(1)
	return nil
}

func (i *inflight) leave() { i.wg.Done() }

// close refuses what comes from here on and waits for what is under way. It is
// called once.
func (i *inflight) close() {
	i.mu.Lock()
	close(i.closed)
	i.mu.Unlock()
	i.wg.Wait()
}

// looks bounds the questions of each cluster to the hypervisor.
type looks struct {
	mu    sync.Mutex // guards rooms
	rooms map[cluster.ClusterID]chan struct{}
}

func (l *looks) take(ctx context.Context, c cluster.ClusterID) (done func(), err error) {
	l.mu.Lock()
	if l.rooms == nil {
		l.rooms = map[cluster.ClusterID]chan struct{}{}
	}
	room := l.rooms[c]
	if room == nil {
		room = make(chan struct{}, lookLimit)
		l.rooms[c] = room
	}
	l.mu.Unlock()
	select {
	case room <- struct{}{}:
		return func() { <-room }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// limitListener closes what comes beyond a number of open connections.
type limitListener struct {
	net.Listener
	mu   sync.Mutex // guards open
	open int
	most int
}

// Accept returns the next connection within the limit.
func (l *limitListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.count(1) {
			return &limitedConn{Conn: conn, leave: sync.OnceFunc(func() { l.count(-1) })}, nil
		}
		_ = conn.Close()
	}
}

func (l *limitListener) count(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open+n > l.most {
		return false
	}
	l.open += n
	return true
}

type limitedConn struct {
	net.Conn
	leave func()
}

// Close closes the connection and counts it out.
func (c *limitedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

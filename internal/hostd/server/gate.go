package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd"
)

const (
	// handshakeTimeout bounds a TLS handshake.
	handshakeTimeout = 5 * time.Second
	// tcpUserTimeout is how long sent data may stay unacknowledged before the
	// kernel gives a connection up, so that vanished clients go.
	tcpUserTimeout = 10 * time.Second
	// acceptPause is waited after a failed accept.
	acceptPause = 50 * time.Millisecond
)

// Limits bounds connections. The zero value means the defaults.
type Limits struct {
	Total      int // connections that have shown a certificate; default 4096
	Cluster    int // of them, of one cluster; default 2048
	Handshakes int // that have not yet; the oldest gives way; default 512
	Channel    int // of one guest over its own channel; default as in hostd.Config
}

func (l Limits) withDefaults() Limits {
	for _, v := range []struct {
		to    *int
		value int
	}{{&l.Total, 4096}, {&l.Cluster, 2048}, {&l.Handshakes, 512}} {
		if *v.to <= 0 {
			*v.to = v.value
		}
	}
	return l
}

// gate accepts connections, does their handshakes side by side, and hands out
// those whose cluster is known as a net.Listener for http.Server.
type gate struct {
	ln     net.Listener
	config *tls.Config
	grants func() *Grants
	limits Limits
	log    *slog.Logger
	audit  *audit
	ready  chan net.Conn
	closed chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
	// mu guards the counts.
	mu       sync.Mutex
	shaking  *list.List // of net.Conn, oldest first
	total    int
	clusters map[cluster.ClusterID]int
}

func newGate(ln net.Listener, cert tls.Certificate, grants func() *Grants, limits Limits, log *slog.Logger, audit *audit) *gate {
	return &gate{
		ln: ln, grants: grants, limits: limits.withDefaults(), log: log, audit: audit,
		config: &tls.Config{
			Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13,
			ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
			VerifyConnection: func(s tls.ConnectionState) error {
				_, err := grants().identify(s.PeerCertificates)
				return err
			},
		},
		ready: make(chan net.Conn), closed: make(chan struct{}),
		shaking: list.New(), clusters: map[cluster.ClusterID]int{},
	}
}

// listenTCP opens the listener with limits on how long the dead stay.
func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	config := net.ListenConfig{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
		Control: func(_, _ string, c syscall.RawConn) error {
			var failed error
			const userTimeout = 18 // TCP_USER_TIMEOUT, tcp(7); sockets that are accepted inherit it
			err := c.Control(func(fd uintptr) {
				failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, userTimeout, int(tcpUserTimeout.Milliseconds()))
			})
			return errors.Join(err, failed)
		},
	}
	ln, err := config.Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("hostd cannot listen on %s: the port is in use; stop the other program (another hostd?)", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("hostd cannot listen on %s: this machine has no such address; make the host directory anew with `ringfence hostd init --address`", address)
	case err != nil:
		return nil, fmt.Errorf("hostd cannot listen on %s: %w", address, err)
	}
	return ln, nil
}

// run accepts until Close, and returns when every handshake has ended.
func (g *gate) run(ctx context.Context) {
	defer g.wg.Wait()
	for {
		conn, err := g.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			g.log.Warn("connection is not accepted", "err", err)
			pause(ctx)
			continue
		}
		place := g.enter(conn)
		g.wg.Go(func() { g.shake(ctx, conn, place) })
	}
}

// pause waits after a failed accept.
func pause(ctx context.Context) {
	select {
	case <-time.After(acceptPause):
	case <-ctx.Done():
	}
}

// enter counts a connection in; when there are too many handshakes the oldest
// one ends, for a healthy client needs milliseconds.
func (g *gate) enter(conn net.Conn) *list.Element {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shaking.Len() >= g.limits.Handshakes {
		oldest := g.shaking.Front()
		g.shaking.Remove(oldest)
		_ = oldest.Value.(net.Conn).Close() // its handshake reports the error
	}
	return g.shaking.PushBack(conn)
}

func (g *gate) shake(ctx context.Context, raw net.Conn, place *list.Element) {
	conn := tls.Server(raw, g.config)
	shakeCtx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	err := conn.HandshakeContext(shakeCtx)
	cancel()
	g.mu.Lock()
	g.shaking.Remove(place)
	g.mu.Unlock()
	who := hostd.Caller{Remote: raw.RemoteAddr().String()}
	if err == nil {
		err = g.admit(conn, &who)
	}
	if err != nil {
		g.log.Warn("client is refused", "remote", who.Remote, "cluster", who.Cluster, "err", err)
		g.audit.Note(hostd.AuditEntry{Cluster: who.Cluster, Name: who.Name, Remote: who.Remote, Action: "connect", Outcome: "refused", Detail: err.Error()})
		_ = raw.Close()
		return
	}
	known := &knownConn{Conn: conn, who: who, leave: sync.OnceFunc(func() { g.leave(who.Cluster) })}
	select {
	case g.ready <- known:
	case <-g.closed:
		_ = known.Close()
	}
}

// admit finds the caller's cluster and counts the connection.
func (g *gate) admit(conn *tls.Conn, who *hostd.Caller) error {
	certs := conn.ConnectionState().PeerCertificates
	id, err := g.grants().identify(certs)
	if err != nil {
		return err
	}
	who.Cluster, who.Name = id, certs[0].Subject.CommonName
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= g.limits.Total {
		return fmt.Errorf("%d connections are open, no more are allowed", g.total)
	}
	if g.clusters[id] >= g.limits.Cluster {
		return fmt.Errorf("%d connections of the cluster are open, no more are allowed", g.clusters[id])
	}
	g.total++
	g.clusters[id]++
	return nil
}

func (g *gate) leave(id cluster.ClusterID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.clusters[id]--; g.clusters[id] == 0 {
		delete(g.clusters, id)
	}
}

// Accept returns the next connection whose caller is known.
func (g *gate) Accept() (net.Conn, error) {
	select {
	case conn := <-g.ready:
		return conn, nil
	case <-g.closed:
		return nil, net.ErrClosed
	}
}

// Close ends run and Accept.
func (g *gate) Close() (err error) {
	g.once.Do(func() {
		close(g.closed)
		err = g.ln.Close()
	})
	return err
}

// Addr returns the address that is listened on.
func (g *gate) Addr() net.Addr { return g.ln.Addr() }

// knownConn is a connection with its caller. It hides the TLS connection from
// http.Server on purpose: HTTP/1.1 only, one stream a connection, so that each
// has write deadlines of its own.
type knownConn struct {
	net.Conn
	who   hostd.Caller
	leave func()
}

// Close closes the connection and counts it out. tls.Conn.Close may wait for
// a client that does not read, so the socket is closed below it.
func (c *knownConn) Close() error {
	c.leave()
	return c.Conn.(*tls.Conn).NetConn().Close()
}

// certificates returns what the client has shown.
func (c *knownConn) certificates() tls.ConnectionState { return c.Conn.(*tls.Conn).ConnectionState() }

// Package heartbeat carries beats between the members: one UDP socket that
// sends this node's beat to its peers and delivers what the peers send. The
// node's loop is the only caller: it calls Send every Interval and reads Beats.
//
// The invariant: a delivered beat was made by a holder of the cluster's key,
// during the present run of the sender's daemon, after every beat delivered
// before it (freshness.go says how, without clocks and files). Whoever hears
// nothing learns nothing: silence only makes suspect, and no safety rests on
// beats (rule P17).
package heartbeat

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/beat"
)

// Times and bounds.
const (
	// Interval is the pause between two rounds of beats.
	Interval = 100 * time.Millisecond
	// PeerLimit is how many peers one node may have.
	PeerLimit = 256

	sendTimeout      = 50 * time.Millisecond // one round, all peers together
	readPause        = 10 * time.Millisecond // after a read that failed
	queueLimit       = 1024                  // beats that wait in Beats
	receiveBufBytes  = 1 << 20
	logInterval      = 5 * time.Second // between two lines on the same fault
	randomNumberSize = 8
)

// Config is what New needs.
type Config struct {
	// Address is this node's own IP address; the socket listens only there.
	Address string
	// Port is the UDP port; 0 takes a free one.
	Port   int
	Domain beat.Domain
	Key    beat.Key
	Node   cluster.NodeName
	Boot   cluster.BootID
	Logger *slog.Logger
	// Now is the monotonic clock that stamps received beats.
	Now func() time.Duration
	// Resolver finds the addresses of peers given by host name; nil takes the
	// system's.
	Resolver Resolver
}

// Received is one authentic, fresh beat of a peer.
type Received struct {
	Node     cluster.NodeName
	Boot     cluster.BootID
	Tick     uint64 // 0: the sender is not the leader
	Revision cluster.Revision
	Quorum   bool
	// EchoOK says that the peer has heard a beat that this transport sent at
	// EchoSent, so that the path works both ways. A peer that is heard but
	// never with EchoOK does not hear us.
	EchoOK   bool
	EchoSent time.Duration
	// At is when the beat arrived, by Config.Now.
	At time.Duration
}

// Transport is the socket with its goroutines. Its methods are safe for
// concurrent use.
type Transport struct {
	config   Config
	log      *slog.Logger
	conn     *net.UDPConn
	session  uint64
	out      chan Received
	resolver *resolver
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	running  sync.WaitGroup

	// mu guards the fields below. No I/O happens under it.
	mu      sync.Mutex
	counter uint64
	fresh   *freshness
	faults  *faults
}

// New opens the socket and starts to receive. The caller must call Close.
func New(config Config) (*Transport, error) {
	t := &Transport{
		config: config, log: config.Logger.With("component", "heartbeat"),
		out: make(chan Received, queueLimit), fresh: newFreshness(), faults: newFaults(),
	}
	sample := beat.Beat{Node: config.Node, Boot: config.Boot}
	if _, err := beat.Append(nil, &config.Key, config.Domain, sample); err != nil {
		return nil, fmt.Errorf("start heartbeat: %w", err)
	}
	var err error
	if t.session, err = randomNumber(rand.Reader); err != nil {
		return nil, fmt.Errorf("start heartbeat: %w", err)
	}
	if t.conn, err = listen(config); err != nil {
		return nil, err
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.resolver = newResolver(config, t.fault)
	t.running.Go(t.receive)
	t.running.Go(func() { t.resolver.run(t.ctx) })
	return t, nil
}

func listen(config Config) (*net.UDPConn, error) {
	address, err := netip.ParseAddr(config.Address)
	if err != nil {
		return nil, fmt.Errorf("start heartbeat: address %q: want an IP address of this node", config.Address)
	}
	if config.Port < 0 || config.Port > 65535 {
		return nil, fmt.Errorf("start heartbeat: beat_port %d: want 1 to 65535", config.Port)
	}
	at := netip.AddrPortFrom(address, uint16(config.Port))
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("start heartbeat: UDP port %d of %s (beat_port) is in use: stop the other program or choose another beat_port: %w",
			config.Port, address, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("start heartbeat: %s (address) is not an address of this machine: %w", address, err)
	case err != nil:
		return nil, fmt.Errorf("start heartbeat on UDP %s: %w", at, err)
	}
	// The kernel may grant less; then a flood loses more beats, nothing else.
	_ = conn.SetReadBuffer(receiveBufBytes)
	return conn, nil
}

// Beats delivers what arrives. When the reader is slow the oldest beats are
// dropped and counted. The channel is closed by Close.
func (t *Transport) Beats() <-chan Received { return t.out }

// LocalAddr returns the address on which the socket listens.
func (t *Transport) LocalAddr() netip.AddrPort {
	return t.conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Stats counts what happened since New.
type Stats struct {
	Accepted uint64 // authentic and fresh
	Overflow uint64 // accepted, but dropped because Beats was not read
	Unsent   uint64
	// Refused counts datagrams that were not accepted, by reason.
	Refused map[string]uint64
}

// Stats returns the counters.
func (t *Transport) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.faults.stats()
}

// Close ends the transport and waits for its goroutines. It may be called more
// than once.
func (t *Transport) Close() error {
	t.cancel()
	err := t.conn.Close()
	t.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// randomNumber draws a number that is not 0, since 0 means "none".
func randomNumber(from io.Reader) (uint64, error) {
	var b [randomNumberSize]byte
	for {
		if _, err := io.ReadFull(from, b[:]); err != nil {
			return 0, fmt.Errorf("draw a random number: %w", err)
		}
		if n := binary.BigEndian.Uint64(b[:]); n != 0 {
			return n, nil
		}
	}
}

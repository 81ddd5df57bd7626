package lane

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	wire "ringfence/internal/wire/lane"
)

// helloInterval is the pause before a hello that got no answer is said again, and
// before a port that cannot be opened or ends is tried again.
const helloInterval = 300 * time.Millisecond

// Dialer is the guest's end. A port can be opened once only, so one Dialer serves
// the whole process.
type Dialer struct {
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	link    *link      // nil while no session is open
	last    uint32     // stream
	changed chan struct{}
	why     error // why there is none
}

// NewDialer returns the guest's end of a stream that open opens. The caller must
// Close it.
func NewDialer(open func() (io.ReadWriteCloser, error), log *slog.Logger) *Dialer {
	d := &Dialer{log: log.With("component", "lane"), changed: make(chan struct{}), why: errEnded}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.wait.Go(func() { d.run(open) })
	return d
}

// Close ends all connections. It may be called again.
func (d *Dialer) Close() {
	d.cancel()
	d.wait.Wait()
}

// Dial opens a connection to the host. It waits for a session until ctx ends.
func (d *Dialer) Dial(ctx context.Context) (net.Conn, error) {
	for {
		d.mu.Lock()
		k, changed, why := d.link, d.changed, d.why
		d.last++
		id := d.last
		d.mu.Unlock()
		if k != nil {
			session := k.now()
			if conn := k.add(session, id); conn != nil {
				if k.send(wire.Frame{Kind: wire.Open, Session: session, Stream: id}, false) {
					return conn, nil
				}
				conn.Close()
			} else if session != 0 {
				return nil, fmt.Errorf("connect to the host: %d connections are open already", streamLimit)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to the host: %w: %w", ctx.Err(), why)
		case <-d.ctx.Done():
			return nil, fmt.Errorf("connect to the host: %w", net.ErrClosed)
		}
	}
}

// set says that a session is open, or why none is.
func (d *Dialer) set(k *link, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.link, d.why = k, why
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *Dialer) run(open func() (io.ReadWriteCloser, error)) {
	for d.ctx.Err() == nil {
		port, err := open()
		if err == nil {
			err = d.serve(port)
		}
		d.set(nil, err)
		d.log.Debug("no channel to the host", "err", err)
		pauseFor(d.ctx.Done(), helloInterval)
	}
}

// serve holds sessions over the port until that ends.
func (d *Dialer) serve(port io.ReadWriteCloser) error {
	k := newLink(port)
	defer k.end()
	stop := context.AfterFunc(d.ctx, k.fail)
	defer stop()
	want := newSession()
	var mu sync.Mutex // guards want
	current := func() uint64 { mu.Lock(); defer mu.Unlock(); return want }
	k.wait.Go(func() {
		for {
			if session := current(); k.now() != session && !k.send(wire.Frame{Kind: wire.Hello, Session: session}, true) {
				return
			}
			if !pauseFor(k.ctx.Done(), helloInterval) {
				return
			}
		}
	})
	return k.read(func(f wire.Frame) {
		switch session := current(); {
		case f.Session != session:
		case f.Kind == wire.Welcome && k.now() != session:
			k.begin(session)
			d.set(k, nil)
		case f.Kind == wire.Unknown && k.now() == session: // hostd came back
			d.set(nil, errEnded)
			k.begin(0)
			mu.Lock()
			want = newSession()
			mu.Unlock()
		case f.Kind == wire.Data, f.Kind == wire.Close:
			k.data(f)
		}
	})
}

// newSession draws a session that nobody else has.
func newSession() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return binary.BigEndian.Uint64(b[:]) | 1
}

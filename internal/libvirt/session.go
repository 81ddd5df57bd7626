package libvirt

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/internal/wire/virnet"
)

// Bounds in time.
const (
	// OpenTimeout bounds Open: dial, TLS or ssh, authentication, open.
	OpenTimeout = 20 * time.Second
	// CallTimeout bounds a call whose ctx has no deadline.
	CallTimeout = 30 * time.Second
	// KeepaliveInterval and KeepaliveCount are libvirt's own: a connection on which
	// nothing came for an interval is pinged, and after that many pings without a
	// word it is lost, half a minute after the last word.
	KeepaliveInterval = 5 * time.Second
	KeepaliveCount    = 5

	writeTimeout = KeepaliveInterval * KeepaliveCount // of one message
	closeTimeout = time.Second                        // for libvirtd's good-bye
)

// heldLimit is how many events may come while Subscribe registers.
const heldLimit = 4096

// Options are what Open and NewClient need beside the URI; the zero value is good.
type Options struct {
	Log *slog.Logger // nil: nothing is logged
	// Dial makes the connection that the transport wants, in place of net.Dialer's
	// DialContext; ssh does not ask it.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Keepalive replaces KeepaliveInterval when it is not 0.
	Keepalive time.Duration
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Keepalive == 0 {
		o.Keepalive = KeepaliveInterval
	}
	return o
}

// Session is one open connection to libvirtd. It is safe for concurrent use. Once
// it has ended, Done is closed and every call fails.
type Session struct {
	Calls
	conn      net.Conn
	log       *slog.Logger
	out       chan []byte   // to the writer, who has the connection to itself
	pong      chan struct{} // a ping of libvirtd's waits for its answer
	heard     atomic.Bool   // something came since keepalive last looked
	done      chan struct{} // closed by fail
	endOnce   sync.Once
	err       error // why; written before done is closed
	wait      sync.WaitGroup
	closeOnce sync.Once

	mu      sync.Mutex // guards what follows
	serial  uint32
	pending map[uint32]waiting

	eventMu sync.Mutex // guards what follows, and keeps events in order
	sink    func(Event)
	held    []Event
}

// waiting is a call that has no answer yet.
type waiting struct {
	proc   virnet.Proc
	answer chan<- virnet.Message // has room for one
}

// Open connects to the libvirtd of the URI. It fails after OpenTimeout at the
// latest. The caller must Close the session.
func Open(ctx context.Context, uri URI, o Options) (*Session, error) {
	o = o.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, OpenTimeout)
	defer cancel()
	conn, err := dial(ctx, uri, o)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", uri, err)
	}
	s := &Session{
		conn: conn, log: o.Log.With("component", "libvirt", "uri", uri.String()),
		out: make(chan []byte), pong: make(chan struct{}, 1), done: make(chan struct{}),
		pending: make(map[uint32]waiting),
	}
	s.Calls = Calls{s}
	s.wait.Go(s.read)
	s.wait.Go(s.write)
	alive, err := s.greet(ctx, uri)
	if err != nil {
		s.end()
		return nil, fmt.Errorf("open %s: %w", uri, err)
	}
	if alive {
		s.wait.Go(func() { s.keepalive(o.Keepalive) })
	} else {
		s.log.Warn("libvirtd knows no keepalive: a connection that breaks silently is noticed by calls alone")
	}
	return s, nil
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session has ended; nil before.
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Close says good-bye, ends the session and returns when all of it is gone. It may
// be called again.
func (s *Session) Close() {
	s.closeOnce.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		// An answer is not needed: libvirtd also sees the connection end.
		_, _ = s.call(ctx, virnet.ProcClose, nil)
		s.end()
	})
}

// end ends the session and waits for its goroutines.
func (s *Session) end() {
	s.fail(ErrClosed)
	s.wait.Wait()
}

// fail ends the session; the first reason stays.
func (s *Session) fail(err error) {
	s.endOnce.Do(func() {
		s.err = err
		close(s.done)
		s.conn.Close()
	})
}

// call makes one call and returns the body of its answer.
func (s *Session) call(ctx context.Context, p virnet.Proc, body []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, CallTimeout)
		defer cancel()
	}
	serial, answer := s.enlist(p)
	defer s.forget(serial)
	m := virnet.Message{
		Program: virnet.ProgramRemote, Version: virnet.Version, Proc: p, Type: virnet.TypeCall, Serial: serial, Body: body,
	}
	select {
	case <-s.done:
		return nil, fmt.Errorf("%w: %w", ErrDown, s.err)
	case <-ctx.Done():
		return nil, fmt.Errorf("libvirtd takes no call: %w", context.Cause(ctx))
	case s.out <- m.Append(nil):
	}
	select {
	case m := <-answer:
		return result(m)
	case <-ctx.Done():
		return nil, fmt.Errorf("libvirtd does not answer: %w", context.Cause(ctx))
	case <-s.done:
		select {
		case m := <-answer: // it came before the end
			return result(m)
		default:
			return nil, fmt.Errorf("%w: %w", ErrLost, s.err)
		}
	}
}

func result(m virnet.Message) ([]byte, error) {
	if m.Status == virnet.StatusOK {
		return m.Body, nil
	}
	d := virnet.NewDecoder(m.Body)
	e := d.Error()
	if err := d.End(); err != nil {
		return nil, fmt.Errorf("libvirtd answers with an error that cannot be read: %w", err)
	}
	return nil, &Error{Code: Code(e.Code), Origin: e.Origin, Message: e.Message}
}

func (s *Session) enlist(p virnet.Proc) (uint32, <-chan virnet.Message) {
	answer := make(chan virnet.Message, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	s.pending[s.serial] = waiting{p, answer}
	return s.serial, answer
}

func (s *Session) forget(serial uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, serial)
}

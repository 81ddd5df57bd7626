package fencevirt

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"ringfence/internal/hypervisor"
)

// endpoint is one listener that has its sockets. New settings reach it while it
// serves.
type endpoint interface {
	set(settings)
	// serve serves until close or the end of ctx, and returns when the sockets of
	// its own are closed. Requests go on in daemon.requests.
	serve(ctx context.Context)
	// close ends serve, or frees the sockets of an endpoint that never served.
	close()
	// idle ends the connections that wait for their clients.
	idle()
	// addr is where it listens; nil when it does not.
	addr() net.Addr
	// describe says what it is, and on which interfaces it has joined a group.
	describe() (l *settings, joined map[int]string)
	// guests tells it which guests there are.
	guests([]hypervisor.Guest)
}

// settings are what a reload may change: a listener, and the configuration that it
// is of.
type settings struct {
	Listener
	cfg Config
}

// daemon is what the endpoints share.
type daemon struct {
	answerer   *answerer
	challenges *challenges
	drops      *drops
	reports    *reportLimit
	log        *slog.Logger
	work       context.Context // of the requests; ends when they must
	requests   sync.WaitGroup
}

// endpointBase is what all endpoints have.
type endpointBase struct {
	daemon   *daemon
	settings atomic.Pointer[settings]
}

func (e *endpointBase) set(s settings) { e.settings.Store(&s) }

func (e *endpointBase) get() *settings { return e.settings.Load() }

func (e *endpointBase) describe() (*settings, map[int]string) { return e.get(), nil }

func (e *endpointBase) guests([]hypervisor.Guest) {}

// The reasons for which requests are dropped after they were verified.
var (
	errReplay   = errors.New("the identical packet came before")
	errRepeated = errors.New("the same request was answered just now")
	errNotTaken = errors.New("the client did not take its answer")
)

// errShort: the connection ended before the request was there.
type errShort struct{ err error }

func (errShort) Error() string { return "no whole request" }

func (e errShort) Unwrap() error { return e.err }

// dropped logs why a connection with source came to nothing.
func (e *endpointBase) dropped(p *place, source string, err error) {
	reason, args := "the connection failed", []any{"err", err}
	var short errShort
	evicted, closed := p.evicted()
	switch {
	case closed:
		return
	case evicted:
		reason, args = errEvicted.Error(), nil
	case errors.As(err, &short):
		reason, args = "no whole request came in time", []any{"err", short.err}
	case errors.Is(err, errNotTaken):
		reason = errNotTaken.Error()
	case errors.Is(err, os.ErrDeadlineExceeded):
		reason = "the client is too slow in the handshake: its auth may differ"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		reason = "the client hung up in the handshake: its key or its auth may differ"
	case !isNetwork(err):
		reason, args = err.Error(), nil
	}
	e.daemon.drops.drop(e.get().Where, source, reason, args...)
}

func isNetwork(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

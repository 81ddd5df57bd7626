package fencevirt

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/xvm"
)

const (
	// lineDialLimit bounds connecting to a line, lineReplyLimit writing an answer.
	lineDialLimit  = 3 * time.Second
	lineReplyLimit = 3 * time.Second
	// lineRetry is the pause before a line that was closed is connected again,
	// lineRetryLimit what it grows to while that does not help.
	lineRetry      = 100 * time.Millisecond
	lineRetryLimit = 5 * time.Second
	// portsRetry is the pause before the hypervisor is asked again for the ports of
	// guests of which it did not tell them.
	portsRetry = 2 * time.Second
)

// lines serves the serial lines or channels of the guests of this host. It connects
// to them; the hypervisor listens.
type lines struct {
	endpointBase
	porter hypervisor.Porter
	kick   chan struct{}

	mu      sync.Mutex // guards what follows
	here    []hypervisor.Guest
	closed  chan struct{}
	closing sync.Once
}

// lineKey is one line in one life of its guest.
type lineKey struct {
	path string
	id   cluster.GuestID
	life cluster.LifeID
}

func newLines(d *daemon, porter hypervisor.Porter) *lines {
	return &lines{
		endpointBase: endpointBase{daemon: d}, porter: porter,
		kick: make(chan struct{}, 1), closed: make(chan struct{}),
	}
}

func (e *lines) addr() net.Addr { return nil }

func (e *lines) close() { e.closing.Do(func() { close(e.closed) }) }

func (e *lines) idle() {}

func (e *lines) guests(guests []hypervisor.Guest) {
	e.mu.Lock()
	e.here = guests
	e.mu.Unlock()
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// serve has one goroutine for each line of each guest that runs.
func (e *lines) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	s := lineSet{endpoint: e, open: map[lineKey]*line{}, known: map[cluster.LifeID][]hypervisor.Port{}}
	defer func() {
		cancel()
		s.running.Wait()
	}()
	retry := time.NewTimer(portsRetry)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.closed:
			return
		case <-e.kick:
		case <-retry.C:
		}
		e.mu.Lock()
		here := e.here
		e.mu.Unlock()
		if !s.sync(ctx, here) {
			retry.Reset(portsRetry)
		}
	}
}

// lineSet is what serve has open. Only serve's goroutine uses it.
type lineSet struct {
	endpoint *lines
	open     map[lineKey]*line
	known    map[cluster.LifeID][]hypervisor.Port
	running  sync.WaitGroup
}

// sync opens the lines of guests that run and closes those of others. It reports
// false when the hypervisor did not tell all.
func (s *lineSet) sync(ctx context.Context, guests []hypervisor.Guest) bool {
	whole := true
	want, lives := map[lineKey]hypervisor.Guest{}, map[cluster.LifeID]bool{}
	for _, g := range guests {
		if g.Life == "" || g.State == hypervisor.StateArriving {
			continue
		}
		lives[g.Life] = true
		ports, ok := s.ports(ctx, g)
		whole = whole && ok
		for _, p := range ports {
			if s.endpoint.get().has(p) {
				want[lineKey{p.Path, g.ID, g.Life}] = g
			}
		}
	}
	for key, l := range s.open {
		if _, ok := want[key]; !ok {
			l.cancel()
			delete(s.open, key)
		}
	}
	for life := range s.known {
		if !lives[life] {
			delete(s.known, life)
		}
	}
	for key, g := range want {
		if s.open[key] != nil {
			continue
		}
		lineCtx, cancel := context.WithCancel(ctx)
		l := &line{endpoint: s.endpoint, path: key.path, guest: g, cancel: cancel, history: newHistory(time.Now)}
		s.open[key] = l
		s.running.Go(func() { l.run(lineCtx) })
	}
	return whole
}

func (s *lineSet) ports(ctx context.Context, g hypervisor.Guest) ([]hypervisor.Port, bool) {
	if ports, ok := s.known[g.Life]; ok {
		return ports, true
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	ports, err := s.endpoint.porter.Ports(ctx, g.ID)
	switch {
	case errors.Is(err, hypervisor.ErrNoGuest), errors.Is(err, hypervisor.ErrNotRunning):
		return nil, true // it has ended meanwhile
	case err != nil:
		s.endpoint.daemon.drops.drop(s.endpoint.get().Where, "guest "+g.Name, "the hypervisor does not tell its ports", "err", err)
		return nil, false
	}
	s.known[g.Life] = ports
	return ports, true
}

// has reports whether the listener serves the port.
func (l Listener) has(p hypervisor.Port) bool {
	if l.Dir != "" && filepath.Dir(filepath.Clean(p.Path)) != filepath.Clean(l.Dir) {
		return false
	}
	switch l.Kind {
	case KindSerial:
		return p.Kind == hypervisor.PortSerial
	case KindVMChannel:
		return p.Kind == hypervisor.PortChannel
	case KindVirtio:
		return p.Kind == hypervisor.PortVirtio && p.Name == l.PortName
	}
	return false
}

// line is one line of one guest; who speaks there is that guest.
type line struct {
	endpoint *lines
	path     string
	guest    hypervisor.Guest
	cancel   context.CancelFunc
	history  *history
}

// run keeps the line connected until ctx ends.
func (l *line) run(ctx context.Context) {
	defer l.cancel()
	wait := lineRetry
	for ctx.Err() == nil {
		began := time.Now()
		err := l.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > lineRetryLimit {
			wait = lineRetry
		}
		l.endpoint.daemon.log.Debug("line closed", "guest", l.guest.Name, "path", l.path, "err", err)
		sleep(ctx, wait)
		wait = min(2*wait, lineRetryLimit)
	}
}

// connect serves one connection to its end.
func (l *line) connect(ctx context.Context) error {
	dialer := net.Dialer{Timeout: lineDialLimit}
	conn, err := dialer.DialContext(ctx, "unix", l.path)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	l.endpoint.daemon.log.Debug("line connected", "guest", l.guest.Name, "path", l.path)
	var m matcher
	buffer := make([]byte, 512)
	for {
		var deadline time.Time // a guest may be silent for as long as it likes
		if m.partial() {
			deadline = time.Now().Add(requestLimit)
		}
		if err := conn.SetReadDeadline(deadline); err != nil {
			return err
		}
		n, err := conn.Read(buffer)
		for _, r := range m.feed(buffer[:n]) {
			if err := l.serve(conn, r); err != nil {
				return err
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			m.reset()
			l.endpoint.daemon.drops.drop(l.endpoint.get().Where, "guest "+l.guest.Name, "no whole request came in time")
		} else if err != nil {
			return err
		}
	}
}

// serve carries out one request. One that came just now gets no answer.
func (l *line) serve(conn net.Conn, r xvm.SerialRequest) error {
	e, this := l.endpoint, runOf(r.Op, r.Seq, r.Guest)
	if l.history.answered(this) {
		e.daemon.drops.drop(e.get().Where, "guest "+l.guest.Name, errRepeated.Error())
		return nil
	}
	s := e.get()
	out := e.daemon.answerer.answer(e.daemon.work, request{
		op: r.Op, guest: r.Guest, from: Requester{Guest: l.guest}, key: s.Keys[0], cfg: s.cfg,
	})
	l.history.complete(this)
	if err := conn.SetWriteDeadline(time.Now().Add(lineReplyLimit)); err != nil {
		return err
	}
	_, err := conn.Write(out.bytes(xvm.Magic))
	return err
}

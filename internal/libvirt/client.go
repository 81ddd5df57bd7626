package libvirt

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ringfence/internal/wire/virnet"
)

// Back-off between attempts to connect: the first wait, and the longest, after
// which a session counts as one that held.
const (
	backoffMin = 100 * time.Millisecond
	backoffMax = 5 * time.Second
)

// laneLimit is how many calls of one lane may be under way. Libvirtd has twenty
// workers and five for calls that never wait for a guest.
const laneLimit = 8

// Client keeps a session with one libvirtd, and opens the next when it ends. It is
// safe for concurrent use. A call while there is none fails at once with ErrDown;
// Wait waits for one. Clients know nothing of each other.
//
// Calls that may wait for a guest's hypervisor process go over a session of their
// own each, at most eight destroys and eight others at a time; one more waits, and
// fails with ErrBusy when its ctx ends. So a guest that hangs delays nobody else.
type Client struct {
	Calls
	uri    URI
	o      Options
	log    *slog.Logger
	events *queue
	life   context.Context // until Close
	stop   context.CancelFunc
	wait   sync.WaitGroup
	// One in it for each call with its own session. Destroy never waits for others.
	destroys, others chan struct{}

	mu      sync.Mutex    // guards what follows
	session *Session      // nil while down
	changed chan struct{} // closed and replaced at each change of session or err
	err     error         // why it is down
}

// NewClient begins to connect and returns at once. The caller must Close the
// client, and must take its events by Next.
func NewClient(uri URI, o Options) *Client {
	ctx, stop := context.WithCancel(context.Background())
	o = o.withDefaults()
	c := &Client{
		uri: uri, o: o, log: o.Log.With("component", "libvirt", "uri", uri.String()),
		events: newQueue(), life: ctx, stop: stop,
		destroys: make(chan struct{}, laneLimit), others: make(chan struct{}, laneLimit),
		changed: make(chan struct{}), err: fmt.Errorf("%w: the first attempt is under way", ErrDown),
	}
	c.Calls = Calls{c}
	c.wait.Go(c.run)
	return c
}

// URI returns the client's URI.
func (c *Client) URI() URI { return c.uri }

// Err returns nil while a session is open, else an ErrDown that says why not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Wait returns when a session is open, or with the reason why there is none when
// ctx ends or the client is closed.
func (c *Client) Wait(ctx context.Context) error {
	for {
		c.mu.Lock()
		err, changed := c.err, c.changed
		c.mu.Unlock()
		if err == nil {
			return nil
		}
		select {
		case <-changed:
		case <-c.life.Done():
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// Next returns the next event, in order: Connected, events, Lost, Connected and so
// on. It waits until there is one, ctx ends, or the client is closed (ErrClosed).
// Whoever leaves more than 4,096 events lying gets Lost with ErrSlow and Connected
// in place of all of them, while the session goes on.
func (c *Client) Next(ctx context.Context) (Event, error) { return c.events.next(ctx) }

// Close ends the session and the client, and returns when all of it is gone. It
// may be called again.
func (c *Client) Close() {
	c.stop()
	c.wait.Wait()
}

func (c *Client) call(ctx context.Context, p virnet.Proc, body []byte) ([]byte, error) {
	c.mu.Lock()
	s, err := c.session, c.err
	c.mu.Unlock()
	if s == nil {
		return nil, err
	}
	switch p {
	case virnet.ProcDestroy:
		return c.alone(ctx, c.destroys, p, body)
	case virnet.ProcCreate, virnet.ProcCreateXML, virnet.ProcReset, virnet.ProcReboot, virnet.ProcShutdown,
		virnet.ProcSuspend, virnet.ProcResume, virnet.ProcAbortJob, virnet.ProcJobStats, virnet.ProcSetMetadata,
		virnet.ProcManagedSave, virnet.ProcRemoveManagedSave, virnet.ProcSave, virnet.ProcRestore,
		virnet.ProcUndefine:
		return c.alone(ctx, c.others, p, body)
	}
	return s.call(ctx, p, body)
}

// alone makes a call over a session of its own.
func (c *Client) alone(ctx context.Context, lane chan struct{}, p virnet.Proc, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, CallTimeout, context.DeadlineExceeded)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	select {
	case lane <- struct{}{}:
		defer func() { <-lane }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
	}
	s, err := Open(ctx, c.uri, c.o)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDown, err)
	}
	answer, err := s.call(ctx, p, body)
	if ctx.Err() != nil {
		s.end() // no good-bye: the caller has waited long enough
	} else {
		s.Close()
	}
	return answer, err
}

// run opens one session after the other.
func (c *Client) run() {
	ctx := c.life
	defer c.events.close()
	wait := backoffMin
	for {
		began := time.Now()
		err := c.once(ctx)
		c.down(err)
		if time.Since(began) > backoffMax {
			wait = backoffMin
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, backoffMax)
	}
}

// once opens a session and returns why it ended or did not come.
func (c *Client) once(ctx context.Context) error {
	s, err := Open(ctx, c.uri, c.o)
	if err != nil {
		return err
	}
	defer s.Close()
	bounded, cancel := context.WithTimeout(ctx, OpenTimeout)
	defer cancel()
	err = s.Subscribe(bounded, func(e Event) {
		if e.Kind == Connected { // calls go through before anybody hears of it
			c.up(s)
		}
		c.events.put(e)
	})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ErrClosed
	case <-s.Done():
		return s.Err()
	}
}

func (c *Client) up(s *Session) {
	c.log.Info("connected to libvirtd")
	c.change(s, nil)
}

func (c *Client) down(err error) {
	err = fmt.Errorf("%w: %w", ErrDown, err)
	told := c.change(nil, err)
	if c.life.Err() != nil {
		return // closed: nobody is to be told
	}
	if told {
		c.log.Warn("no connection to libvirtd", "err", err)
		c.events.put(Event{Kind: Lost, Err: err})
	} else {
		c.log.Debug("still no connection to libvirtd", "err", err)
	}
}

// change reports whether the change is one that events tell of.
func (c *Client) change(s *Session, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := c.session != nil || !c.events.began()
	c.session, c.err = s, err
	close(c.changed)
	c.changed = make(chan struct{})
	return told
}

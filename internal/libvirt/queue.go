package libvirt

import (
	"context"
	"sync"
)

// queueLimit is how many events may wait for their reader.
const queueLimit = 4096

// queue holds a client's events for one reader. Writers never wait: a reader that
// is too slow loses all that waits and is told to list anew.
type queue struct {
	mu     sync.Mutex // guards what follows
	list   []Event
	any    bool // something was put
	up     bool // the last marker was Connected
	closed bool

	ready chan struct{} // has room for one: something may have changed
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

// began reports whether anything was ever put.
func (q *queue) began() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.any
}

func (q *queue) put(e Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.any = true
	switch e.Kind {
	case Connected:
		q.up = true
	case Lost:
		q.up = false
	}
	if len(q.list) >= queueLimit {
		q.list = append(q.list[:0:0], Event{Kind: Lost, Err: ErrSlow})
		e = Event{Kind: Connected}
		if !q.up {
			q.list, e = nil, Event{Kind: Lost, Err: ErrSlow}
		}
	}
	q.list = append(q.list, e)
	q.wake()
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake()
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

func (q *queue) next(ctx context.Context) (Event, error) {
	for {
		q.mu.Lock()
		if len(q.list) > 0 {
			e := q.list[0]
			q.list = q.list[1:]
			q.mu.Unlock()
			return e, nil
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return Event{}, ErrClosed
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

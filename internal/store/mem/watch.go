package mem

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// watchRoom is how many batches wait in a watch's channel before a pump has to
// carry the rest. One more slot is kept for the Batch that ends the watch.
const watchRoom = 256

// watch is one open watch. server.mu guards next, pumping and ended; out is
// sent to under the lock, or by the pump alone while pumping is set.
type watch struct {
	client  *Client
	prefix  string
	next    cluster.Revision // first revision not yet delivered
	out     chan store.Batch
	pumping bool
	ended   chan struct{} // closed when the watch must end
	err     error         // why; set before ended is closed; nil: ctx ended
	unhook  func() bool   // stops waiting for ctx
}

// Watch implements store.Store. When Close ends a watch whose reader is more
// than watchRoom batches behind, the channel is closed without an ErrClosed.
func (c *Client) Watch(ctx context.Context, prefix string, from cluster.Revision) <-chan store.Batch {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &watch{
		client: c,
		prefix: prefix,
		next:   max(from, firstRevision),
		out:    make(chan store.Batch, watchRoom+1),
		ended:  make(chan struct{}),
	}
	w.unhook = context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end(w, nil)
	})
	s.watches = append(s.watches, w)
	if c.closed {
		s.end(w, store.ErrClosed)
		return w.out
	}
	s.deliver(w)
	return w.out
}

// close ends all watches of c.
func (s *Server) close(c *Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.closed = true
	for _, w := range slices.Clone(s.watches) {
		if w.client == c {
			s.end(w, store.ErrClosed)
		}
	}
}

// deliverAll lets every watch catch up. The caller holds the lock.
func (s *Server) deliverAll() {
	for _, w := range slices.Clone(s.watches) {
		s.deliver(w)
	}
}

// deliver fills the channel of w from the history; when that has no room, a
// pump takes over. The caller holds the lock.
func (s *Server) deliver(w *watch) {
	if w.pumping || w.over() || w.client.fault.StallWatches {
		return
	}
	for len(w.out) < watchRoom {
		batch, ok := s.nextBatch(w)
		if !ok {
			return
		}
		if batch.Err != nil {
			s.end(w, batch.Err)
			return
		}
		w.out <- batch
	}
	w.pumping = true
	w.client.pumps.Go(func() { s.pump(w) })
}

// pump carries what does not fit into the channel, batch by batch, until the
// reader has caught up, the watch is stalled or it ends.
func (s *Server) pump(w *watch) {
	for {
		batch, ok := s.pumpNext(w)
		if !ok {
			return
		}
		select {
		case w.out <- batch:
		case <-w.ended:
		}
		if batch.Err != nil {
			s.mu.Lock()
			s.end(w, nil)
			s.mu.Unlock()
		}
	}
}

// pumpNext returns the batch that the pump has to send, or false when the pump
// is to stop.
func (s *Server) pumpNext(w *watch) (store.Batch, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.over() {
		w.finish()
		return store.Batch{}, false
	}
	if !w.client.fault.StallWatches {
		if batch, ok := s.nextBatch(w); ok {
			return batch, true
		}
	}
	w.pumping = false
	return store.Batch{}, false
}

// nextBatch takes the next batch of w out of the history; false: none yet. The
// caller holds the lock.
func (s *Server) nextBatch(w *watch) (store.Batch, bool) {
	if w.next < s.compacted {
		return store.Batch{Err: store.ErrCompacted}, true
	}
	for _, c := range s.history[s.historyFrom(w.next):] {
		w.next = c.rev + 1
		var changes []store.Change
		for _, change := range c.changes {
			if strings.HasPrefix(change.KV.Key, w.prefix) {
				change.KV.Value = bytes.Clone(change.KV.Value)
				changes = append(changes, change)
			}
		}
		if len(changes) > 0 {
			return store.Batch{Rev: c.rev, Changes: changes}, true
		}
	}
	w.next = max(w.next, s.rev+1)
	return store.Batch{}, false
}

// end ends w for the reason err, or because its ctx ended when err is nil. The
// caller holds the lock.
func (s *Server) end(w *watch, err error) {
	if w.over() {
		return
	}
	w.err = err
	close(w.ended)
	w.unhook()
	s.watches = slices.DeleteFunc(s.watches, func(other *watch) bool { return other == w })
	if !w.pumping {
		w.finish()
	}
}

// over says whether the watch has ended. The caller holds the lock.
func (w *watch) over() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

// finish closes the channel, with the reason as last batch where it has room.
// The caller holds the lock and is the only sender.
func (w *watch) finish() {
	if w.err != nil {
		select {
		case w.out <- store.Batch{Err: w.err}:
		default:
		}
	}
	close(w.out)
}

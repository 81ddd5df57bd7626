package mem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// CommitFault says what becomes of a client's commits.
type CommitFault int

// The ways in which a commit can end without a clear answer.
const (
	// CommitAnswered: no fault.
	CommitAnswered CommitFault = iota
	// CommitLost: ErrUnknown, and the transaction never reaches the store.
	CommitLost
	// CommitUnacknowledged: ErrUnknown, though the transaction was carried out
	// (or found in conflict): the answer is lost.
	CommitUnacknowledged
	// CommitLate: ErrUnknown; the transaction is still under way and is carried
	// out, guards and all, when the fault is next set.
	CommitLate
)

// Fault is what is wrong with one client's link. The zero Fault is none.
type Fault struct {
	// Unavailable makes Load and Commit give ErrUnavailable; nothing is done.
	Unavailable bool
	// Commit applies when the link is not Unavailable.
	Commit CommitFault
	// StallWatches holds back batches of all watches, also of ones opened
	// meanwhile. Nothing is lost: they are delivered once it is lifted, unless
	// the history was compacted by then.
	StallWatches bool
}

// Cut is the fault of a client that lost its network.
func Cut() Fault { return Fault{Unavailable: true, StallWatches: true} }

// Client is one node's view of the Server.
type Client struct {
	server *Server
	name   string
	pumps  sync.WaitGroup // overflow pumps of this client's watches

	// Guarded by server.mu.
	closed bool
	fault  Fault
	late   []store.Tx // under way because of CommitLate
}

var _ store.Store = (*Client)(nil)

// SetFault replaces the fault of the client's link. Transactions that were
// under way arrive first, in the order of their Commit calls, then stalled
// watches catch up.
func (c *Client) SetFault(f Fault) {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	late := c.late
	c.late, c.fault = nil, f
	for _, tx := range late {
		// Nobody waits for the answer: a conflict only means that it came too late.
		_, _ = s.commit(tx)
	}
	s.deliverAll()
}

// Load implements store.Store.
func (c *Client) Load(ctx context.Context, prefix string) ([]cluster.KV, cluster.Revision, error) {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := c.usable(ctx); err != nil {
		return nil, 0, fmt.Errorf("load %q by %s: %w", prefix, c.name, err)
	}
	return s.load(prefix), s.rev, nil
}

// Commit implements store.Store.
func (c *Client) Commit(ctx context.Context, tx store.Tx) (cluster.Revision, error) {
	if err := store.CheckTx(tx); err != nil {
		return 0, err
	}
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := c.usable(ctx); err != nil {
		return 0, fmt.Errorf("commit by %s: %w", c.name, err)
	}
	switch c.fault.Commit {
	case CommitLost:
		return 0, fmt.Errorf("commit by %s: %w", c.name, store.ErrUnknown)
	case CommitLate:
		c.late = append(c.late, cloneTx(tx))
		return 0, fmt.Errorf("commit by %s: %w", c.name, store.ErrUnknown)
	case CommitUnacknowledged:
		_, _ = s.commit(tx) // the fault is that this answer is lost
		return 0, fmt.Errorf("commit by %s: %w", c.name, store.ErrUnknown)
	}
	return s.commit(tx)
}

// Compact forgets all history of the server below rev. It is not part of
// store.Store; storetest uses it to bring about ErrCompacted.
func (c *Client) Compact(_ context.Context, rev cluster.Revision) error { return c.server.Compact(rev) }

// Close implements store.Store. It closes this client only; the server and its
// records live on. Transactions under way because of CommitLate still arrive.
func (c *Client) Close() error {
	c.server.close(c)
	c.pumps.Wait()
	return nil
}

// usable returns why the client cannot reach the server. The caller holds the lock.
func (c *Client) usable(ctx context.Context) error {
	switch {
	case c.closed:
		return store.ErrClosed
	case ctx.Err() != nil:
		return errors.Join(store.ErrUnavailable, ctx.Err())
	case c.fault.Unavailable:
		return store.ErrUnavailable
	}
	return nil
}

// cloneTx copies what the caller of Commit may reuse.
func cloneTx(tx store.Tx) store.Tx {
	c := store.Tx{Guards: slices.Clone(tx.Guards), Writes: slices.Clone(tx.Writes)}
	for i := range c.Writes {
		c.Writes[i].Value = slices.Clone(c.Writes[i].Value)
	}
	return c
}

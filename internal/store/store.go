// Package store is the contract of the cluster's decision store: a small
// key-value space with one history of revisions, transactions that compare
// revisions, and watches. Siblings implement it: mem (deterministic model for
// tests and the simulator) and etcd (embedded voter). storetest holds the one
// conformance suite that both pass.
//
// The contract is what DESIGN section 6 asks for and no more: the smaller it
// is, the easier a deterministic model stays equal to the real thing.
package store

import (
	"context"
	"errors"

	"ringfence/internal/cluster"
)

// Errors that callers branch on.
var (
	// ErrConflict: a guard did not hold; nothing was written. Certain.
	ErrConflict = errors.New("store: a record changed meanwhile")
	// ErrUnknown: the transaction may or may not have been committed, because
	// quorum or time was lost on the way. Read again before acting on either.
	ErrUnknown = errors.New("store: outcome unknown")
	// ErrUnavailable: nothing was read or written, e.g. no quorum in time.
	ErrUnavailable = errors.New("store: unavailable")
	// ErrCompacted: a watch asked for history that is gone; Load and watch anew.
	ErrCompacted = errors.New("store: history compacted")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store: closed")
)

// Tx is one transaction: if every guard holds, all writes happen at one new
// revision, else none.
type Tx struct {
	Guards []cluster.Guard
	Writes []cluster.Write
}

// Change is one record changed or deleted at Batch.Rev.
type Change struct {
	KV      cluster.KV // on deletion: key and the deleting revision, no value
	Deleted bool
}

// Batch is all changes under the watched prefix at one revision, or, with Err
// set, the end of the watch.
type Batch struct {
	Rev     cluster.Revision
	Changes []Change
	Err     error
}

// Store is safe for concurrent use.
type Store interface {
	// Load returns every record under prefix, sorted by key, and the revision
	// of the store at which they were read. It is linearizable: the revision is
	// not older than any commit that ended before Load was called. Errors:
	// ErrUnavailable (also when ctx ends), ErrClosed.
	Load(ctx context.Context, prefix string) ([]cluster.KV, cluster.Revision, error)
	// Commit carries out tx and returns the revision at which its writes
	// happened. A tx without writes only checks its guards. It must not write
	// one key twice. Errors: ErrConflict, ErrUnknown, ErrUnavailable (certainly
	// nothing written), ErrClosed, and ErrRefused for what CheckTx refuses.
	Commit(ctx context.Context, tx Tx) (cluster.Revision, error)
	// Watch delivers, in order and without gaps, every change under prefix with
	// a revision of from or later: one Batch for each revision. The watch ends
	// when ctx ends (channel closed), or with one last Batch that carries Err.
	// A slow reader delays only itself; when its backlog is no longer kept it
	// gets ErrCompacted.
	Watch(ctx context.Context, prefix string, from cluster.Revision) <-chan Batch
	// Close releases everything and ends all watches. Later calls give ErrClosed.
	Close() error
}

// Package mirror keeps a node's decoded copy of the store, in step with it by
// a watch. Every loop of the node reads it; nobody writes it but its own
// goroutine. What it shows may be late, never wrong: whoever acts on it commits
// a transaction that compares the revisions it read.
package mirror

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// Timings of the mirror.
const (
	loadTimeout = 5 * time.Second
	retryDelay  = 100 * time.Millisecond
)

// Change is one change of a record.
type Change struct {
	KV      cluster.KV
	Deleted bool
}

// Mirror is the copy. Make it with New and run it with Run.
type Mirror struct {
	store    store.Store
	clock    clock.Clock
	log      *slog.Logger
	onChange func(before, after *cluster.State, c Change)

	mu    sync.Mutex // guards state, own, keys and changed
	state cluster.State
	// own has the kinds of records whose maps no Snapshot shares.
	own     map[string]bool
	keys    map[string]cluster.Revision
	changed chan struct{}
	ready   chan struct{}
	isReady bool
}

// New returns a mirror of st that is empty until Run has loaded it. clk is the
// node's. onChange, if not nil, is called from the mirror's
// goroutine for every change after the first load, in the order of revisions;
// of what happened while the store could not be followed it gets the outcome,
// deletions last. before holds nothing but the changed record as it stood, if it
// did; after is everything, which onChange must neither keep nor change. It must
// neither block nor call the mirror.
func New(st store.Store, clk clock.Clock, log *slog.Logger, onChange func(before, after *cluster.State, c Change)) *Mirror {
	return &Mirror{
		store: st, clock: clk, log: log.With("component", "mirror"), onChange: onChange,
		own: map[string]bool{}, keys: map[string]cluster.Revision{}, changed: make(chan struct{}), ready: make(chan struct{}),
	}
}

// Run loads and follows the store until ctx ends.
func (m *Mirror) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := m.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, store.ErrClosed) {
			return err
		}
		m.log.Debug("store cannot be followed", "err", err)
		select {
		case <-ctx.Done():
		case <-m.clock.After(retryDelay):
		}
	}
	return ctx.Err()
}

// follow loads everything, then applies changes until the watch breaks.
func (m *Mirror) follow(ctx context.Context) error {
	loadCtx, cancel := m.clock.WithTimeout(ctx, loadTimeout)
	kvs, rev, err := m.store.Load(loadCtx, cluster.Prefix)
	cancel()
	if err != nil {
		return err
	}
	m.replace(kvs, rev)
	watchCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	for batch := range m.store.Watch(watchCtx, cluster.Prefix, rev+1) {
		if batch.Err != nil {
			return batch.Err
		}
		m.take(batch.Rev, batch.Changes, false)
	}
	return ctx.Err()
}

// replace takes over a full load: what changed since, and what is gone.
func (m *Mirror) replace(kvs []cluster.KV, rev cluster.Revision) {
	var changes []store.Change
	found := map[string]bool{}
	for _, kv := range kvs {
		found[kv.Key] = true
		if m.keys[kv.Key] != kv.Rev {
			changes = append(changes, store.Change{KV: kv})
		}
	}
	slices.SortStableFunc(changes, func(a, b store.Change) int { return cmp.Compare(a.KV.Rev, b.KV.Rev) })
	for _, key := range slices.Sorted(maps.Keys(m.keys)) {
		if !found[key] {
			changes = append(changes, store.Change{KV: cluster.KV{Key: key, Rev: rev}, Deleted: true})
		}
	}
	m.take(rev, changes, !m.isReady)
	if !m.isReady {
		m.isReady = true
		close(m.ready)
	}
}

// take applies changes and wakes the readers.
func (m *Mirror) take(rev cluster.Revision, changes []store.Change, first bool) {
	now, tell := m.clock.Now(), m.onChange != nil && !first
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range changes {
		var before cluster.State
		if tell {
			before = m.state.Only(c.KV.Key)
		}
		m.takeOwn(c.KV.Key)
		if err := m.state.Apply(c.KV, c.Deleted, now); err != nil {
			m.log.Error("record cannot be read; it is passed over", "err", err)
		}
		if c.Deleted {
			delete(m.keys, c.KV.Key)
		} else {
			m.keys[c.KV.Key] = c.KV.Rev
		}
		if tell {
			m.onChange(&before, &m.state, Change{KV: c.KV, Deleted: c.Deleted})
		}
	}
	m.state.Rev = max(m.state.Rev, rev)
	close(m.changed)
	m.changed = make(chan struct{})
}

// takeOwn makes sure that a change of this key does not reach a Snapshot.
func (m *Mirror) takeOwn(key string) {
	if kind := cluster.KindOf(key); !m.own[kind] {
		m.state.Detach(key)
		m.own[kind] = true
	}
}

// Ready is closed once the first load is complete.
func (m *Mirror) Ready() <-chan struct{} { return m.ready }

// Snapshot returns the state as it is, which the mirror does not change any more
// and callers, who share it, must not change; and a channel that is closed at
// the next change. What is copied is the map that a later change is about.
func (m *Mirror) Snapshot() (cluster.State, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.own)
	return m.state, m.changed
}

// Read calls f with the state, which f must neither keep nor change, and
// returns a channel that is closed at the next change. f must not block.
func (m *Mirror) Read(f func(s *cluster.State)) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.state)
	return m.changed
}

// WaitFor returns when the mirror has reached rev, or with ctx.Err().
func (m *Mirror) WaitFor(ctx context.Context, rev cluster.Revision) error {
	for {
		var have cluster.Revision
		changed := m.Read(func(s *cluster.State) { have = s.Rev })
		if have >= rev {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

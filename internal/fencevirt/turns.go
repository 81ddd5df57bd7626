package fencevirt

import (
	"context"
	"sync"
)

// turns lets one holder at a time have each key. It is safe for concurrent use.
type turns[K comparable] struct {
	mu    sync.Mutex // guards taken
	taken map[K]chan struct{}
}

func newTurns[K comparable]() *turns[K] { return &turns[K]{taken: map[K]chan struct{}{}} }

// take waits until the key is free; done gives it back. The error is that of ctx.
func (t *turns[K]) take(ctx context.Context, key K) (done func(), err error) {
	for {
		before := t.tryTake(key)
		if before == nil {
			return func() { t.giveBack(key) }, nil
		}
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// tryTake returns nil when the key is the caller's now, else what is closed when it
// is given back.
func (t *turns[K]) tryTake(key K) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if before := t.taken[key]; before != nil {
		return before
	}
	t.taken[key] = make(chan struct{})
	return nil
}

func (t *turns[K]) giveBack(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.taken[key])
	delete(t.taken, key)
}

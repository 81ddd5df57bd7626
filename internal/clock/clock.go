// Package clock is the machine's monotonic clock as a port: the loops of a node
// read it and wait by it, so that the simulator can stop the clock of one guest,
// as a paused virtual machine's stands still, while the others go on.
package clock

import (
	"context"
	"time"
)

// Clock is one machine's monotonic clock. It is safe for concurrent use.
type Clock interface {
	// Now returns the time since some fixed moment of this run.
	Now() time.Duration
	// After delivers once d has passed on this clock.
	After(d time.Duration) <-chan time.Time
	// WithTimeout is context.WithTimeout by this clock. The context's cause, not
	// always its Err, is context.DeadlineExceeded once d has passed.
	WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)
}

// New returns the clock of this process, which shows 0 at the time began.
func New(began time.Time) Clock { return system{began} }

// system is Go's clock.
type system struct{ began time.Time }

func (s system) Now() time.Duration { return time.Since(s.began) }

func (s system) After(d time.Duration) <-chan time.Time { return time.After(d) }

func (s system) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}

// Sleep waits until d has passed on the clock or ctx ends.
func Sleep(ctx context.Context, c Clock, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-c.After(d):
	}
}

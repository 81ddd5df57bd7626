package node

import (
	"context"
	"sync"
	"time"

	"ringfence/internal/clock"
)

// guestClock is the clock of one life: it stands still while its guest is paused.
type guestClock struct {
	base clock.Clock
	end  <-chan struct{} // of the test

	mu      sync.Mutex
	stood   time.Duration // in pauses that are over
	since   time.Duration // of the present pause, on the base
	goes    chan struct{} // closed while the clock goes
	resumed bool
}

func newGuestClock(ctx context.Context, began time.Time) *guestClock {
	c := &guestClock{base: clock.New(began), end: ctx.Done(), goes: make(chan struct{}), resumed: true}
	close(c.goes)
	return c
}

func (c *guestClock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resumed {
		c.resumed, c.since, c.goes = false, c.base.Now(), make(chan struct{})
	}
}

func (c *guestClock) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.resumed {
		c.resumed, c.stood = true, c.stood+c.base.Now()-c.since
		close(c.goes)
	}
}

func (c *guestClock) stands() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.resumed
}

func (c *guestClock) Now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.resumed {
		return c.since - c.stood
	}
	return c.base.Now() - c.stood
}

func (c *guestClock) After(d time.Duration) <-chan time.Time { return c.after(d, c.end) }

// after is After until end is closed.
func (c *guestClock) after(d time.Duration, end <-chan struct{}) <-chan time.Time {
	out := make(chan time.Time, 1)
	due := c.Now() + d
	if d <= 0 {
		due = 0
	}
	go func() {
		for {
			c.mu.Lock()
			goes := c.goes
			c.mu.Unlock()
			select {
			case <-end:
				return
			case <-goes:
			}
			left := due - c.Now()
			if left <= 0 && !c.stands() {
				out <- time.Time{}
				return
			}
			select {
			case <-end:
				return
			case <-c.base.After(max(left, 0)):
			}
		}
	}()
	return out
}

func (c *guestClock) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	over := c.after(d, ctx.Done())
	go func() {
		select {
		case <-ctx.Done():
		case <-over:
			cancel(context.DeadlineExceeded)
		}
	}()
	return ctx, func() { cancel(nil) }
}

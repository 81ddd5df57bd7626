package sim

import (
	"context"
	"time"

	"ringfence/internal/clock"
)

// machineClock is a machine's own clock, as one of its programs reads it.
type machineClock struct{ p *program }

var _ clock.Clock = machineClock{}

// Now implements clock.Clock.
func (c machineClock) Now() time.Duration {
	_ = c.p.gate()
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return c.p.now()
}

// After implements clock.Clock.
func (c machineClock) After(d time.Duration) <-chan time.Time {
	ch := make(chan time.Time, 1)
	c.p.schedule(d, func() { ch <- time.Time{} })
	return ch
}

// WithTimeout implements clock.Clock.
func (c machineClock) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	drop := c.p.schedule(d, func() { cancel(context.DeadlineExceeded) })
	return ctx, func() { drop(); cancel(context.Canceled) }
}

// timer fires when its machine's clock shows at.
type timer struct {
	m     *machine
	at    time.Duration
	fire  func()
	under *time.Timer
}

// now is what the machine's clock shows, with the lock held.
func (m *machine) now() time.Duration {
	if m.stopped {
		return m.pausedAt + m.ahead
	}
	return m.w.now() + m.ahead
}

// schedule calls fire once d has passed on the machine's clock, unless the
// machine ends or the timer is dropped before.
func (m *machine) schedule(d time.Duration, fire func()) (drop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.up {
		return func() {}
	}
	t := &timer{m: m, at: m.now() + d, fire: fire}
	m.timers[t] = true
	t.arm()
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		t.stop()
		delete(m.timers, t)
	}
}

// arm sets the world's timer below, with the lock held. While the machine's
// clock stands still there is none.
func (t *timer) arm() {
	t.stop()
	if !t.m.stopped {
		t.under = time.AfterFunc(max(0, t.at-t.m.now()), t.check)
	}
}

func (t *timer) stop() {
	if t.under != nil {
		t.under.Stop()
	}
}

// check fires the timer if its time has come by the machine's own clock.
func (t *timer) check() {
	t.m.mu.Lock()
	due := t.m.timers[t] && !t.m.stopped && t.m.now() >= t.at
	if due {
		delete(t.m.timers, t)
	}
	t.m.mu.Unlock()
	if due {
		t.fire()
	}
}

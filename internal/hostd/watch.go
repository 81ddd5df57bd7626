package hostd

import (
	"context"
	"time"

	"ringfence/internal/hypervisor"
)

const (
	// relistInterval bounds how long an event that was missed stays unnoticed.
	relistInterval = 2 * time.Second
	// listTimeout bounds one listing, and one look at a guest.
	listTimeout = 5 * time.Second
	// watchBackoffMin and watchBackoffMax bound the pause before a lost event
	// stream is opened anew; it doubles while no event comes.
	watchBackoffMin = 100 * time.Millisecond
	watchBackoffMax = 5 * time.Second
)

// observer feeds Lives with what the hypervisor says: events as they come, and
// a listing after each new stream, on demand and every relistInterval. The two
// run apart, so that a hung listing delays no event.
type observer struct {
	driver hypervisor.Driver
	keeper *keeper
	nudge  chan struct{} // one slot: list soon
	// listed is called with each good listing.
	listed func([]hypervisor.Guest)
	warn   func(msg string, err error)
}

// relist asks for a listing soon.
func (o *observer) relist() {
	select {
	case o.nudge <- struct{}{}:
	default:
	}
}

// watch takes events until ctx ends, and opens lost streams anew.
func (o *observer) watch(ctx context.Context) {
	backoff := watchBackoffMin
	for ctx.Err() == nil {
		events, err := o.driver.Watch(ctx)
		if err != nil {
			o.warn("hypervisor cannot be watched; trying again", err)
		} else {
			_ = o.keeper.do(ctx, func(l *Lives) []Effect { l.WatchLost(); return nil })
			o.relist()
			if o.consume(ctx, events) {
				backoff = watchBackoffMin
			}
			_ = o.keeper.do(ctx, func(l *Lives) []Effect { l.WatchLost(); return nil })
		}
		sleep(ctx, backoff)
		backoff = min(2*backoff, watchBackoffMax)
	}
}

// consume takes one stream to its end and reports whether anything came.
func (o *observer) consume(ctx context.Context, events <-chan hypervisor.Event) (some bool) {
	for {
		select {
		case <-ctx.Done():
			return some
		case ev, ok := <-events:
			if !ok {
				if ctx.Err() == nil {
					o.warn("hypervisor's event stream is lost; opening a new one", nil)
				}
				return some
			}
			some = true
			if err := o.keeper.do(ctx, func(l *Lives) []Effect { return l.Event(ev) }); err != nil {
				return some
			}
			if ev.Kind == hypervisor.EventStarted || ev.Kind == hypervisor.EventEnded {
				o.relist()
			}
		}
	}
}

// list takes listings until ctx ends.
func (o *observer) list(ctx context.Context) {
	tick := time.NewTicker(relistInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-o.nudge:
		}
		if err := o.once(ctx); err != nil && ctx.Err() == nil {
			o.warn("hypervisor gives no listing", err)
		}
	}
}

// once takes one listing.
func (o *observer) once(ctx context.Context) error {
	var mark uint64
	if err := o.keeper.do(ctx, func(l *Lives) []Effect { mark = l.Mark(); return nil }); err != nil {
		return err
	}
	listCtx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	guests, err := o.driver.List(listCtx)
	if err != nil {
		return err
	}
	if err := o.keeper.do(ctx, func(l *Lives) []Effect { return l.Listing(mark, guests) }); err != nil {
		return err
	}
	o.listed(guests)
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

package fencevirt

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

const (
	// followRetry is the pause before a host that cannot be watched is asked again,
	// followRetryLimit what it grows to.
	followRetry      = time.Second
	followRetryLimit = 10 * time.Second
	// followSettle gathers events that come together into one look.
	followSettle = 50 * time.Millisecond
	// followRelook bounds how long an event that never came goes unnoticed.
	followRelook = time.Minute
)

// Loss is why a guest of the fixed map is unknown here.
type Loss string

// The losses.
const (
	LossNone     Loss = "" // it is back
	LossMissing  Loss = "missing"
	LossLeaving  Loss = "leaving" // it migrates to another host
	LossMigrated Loss = "migrated"
)

// follower keeps what only events tell: which guests are leaving, and which have
// gone to another host though their definition is still here. It tells listeners
// that deal with the lines of guests when guests change. It knows nothing of what
// happened before the daemon began to watch. It is safe for concurrent use.
type follower struct {
	host    Observer
	log     *slog.Logger
	changed func(guests []hypervisor.Guest) // after each look
	kick    chan struct{}                   // the map has changed

	mu      sync.Mutex // guards what follows
	leaving map[cluster.GuestID]bool
	away    map[cluster.GuestID]bool
	guests  []hypervisor.Guest // of the last look
	entries []string           // of the fixed map
	losses  map[string]Loss
}

func newFollower(host Observer, log *slog.Logger, changed func([]hypervisor.Guest)) *follower {
	return &follower{
		host: host, log: log, changed: changed, kick: make(chan struct{}, 1),
		leaving: map[cluster.GuestID]bool{}, away: map[cluster.GuestID]bool{}, losses: map[string]Loss{},
	}
}

// whereabouts says whether the guest is on its way to another host, or there.
func (f *follower) whereabouts(id cluster.GuestID) Loss {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.whereaboutsLocked(id)
}

func (f *follower) whereaboutsLocked(id cluster.GuestID) Loss {
	switch {
	case f.away[id]:
		return LossMigrated
	case f.leaving[id]:
		return LossLeaving
	}
	return LossNone
}

// seen returns the guests of the last look.
func (f *follower) seen() []hypervisor.Guest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.guests
}

// setMap sets the fixed map.
func (f *follower) setMap(entries []string) {
	f.mu.Lock()
	f.entries = entries
	f.mu.Unlock()
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// run watches the host until ctx ends.
func (f *follower) run(ctx context.Context) {
	wait := followRetry
	for ctx.Err() == nil {
		began := time.Now()
		if err := f.watch(ctx); ctx.Err() == nil {
			f.log.Warn("cannot follow the guests of this host; what they do meanwhile is not noticed", "err", err)
		}
		if time.Since(began) > followRelook {
			wait = followRetry
		}
		sleep(ctx, wait)
		wait = min(2*wait, followRetryLimit)
	}
}

// watch follows one stream of events to its end.
func (f *follower) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := f.host.Watch
	if beside, ok := f.host.(hypervisor.Bystander); ok {
		watch = beside.WatchBeside // hostd may have the guests of this driver too
	}
	events, err := watch(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	clear(f.leaving) // what is on its way still is told once more
	f.mu.Unlock()
	if err := f.look(ctx); err != nil {
		return err
	}
	look := time.NewTimer(followRelook)
	defer look.Stop()
	for settling := false; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-events:
			if !ok {
				return errors.New("the stream of events ended")
			}
			f.event(e)
			if !settling { // a storm of events does not put it off
				settling = true
				look.Reset(followSettle)
			}
		case <-f.kick:
			f.judge()
		case <-look.C:
			if err := f.look(ctx); err != nil {
				return err
			}
			settling = false
			look.Reset(followRelook)
		}
	}
}

func (f *follower) event(e hypervisor.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch e.Kind {
	case hypervisor.EventLeaving:
		f.leaving[e.Guest] = true
	case hypervisor.EventStayed:
		delete(f.leaving, e.Guest)
	case hypervisor.EventStarted:
		delete(f.leaving, e.Guest)
		delete(f.away, e.Guest)
	case hypervisor.EventEnded:
		delete(f.leaving, e.Guest)
		if e.Reason == hypervisor.ReasonMigrated {
			f.away[e.Guest] = true
		}
	}
}

// look lists the guests, and tells what has changed.
func (f *follower) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	guests, err := f.host.List(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.guests = guests
	f.mu.Unlock()
	f.judge()
	f.changed(guests)
	return nil
}

// judge tells which guests of the fixed map are lost, and which are back.
func (f *follower) judge() {
	f.mu.Lock()
	losses := map[string]Loss{}
	for _, entry := range f.entries {
		if why := f.lossOf(entry); why != LossNone {
			losses[entry] = why
		}
	}
	news := map[string]Loss{}
	for entry, why := range losses {
		if f.losses[entry] != why {
			news[entry] = why
		}
	}
	for entry := range f.losses {
		if losses[entry] == LossNone {
			news[entry] = LossNone
		}
	}
	f.losses = losses
	f.mu.Unlock()
	for entry, why := range news {
		if why == LossNone {
			f.log.Info("a guest of the map is here again", "guest", entry)
		} else {
			f.log.Warn("a guest of the map is not here; requests for it are answered as for an unknown guest",
				"guest", entry, "reason", string(why))
		}
	}
}

// lossOf is called with mu held.
func (f *follower) lossOf(entry string) Loss {
	for _, g := range f.guests {
		if names(entry, g) {
			return f.whereaboutsLocked(g.ID)
		}
	}
	return LossMissing
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

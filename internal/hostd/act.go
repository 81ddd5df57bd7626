package hostd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

const (
	// offTimeout bounds off, with the wait for the guest's turn.
	offTimeout = 15 * time.Second
	// changeTimeout bounds on, pause and unpause in the same way.
	changeTimeout = 10 * time.Second
	// settleTimeout bounds writing the result down.
	settleTimeout = 5 * time.Second
	// killLimit bounds tombstones being carried out at the same time; others
	// wait for the next listing.
	killLimit = 64
)

// actor carries out orders and tombstones, one at a time for each guest.
type actor struct {
	driver hypervisor.Driver
	keeper *keeper
	turns  turns
	log    *slog.Logger
	audit  AuditLog
	relist func()
	// mu guards killing and the start of kills.
	mu      sync.Mutex
	killing map[Target]bool // also those that are being resolved
	wg      sync.WaitGroup
}

// order carries an order out. An error means that nothing was done. It goes on
// when the caller hangs up: ctx is hostd's own.
func (a *actor) order(ctx context.Context, o Order) (hostapi.Reply, error) {
	callCtx, cancel := context.WithTimeout(ctx, timeoutOf(o.Action))
	defer cancel()
	done, err := a.turns.take(callCtx, o.Guest)
	if err != nil {
		return unknown(errors.New("an earlier call for this guest is still under way")), nil
	}
	defer done()
	var reply *hostapi.Reply
	var refused error
	err = a.keeper.do(callCtx, func(l *Lives) (effects []Effect) {
		reply, effects, refused = l.Admit(o)
		return effects
	})
	if err != nil {
		return unknown(err), nil
	}
	if refused != nil || reply != nil {
		return deref(reply), refused
	}
	res := a.call(callCtx, o)
	a.relist()
	return a.settle(ctx, o, res)
}

func deref(r *hostapi.Reply) hostapi.Reply {
	if r == nil {
		return hostapi.Reply{}
	}
	return *r
}

// settle writes the result down, also while hostd is stopping.
func (a *actor) settle(ctx context.Context, o Order, res Result) (hostapi.Reply, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	var reply hostapi.Reply
	var refused error
	err := a.keeper.do(ctx, func(l *Lives) (effects []Effect) {
		reply, effects, refused = l.Settle(o, res)
		return effects
	})
	if err != nil {
		return unknown(err), nil
	}
	return reply, refused
}

func (a *actor) call(ctx context.Context, o Order) Result {
	switch o.Action {
	case hostapi.ActionOff:
		return Result{Err: a.off(ctx, Target{Guest: o.Guest, Life: o.Life})}
	case hostapi.ActionPause:
		return Result{Err: a.driver.Pause(ctx, o.Guest, o.Life)}
	case hostapi.ActionUnpause:
		return Result{Err: a.driver.Unpause(ctx, o.Guest, o.Life)}
	}
	life, err := a.driver.On(ctx, o.Guest)
	return Result{Err: err, Life: life}
}

// off ends a life here. Its migration is aborted first, and seen aborted: a
// process that is killed at the source proves nothing about the target (C-3).
func (a *actor) off(ctx context.Context, t Target) error {
	if err := a.abort(ctx, t); err != nil {
		return err
	}
	return a.driver.Off(ctx, t.Guest, t.Life)
}

// abort returns nil when no migration of the life is under way here any more.
func (a *actor) abort(ctx context.Context, t Target) error {
	mover, moves := a.driver.(hypervisor.Mover)
	if !moves {
		return nil
	}
	err := mover.Abort(ctx, t.Guest, t.Life)
	if err == nil || errors.Is(err, hypervisor.ErrNotRunning) || errors.Is(err, hypervisor.ErrNoGuest) {
		return nil
	}
	return fmt.Errorf("the migration of the life cannot be aborted: %w", err)
}

func timeoutOf(action string) time.Duration {
	if action == hostapi.ActionOff {
		return offTimeout
	}
	return changeTimeout
}

// kill destroys an ended life that runs again (rule P7), in the background. It
// never blocks; what it cannot do now comes back with the next listing.
func (a *actor) kill(ctx context.Context, t Target) {
	a.background(ctx, t, func() { a.destroy(ctx, t) })
}

// resolve makes sure that a life does not arrive here, in the background.
func (a *actor) resolve(ctx context.Context, r Resolve) {
	a.background(ctx, r.Target, func() {
		ctx, cancel := context.WithTimeout(ctx, offTimeout)
		defer cancel()
		done, err := a.turns.take(ctx, r.Guest)
		if err != nil {
			return
		}
		defer done()
		if err := a.notHere(ctx, r.Target); err != nil {
			a.log.Warn("it is not known whether a life has arrived; trying again", "guest", r.Guest, "life", r.Life, "err", err)
			return
		}
		_ = a.keeper.do(ctx, func(l *Lives) []Effect { return l.Resolved(r) })
	})
}

// notHere aborts the migration of a life to here and looks for the life.
func (a *actor) notHere(ctx context.Context, t Target) error {
	if err := a.abort(ctx, t); err != nil {
		return err
	}
	g, err := a.driver.State(ctx, t.Guest)
	switch {
	case errors.Is(err, hypervisor.ErrNoGuest):
		return nil
	case err == nil && g.Life == t.Life:
		return fmt.Errorf("it is %s here", g.State)
	case err == nil && g.Life == "" && g.State != hypervisor.StateOff && g.State != hypervisor.StateSaved:
		return errors.New("the state of the guest is unknown")
	}
	return err
}

// background does one thing at a time for a life, in a goroutine of its own.
func (a *actor) background(ctx context.Context, t Target, do func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil || a.killing[t] || len(a.killing) >= killLimit {
		return
	}
	a.killing[t] = true
	a.wg.Go(func() {
		defer a.killed(t)
		do()
	})
}

func (a *actor) killed(t Target) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.killing, t)
}

func (a *actor) destroy(ctx context.Context, t Target) {
	ctx, cancel := context.WithTimeout(ctx, offTimeout)
	defer cancel()
	done, err := a.turns.take(ctx, t.Guest)
	if err != nil {
		return
	}
	defer done()
	err = a.driver.Off(ctx, t.Guest, t.Life)
	outcome := cluster.OutcomeDone
	switch {
	case err == nil:
		a.log.Error("an ended life ran again and was destroyed; find out who restored it", "guest", t.Guest, "life", t.Life)
	case errors.Is(err, hypervisor.ErrNotRunning), errors.Is(err, hypervisor.ErrOtherLife):
		outcome = cluster.OutcomeNotDone
	case err != nil:
		outcome = cluster.OutcomeUnknown
		a.log.Error("an ended life that runs again could not be destroyed; trying again", "guest", t.Guest, "life", t.Life, "err", err)
	}
	a.audit.Note(AuditEntry{Action: "tombstone", Guest: t.Guest, Life: t.Life, Outcome: string(outcome)})
}

// turns lets one caller at a time have a guest.
type turns struct {
	mu      sync.Mutex // guards waiting and the counts in it
	waiting map[cluster.GuestID]*turn
}

type turn struct {
	free  chan struct{} // holds a value while nobody has the turn
	users int
}

// take waits for the guest's turn; the caller must call done.
func (t *turns) take(ctx context.Context, g cluster.GuestID) (done func(), err error) {
	mine := t.enter(g)
	select {
	case <-mine.free:
		return func() { mine.free <- struct{}{}; t.leave(g, mine) }, nil
	case <-ctx.Done():
		t.leave(g, mine)
		return nil, ctx.Err()
	}
}

func (t *turns) enter(g cluster.GuestID) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	mine := t.waiting[g]
	if mine == nil {
		mine = &turn{free: make(chan struct{}, 1)}
		mine.free <- struct{}{}
		if t.waiting == nil {
			t.waiting = map[cluster.GuestID]*turn{}
		}
		t.waiting[g] = mine
	}
	mine.users++
	return mine
}

func (t *turns) leave(g cluster.GuestID, mine *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if mine.users--; mine.users == 0 {
		delete(t.waiting, g)
	}
}

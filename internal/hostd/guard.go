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
)

// placeTimeout is how long an arriving life may wait for its cluster to write
// the place down. Then it is refused, and nothing has begun.
const placeTimeout = 5 * time.Second

// guard answers the hypervisor before a life may come to this host, by a
// migration or from an image. Without the word of its cluster it may not: a
// cluster that cannot be reached has refused (rule P5).
type guard struct {
	keeper *keeper
	log    *slog.Logger
	mu     sync.Mutex // guards waiting
	// waiting are the callers that wait for a cluster, each with room for one answer.
	waiting map[cluster.LifeID]chan Answered
}

// allow is hypervisor.Mover's guard: nil lets the life come.
func (g *guard) allow(ctx context.Context, in hypervisor.Incoming) error {
	arrival, answer, err := g.ask(ctx, in)
	if err == nil && arrival != nil {
		err = g.wait(ctx, answer)
		g.forget(in.Life)
		if err != nil {
			g.withdraw(ctx, in, *arrival)
		}
	}
	if err != nil {
		g.log.Warn("guest is refused", "guest", in.Guest, "life", in.Life, "why", in.Why, "err", err)
		return fmt.Errorf("guest %s may not come to this host: %w", in.Guest, err)
	}
	g.log.Info("guest may come", "guest", in.Guest, "life", in.Life, "why", in.Why, "managed", arrival != nil)
	return nil
}

// ask puts the question; no arrival and no error need no answer.
func (g *guard) ask(ctx context.Context, in hypervisor.Incoming) (*cluster.Arrival, <-chan Answered, error) {
	// It runs to its end or not at all: nobody would take back what it has noted.
	askCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	answer := make(chan Answered, 1)
	var arrival *cluster.Arrival
	var refused error
	err := g.keeper.do(askCtx, func(l *Lives) (effects []Effect) {
		if refused = ctx.Err(); refused != nil {
			return nil
		}
		arrival, effects, refused = l.Arrive(in)
		if arrival != nil {
			g.expect(in.Life, answer)
		}
		return effects
	})
	if err != nil {
		return nil, nil, err
	}
	return arrival, answer, refused
}

func (g *guard) wait(ctx context.Context, answer <-chan Answered) error {
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	select {
	case a := <-answer:
		if a.Refused != "" {
			return errors.New(a.Refused)
		}
		return nil
	case <-ctx.Done():
		return errors.New("its cluster does not write the place down: is a node with quorum connected to this host?")
	case <-g.keeper.stopped:
		return errStopped
	}
}

// withdraw notes that an arrival was refused.
func (g *guard) withdraw(ctx context.Context, in hypervisor.Incoming, arrival cluster.Arrival) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	_ = g.keeper.do(ctx, func(l *Lives) []Effect { return l.Withdrawn(in.Guest, in.Life, arrival) })
}

func (g *guard) expect(life cluster.LifeID, answer chan Answered) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting == nil {
		g.waiting = map[cluster.LifeID]chan Answered{}
	}
	g.waiting[life] = answer
}

func (g *guard) forget(life cluster.LifeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.waiting, life)
}

// answer wakes who waits for it; it never blocks.
func (g *guard) answer(a Answered) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if answer := g.waiting[a.Life]; answer != nil {
		delete(g.waiting, a.Life)
		answer <- a
	}
}

package executor

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/plan"
	"ringfence/internal/resource"
)

// trouble is a resource found not active.
type trouble struct {
	index int
	err   error
}

// supervise watches a started service until the order changes or a resource
// fails; a failure is repaired in place under the same ticket, or ends the
// generation.
func (w *worker) supervise(ctx context.Context, o order) {
	watchCtx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	found := make(chan trouble, len(w.running.Definition.Resources))
	for i, r := range w.running.Definition.Resources {
		wg.Go(func() {
			if err := w.watch(watchCtx, r); err != nil && watchCtx.Err() == nil {
				found <- trouble{index: i, err: fmt.Errorf("resource %s: %w", r.Name, err)}
			}
		})
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.news:
			next := w.order()
			if !next.run || next.owner.Value.Generation != w.running.Generation {
				return
			}
			o = next // a new record of the same generation: nothing to do
		case t := <-found:
			cancel()
			wg.Wait()
			w.repair(ctx, t)
			return
		}
	}
}

// watch returns why a resource is not active any more. Agents that notice at
// once are asked to; all are polled besides, ocf by its own interval.
func (w *worker) watch(ctx context.Context, r cluster.Resource) error {
	agent, err := w.Agents(r.Agent)
	if err != nil {
		return err
	}
	watcher, ok := agent.(resource.Watcher)
	if !ok {
		return w.poll(ctx, agent, r)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		err := watcher.Watch(ctx, w.callFor(r))
		if err == nil {
			err = errors.New("ended")
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			ended <- err
		}
	})
	wg.Go(func() { ended <- w.poll(ctx, agent, r) })
	return <-ended
}

// poll monitors until the resource is not active. It looks once at the start,
// so that what was taken over is found as it is.
func (w *worker) poll(ctx context.Context, agent resource.Agent, r cluster.Resource) error {
	for {
		if err := w.monitor(ctx, agent, r); err != nil || ctx.Err() != nil {
			return err
		}
		clock.Sleep(ctx, w.Clock, r.MonitorInterval)
	}
}

// monitor returns nil when the resource is active.
func (w *worker) monitor(ctx context.Context, agent resource.Agent, r cluster.Resource) error {
	status, err := w.look(ctx, agent, w.callFor(r))
	switch {
	case status == resource.StatusActive:
		return nil
	case err != nil:
		return fmt.Errorf("monitor: %w", err)
	}
	return fmt.Errorf("monitor: found %s", status)
}

// look makes one monitor call.
func (e *Executor) look(ctx context.Context, agent resource.Agent, call resource.Call) (resource.Status, error) {
	var status resource.Status
	err := e.call(ctx, e.jobs, call.Resource.MonitorTimeout, func(ctx context.Context) (err error) {
		status, err = agent.Monitor(ctx, call)
		return err
	})
	return status, err
}

// repair restarts a service in place from the failed resource on, if its
// policy and the latch allow, else gives the generation up.
func (w *worker) repair(ctx context.Context, t trouble) {
	owner := w.running
	w.restarts = plan.RestartsWithin(w.restarts, w.Clock.Now(), owner.Definition.RestartWindow)
	o := w.order()
	if !o.run || o.owner.Value.Generation != owner.Generation {
		return // a stop order came in between; run takes it up
	}
	if len(w.restarts) >= owner.Definition.Restarts {
		w.giveUp(ctx, fmt.Errorf("%w (restarted %d times in %v)", t.err, len(w.restarts), owner.Definition.RestartWindow))
		return
	}
	w.restarts = append(w.restarts, w.Clock.Now())
	w.log.Warn("resource failed; restarted in place under the same ticket", "generation", owner.Generation, "restart", len(w.restarts), "err", t.err)
	w.reports.put(cluster.ReportRestarting, owner.Generation, t.err.Error(), len(w.restarts))
	began := w.Clock.Now()
	if err := w.stopFrom(ctx, t.index); err != nil {
		w.giveUp(ctx, errors.Join(t.err, err))
		return
	}
	if err := w.startFrom(ctx, t.index); err != nil {
		w.giveUp(ctx, errors.Join(t.err, err))
		return
	}
	w.log.Info("service runs again", "generation", owner.Generation, "took", w.Clock.Now()-began)
	w.reports.put(cluster.ReportRunning, owner.Generation, t.err.Error(), len(w.restarts))
}

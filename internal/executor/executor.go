// Package executor carries out what owner records order this boot to do: it
// starts, watches, restarts in place and stops services through resource
// agents, and reports. It decides nothing that could run a service twice: before
// the first agent of a start it commits a start ticket that compares owner,
// generation, boot-not-ended and epoch (rule P15), a failed start is stopped,
// verified, before it is reported (P16), and whatever is not verified stopped is
// reported as such.
//
// internal/node makes one Executor for each run of the daemon.
package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/mirror"
	"ringfence/internal/resource"
	"ringfence/internal/store"
)

// Config is what an Executor works with.
type Config struct {
	Node   cluster.NodeName
	Boot   cluster.BootID
	Store  store.Store
	Mirror *mirror.Mirror
	// Agents finds the agent for a resource's agent string.
	Agents func(agent string) (resource.Agent, error)
	Clock  clock.Clock
	Log    *slog.Logger
}

// Executor runs the services of one boot. It is safe for concurrent use.
type Executor struct {
	Config
	jobs  chan struct{} // limits starts and monitors that run at the same time
	stops chan struct{} // limits stops, which must not wait behind slow starts

	mu      sync.Mutex // guards the fields below
	workers map[cluster.ServiceName]*worker
	turns   map[cluster.ServiceName]chan struct{} // each holds a value while taken: by a probe of a service, and when a worker becomes active
	latched string                                // why no start is allowed any more; "" while open
	held    string                                // why nothing runs for now; "" while it may
	wg      sync.WaitGroup
}

// jobsPerCore bounds agent calls at a time, as many agents fork heavily.
const jobsPerCore = 4

// New returns an Executor that does nothing until Run.
func New(c Config) *Executor {
	c.Log = c.Log.With("component", "executor")
	return &Executor{
		Config:  c,
		jobs:    make(chan struct{}, max(8, jobsPerCore*runtime.NumCPU())),
		stops:   make(chan struct{}, max(8, jobsPerCore*runtime.NumCPU())),
		workers: map[cluster.ServiceName]*worker{},
		turns:   map[cluster.ServiceName]chan struct{}{},
	}
}

// take waits for the turn that keeps a probe and the worker of one service
// apart, which is held over agent calls; false when ctx ended before.
func (e *Executor) take(ctx context.Context, service cluster.ServiceName) (release func(), ok bool) {
	e.mu.Lock()
	if e.turns[service] == nil {
		e.turns[service] = make(chan struct{}, 1)
	}
	turn := e.turns[service]
	e.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, true
	case <-ctx.Done():
		return nil, false
	}
}

// busy reports whether a worker runs the service or may run it.
func (e *Executor) busy(service cluster.ServiceName) bool {
	e.mu.Lock()
	w := e.workers[service]
	e.mu.Unlock()
	return w != nil && w.mayBeActive()
}

// Run follows the owner records until ctx ends, then waits for its workers,
// which leave what they run running: a restart of the daemon is no stop order.
func (e *Executor) Run(ctx context.Context) error {
	defer e.wg.Wait()
	for {
		var mine []cluster.Rec[cluster.Owner]
		changed := e.Mirror.Read(func(s *cluster.State) {
			for _, owner := range s.Owners {
				if owner.Value.Boot == e.Boot || e.has(owner.Value.Service) {
					mine = append(mine, owner)
				}
			}
			for _, service := range e.known() {
				if _, ok := s.Owners[service]; !ok {
					mine = append(mine, cluster.Rec[cluster.Owner]{Value: cluster.Owner{Service: service}})
				}
			}
		})
		for _, owner := range mine {
			e.hand(ctx, owner)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (e *Executor) has(service cluster.ServiceName) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.workers[service] != nil
}

// known names the services that have a worker.
func (e *Executor) known() []cluster.ServiceName {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.workers))
}

// hand gives the newest owner record of a service to its worker.
func (e *Executor) hand(ctx context.Context, owner cluster.Rec[cluster.Owner]) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.workers[owner.Value.Service]
	if w == nil {
		w = newWorker(e, owner.Value.Service)
		e.workers[owner.Value.Service] = w
		e.wg.Go(func() { w.run(ctx) })
	}
	w.tell(owner, e.barred())
}

// barred says why nothing may run, with the mutex held.
func (e *Executor) barred() string {
	if e.latched != "" {
		return e.latched
	}
	return e.held
}

// Hold stops all services of this boot, verified, and starts none until it is
// called with "". A service that ran is reported stopped, so that it goes on with
// a new generation, wherever the leader then wants it; an order to start that
// comes meanwhile is carried out afterwards.
func (e *Executor) Hold(why string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.held == why {
		return
	}
	e.held = why
	e.tellAll()
}

func (e *Executor) tellAll() {
	for _, w := range e.workers {
		w.tell(w.newest(), e.barred())
	}
}

// Latch forbids every further start and restart and orders all services of
// this boot to stop. It never opens again (rule O-5).
func (e *Executor) Latch(why string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.latched != "" {
		return
	}
	e.latched = why
	e.Log.Info("latch closed: everything stops", "reason", why)
	e.tellAll()
}

// StopAll closes the latch and returns when every service of this boot is
// verified stopped, or with an error that names those that are not.
func (e *Executor) StopAll(ctx context.Context, why string) error {
	e.Latch(why)
	e.mu.Lock()
	workers := make([]*worker, 0, len(e.workers))
	for _, w := range e.workers {
		workers = append(workers, w)
	}
	e.mu.Unlock()
	var left []error
	for _, w := range workers {
		if err := w.waitStopped(ctx); err != nil {
			left = append(left, fmt.Errorf("service %s: %w", w.service, err))
		}
	}
	return errors.Join(left...)
}

// StopBound is how long stopping everything that is active can take by the
// configured time-outs, each resource being tried once. Safe beyond it is only
// what has been verified.
func (e *Executor) StopBound() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	active, longest := 0, time.Duration(0)
	for _, w := range e.workers {
		if !w.mayBeActive() {
			continue
		}
		active++
		took := time.Duration(0)
		for _, r := range w.newest().Value.Definition.Resources {
			took += r.StopTimeout
		}
		longest = max(longest, took)
	}
	rounds := (active + cap(e.stops) - 1) / cap(e.stops) // stops wait for a free slot
	return time.Duration(rounds) * longest
}

// Active names the services that this boot runs or may run.
func (e *Executor) Active() []cluster.ServiceName {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []cluster.ServiceName
	for name, w := range e.workers {
		if w.mayBeActive() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// call runs one agent call with its deadline inside the limit of slots. A call
// that outlasts its deadline has an unknown effect. None is made once ctx ended:
// a daemon that ends must not stop what its next run takes over.
func (e *Executor) call(ctx context.Context, slots chan struct{}, limit time.Duration, f func(context.Context) error) error {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-slots }()
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := e.Clock.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}

package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
)

// worker owns one service on this boot. Its goroutine alone calls the agents.
type worker struct {
	*Executor
	service cluster.ServiceName
	log     *slog.Logger
	reports *reporter

	mu      sync.Mutex // guards the fields below
	target  cluster.Rec[cluster.Owner]
	latched string
	news    chan struct{} // closed at every change of target and latch
	active  bool          // an agent may have started something that is not verified stopped
	stopErr error         // the last stop, when it could not be verified
	settled chan struct{} // closed and renewed when active or stopErr changes

	// The goroutine's own:
	running  cluster.Owner      // what runs or may run; zero when nothing does
	tried    cluster.Generation // the newest one whose ticket this run of the daemon has asked for
	restarts []time.Duration
}

func newWorker(e *Executor, service cluster.ServiceName) *worker {
	w := &worker{
		Executor: e, service: service, log: e.Log.With("service", service),
		news: make(chan struct{}), settled: make(chan struct{}),
	}
	w.reports = newReporter(w)
	return w
}

// tell hands over the newest owner record and the latch.
func (w *worker) tell(owner cluster.Rec[cluster.Owner], latched string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if owner.Rev == w.target.Rev && latched == w.latched {
		return
	}
	w.target, w.latched = owner, latched
	close(w.news)
	w.news = make(chan struct{})
}

func (w *worker) newest() cluster.Rec[cluster.Owner] {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.target
}

// order is what the worker shall do now.
type order struct {
	owner cluster.Rec[cluster.Owner]
	mine  bool   // this boot owns the service
	run   bool   // mine, ordered to run, latch open
	why   string // why not run
	news  <-chan struct{}
}

func (w *worker) order() order {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.orderLocked()
}

func (w *worker) orderLocked() order {
	o := order{owner: w.target, news: w.news, mine: w.target.Value.Boot == w.Boot}
	switch {
	case !o.mine:
		o.why = "this boot does not own it"
	case w.latched != "":
		o.why = w.latched
	case w.target.Value.Want != cluster.WantRun:
		o.why = w.target.Value.Reason
	default:
		o.run = true
	}
	return o
}

func (w *worker) setActive(active bool, stopErr error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active, w.stopErr = active, stopErr
	close(w.settled)
	w.settled = make(chan struct{})
}

// activate marks the service active if the order still stands. From then on
// StopAll waits for it; before, no agent may run.
func (w *worker) activate(ctx context.Context, generation cluster.Generation) bool {
	release, ok := w.take(ctx, w.service)
	if !ok {
		return false
	}
	defer release()
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.orderLocked(); !o.run || o.owner.Value.Generation != generation {
		return false
	}
	w.active, w.stopErr = true, nil
	close(w.settled)
	w.settled = make(chan struct{})
	return true
}

// ordered reports whether what runs is still ordered to run.
func (w *worker) ordered() bool {
	o := w.order()
	return o.run && o.owner.Value.Generation == w.running.Generation
}

func (w *worker) mayBeActive() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.active
}

// waitStopped returns nil once nothing of the service is left here.
func (w *worker) waitStopped(ctx context.Context) error {
	for {
		w.mu.Lock()
		active, stopErr, settled := w.active, w.stopErr, w.settled
		w.mu.Unlock()
		if !active {
			return nil
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("not verified stopped: %w", ctx.Err()), stopErr)
		}
	}
}

// Timings of a worker.
const (
	stopRetry = 2 * time.Second // between two tries to stop what would not stop
)

// run brings what runs in line with the newest order, for ever.
func (w *worker) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { w.reports.run(ctx) })
	for ctx.Err() == nil {
		o := w.order()
		switch {
		case o.run && w.running.Generation == 0:
			w.begin(ctx, o)
		case o.run && w.running.Generation == o.owner.Value.Generation:
			w.supervise(ctx, o)
		case w.running.Generation != 0:
			w.end(ctx, o)
		case o.mine && !o.run:
			w.confirmStopped(ctx, o)
		default:
			wait(ctx, o.news)
		}
	}
}

func wait(ctx context.Context, news <-chan struct{}) {
	select {
	case <-ctx.Done():
	case <-news:
	}
}

// begin starts the service behind a ticket, or takes over what an earlier run
// of the daemon on this boot had started behind the same one.
func (w *worker) begin(ctx context.Context, o order) {
	owner := o.owner.Value
	if report, done := w.finished(owner); done {
		w.log.Debug("generation is finished here", "generation", owner.Generation, "state", report.State)
		wait(ctx, o.news)
		return
	}
	adopted, ok := w.ticket(ctx, o)
	if !ok || !w.activate(ctx, owner.Generation) {
		return
	}
	w.running, w.restarts = owner, nil
	if adopted {
		w.takeOver(ctx)
		return
	}
	w.log.Info("service starts", "generation", owner.Generation, "reason", owner.Reason)
	w.reports.put(cluster.ReportStarting, owner.Generation, "", 0)
	if err := w.startFrom(ctx, 0); err != nil {
		w.giveUp(ctx, err)
		return
	}
	w.log.Info("service runs", "generation", owner.Generation)
	w.reports.put(cluster.ReportRunning, owner.Generation, "", 0)
}

// takeOver looks what an earlier run of the daemon left of a generation whose
// ticket stands, and repairs what is not active as if it had just failed.
func (w *worker) takeOver(ctx context.Context) {
	w.log.Info("service taken over from an earlier run of the daemon", "generation", w.running.Generation)
	for i, r := range w.running.Definition.Resources {
		agent, err := w.Agents(r.Agent)
		if err == nil {
			err = w.monitor(ctx, agent, r)
		}
		if announcer, ok := agent.(resource.Announcer); ok && err == nil {
			err = announcer.Announce(ctx, w.callFor(r))
		}
		if err != nil {
			w.repair(ctx, trouble{index: i, err: fmt.Errorf("resource %s: after a restart of the daemon: %w", r.Name, err)})
			return
		}
	}
	w.reports.put(cluster.ReportRunning, w.running.Generation, "", 0)
}

// whileOrdered returns a context that ends with ctx or as soon as the running
// generation is no longer ordered to run.
func (w *worker) whileOrdered(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	generation, done := w.running.Generation, make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			o := w.order()
			if !o.run || o.owner.Value.Generation != generation {
				cancel()
			}
			wait(ctx, o.news)
		}
	}()
	return ctx, func() { cancel(); <-done }
}

// finished reports whether this boot has already said its last word on the
// generation: it failed or was stopped, and the leader has not moved it yet.
func (w *worker) finished(owner cluster.Owner) (cluster.Report, bool) {
	var report cluster.Report
	w.Mirror.Read(func(s *cluster.State) { report = s.Reports[w.service].Value })
	if said := w.reports.last(); said.Generation == owner.Generation {
		report = said
	}
	same := report.Boot == w.Boot && report.Generation == owner.Generation
	done := report.State == cluster.ReportStopped || report.State == cluster.ReportFailed
	return report, same && done
}

// startFrom starts the resources from index first on, in order.
func (w *worker) startFrom(ctx context.Context, first int) error {
	ctx, cancel := w.whileOrdered(ctx)
	defer cancel()
	for _, r := range w.running.Definition.Resources[first:] {
		agent, err := w.Agents(r.Agent)
		if err != nil {
			return fmt.Errorf("resource %s: %w", r.Name, err)
		}
		if !w.ordered() {
			return fmt.Errorf("resource %s: %w", r.Name, context.Canceled)
		}
		err = w.call(ctx, w.jobs, r.StartTimeout, func(ctx context.Context) error { return agent.Start(ctx, w.callFor(r)) })
		if err != nil {
			return fmt.Errorf("resource %s: start: %w", r.Name, err)
		}
	}
	return nil
}

// stopFrom stops the resources from the last down to index first, each
// verified by its agent; all are tried even if one fails.
func (w *worker) stopFrom(ctx context.Context, first int) error {
	var failed []error
	resources := w.running.Definition.Resources
	for i := len(resources) - 1; i >= first; i-- {
		r := resources[i]
		agent, err := w.Agents(r.Agent)
		if err == nil {
			err = w.call(ctx, w.stops, r.StopTimeout, func(ctx context.Context) error { return agent.Stop(ctx, w.callFor(r)) })
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("resource %s: stop: %w", r.Name, err))
		}
	}
	return errors.Join(failed...)
}

func (w *worker) callFor(r cluster.Resource) resource.Call {
	return resource.Call{Service: w.service, Resource: r, Node: w.Node, Generation: w.running.Generation}
}

// giveUp ends a generation that could not run: everything is stopped, verified,
// and only then reported failed (rule P16).
func (w *worker) giveUp(ctx context.Context, cause error) {
	if ctx.Err() != nil {
		return // the daemon ends: what runs is taken over by its next run
	}
	if !w.ordered() {
		return // not a failure: the order changed under it, and run stops it now
	}
	w.log.Warn("service failed here", "generation", w.running.Generation, "err", cause)
	w.stopAndReport(ctx, cluster.ReportFailed, cause.Error(), banOf(cause))
}

// end stops what runs because the order says so or is not ours any more.
func (w *worker) end(ctx context.Context, o order) {
	if !o.mine {
		w.log.Error("service runs here without ownership: it is stopped at once", "generation", w.running.Generation, "owner", o.owner.Value.Node)
	} else {
		w.log.Info("service stops", "generation", w.running.Generation, "reason", o.why)
	}
	w.reports.put(cluster.ReportStopping, w.running.Generation, o.why, 0)
	w.stopAndReport(ctx, cluster.ReportStopped, o.why, cluster.BanNone)
}

// banOf returns how far a failure reaches by the word of the agent.
func banOf(err error) cluster.Ban {
	var banner resource.Banner
	if errors.As(err, &banner) {
		return banner.Ban()
	}
	return cluster.BanNone
}

// stopAndReport stops everything and reports: state when verified, else stop
// failed, and tries again until it is verified or the boot is fenced.
func (w *worker) stopAndReport(ctx context.Context, state cluster.ReportState, detail string, ban cluster.Ban) {
	generation := w.running.Generation
	for {
		err := w.stopFrom(ctx, 0)
		if err == nil {
			w.log.Info("service is verified stopped", "generation", generation)
			w.running = cluster.Owner{}
			w.setActive(false, nil)
			report := w.reports.report(state, generation, detail, 0)
			report.Ban = ban
			w.reports.say(report)
			return
		}
		if ctx.Err() != nil {
			return
		}
		w.log.Error("service cannot be stopped; this node is to be fenced", "generation", generation, "err", err)
		w.setActive(true, err)
		w.reports.put(cluster.ReportStopFailed, generation, err.Error(), 0)
		select {
		case <-ctx.Done():
			return
		case <-w.Clock.After(stopRetry):
		}
	}
}

// confirmStopped answers a stop order for a generation that this run of the
// daemon never started: an earlier run may have, so the agents stop it first.
// An order to run that came behind a latch or hold, and has no ticket, is left
// unanswered: an answer would make the leader order the next generation at once.
func (w *worker) confirmStopped(ctx context.Context, o order) {
	owner := o.owner.Value
	_, done := w.finished(owner)
	if done || owner.Want == cluster.WantRun && !w.ticketed(owner) {
		wait(ctx, o.news)
		return
	}
	release, ok := w.take(ctx, w.service)
	if !ok {
		return
	}
	w.running = owner
	w.setActive(true, nil)
	release()
	w.stopAndReport(ctx, cluster.ReportStopped, o.why, cluster.BanNone)
}

package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ringfence/internal/hypervisor"
	lv "ringfence/internal/libvirt"
)

// flushTimeout bounds writing what the host holds back of one guest's disks.
const flushTimeout = 20 * time.Second

// stopped: libvirt says that a run has ended. It is the oldest one of which that
// was not said.
func (g *guest) stopped(ctx context.Context, d lv.Detail) {
	g.mu.Lock()
	r := g.current
	if len(g.former) > 0 {
		r = g.former[0]
	}
	g.mu.Unlock()
	if r != nil {
		g.end(ctx, r, g.endReason(r, d))
	}
}

// endReason reduces libvirt's reason. Where there is no process, Off's own end is
// known by itself; of any other Xen may say nothing, which is the number of a
// shutdown and might be a migration.
func (g *guest) endReason(r *run, d lv.Detail) hypervisor.Reason {
	g.mu.Lock()
	ending := r.ending
	g.mu.Unlock()
	if r.bare && d == lv.StoppedShutdown && g.h.uri.Driver == "xen" {
		if ending {
			return hypervisor.ReasonDestroyed
		}
		return hypervisor.ReasonUnknown
	}
	switch d {
	case lv.StoppedShutdown:
		return hypervisor.ReasonShutdown
	case lv.StoppedDestroyed:
		return hypervisor.ReasonDestroyed
	case lv.StoppedCrashed:
		return hypervisor.ReasonCrashed
	case lv.StoppedFailed:
		return hypervisor.ReasonFailed
	case lv.StoppedMigrated:
		return hypervisor.ReasonMigrated
	case lv.StoppedSaved:
		return hypervisor.ReasonSaved
	}
	return hypervisor.ReasonUnknown // a revert begins with an end that is none
}

// end tells the end of a run, once nothing of it is left (rule P10).
func (g *guest) end(ctx context.Context, r *run, why hypervisor.Reason) {
	g.h.d.gate.done(g.id)
	wait, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	if err := r.waitExit(wait); err != nil {
		if ctx.Err() != nil {
			return
		}
		g.h.log.Error("the process of a guest outlives its end", "guest", g.id, "life", r.life, "process", r.pid, "err", err)
		why = hypervisor.ReasonUnknown
	}
	switch {
	case r.left: // told when it left
		why = hypervisor.ReasonMigrated
	case r.arriving:
		g.tell(r, hypervisor.EventStayed, "")
		g.finish(r, "", true)
		return
	default:
		if why.Ends() {
			why = g.flushed(ctx, r, why)
		}
		g.tell(r, hypervisor.EventEnded, why)
	}
	g.finish(r, why, false)
}

// flushed writes out what the host may hold back of shared disks; what cannot be
// written might still come over a new owner's data, so that the end is none.
func (g *guest) flushed(ctx context.Context, r *run, why hypervisor.Reason) hypervisor.Reason {
	paths := r.config.unflushed()
	if len(paths) == 0 {
		return why
	}
	g.h.log.Warn("a guest with shared disks that the host caches, or that io_uring writes, has ended; set cache='none' and no io='io_uring'",
		"guest", g.id, "life", r.life, "disks", paths)
	if err := flush(ctx, paths); err != nil {
		g.h.log.Error("shared disks of an ended guest cannot be flushed: its end is no evidence", "guest", g.id, "life", r.life, "err", err)
		return hypervisor.ReasonUnknown
	}
	return why
}

// flush makes the host write out all that it holds of some files and devices. A
// disk that does not answer keeps its goroutine, and nothing else.
func flush(ctx context.Context, paths []string) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		var errs []error
		for _, path := range paths {
			errs = append(errs, flushOne(path))
		}
		done <- errors.Join(errs...)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("flush %v: %w", paths, ctx.Err())
	}
}

func flushOne(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// takeStock notes what a new connection finds running; no event tells of it.
func (g *guest) takeStock(ctx context.Context, dom lv.Domain) {
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	again := func(ctx context.Context) { g.takeStock(ctx, dom) }
	state, why, err := g.h.client.State(look, dom)
	if err != nil || !isActive(state) {
		return
	}
	comes := state == lv.StatePaused && (why == lv.PausedMigration || why == lv.PausedStartingUp)
	out := false
	if comes || state == lv.StateRunning {
		job, err := g.h.client.Job(look, dom)
		out = err == nil && job.Operation == lv.OperationMigrationOut && (job.Kind == lv.JobBounded || job.Kind == lv.JobUnbounded)
	}
	id, err := g.h.identify(dom, g.now())
	if err != nil {
		g.sight(ctx, dom, false, again)
		return
	}
	arriving := comes && id.image && !out
	r := g.sight(ctx, dom, arriving, again)
	if r == nil {
		return
	}
	if arriving {
		g.set(func() { r.arriving = true })
		return
	}
	fresh := !r.started
	g.set(func() {
		r.started, r.arriving = true, false
		r.paused = isPaused(state, why)
	})
	if fresh && r.renewed {
		g.reverted(r)
	}
	if out {
		g.leave(r)
	}
}

// succeeded: behind a gap, libvirt calls the guest's run by another number, and the
// process of the run that is known has exited. Its end is told now, without a
// reason: the next event of an end is the other run's.
func (g *guest) succeeded(ctx context.Context, dom lv.Domain) {
	if r := g.now(); r != nil && r.dom.ID >= 0 && r.dom.ID != dom.ID && r.process != nil && r.process.Exited() {
		g.end(ctx, r, hypervisor.ReasonUnknown)
	}
}

// settleGap: behind a gap in the events, a run that has ended meanwhile has its
// end from libvirt's reason, if that leaves no doubt: this driver held the process
// and saw it end, the guest was not started again, and no migration of it was known
// to be under way. A migration that began and ended within the gap was asked for at
// its target, whose host speaks for it then (rule P5). The run of a guest that
// runs now ends with an event that is to come.
func (g *guest) settleGap(ctx context.Context, runs bool) {
	g.mu.Lock()
	former, current := append([]*run(nil), g.former...), g.current
	g.mu.Unlock()
	for _, r := range former {
		g.end(ctx, r, hypervisor.ReasonUnknown)
	}
	if current != nil && !runs {
		g.end(ctx, current, g.gapReason(ctx, current))
	}
}

func (g *guest) gapReason(ctx context.Context, r *run) hypervisor.Reason {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	state, why, err := g.h.client.State(ctx, r.dom)
	if err != nil || state != lv.StateShutoff || r.process == nil || r.leaving {
		return hypervisor.ReasonUnknown
	}
	switch why {
	case lv.ShutoffShutdown:
		return hypervisor.ReasonShutdown
	case lv.ShutoffDestroyed:
		return hypervisor.ReasonDestroyed
	case lv.ShutoffCrashed:
		return hypervisor.ReasonCrashed
	case lv.ShutoffSaved:
		return hypervisor.ReasonSaved
	case lv.ShutoffMigrated:
		return hypervisor.ReasonMigrated
	}
	return hypervisor.ReasonUnknown
}

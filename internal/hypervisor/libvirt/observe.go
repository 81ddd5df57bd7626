package libvirt

import (
	"context"
	"errors"
	"time"

	"ringfence/internal/hypervisor"
	lv "ringfence/internal/libvirt"
)

const (
	// seeRetry is the pause before a guest that could not be identified is looked
	// at again.
	seeRetry = 2 * time.Second
	// leavingPoll is the pause between two looks at a migration away from here:
	// libvirt announces none that comes to nothing.
	leavingPoll = 200 * time.Millisecond
	// endPatience bounds how long the process of a guest may outlive the end that
	// libvirt told.
	endPatience = time.Minute
)

// event does what one event asks for. Like all that follows here it runs in the
// guest's worker.
func (g *guest) event(ctx context.Context, e lv.Event) {
	g.h.log.Debug("event of libvirt", "guest", g.id, "kind", e.Kind, "lifecycle", e.Lifecycle, "detail", e.Detail)
	switch e.Kind {
	case lv.LifecycleEvent:
		g.lifecycle(ctx, e)
	case lv.IterationEvent:
		if r := g.now(); r != nil && !r.leaving && !r.arriving {
			g.lookAtJob(ctx, r)
		}
	case lv.RebootEvent:
		g.inside(hypervisor.ReasonReset)
	case lv.WatchdogEvent:
		g.inside(hypervisor.ReasonUnknown)
	case lv.ControlErrorEvent:
		g.h.log.Warn("libvirt lost the monitor of a guest's process", "guest", g.id)
	}
}

// inside: something happened within the life (rule P4: no end).
func (g *guest) inside(why hypervisor.Reason) {
	if r := g.now(); r != nil && r.started {
		g.tell(r, hypervisor.EventInside, why)
	}
}

func (g *guest) lifecycle(ctx context.Context, e lv.Event) {
	switch e.Lifecycle {
	case lv.Started:
		g.began(ctx, e)
	case lv.Suspended, lv.PMSuspended:
		g.suspended(ctx, e)
	case lv.Resumed:
		g.resumedBy(ctx, e)
	case lv.Crashed: // the guest has panicked; what becomes of it is told next
		g.inside(hypervisor.ReasonPanicked)
	case lv.Stopped:
		g.stopped(ctx, e.Detail)
	}
}

// sight identifies the guest for an event. Where that is not possible now and it
// still runs, again is done after a while.
func (g *guest) sight(ctx context.Context, dom lv.Domain, arriving bool, again func(context.Context)) *run {
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	r, err := g.see(look, dom, arriving)
	if err == nil {
		return r
	}
	if errors.Is(err, errNoProcess) {
		state, _, stateErr := g.h.client.State(look, dom)
		if stateErr != nil || !isActive(state) {
			return nil // it has ended already, before anybody could know its life
		}
	}
	g.h.log.Warn("guest is not identified; trying again", "guest", g.id, "err", err)
	g.later(seeRetry, again)
	return nil
}

// began: a run has begun. A migration to here has not switched over then.
func (g *guest) began(ctx context.Context, e lv.Event) {
	if e.Detail == lv.StartedWakeup {
		g.resumedBy(ctx, e)
		return
	}
	arriving := e.Detail == lv.StartedMigrated
	r := g.sight(ctx, e.Domain, arriving, func(ctx context.Context) { g.began(ctx, e) })
	if r == nil || r.started || arriving && r.resumed {
		return
	}
	if arriving {
		g.set(func() { r.arriving = true })
		g.tell(r, hypervisor.EventArriving, "")
		return
	}
	g.start(r, startReason(e.Detail))
}

func (g *guest) start(r *run, why hypervisor.Reason) {
	g.set(func() { r.started, r.arriving, r.paused = true, false, false })
	if r.ident.reverted {
		why = hypervisor.ReasonFromSnapshot // whatever it is called
	}
	g.tell(r, hypervisor.EventStarted, why)
}

func startReason(d lv.Detail) hypervisor.Reason {
	switch d {
	case lv.StartedBooted:
		return hypervisor.ReasonBooted
	case lv.StartedRestored:
		return hypervisor.ReasonRestored
	case lv.StartedFromSnapshot:
		return hypervisor.ReasonFromSnapshot
	}
	return hypervisor.ReasonUnknown
}

// arrived: the migration to here has switched over, and the life runs here now.
func (g *guest) arrived(ctx context.Context, dom lv.Domain, then func(*run)) {
	r := g.sight(ctx, dom, false, func(ctx context.Context) { g.arrived(ctx, dom, then) })
	if r == nil || !r.arriving {
		return
	}
	g.h.d.gate.done(g.id)
	g.start(r, hypervisor.ReasonMigrated)
	then(r)
}

func (g *guest) suspended(ctx context.Context, e lv.Event) {
	r := g.now()
	switch {
	case r == nil || r.left:
	case r.arriving && e.Detail == lv.SuspendedPaused: // it arrives as it left, paused
		g.arrived(ctx, e.Domain, func(r *run) { g.paused(r, hypervisor.ReasonUser) })
	case r.arriving || !r.started:
	case e.Lifecycle == lv.PMSuspended:
		g.paused(r, hypervisor.ReasonUser)
	case e.Detail == lv.SuspendedMigrated:
		g.leave(r) // it switches over: until it is known how that ends it is on its way
	case e.Detail == lv.SuspendedPostcopy:
		g.leave(r) // the target runs it; what is here is a rest that it still reads
		g.set(func() { r.left = true })
		g.tell(r, hypervisor.EventEnded, hypervisor.ReasonMigrated)
	case e.Detail == lv.SuspendedFromSnapshot && (r.resumed || !r.image):
		g.reverted(r) // an old memory image was loaded into the process as it runs
		g.set(func() { r.paused = true })
	case e.Detail == lv.SuspendedPaused && g.isSaving(ctx, r):
	default:
		g.paused(r, pauseReason(e.Detail))
	}
}

// isSaving: a save pauses the guest first, and says no more than that somebody
// did. If it fails the guest resumes.
func (g *guest) isSaving(ctx context.Context, r *run) bool {
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	state, why, err := g.h.client.State(look, r.dom)
	return err == nil && (state == lv.StatePaused && why == lv.PausedSave || state == lv.StateShutoff && why == lv.ShutoffSaved)
}

func pauseReason(d lv.Detail) hypervisor.Reason {
	switch d {
	case lv.SuspendedIOError:
		return hypervisor.ReasonIOError
	case lv.SuspendedPaused, lv.SuspendedRestored, lv.SuspendedFromSnapshot:
		return hypervisor.ReasonUser
	case lv.SuspendedAPIError, lv.SuspendedPostcopyFailed:
		return hypervisor.ReasonFailed
	}
	return hypervisor.ReasonUnknown
}

func (g *guest) paused(r *run, why hypervisor.Reason) {
	if !r.paused {
		g.set(func() { r.paused = true })
		g.tell(r, hypervisor.EventPaused, why)
	}
}

// reverted: the life goes on in an old memory image.
func (g *guest) reverted(r *run) {
	g.tell(r, hypervisor.EventStarted, hypervisor.ReasonFromSnapshot)
}

// resumedBy: libvirt says so at the first breath of a run too, before or behind
// its start, and calls that of a restored guest a snapshot's.
func (g *guest) resumedBy(ctx context.Context, e lv.Event) {
	r := g.now()
	switch {
	case r == nil || r.left:
	case r.arriving:
		g.set(func() { r.resumed = true })
		g.arrived(ctx, e.Domain, func(r *run) {
			if e.Detail == lv.ResumedPostcopyFailed {
				g.paused(r, hypervisor.ReasonFailed)
			}
		})
	case !r.started:
	case e.Lifecycle == lv.Resumed && e.Detail == lv.ResumedPostcopyFailed:
		g.paused(r, hypervisor.ReasonFailed) // what it needs of its memory never came
	case e.Lifecycle == lv.Resumed && e.Detail == lv.ResumedFromSnapshot && (r.resumed || !r.image):
		g.reverted(r)
		g.set(func() { r.paused = false })
	default:
		g.set(func() { r.resumed = true })
		if r.paused {
			g.set(func() { r.paused = false })
			g.tell(r, hypervisor.EventUnpaused, hypervisor.ReasonUser)
		}
		g.lookAtLeaving(ctx)
	}
}

// lookAtJob: libvirt announces rounds of copying memory, which a migration makes
// and a save too.
func (g *guest) lookAtJob(ctx context.Context, r *run) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	job, err := g.h.client.Job(ctx, r.dom)
	if err == nil && (job.Kind == lv.JobBounded || job.Kind == lv.JobUnbounded) &&
		(job.Operation == lv.OperationMigrationOut || job.Operation == lv.OperationUnknown) {
		g.leave(r)
	}
}

// leave: a migration of the life away from here is under way.
func (g *guest) leave(r *run) {
	if r.leaving {
		return
	}
	g.set(func() { r.leaving = true })
	if r.started {
		g.tell(r, hypervisor.EventLeaving, "")
	}
	g.later(leavingPoll, g.pollLeaving)
}

// pollLeaving looks now and then until a migration away from here is over.
func (g *guest) pollLeaving(ctx context.Context) {
	if r := g.now(); r != nil && r.leaving && !r.left && !g.lookAtLeaving(ctx) {
		g.later(leavingPoll, g.pollLeaving)
	}
}

// lookAtLeaving tells that a migration away from here has come to nothing, when
// it has.
func (g *guest) lookAtLeaving(ctx context.Context) (stayed bool) {
	r := g.now()
	up, _ := g.h.condition()
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if !up || r == nil || !r.leaving || r.left || !g.hasStayed(look, r) {
		return false
	}
	told := false
	g.set(func() {
		if !r.ending {
			r.leaving, told = false, true
		}
	})
	if told {
		g.tell(r, hypervisor.EventStayed, "")
	}
	return true
}

// hasStayed reports whether no migration of the run is under way any more and it
// is here still. The state is asked behind the job: a job that ended well has
// ended the run.
func (g *guest) hasStayed(ctx context.Context, r *run) bool {
	job, err := g.h.client.Job(ctx, r.dom)
	if err != nil || job.Kind == lv.JobBounded || job.Kind == lv.JobUnbounded {
		return false
	}
	state, why, err := g.h.client.State(ctx, r.dom)
	switch {
	case err != nil || !isActive(state) || r.process != nil && r.process.Exited():
		return false
	case state == lv.StatePaused && (why == lv.PausedMigration || why == lv.PausedPostcopy || why == lv.PausedPostcopyFailed):
		return false
	}
	return true
}

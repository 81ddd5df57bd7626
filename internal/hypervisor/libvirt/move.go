package libvirt

import (
	"context"
	"errors"
	"fmt"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	lv "ringfence/internal/libvirt"
)

// SetGuard implements hypervisor.Mover. Libvirt's hooks ask it through the hook
// socket; without the hooks nobody does.
func (d *Driver) SetGuard(guard hypervisor.Guard) {
	if err := d.gate.open(d, guard); err != nil {
		d.log.Error("libvirt's hooks cannot ask this host; migrations and restores of guests that have run under a hostd are refused", "err", err)
	}
}

// Claim implements hypervisor.Mover. The claim is in the stamp. Libvirt lets nobody
// write that once it has handed the configuration on for a migration or a save.
func (d *Driver) Claim(ctx context.Context, id cluster.GuestID, life cluster.LifeID, c cluster.ClusterID) error {
	f, err := d.running(ctx, id, life)
	switch {
	case err != nil:
		return fmt.Errorf("claim: %w", err)
	case f.run.bare:
		return fmt.Errorf("claim of guest %s: %w", id, hypervisor.ErrNoClaims)
	}
	if err := f.h.guest(f.dom).claim(ctx, f.run, c); err != nil {
		return fmt.Errorf("claim of guest %s: %w", id, err)
	}
	return nil
}

// Abort implements hypervisor.Mover.
func (d *Driver) Abort(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	// What was allowed and has not begun is refused from here on; what has begun
	// is seen below.
	d.gate.revoke(id, life)
	look, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	f, err := d.find(look, id)
	if errors.Is(err, hypervisor.ErrUnavailable) && ctx.Err() == nil {
		if g, _ := d.held(id, life); g != nil {
			// So that Off may come, which is careful by itself.
			return fmt.Errorf("abort migration: libvirt does not answer, and no migration of guest %s was known: %w", id, hypervisor.ErrNotRunning)
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("abort migration: %w", err)
	case f.guest.State == hypervisor.StateArriving && f.guest.Life == life:
		err := f.refuse(ctx, life)
		if errors.Is(err, hypervisor.ErrNotRunning) {
			return nil
		}
		return errors.Join(err, errors.New("abort migration: it had switched over, or is on its way"))
	case f.run != nil && f.run.life == life && life != "" && f.guest.State != hypervisor.StateOff:
		had, err := f.abortLeaving(ctx)
		if err != nil {
			return fmt.Errorf("abort migration: %w", err)
		}
		if had {
			return nil
		}
	}
	return fmt.Errorf("abort migration: guest %s does not migrate in that life: %w", id, hypervisor.ErrNotRunning)
}

// leaves reports whether a migration away from here is under way.
func (f found) leaves(ctx context.Context) (bool, error) {
	if f.h.uri.Driver != "qemu" {
		return false, nil
	}
	job, err := f.h.client.Job(ctx, f.dom)
	if err != nil {
		// Where a guest arrives libvirt tells of no job, nor where it has ended.
		var refused *lv.Error
		if errors.As(err, &refused) && (refused.Code == lv.CodeUnsupported || refused.Code == lv.CodeOperationInvalid) || errors.Is(err, lv.ErrNoDomain) {
			return false, nil
		}
		return false, unavailable(err)
	}
	busy := job.Kind == lv.JobBounded || job.Kind == lv.JobUnbounded
	return busy && (job.Operation == lv.OperationMigrationOut || job.Operation == lv.OperationUnknown), nil
}

// abortLeaving ends a migration away from here and sees it ended: no job any more,
// and the guest runs on in its process. had says whether there was one.
func (f found) abortLeaving(ctx context.Context) (had bool, err error) {
	g := f.h.guest(f.dom)
	asked := false
	for {
		look, cancel := context.WithTimeout(ctx, f.h.d.patience)
		leaves, err := f.leaves(look)
		cancel()
		if err != nil && !had && ctx.Err() == nil && !g.isLeaving(f.run) {
			// The guest hangs. Libvirt has told of no migration, which it does
			// before it switches one over, and this one will not be begun.
			return false, nil
		}
		if err != nil {
			return had, err
		}
		if !leaves {
			return had, f.stillHere(ctx, had)
		}
		had = true
		g.enqueue(func(context.Context) { g.leave(f.run) }) // it may not have been noticed
		if !asked {
			asked = true
			if err := f.h.act(ctx, func(c lv.Calls) error { return c.AbortJob(ctx, f.dom) }); err != nil {
				f.h.log.Warn("migration cannot be aborted now", "guest", f.guest.ID, "err", err)
				asked = false
			}
		}
		if err := pause(ctx, pollInterval); err != nil {
			return had, fmt.Errorf("the migration of guest %s is not seen aborted: %w", f.guest.ID, err)
		}
	}
}

func (g *guest) isLeaving(r *run) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return r.leaving || r.left
}

// stillHere makes sure behind a migration that was aborted that it had not
// switched over.
func (f found) stillHere(ctx context.Context, had bool) error {
	if !had {
		return nil
	}
	state, why, err := f.h.client.State(ctx, f.dom)
	if err != nil {
		return unavailable(err)
	}
	elsewhere := state == lv.StatePaused && (why == lv.PausedPostcopy || why == lv.PausedPostcopyFailed || why == lv.PausedMigration)
	if !isActive(state) || elsewhere || f.run.process != nil && f.run.process.Exited() {
		return fmt.Errorf("guest %s has switched over or ended: %w", f.guest.ID, hypervisor.ErrNotRunning)
	}
	f.h.guest(f.dom).enqueue(func(ctx context.Context) { f.h.guest(f.dom).lookAtLeaving(ctx) })
	return nil
}

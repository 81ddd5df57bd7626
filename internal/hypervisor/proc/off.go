package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// endLimitBytes bounds what is read of a guest's end file, which the guest's
// init wrote.
const endLimitBytes = 64

// Off implements hypervisor.Driver: link first, then the processes (P3). A
// migration out of here fails with the processes, of which there is one tree.
func (d *Driver) Off(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	guest, unlock, err := d.change(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.refuse(ctx, guest, life); err != nil {
		return err
	}
	rec, err := d.running(ctx, guest, life)
	if err != nil {
		return err
	}
	if err := d.finish(ctx, guest, rec); err != nil {
		return fmt.Errorf("end guest %s: %w", guest.Name, err)
	}
	return nil
}

// settle returns the guest's record, having brought to its end what has ended
// or broken off unnoticed: a life, a migration, a switch-over. Called with the
// guest's lock.
func (d *Driver) settle(ctx context.Context, guest Guest) (record, error) {
	rec, err := d.load(guest.ID)
	if err != nil || rec.Ended {
		return rec, err
	}
	if rec.Arriving {
		return d.settleArriving(ctx, guest, rec)
	}
	alive, err := rec.alive()
	if err != nil || alive && !rec.Frozen {
		return rec, err
	}
	if alive {
		return d.unfreeze(ctx, guest, rec)
	}
	if err := d.finish(ctx, guest, rec); err != nil {
		return rec, fmt.Errorf("remove what is left of guest %s: %w", guest.Name, err)
	}
	return d.load(guest.ID)
}

// running returns the record of exactly the named life. Called with the lock.
func (d *Driver) running(ctx context.Context, guest Guest, life cluster.LifeID) (record, error) {
	rec, err := d.settle(ctx, guest)
	if err != nil {
		return record{}, err
	}
	if !rec.here() {
		return record{}, fmt.Errorf("guest %s: %w", guest.Name, hypervisor.ErrNotRunning)
	}
	if rec.Life != life {
		return record{}, fmt.Errorf("guest %s is in life %s: %w", guest.Name, rec.Life, hypervisor.ErrOtherLife)
	}
	return rec, nil
}

// finish ends a life, or what is left of one, verifies that nothing is, and
// tells it. Called with the guest's lock.
func (d *Driver) finish(ctx context.Context, guest Guest, rec record) error {
	if err := d.kill(ctx, guest, rec); err != nil {
		return err
	}
	rec.Ended, rec.Paused, rec.Saved, rec.Leaving, rec.Frozen = true, false, false, false, false
	rec.Reason = rec.endReason()
	if err := d.save(guest.ID, rec); err != nil {
		return err
	}
	return d.observe(ctx, guest.ID)
}

// kill removes the link, every process and the cgroup of a guest; nil means
// verified. What is gone already is no error. Called with the guest's lock.
func (d *Driver) kill(ctx context.Context, guest Guest, rec record) error {
	if err := removeLink(guest.Link); err != nil {
		return err
	}
	if rec.PID != 0 && rec.Kernel == d.kernel {
		if err := rec.killInit(ctx); err != nil {
			return err
		}
	}
	if rec.Cgroup == "" {
		return nil
	}
	return killCgroup(ctx, rec.Cgroup)
}

func (r record) killInit(ctx context.Context) error {
	init, err := OpenProcess(r.PID, r.Start)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer init.Close()
	if err := init.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	if err := init.Wait(ctx); err != nil {
		return err
	}
	init.Reap()
	return nil
}

// Kill sends SIGKILL to the guest's init and returns, as when a hypervisor
// process is killed behind its manager's back: whichever driver runs notices the
// end. A saved image goes the same way, and an arrival comes to nothing. A guest
// that is not here is no error.
func (d *Driver) Kill(ctx context.Context, id cluster.GuestID) error {
	guest, err := d.find(ctx, id)
	if err != nil {
		return err
	}
	rec, err := d.load(id)
	if err == nil && rec.Arriving && !rec.Ended {
		rec, err = d.refuseNow(ctx, guest, rec.Life)
	}
	if err != nil || rec.Ended {
		return err
	}
	init, err := OpenProcess(rec.PID, rec.Start)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill guest %s: %w", guest.Name, err)
	}
	defer init.Close()
	return init.Signal(syscall.SIGKILL)
}

// alive reports whether the life's init still runs.
func (r record) alive() (bool, error) {
	init, err := OpenProcess(r.PID, r.Start)
	if errors.Is(err, os.ErrProcessDone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer init.Close()
	return !init.Exited(), nil
}

// endReason returns what init wrote before an orderly exit; a guest that did
// not get to write anything was killed.
func (r record) endReason() hypervisor.Reason {
	f, err := os.Open(r.End)
	if err != nil {
		return hypervisor.ReasonDestroyed
	}
	defer f.Close()
	said := make([]byte, endLimitBytes)
	n, _ := f.Read(said)
	switch reason := hypervisor.Reason(said[:n]); reason {
	case hypervisor.ReasonShutdown, hypervisor.ReasonCrashed:
		return reason
	}
	return hypervisor.ReasonDestroyed
}

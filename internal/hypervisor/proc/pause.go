package proc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// Pause implements hypervisor.Driver: the link goes down before the processes
// are stopped (H-6). The record is written first, so that a pause that breaks
// off half way is seen as one and can be repeated or undone.
func (d *Driver) Pause(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	return d.setPaused(ctx, id, life, true)
}

// Unpause implements hypervisor.Driver: thaw, then link up.
func (d *Driver) Unpause(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	return d.setPaused(ctx, id, life, false)
}

func (d *Driver) setPaused(ctx context.Context, id cluster.GuestID, life cluster.LifeID, paused bool) error {
	guest, unlock, err := d.change(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := d.running(ctx, guest, life)
	if err != nil {
		return err
	}
	step := d.freeze
	if !paused {
		step = d.thaw
	}
	if err := step(ctx, guest, rec); err != nil {
		return fmt.Errorf("set guest %s paused=%v: %w", guest.Name, paused, err)
	}
	return d.observe(ctx, id)
}

func (d *Driver) freeze(ctx context.Context, guest Guest, rec record) error {
	rec.Paused, rec.PausedFor = true, hypervisor.ReasonUser
	if err := d.save(guest.ID, rec); err != nil {
		return err
	}
	return d.stop(ctx, guest, rec)
}

// stop takes the link down and stops the processes.
func (d *Driver) stop(ctx context.Context, guest Guest, rec record) error {
	if err := setLink(guest.Link, false); err != nil {
		return err
	}
	if rec.Cgroup != "" {
		return freezeCgroup(ctx, rec.Cgroup, true)
	}
	return stopAll(ctx, rec.PID)
}

func (d *Driver) thaw(ctx context.Context, guest Guest, rec record) error {
	if err := d.resume(ctx, guest, rec); err != nil {
		return err
	}
	rec.Paused, rec.PausedFor = false, ""
	return d.save(guest.ID, rec)
}

// resume undoes stop: processes first.
func (d *Driver) resume(ctx context.Context, guest Guest, rec record) error {
	if err := rec.resume(ctx); err != nil {
		return err
	}
	return setLink(guest.Link, d.plugged(guest.ID))
}

func (r record) resume(ctx context.Context) error {
	if r.Cgroup != "" {
		return freezeCgroup(ctx, r.Cgroup, false)
	}
	return continueAll(r.PID)
}

// SetLink takes the host end of the guest's network link down or up, as `virsh
// domif-setlink` does. It holds for this and later lives until it is set again,
// and holds beside Pause: the link is up when both allow it.
func (d *Driver) SetLink(ctx context.Context, id cluster.GuestID, up bool) error {
	guest, unlock, err := d.change(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := d.settle(ctx, guest)
	if err != nil {
		return err
	}
	if err := d.setPlugged(id, up); err != nil {
		return fmt.Errorf("set link of guest %s up=%v: %w", guest.Name, up, err)
	}
	if !rec.here() {
		return nil
	}
	return setLink(guest.Link, up && !rec.Paused)
}

// LinkAllowed reports what SetLink last said; true when it never did.
func (d *Driver) LinkAllowed(ctx context.Context, id cluster.GuestID) (bool, error) {
	_, err := d.find(ctx, id)
	return err == nil && d.plugged(id), err
}

func (d *Driver) setPlugged(id cluster.GuestID, plugged bool) error {
	path := filepath.Join(d.guestDir(id), unpluggedFile)
	if !plugged {
		return writeFile(path, nil)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d *Driver) plugged(id cluster.GuestID) bool {
	_, err := os.Stat(filepath.Join(d.guestDir(id), unpluggedFile))
	return err != nil
}

package proc

import (
	"context"
	"errors"
	"fmt"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// Save ends the guest's life here with ReasonSaved and keeps its memory: the
// frozen processes are the image. It goes with the power of the host.
func (d *Driver) Save(ctx context.Context, id cluster.GuestID) error {
	guest, unlock, err := d.change(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := d.settle(ctx, guest)
	switch {
	case err != nil:
		return err
	case d.config.Immobile:
		return fmt.Errorf("save guest %s: guests of this host cannot be saved: its configuration says immobile", guest.Name)
	case !rec.here():
		return fmt.Errorf("save guest %s: %w", guest.Name, hypervisor.ErrNotRunning)
	case rec.Leaving:
		return fmt.Errorf("save guest %s: it migrates; abort that or wait for it", guest.Name)
	}
	// Frozen until it is saved: a save that breaks off half way is undone.
	rec.Frozen = true
	err = d.save(id, rec)
	if err == nil {
		err = d.stop(ctx, guest, rec)
	}
	if err != nil {
		return fmt.Errorf("save guest %s: %w", guest.Name, err)
	}
	rec.Saves++
	rec.Frozen, rec.Saved, rec.Paused, rec.PausedFor = false, true, false, ""
	if err := d.save(id, rec); err != nil {
		return fmt.Errorf("save guest %s: %w", guest.Name, err)
	}
	return d.observe(ctx, id)
}

// Restore lets a saved guest go on, under the life that was saved, when the
// guard of this host allows it.
func (d *Driver) Restore(ctx context.Context, id cluster.GuestID) error {
	guest, err := d.find(ctx, id)
	if err != nil {
		return err
	}
	image, err := d.load(id)
	if err != nil {
		return err
	}
	if !image.Saved {
		return fmt.Errorf("restore guest %s: it is not saved", guest.Name)
	}
	if err := d.askGuard(ctx, guardQuestion{Guest: id, Life: image.Life, Claimed: image.Claimed, Why: hypervisor.ReasonRestored}); err != nil {
		return fmt.Errorf("restore guest %s: the host refuses: %w", guest.Name, err)
	}
	_, unlock, err := d.change(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := d.settle(ctx, guest)
	if err != nil {
		return err
	}
	if !rec.Saved || rec.Life != image.Life {
		return errors.New("restore guest " + guest.Name + ": its image is gone meanwhile")
	}
	rec.Saved, rec.Frozen, rec.Came = false, true, hypervisor.ReasonRestored
	if err := d.save(id, rec); err != nil {
		return fmt.Errorf("restore guest %s: %w", guest.Name, err)
	}
	if _, err := d.unfreeze(ctx, guest, rec); err != nil {
		return fmt.Errorf("restore guest %s: %w", guest.Name, err)
	}
	return nil
}

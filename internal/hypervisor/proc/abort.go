package proc

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// Abort implements hypervisor.Mover.
func (d *Driver) Abort(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	guest, unlock, err := d.change(ctx, id)
	if err != nil {
		return err
	}
	rec, err := d.abortHere(ctx, guest, life)
	unlock()
	if err == nil && rec.Ended {
		err = d.stayAt(ctx, id, rec)
	} else if err == nil {
		err = d.dropAt(ctx, id, rec)
	}
	if err != nil {
		return fmt.Errorf("abort migration of guest %s: %w", guest.Name, err)
	}
	return nil
}

// abortHere ends this host's end of the migration and returns the record that
// follows: Ended at the target. Called with the guest's lock.
func (d *Driver) abortHere(ctx context.Context, guest Guest, life cluster.LifeID) (record, error) {
	rec, err := d.settle(ctx, guest)
	if err != nil {
		return rec, err
	}
	switch {
	case rec.Life == life && rec.Arriving:
		return d.dropArrival(ctx, guest, rec)
	case rec.Life == life && rec.here() && rec.Leaving:
		rec.Leaving = false
		if err := d.save(guest.ID, rec); err != nil {
			return rec, err
		}
		return rec, d.observe(ctx, guest.ID)
	}
	return rec, fmt.Errorf("no migration of life %s: %w", life, hypervisor.ErrNotRunning)
}

// refuse ends the arrival of the life, when it arrives, for good: it cannot
// switch over any more. The source hears of it behind this. Called with the
// guest's lock.
func (d *Driver) refuse(ctx context.Context, guest Guest, life cluster.LifeID) error {
	rec, err := d.settle(ctx, guest)
	if err != nil || !rec.Arriving || rec.Life != life {
		return err
	}
	_, err = d.dropArrival(ctx, guest, rec)
	return err
}

// refuseNow is refuse for callers without the lock. It returns the record that
// follows: of the life, when that has switched over before.
func (d *Driver) refuseNow(ctx context.Context, guest Guest, life cluster.LifeID) (record, error) {
	unlock, err := d.lock(ctx, guest.ID)
	if err != nil {
		return record{}, err
	}
	defer unlock()
	if err := d.refuse(ctx, guest, life); err != nil {
		return record{}, err
	}
	return d.load(guest.ID)
}

// tellPeer tells the other end that the migration of rec has ended here.
func (d *Driver) tellPeer(id cluster.GuestID, rec record, tell func(context.Context, cluster.GuestID, record) error) {
	if err := tell(d.ctx, id, rec); err != nil && d.ctx.Err() == nil {
		d.log.Info("other end of a failed migration not told; it will see for itself", "guest", id, "err", err)
	}
}

// stayAt tells the source of rec, an arrival that ended here, that its migration
// is over. nil: the life is seen there.
func (d *Driver) stayAt(ctx context.Context, id cluster.GuestID, rec record) error {
	source, unlock, err := d.peer(ctx, id, rec)
	if err != nil {
		return err
	}
	defer unlock()
	if !source.here() || source.Life != rec.Life {
		return fmt.Errorf("life %s is not at its source any more", rec.Life)
	}
	now, err := d.load(id)
	if err != nil || now.Arriving || !source.Leaving || source.Peer != d.config.StateDir {
		return err // it has heard already, and perhaps begun another one
	}
	source.Leaving = false
	return saveAt(rec.Peer, id, source)
}

// dropAt ends the arrival at the target of rec, a migration that is over here.
func (d *Driver) dropAt(ctx context.Context, id cluster.GuestID, rec record) error {
	target, unlock, err := d.peer(ctx, id, rec)
	if err != nil {
		return err
	}
	defer unlock()
	if !target.Arriving || target.Peer != d.config.StateDir || target.Life != rec.Life {
		return nil
	}
	now, err := d.load(id)
	if err != nil || now.Life == rec.Life && (now.Leaving || now.Reason == hypervisor.ReasonMigrated) {
		return err // another one has begun, or switched over
	}
	target.Ended, target.Arriving, target.Incoming = true, false, nil
	return saveAt(rec.Peer, id, target)
}

// peer returns the record at the other end of a migration, with its lock. The
// caller holds none: movers take both in an order of their own.
func (d *Driver) peer(ctx context.Context, id cluster.GuestID, rec record) (record, func(), error) {
	unlock, err := lockAt(ctx, rec.Peer, id)
	if err != nil {
		return record{}, nil, err
	}
	there, err := loadPeer(id, rec)
	if err != nil {
		unlock()
		return record{}, nil, err
	}
	return there, unlock, nil
}

// loadPeer is load for the other end of a migration.
func loadPeer(id cluster.GuestID, rec record) (record, error) {
	raw, err := os.ReadFile(filepath.Join(rec.Peer, hostBootFile))
	if err != nil {
		return record{}, fmt.Errorf("read host boot id: %w", err)
	}
	boot, _, _ := strings.Cut(string(raw), "\n")
	return loadAt(rec.Peer, boot, id)
}

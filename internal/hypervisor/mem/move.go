package mem

import (
	"context"
	"errors"
	"fmt"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// move is a migration between its begin and its switch-over or failure. Both
// ends have it in their moves exactly as long.
type move struct {
	from, to *Driver
	guest    cluster.GuestID
	life     cluster.LifeID
}

// SetGuard implements hypervisor.Mover. What bounds the ctx of the guard is the
// ctx of BeginMove or Restore: the model has no clock.
func (d *Driver) SetGuard(guard hypervisor.Guard) {
	mu.Lock()
	defer mu.Unlock()
	d.guard = guard
}

// Claim implements hypervisor.Mover. What moves a life takes its claim along.
func (d *Driver) Claim(ctx context.Context, id cluster.GuestID, life cluster.LifeID, c cluster.ClusterID) error {
	return d.call(ctx, Call{Op: OpClaim, Guest: id, Life: life}, func() error {
		if _, err := d.running(id, life); err != nil {
			return err
		}
		if d.moves[id] != nil {
			return fmt.Errorf("claim of guest %s: it migrates", id)
		}
		d.claims[life] = c
		return nil
	})
}

// Abort implements hypervisor.Mover.
func (d *Driver) Abort(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	return d.call(ctx, Call{Op: OpAbort, Guest: id, Life: life}, func() error {
		if _, err := d.find(id); err != nil {
			return err
		}
		d.aborts[life]++
		m := d.moves[id]
		if m == nil || m.life != life {
			return fmt.Errorf("no migration of life %s: %w", life, hypervisor.ErrNotRunning)
		}
		m.fail()
		return nil
	})
}

// The methods below are an administrator's, who may be refused: an error means
// that nothing was done. Like the rest of the world they ask no fault function.

// BeginMove begins the migration of the guest that runs here to another host.
// It asks the guard there, without locks; then the guest is arriving there and
// leaving here, each with its event. It runs on here until FinishMove.
func (d *Driver) BeginMove(ctx context.Context, to *Driver, id cluster.GuestID) error {
	mu.Lock()
	life, err := d.movable(to, id)
	aborts, claimed := to.aborts[life], d.claims[life]
	mu.Unlock()
	if err != nil {
		return err
	}
	if err := to.ask(ctx, hypervisor.Incoming{Guest: id, Life: life, Claimed: claimed, Why: hypervisor.ReasonMigrated}); err != nil {
		return fmt.Errorf("migrate guest %s: the target refuses: %w", id, err)
	}
	mu.Lock()
	defer mu.Unlock()
	now, err := d.movable(to, id)
	if err != nil {
		return err
	}
	if now != life || to.aborts[life] != aborts || d.claims[life] != claimed {
		return fmt.Errorf("migrate guest %s: it began another life, was claimed, or the target aborts, meanwhile", id)
	}
	m := &move{from: d, to: to, guest: id, life: life}
	d.moves[id], to.moves[id] = m, m
	to.claims[life] = claimed
	g := to.guests[id]
	g.State, g.Life = hypervisor.StateArriving, life
	to.tell(id, life, hypervisor.EventArriving, hypervisor.ReasonUnknown)
	d.tell(id, life, hypervisor.EventLeaving, hypervisor.ReasonUnknown)
	return nil
}

// FinishMove switches the migration out of here over: the life ends here and
// starts at the target, both with ReasonMigrated. A paused guest is paused there.
func (d *Driver) FinishMove(id cluster.GuestID) error {
	return d.switchOver(id, false)
}

// FailMove makes the migration out of here fail. Before switch-over the life
// stays here. With postcopy it has switched over already: the life is at the
// target, paused, and not here any more.
func (d *Driver) FailMove(id cluster.GuestID, postcopy bool) error {
	if postcopy {
		return d.switchOver(id, true)
	}
	mu.Lock()
	defer mu.Unlock()
	m, err := d.outgoing(id)
	if err == nil {
		m.fail()
	}
	return err
}

// Save writes the guest's memory to an image and ends its life here with
// ReasonSaved. A guest that migrates cannot be saved.
func (d *Driver) Save(id cluster.GuestID) error {
	mu.Lock()
	defer mu.Unlock()
	g, err := d.find(id)
	if err != nil {
		return err
	}
	if !runs(g) || d.moves[id] != nil {
		return fmt.Errorf("save guest %s: it is %s or migrates", g.Name, g.State)
	}
	d.end(g, hypervisor.ReasonSaved)
	return nil
}

// Restore starts the saved guest from its image, under the life that was saved,
// when the guard allows it.
func (d *Driver) Restore(ctx context.Context, id cluster.GuestID) error {
	in, aborts, err := d.image(id)
	if err != nil {
		return err
	}
	if err := d.ask(ctx, in); err != nil {
		return fmt.Errorf("restore guest %s: the host refuses: %w", id, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if d.images[id] != in.Life || d.guests[id].State != hypervisor.StateSaved || d.aborts[in.Life] != aborts {
		return fmt.Errorf("restore guest %s: its image is gone, or the host aborts, meanwhile", id)
	}
	delete(d.images, id)
	d.start(d.guests[id], in.Life, hypervisor.ReasonRestored)
	return nil
}

func (d *Driver) image(id cluster.GuestID) (in hypervisor.Incoming, aborts uint64, err error) {
	mu.Lock()
	defer mu.Unlock()
	g, err := d.find(id)
	if err == nil && g.State != hypervisor.StateSaved {
		err = fmt.Errorf("restore guest %s: it is %s, not saved", g.Name, g.State)
	}
	life := d.images[id]
	in = hypervisor.Incoming{Guest: id, Life: life, Claimed: d.claims[life], Why: hypervisor.ReasonRestored}
	return in, d.aborts[life], err
}

// ask asks the guard of this host, without locks. Without one all is allowed.
func (d *Driver) ask(ctx context.Context, in hypervisor.Incoming) error {
	mu.Lock()
	guard := d.guard
	mu.Unlock()
	if guard == nil {
		return ctx.Err()
	}
	return errors.Join(guard(ctx, in), ctx.Err())
}

func (d *Driver) switchOver(id cluster.GuestID, postcopy bool) error {
	mu.Lock()
	defer mu.Unlock()
	m, err := d.outgoing(id)
	if err != nil {
		return err
	}
	m.over()
	g, there := d.guests[id], m.to.guests[id]
	paused, why := g.State == hypervisor.StatePaused, hypervisor.ReasonUser
	if postcopy {
		paused, why = true, hypervisor.ReasonFailed
	}
	m.to.start(there, m.life, hypervisor.ReasonMigrated)
	if paused {
		there.State = hypervisor.StatePaused
		m.to.tell(id, m.life, hypervisor.EventPaused, why)
	}
	d.end(g, hypervisor.ReasonMigrated)
	return nil
}

// The functions below are called with mu held.

// movable returns the life that a migration to the other host would take along.
func (d *Driver) movable(to *Driver, id cluster.GuestID) (cluster.LifeID, error) {
	g, err := d.find(id)
	if err != nil {
		return "", err
	}
	there, err := to.find(id)
	switch {
	case err != nil:
		return "", err
	case d == to || d.down || to.down:
		return "", fmt.Errorf("migrate guest %s: want two hosts that answer: %w", g.Name, hypervisor.ErrUnavailable)
	case !runs(g) || d.moves[id] != nil:
		return "", fmt.Errorf("migrate guest %s: it is %s or migrates already", g.Name, g.State)
	case there.State != hypervisor.StateOff:
		return "", fmt.Errorf("migrate guest %s: it is %s at the target", g.Name, there.State)
	}
	return g.Life, nil
}

func (d *Driver) outgoing(id cluster.GuestID) (*move, error) {
	if m := d.moves[id]; m != nil && m.from == d {
		return m, nil
	}
	return nil, fmt.Errorf("guest %s has no migration out of this host: %w", id, hypervisor.ErrNotRunning)
}

// over takes the migration away from both ends.
func (m *move) over() {
	delete(m.from.moves, m.guest)
	delete(m.to.moves, m.guest)
}

// fail: the life is at its source, and both ends hear so.
func (m *move) fail() {
	m.failBehind(m.from)
	m.from.tell(m.guest, m.life, hypervisor.EventStayed, hypervisor.ReasonUnknown)
}

// failBehind makes the migration fail on the other end's side of d, which has
// its own word, or none, for what happened.
func (m *move) failBehind(d *Driver) {
	m.over()
	if d == m.to {
		m.from.tell(m.guest, m.life, hypervisor.EventStayed, hypervisor.ReasonUnknown)
		return
	}
	g := m.to.guests[m.guest]
	g.State, g.Life = hypervisor.StateOff, ""
	m.to.tell(m.guest, m.life, hypervisor.EventStayed, hypervisor.ReasonUnknown)
}

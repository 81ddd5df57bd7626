package mem

import (
	"context"
	"fmt"
	"sync"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// watchLimit is how many events a watcher may lag behind before it loses its
// stream.
const watchLimit = 64

// Guest is one guest of the model's host.
type Guest struct {
	ID   cluster.GuestID
	Name string
}

// mu guards every Driver: a migration changes two of them at once. It is never
// held across a wait.
var mu sync.Mutex

// Driver is the model. The zero value is not usable; see New. All fields are
// guarded by mu.
type Driver struct {
	hostBoot string
	order    []cluster.GuestID
	guests   map[cluster.GuestID]*hypervisor.Guest
	cold     uint64 // cold starts so far: the pid and start time of the next life
	fault    func(Call) Fault
	down     bool
	quiet    bool
	held     []hypervisor.Event // kept back while quiet
	watchers map[*watcher]struct{}
	channels map[cluster.GuestID]*listener
	guard    hypervisor.Guard
	moves    map[cluster.GuestID]*move            // out of here and to here
	aborts   map[cluster.LifeID]uint64            // calls of Abort: who was asked for before them may not begin
	images   map[cluster.GuestID]cluster.LifeID   // of the saved guests
	claims   map[cluster.LifeID]cluster.ClusterID // that lives bring along
}

var (
	_ hypervisor.Driver    = (*Driver)(nil)
	_ hypervisor.Channeler = (*Driver)(nil)
	_ hypervisor.Mover     = (*Driver)(nil)
)

// New returns a host with the given boot id whose guests are all off.
func New(hostBoot string, guests ...Guest) *Driver {
	d := &Driver{
		hostBoot: hostBoot,
		guests:   map[cluster.GuestID]*hypervisor.Guest{},
		watchers: map[*watcher]struct{}{},
		channels: map[cluster.GuestID]*listener{},
		moves:    map[cluster.GuestID]*move{},
		aborts:   map[cluster.LifeID]uint64{},
		images:   map[cluster.GuestID]cluster.LifeID{},
		claims:   map[cluster.LifeID]cluster.ClusterID{},
	}
	for _, g := range guests {
		d.order = append(d.order, g.ID)
		d.guests[g.ID] = &hypervisor.Guest{ID: g.ID, Name: g.Name, State: hypervisor.StateOff}
	}
	return d
}

// HostBoot implements hypervisor.Driver.
func (d *Driver) HostBoot(ctx context.Context) (string, error) {
	var hostBoot string
	err := d.call(ctx, Call{Op: OpHostBoot}, func() error {
		hostBoot = d.hostBoot
		return nil
	})
	return hostBoot, err
}

// List implements hypervisor.Driver. The order is that of New.
func (d *Driver) List(ctx context.Context) ([]hypervisor.Guest, error) {
	var list []hypervisor.Guest
	err := d.call(ctx, Call{Op: OpList}, func() error {
		for _, id := range d.order {
			list = append(list, *d.guests[id])
		}
		return nil
	})
	return list, err
}

// State implements hypervisor.Driver.
func (d *Driver) State(ctx context.Context, id cluster.GuestID) (hypervisor.Guest, error) {
	var guest hypervisor.Guest
	err := d.call(ctx, Call{Op: OpState, Guest: id}, func() error {
		g, err := d.find(id)
		if err == nil {
			guest = *g
		}
		return err
	})
	return guest, err
}

// Off implements hypervisor.Driver.
func (d *Driver) Off(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	return d.call(ctx, Call{Op: OpOff, Guest: id, Life: life}, func() error {
		if m := d.moves[id]; m != nil && m.to == d && m.life == life {
			m.fail()
		}
		g, err := d.running(id, life)
		if err != nil {
			return err
		}
		d.end(g, hypervisor.ReasonDestroyed)
		return nil
	})
}

// On implements hypervisor.Driver.
func (d *Driver) On(ctx context.Context, id cluster.GuestID) (cluster.LifeID, error) {
	var life cluster.LifeID
	err := d.call(ctx, Call{Op: OpOn, Guest: id}, func() error {
		g, err := d.find(id)
		if err != nil {
			return err
		}
		if g.Life != "" {
			return fmt.Errorf("start guest %s: %w", g.Name, hypervisor.ErrRunning)
		}
		delete(d.images, id)
		life = d.boot(g)
		return nil
	})
	return life, err
}

// Pause implements hypervisor.Driver.
func (d *Driver) Pause(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	return d.call(ctx, Call{Op: OpPause, Guest: id, Life: life}, func() error {
		return d.setState(id, life, hypervisor.StatePaused, hypervisor.EventPaused)
	})
}

// Unpause implements hypervisor.Driver.
func (d *Driver) Unpause(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	return d.call(ctx, Call{Op: OpUnpause, Guest: id, Life: life}, func() error {
		return d.setState(id, life, hypervisor.StateRunning, hypervisor.EventUnpaused)
	})
}

// The functions below are called with mu held.

func (d *Driver) find(id cluster.GuestID) (*hypervisor.Guest, error) {
	g, ok := d.guests[id]
	if !ok {
		return nil, fmt.Errorf("guest %s: %w", id, hypervisor.ErrNoGuest)
	}
	return g, nil
}

func (d *Driver) running(id cluster.GuestID, life cluster.LifeID) (*hypervisor.Guest, error) {
	g, err := d.find(id)
	if err != nil {
		return nil, err
	}
	if !runs(g) {
		return nil, fmt.Errorf("guest %s is %s: %w", g.Name, g.State, hypervisor.ErrNotRunning)
	}
	if g.Life != life {
		return nil, fmt.Errorf("guest %s is in life %s: %w", g.Name, g.Life, hypervisor.ErrOtherLife)
	}
	return g, nil
}

// runs reports whether the guest has a life here: one that arrives is not.
func runs(g *hypervisor.Guest) bool {
	return g.State == hypervisor.StateRunning || g.State == hypervisor.StatePaused
}

func (d *Driver) boot(g *hypervisor.Guest) cluster.LifeID {
	d.cold++
	life := cluster.NewLifeID(d.hostBoot, int(1000+d.cold), d.cold)
	d.start(g, life, hypervisor.ReasonBooted)
	return life
}

func (d *Driver) start(g *hypervisor.Guest, life cluster.LifeID, reason hypervisor.Reason) {
	g.State, g.Life = hypervisor.StateRunning, life
	d.tell(g.ID, life, hypervisor.EventStarted, reason)
}

// end ends the guest's life here; a migration out of here fails with it.
func (d *Driver) end(g *hypervisor.Guest, reason hypervisor.Reason) {
	life := g.Life
	d.drop(g)
	if reason == hypervisor.ReasonSaved {
		g.State, d.images[g.ID] = hypervisor.StateSaved, life
	}
	d.tell(g.ID, life, hypervisor.EventEnded, reason)
}

// drop takes the guest's life away without a word, here; the other end of its
// migration hears that it failed.
func (d *Driver) drop(g *hypervisor.Guest) {
	m := d.moves[g.ID]
	g.State, g.Life = hypervisor.StateOff, ""
	if m != nil {
		m.failBehind(d)
	}
}

func (d *Driver) setState(id cluster.GuestID, life cluster.LifeID, to hypervisor.GuestState, kind hypervisor.EventKind) error {
	g, err := d.running(id, life)
	if err != nil || g.State == to {
		return err
	}
	g.State = to
	d.tell(id, life, kind, hypervisor.ReasonUser)
	return nil
}

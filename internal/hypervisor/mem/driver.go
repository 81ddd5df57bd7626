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

// Driver is the model. The zero value is not usable; see New.
type Driver struct {
	mu       sync.Mutex // guards everything below; never held across a wait
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
}

var (
	_ hypervisor.Driver    = (*Driver)(nil)
	_ hypervisor.Channeler = (*Driver)(nil)
)

// New returns a host with the given boot id whose guests are all off.
func New(hostBoot string, guests ...Guest) *Driver {
	d := &Driver{
		hostBoot: hostBoot,
		guests:   map[cluster.GuestID]*hypervisor.Guest{},
		watchers: map[*watcher]struct{}{},
		channels: map[cluster.GuestID]*listener{},
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
		g, err := d.running(id, life)
		if err != nil {
			return err
		}
		d.end(g, hypervisor.StateOff, hypervisor.ReasonDestroyed)
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
		life = d.start(g, hypervisor.ReasonBooted)
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

// The functions below are called with d.mu held.

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
	if g.Life == "" {
		return nil, fmt.Errorf("guest %s: %w", g.Name, hypervisor.ErrNotRunning)
	}
	if g.Life != life {
		return nil, fmt.Errorf("guest %s is in life %s: %w", g.Name, g.Life, hypervisor.ErrOtherLife)
	}
	return g, nil
}

func (d *Driver) start(g *hypervisor.Guest, reason hypervisor.Reason) cluster.LifeID {
	d.cold++
	g.Life = cluster.NewLifeID(d.hostBoot, int(1000+d.cold), d.cold)
	g.State = hypervisor.StateRunning
	d.emit(hypervisor.Event{Guest: g.ID, Life: g.Life, Kind: hypervisor.EventStarted, Reason: reason})
	return g.Life
}

func (d *Driver) end(g *hypervisor.Guest, state hypervisor.GuestState, reason hypervisor.Reason) {
	life := g.Life
	g.State, g.Life = state, ""
	d.emit(hypervisor.Event{Guest: g.ID, Life: life, Kind: hypervisor.EventEnded, Reason: reason})
}

func (d *Driver) setState(id cluster.GuestID, life cluster.LifeID, to hypervisor.GuestState, kind hypervisor.EventKind) error {
	g, err := d.running(id, life)
	if err != nil || g.State == to {
		return err
	}
	g.State = to
	d.emit(hypervisor.Event{Guest: id, Life: life, Kind: kind, Reason: hypervisor.ReasonUser})
	return nil
}

package mem

import (
	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// The methods of this file are the world acting behind the driver's back: an
// administrator, the guest itself, the power supply. They never fail; for a
// guest that the host does not know, or that is not running, they do nothing.

// End ends the guest's life with an event, as when its process was killed
// (ReasonDestroyed), it powered itself off (ReasonShutdown) or its hypervisor
// process failed (ReasonCrashed). With ReasonSaved the guest is saved instead.
func (d *Driver) End(id cluster.GuestID, reason hypervisor.Reason) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g, ok := d.guests[id]; ok && g.Life != "" {
		state := hypervisor.StateOff
		if reason == hypervisor.ReasonSaved {
			state = hypervisor.StateSaved
		}
		d.end(g, state, reason)
	}
}

// EndSilently ends the guest's life without any event.
func (d *Driver) EndSilently(id cluster.GuestID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g, ok := d.guests[id]; ok {
		g.State, g.Life = hypervisor.StateOff, ""
	}
}

// Inside reports something that happened within the guest's life, such as a
// panic or a reset. The life goes on.
func (d *Driver) Inside(id cluster.GuestID, reason hypervisor.Reason) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g, ok := d.guests[id]; ok && g.Life != "" {
		d.emit(hypervisor.Event{Guest: id, Life: g.Life, Kind: hypervisor.EventInside, Reason: reason})
	}
}

// MoveTo migrates the running guest to another host under the same life: here
// it ends with ReasonMigrated, there it starts with ReasonMigrated. Both hosts
// must know the guest.
func (d *Driver) MoveTo(other *Driver, id cluster.GuestID) {
	life, state := d.takeOut(id)
	if life == "" {
		return
	}
	other.mu.Lock()
	defer other.mu.Unlock()
	if g, ok := other.guests[id]; ok {
		g.Life, g.State = life, state
		other.emit(hypervisor.Event{Guest: id, Life: life, Kind: hypervisor.EventStarted, Reason: hypervisor.ReasonMigrated})
	}
}

func (d *Driver) takeOut(id cluster.GuestID) (cluster.LifeID, hypervisor.GuestState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g, ok := d.guests[id]
	if !ok || g.Life == "" {
		return "", hypervisor.StateOff
	}
	life, state := g.Life, g.State
	d.end(g, hypervisor.StateOff, hypervisor.ReasonMigrated)
	return life, state
}

// Life returns the guest's life now, "" when it is not running: the truth,
// whatever faults the driver's answers have.
func (d *Driver) Life(id cluster.GuestID) cluster.LifeID {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g, ok := d.guests[id]; ok {
		return g.Life
	}
	return ""
}

// SetAvailable with false makes every call fail with ErrUnavailable and breaks
// every stream, as a hypervisor daemon that is down does. Guests run on.
func (d *Driver) SetAvailable(available bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = !available
	if d.down {
		d.breakStreams()
	}
}

// BreakStreams closes the channel of every watcher.
func (d *Driver) BreakStreams() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.breakStreams()
}

// SetQuiet with true holds every event back, as a hypervisor whose event loop
// hangs does; with false the held events are delivered, in order.
func (d *Driver) SetQuiet(quiet bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet = quiet
	if quiet {
		return
	}
	held := d.held
	d.held = nil
	for _, e := range held {
		d.deliver(e)
	}
}

// RestartHost ends every life without an event, breaks every stream and gives
// the host a new boot id, as a power loss and return does.
func (d *Driver) RestartHost(hostBoot string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, g := range d.guests {
		g.State, g.Life = hypervisor.StateOff, ""
	}
	d.hostBoot, d.down, d.quiet, d.held = hostBoot, false, false, nil
	d.breakStreams()
}

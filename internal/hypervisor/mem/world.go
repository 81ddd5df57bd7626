package mem

import (
	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// The methods of this file are the world acting behind the driver's back: an
// administrator, the guest itself, the power supply. They never fail; for a
// guest that the host does not know, or that is not running, they do nothing.
// What an administrator may be refused stands in move.go.

// End ends the guest's life with an event, as when its process was killed
// (ReasonDestroyed), it powered itself off (ReasonShutdown) or its hypervisor
// process failed (ReasonCrashed). With ReasonSaved the guest is saved instead.
func (d *Driver) End(id cluster.GuestID, reason hypervisor.Reason) {
	mu.Lock()
	defer mu.Unlock()
	if g, ok := d.guests[id]; ok && runs(g) {
		d.end(g, reason)
	}
}

// EndSilently ends the guest's life, or its arrival, without any event here.
func (d *Driver) EndSilently(id cluster.GuestID) {
	mu.Lock()
	defer mu.Unlock()
	if g, ok := d.guests[id]; ok {
		d.drop(g)
	}
}

// Inside reports something that happened within the guest's life, such as a
// panic or a reset. The life goes on.
func (d *Driver) Inside(id cluster.GuestID, reason hypervisor.Reason) {
	mu.Lock()
	defer mu.Unlock()
	if g, ok := d.guests[id]; ok && runs(g) {
		d.tell(id, g.Life, hypervisor.EventInside, reason)
	}
}

// MoveTo migrates the running guest to another host under the same life, at
// once and without guard or notice: here it ends with ReasonMigrated, there it
// starts with ReasonMigrated. Both hosts must know the guest. See BeginMove for
// a migration in its steps.
func (d *Driver) MoveTo(other *Driver, id cluster.GuestID) {
	mu.Lock()
	defer mu.Unlock()
	g, ok := d.guests[id]
	if !ok || !runs(g) {
		return
	}
	life, state := g.Life, g.State
	d.end(g, hypervisor.ReasonMigrated)
	if g, ok := other.guests[id]; ok {
		g.Life, g.State = life, state
		other.claims[life] = d.claims[life]
		other.tell(id, life, hypervisor.EventStarted, hypervisor.ReasonMigrated)
	}
}

// Life returns the guest's life now, "" when it is not running: the truth,
// whatever faults the driver's answers have.
func (d *Driver) Life(id cluster.GuestID) cluster.LifeID {
	mu.Lock()
	defer mu.Unlock()
	if g, ok := d.guests[id]; ok && runs(g) {
		return g.Life
	}
	return ""
}

// SetAvailable with false makes every call fail with ErrUnavailable and breaks
// every stream, as a hypervisor daemon that is down does. Guests run on.
func (d *Driver) SetAvailable(available bool) {
	mu.Lock()
	defer mu.Unlock()
	d.down = !available
	if d.down {
		d.breakStreams()
	}
}

// BreakStreams closes the channel of every watcher.
func (d *Driver) BreakStreams() {
	mu.Lock()
	defer mu.Unlock()
	d.breakStreams()
}

// SetQuiet with true holds every event back, as a hypervisor whose event loop
// hangs does; with false the held events are delivered, in order.
func (d *Driver) SetQuiet(quiet bool) {
	mu.Lock()
	defer mu.Unlock()
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
// the host a new boot id, as a power loss and return does. Migrations from and
// to here fail; saved images lie on a disk and stay.
func (d *Driver) RestartHost(hostBoot string) {
	mu.Lock()
	defer mu.Unlock()
	for _, id := range d.order {
		if g := d.guests[id]; g.Life != "" {
			d.drop(g)
		}
	}
	d.hostBoot, d.down, d.quiet, d.held = hostBoot, false, false, nil
	d.breakStreams()
}

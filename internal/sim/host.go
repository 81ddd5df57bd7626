package sim

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/mem"
)

// host is a machine with a hypervisor and a hostd.
type host struct {
	w       *World
	name    string
	key     ed25519.PrivateKey
	storage *journal.Memory
	driver  *driver
	limited hypervisor.Driver // driver as hostd gets it
	compact int               // bytes of the journal from which on it is rewritten; 0: as in production

	mu     sync.Mutex // guards everything below
	boots  int
	up     bool // power
	daemon *hostd.Daemon
	stop   func() // ends the present run of hostd
	// hindered is until when something keeps hostd from its work.
	hindered time.Duration
	// ungranted are the guests for which it has no grant.
	ungranted map[cluster.GuestID]bool
}

func newHost(w *World, name string) *host {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	h := &host{w: w, name: name, key: ed25519.NewKeyFromSeed(seed), storage: journal.NewMemory(nil), boots: 1, up: true, ungranted: map[cluster.GuestID]bool{}}
	if w.chance("journal", 0.5) {
		h.compact = 1<<11 + w.intn("journal", 1<<13)
	}
	var guests []mem.Guest
	for i, place := range w.Plan.Places {
		g := fmt.Sprintf("n%d", i+1)
		if w.Plan.Mobile || fmt.Sprintf("h%d", place+1) == name {
			guests = append(guests, mem.Guest{ID: cluster.GuestID("guest-" + g), Name: g})
		}
	}
	h.driver = &driver{Driver: mem.New(h.bootID(), guests...), h: h}
	h.limited = h.driver
	if !w.Plan.Mobile {
		h.limited = immobile{h.driver}
	}
	return h
}

func (h *host) bootID() string { return fmt.Sprintf("%s-boot%d", h.name, h.boots) }

func (h *host) isUp() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up
}

// serving returns hostd while it answers.
func (h *host) serving() *hostd.Daemon {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.up {
		return nil
	}
	return h.daemon
}

// startHostd begins a run of hostd, if none runs and there is power.
func (h *host) startHostd() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.up || h.daemon != nil {
		return
	}
	log := h.w.logger(h.name)
	j, err := journal.Open(h.storage, log)
	if err != nil {
		h.w.note("hostd of %s does not start: %v", h.name, err)
		h.w.later(daemonRestart, h.startHostd)
		return
	}
	if h.compact > 0 {
		j.CompactFrom(h.compact)
	}
	d := hostd.New(hostd.Config{
		Host: cluster.HostName(h.name), Key: h.key, Journal: j, Driver: h.limited,
		Grants: grants{h}, Audit: noAudit{}, Version: "sim", Log: log,
	})
	ctx, cancel := context.WithCancel(h.w.ctx)
	done := make(chan struct{})
	h.w.wg.Go(func() {
		defer close(done)
		defer j.Close()
		if err := d.Run(ctx); err != nil && ctx.Err() == nil {
			h.w.note("hostd of %s ends: %v", h.name, err)
			h.w.later(daemonRestart, func() { h.restartHostd(d) })
		}
	})
	h.daemon = d
	h.stop = func() { cancel(); <-done }
}

// restartHostd is what the host's service manager does when a run has failed.
func (h *host) restartHostd(failed *hostd.Daemon) {
	h.mu.Lock()
	same := h.daemon == failed
	if same {
		h.daemon, h.stop = nil, nil
	}
	h.mu.Unlock()
	if same {
		h.startHostd()
	}
}

// stopHostd ends the present run of hostd; what it had not journalled is gone.
func (h *host) stopHostd() {
	h.mu.Lock()
	stop := h.stop
	h.stop, h.daemon = nil, nil
	h.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// down takes the power: hostd and all guests here end at this instant, and
// nobody tells.
func (h *host) down() {
	h.mu.Lock()
	h.up = false
	h.mu.Unlock()
	for _, g := range h.w.sortedGuests() {
		if g.place() == h {
			g.halt()
		}
	}
	h.stopHostd()
}

// back gives the power back: a new boot of the host, on which nothing runs yet.
func (h *host) back() {
	h.mu.Lock()
	if h.up {
		h.mu.Unlock()
		return
	}
	h.boots++
	h.up = true
	h.mu.Unlock()
	h.driver.RestartHost(h.bootID())
	h.startHostd()
}

// hinder notes that something keeps hostd here from doing its work for so long.
func (h *host) hinder(span time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hindered = max(h.hindered, h.w.now()+span)
}

// able reports whether nothing keeps hostd here from ending a guest.
func (h *host) able() bool {
	h.mu.Lock()
	free := h.w.now() > h.hindered
	h.mu.Unlock()
	return free && h.driver.quick() && h.serving() != nil
}

// powerOn starts a guest cold, as an administrator does.
func (h *host) powerOn(g *guest) {
	if !h.isUp() {
		return
	}
	ctx, cancel := context.WithTimeout(h.w.ctx, 15*time.Second)
	defer cancel()
	_, err := h.driver.On(ctx, g.id())
	if err != nil && !errors.Is(err, hypervisor.ErrRunning) {
		h.w.note("%s cannot start %s: %v", h.name, g.name, err)
	}
}

// insideReboot tells of a restart inside the guest's life.
func (h *host) insideReboot(g *guest) { h.driver.Inside(g.id(), hypervisor.ReasonReset) }

// PowerFault is what goes wrong with power calls on a host.
type PowerFault int

// The ways in which a power call fails.
const (
	PowerGood       PowerFault = iota
	PowerSlow                  // takes seconds
	PowerFails                 // answers with an error, nothing done
	PowerFailsAfter            // answers with an error, though it is done
	PowerHangs                 // never answers, nothing done
)

// driver is the hypervisor of a host: the model of package mem, whose power
// calls act on the guests of the world.
type driver struct {
	*mem.Driver
	h *host

	mu    sync.Mutex // guards everything below
	fault PowerFault
	takes time.Duration // of each power call; 0: as usual
}

// immobile is a driver whose guests cannot move or be saved.
type immobile struct{ *driver }

// Immobile implements an ability that hostd asks for.
func (immobile) Immobile() bool { return true }

// isSaved reports whether the guest is a memory image here.
func (d *driver) isSaved(id cluster.GuestID) bool {
	g, err := d.Driver.State(context.Background(), id)
	return err == nil && g.State == hypervisor.StateSaved
}

func (d *driver) setFault(f PowerFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

func (d *driver) setTakes(takes time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takes = takes
}

// quickLimit is how long power calls may take of a host that nothing keeps from
// its work.
const quickLimit = 2 * time.Second

func (d *driver) quick() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fault == PowerGood && d.takes <= quickLimit
}

// hinder carries the fault of a power call out. done: the caller goes on and
// answers with err afterwards.
func (d *driver) hinder(ctx context.Context) (goOn bool, err error) {
	d.mu.Lock()
	fault, fixed := d.fault, d.takes
	d.mu.Unlock()
	takes := cmp.Or(fixed, d.h.w.between("power", 20*time.Millisecond, 250*time.Millisecond))
	switch fault {
	case PowerSlow:
		takes = d.h.w.between("power", time.Second, 9*time.Second)
	case PowerFails:
		return false, errors.New("sim: the hypervisor failed")
	case PowerFailsAfter:
		err = errors.New("sim: the hypervisor failed, it says")
	case PowerHangs:
		<-ctx.Done()
	}
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-time.After(takes):
		return true, err
	}
}

// Off implements hypervisor.Driver: the guest's machine ends, its writes have
// arrived, and only then the call returns (rule P10).
func (d *driver) Off(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	goOn, failed := d.hinder(ctx)
	if !goOn {
		return failed
	}
	if d.Life(id) == life && life != "" {
		g := d.h.w.guestOf(id)
		if g.place() == d.h {
			d.h.w.note("%s switches %s off", d.h.name, g.name)
			d.h.w.history.judgeOff(g, life)
			g.halt()
			g.drained()
			g.fate.Lock()
			defer g.fate.Unlock()
			g.halt() // what was brought back meanwhile
		}
	}
	if err := d.Driver.Off(ctx, id, life); err != nil {
		return err
	}
	return failed
}

// On implements hypervisor.Driver.
func (d *driver) On(ctx context.Context, id cluster.GuestID) (cluster.LifeID, error) {
	goOn, failed := d.hinder(ctx)
	if !goOn {
		return "", failed
	}
	life, err := d.Driver.On(ctx, id)
	if err != nil {
		return life, err
	}
	g := d.h.w.guestOf(id)
	g.mu.Lock()
	g.host = d.h
	g.mu.Unlock()
	d.h.w.note("%s starts %s", d.h.name, g.name)
	g.halt() // a memory image that was kept is gone
	g.boot()
	return life, failed
}

// Pause implements hypervisor.Driver.
func (d *driver) Pause(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	err := d.Driver.Pause(ctx, id, life)
	if err == nil {
		d.h.w.guestOf(id).freeze(heldPaused, true)
	}
	return err
}

// Unpause implements hypervisor.Driver.
func (d *driver) Unpause(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	err := d.Driver.Unpause(ctx, id, life)
	if err == nil {
		d.h.w.guestOf(id).thaw()
	}
	return err
}

// dies ends a guest from outside of hostd. told: the hypervisor reports it,
// once the guest's writes have arrived.
func (h *host) dies(g *guest, told bool) {
	if h.driver.Life(g.id()) == "" {
		return
	}
	g.halt()
	g.drained()
	g.fate.Lock()
	defer g.fate.Unlock()
	g.halt() // what was brought back meanwhile
	if told {
		h.driver.End(g.id(), hypervisor.ReasonCrashed)
		return
	}
	h.driver.EndSilently(g.id())
}

func (w *World) guestOf(id cluster.GuestID) *guest {
	for _, g := range w.sortedGuests() {
		if g.id() == id {
			return g
		}
	}
	panic("sim: no guest " + string(id))
}

// freeze pauses the guest's machine.
func (g *guest) freeze(why string, stopClock bool) {
	if m := g.now(); m != nil {
		m.pause(why, stopClock)
	}
}

// thaw ends a pause by the hypervisor.
func (g *guest) thaw() {
	if m := g.now(); m != nil {
		m.unpause(heldPaused)
	}
}

// grants allow the cluster every guest but those that a host has no grant for.
type grants struct{ h *host }

func (g grants) Allows(c cluster.ClusterID, id cluster.GuestID) bool {
	return c == clusterID && len(g.Clusters(id)) > 0
}

func (g grants) Clusters(id cluster.GuestID) []cluster.ClusterID {
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	if g.h.ungranted[id] {
		return nil
	}
	return []cluster.ClusterID{clusterID}
}

// grant gives the host the grant for a guest, or takes it away.
func (h *host) grant(id cluster.GuestID, granted bool) {
	h.mu.Lock()
	d := h.daemon
	h.ungranted[id] = !granted
	h.mu.Unlock()
	if d != nil {
		d.DropStreams()
	}
}

type noAudit struct{}

func (noAudit) Note(hostd.AuditEntry) {}

// errFull is what a host's disk says when it takes no more.
var errFull = errors.New("sim: no space left on device")

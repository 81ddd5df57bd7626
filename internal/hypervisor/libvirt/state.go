package libvirt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	lv "ringfence/internal/libvirt"
)

const (
	// listWorkers is how many guests of one connection are looked at at a time:
	// fewer than libvirtd reads calls, so that there is room for others.
	listWorkers = 3
	// unclearLooks is how often a guest is looked at that begins or ends just now.
	unclearLooks = 10
)

func uuidOf(id cluster.GuestID) lv.UUID {
	uuid, _ := lv.ParseUUID(string(id)) // the zero one names no guest
	return uuid
}

// isActive reports whether a run of the hypervisor goes with the state.
func isActive(s lv.State) bool { return s != lv.StateShutoff }

func isPaused(s lv.State, why lv.Reason) bool {
	switch s {
	case lv.StateRunning: // it waits for memory that does not come
		return why == lv.RunningPostcopyFailed
	case lv.StatePMSuspended, lv.StateCrashed:
		return true
	case lv.StatePaused:
		return why != lv.PausedMigration && why != lv.PausedStartingUp
	}
	return false
}

// stateAnswer is what libvirt says of the state of a domain.
type stateAnswer struct {
	state lv.State
	why   lv.Reason
	err   error
}

func (h *host) askState(ctx context.Context, dom lv.Domain) (a stateAnswer) {
	a.state, a.why, a.err = h.client.State(ctx, dom)
	return a
}

// look returns the state of a domain and its run, which is nil when it has none.
func (h *host) look(ctx context.Context, dom lv.Domain) (hypervisor.Guest, *run, error) {
	return h.lookFrom(ctx, dom, h.askState(ctx, dom))
}

// lookFrom is look when the state was asked for just now.
func (h *host) lookFrom(ctx context.Context, dom lv.Domain, a stateAnswer) (hypervisor.Guest, *run, error) {
	for tries := 1; ; tries++ {
		guest, r, err := h.lookOnce(ctx, dom, a)
		unclear := errors.Is(err, errNoProcess) || errors.Is(err, errUnclear)
		if !unclear || tries == unclearLooks {
			return guest, r, err
		}
		if err := pause(ctx, pollInterval); err != nil {
			return guest, nil, err
		}
		a = h.askState(ctx, dom)
	}
}

func (h *host) lookOnce(ctx context.Context, dom lv.Domain, a stateAnswer) (hypervisor.Guest, *run, error) {
	guest := hypervisor.Guest{ID: cluster.GuestID(dom.UUID.String()), Name: dom.Name}
	if a.err != nil {
		return guest, nil, unavailable(a.err)
	}
	state, why := a.state, a.why
	// Xen's crashed domains have no run any more, unless they are kept.
	if !isActive(state) || state == lv.StateCrashed && h.uri.Driver == "xen" && dom.ID < 0 {
		guest.State = hypervisor.StateOff
		if h.uri.Driver == "xen" {
			return guest, nil, nil
		}
		saved, err := h.client.HasManagedSave(ctx, dom)
		if err != nil {
			return guest, nil, unavailable(err)
		}
		if saved {
			guest.State = hypervisor.StateSaved
		}
		return guest, nil, nil
	}
	comes := state == lv.StatePaused && (why == lv.PausedMigration || why == lv.PausedStartingUp)
	g := h.guest(dom)
	r, err := g.see(ctx, dom, comes)
	if err != nil {
		return guest, nil, err
	}
	guest.State, guest.Life = g.stateOf(r, state, why)
	return guest, r, nil
}

// stateOf reduces libvirt's state. A domain is paused for a migration at both
// ends; which one this is the run knows.
func (g *guest) stateOf(r *run, state lv.State, why lv.Reason) (hypervisor.GuestState, cluster.LifeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case r.left:
		return hypervisor.StateOff, ""
	case state == lv.StatePaused && why == lv.PausedMigration && !r.arriving && (r.started || !r.image):
		return hypervisor.StateRunning, r.life // until it has switched over
	case state == lv.StatePaused && (why == lv.PausedMigration || why == lv.PausedStartingUp && r.image):
		return hypervisor.StateArriving, r.life
	case isPaused(state, why):
		return hypervisor.StatePaused, r.life
	}
	return hypervisor.StateRunning, r.life
}

// unavailable turns libvirt's error into the contract's.
func unavailable(err error) error {
	if errors.Is(err, lv.ErrNoDomain) {
		return fmt.Errorf("%w: %w", hypervisor.ErrNoGuest, err)
	}
	return fmt.Errorf("%w: %w", hypervisor.ErrUnavailable, err)
}

// List implements hypervisor.Driver. Guests of a connection that is lost are
// listed as unknown, so that the others go on; without any connection there is no
// listing.
func (d *Driver) List(ctx context.Context) ([]hypervisor.Guest, error) {
	lists, errs := make([][]hypervisor.Guest, len(d.hosts)), make([]error, len(d.hosts))
	var group sync.WaitGroup
	for i, h := range d.hosts {
		group.Go(func() { lists[i], errs[i] = h.list(ctx) })
	}
	group.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !slices.Contains(errs, nil) {
		return nil, fmt.Errorf("list guests: %w: %w", hypervisor.ErrUnavailable, errors.Join(errs...))
	}
	var all []hypervisor.Guest
	at := map[cluster.GuestID]int{}
	for i, list := range lists {
		if errs[i] != nil {
			list = d.hosts[i].unknown()
		}
		for _, guest := range list {
			if k, twice := at[guest.ID]; twice {
				all[k] = d.merge(all[k], guest)
				continue
			}
			at[guest.ID] = len(all)
			all = append(all, guest)
		}
	}
	return all, nil
}

// merge is what is said of a guest that two connections have.
func (d *Driver) merge(a, b hypervisor.Guest) hypervisor.Guest {
	idle := func(g hypervisor.Guest) bool {
		return g.State == hypervisor.StateOff || g.State == hypervisor.StateSaved
	}
	switch {
	case idle(b):
		return a
	case idle(a):
		return b
	}
	d.log.Error("a guest runs in two connections; nothing is said of it", "guest", a.ID, "name", a.Name, "other_name", b.Name)
	return hypervisor.Guest{ID: a.ID, Name: a.Name}
}

// unknown lists the guests that a lost connection had.
func (h *host) unknown() []hypervisor.Guest {
	var list []hypervisor.Guest
	for _, g := range h.allKnown() {
		g.mu.Lock()
		list = append(list, hypervisor.Guest{ID: g.id, Name: g.name})
		g.mu.Unlock()
	}
	return list
}

func (h *host) list(ctx context.Context) ([]hypervisor.Guest, error) {
	domains, err := h.client.List(ctx, 0)
	if err != nil {
		return nil, unavailable(err)
	}
	domains = slices.DeleteFunc(domains, h.isHost)
	saved, err := h.saved(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]hypervisor.Guest, len(domains))
	work := make(chan int)
	var group sync.WaitGroup
	for range min(listWorkers, len(domains)) {
		group.Go(func() {
			for i := range work {
				list[i] = h.listed(ctx, domains[i], saved[domains[i].UUID])
			}
		})
	}
	for i := range domains {
		work <- i
	}
	close(work)
	group.Wait()
	h.forget(domains)
	if err := h.client.Err(); err != nil {
		return nil, unavailable(err) // it was lost on the way
	}
	return slices.DeleteFunc(list, func(g hypervisor.Guest) bool { return g.ID == "" }), nil
}

func (h *host) saved(ctx context.Context) (map[lv.UUID]bool, error) {
	if h.uri.Driver == "xen" {
		return nil, nil
	}
	list, err := h.client.List(ctx, lv.ListManagedSave)
	if err != nil {
		return nil, unavailable(err)
	}
	saved := map[lv.UUID]bool{}
	for _, dom := range list {
		saved[dom.UUID] = true
	}
	return saved, nil
}

// listed is one entry of a listing; one without id is gone meanwhile.
func (h *host) listed(ctx context.Context, dom lv.Domain, saved bool) hypervisor.Guest {
	h.guest(dom) // so that it is known when the connection is lost
	if dom.ID < 0 {
		state := hypervisor.StateOff
		if saved {
			state = hypervisor.StateSaved
		}
		return hypervisor.Guest{ID: cluster.GuestID(dom.UUID.String()), Name: dom.Name, State: state}
	}
	guest, _, err := h.look(ctx, dom)
	switch {
	case errors.Is(err, hypervisor.ErrNoGuest):
		return hypervisor.Guest{}
	case err != nil:
		h.log.Warn("guest is unknown", "guest", guest.ID, "err", err)
		return hypervisor.Guest{ID: guest.ID, Name: guest.Name}
	}
	return guest
}

// forget drops what is kept of guests that libvirt has no more and that have
// nothing to be told.
func (h *host) forget(domains []lv.Domain) {
	has := make(map[lv.UUID]bool, len(domains))
	for _, dom := range domains {
		has[dom.UUID] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, g := range h.guests {
		if !has[id] && g.idle() {
			delete(h.guests, id)
			maps.DeleteFunc(h.names, func(_ string, other lv.UUID) bool { return other == id })
		}
	}
}

func (g *guest) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.current == nil && len(g.former) == 0 && !g.working
}

// found is a guest that was looked up.
type found struct {
	h     *host
	dom   lv.Domain
	guest hypervisor.Guest
	run   *run // nil when it has none
}

// State implements hypervisor.Driver.
func (d *Driver) State(ctx context.Context, id cluster.GuestID) (hypervisor.Guest, error) {
	f, err := d.find(ctx, id)
	return f.guest, err
}

// Find implements hypervisor.Finder.
func (d *Driver) Find(ctx context.Context, name string) (hypervisor.Guest, error) {
	f, err := d.lookUp(ctx, fmt.Sprintf("guest %.80q", name), func(h *host) lookup {
		return lookup{h.guessName(name), func() (lv.Domain, error) { return h.client.ByName(ctx, name) }}
	})
	return f.guest, err
}

func (d *Driver) find(ctx context.Context, id cluster.GuestID) (found, error) {
	uuid, err := lv.ParseUUID(string(id))
	if err != nil {
		return found{}, fmt.Errorf("guest %.40q: %w", string(id), hypervisor.ErrNoGuest)
	}
	return d.lookUp(ctx, "guest "+string(id), func(h *host) lookup {
		return lookup{h.guessUUID(uuid), func() (lv.Domain, error) { return h.client.ByUUID(ctx, uuid) }}
	})
}

// Departed implements hypervisor.Departer: libvirt keeps why a domain is shut off.
func (d *Driver) Departed(ctx context.Context, id cluster.GuestID) (bool, error) {
	f, err := d.find(ctx, id)
	if err != nil || f.run != nil {
		return false, err
	}
	state, why, err := f.h.client.State(ctx, f.dom)
	if err != nil {
		return false, unavailable(err)
	}
	return state == lv.StateShutoff && why == lv.ShutoffMigrated, nil
}

// lookUp asks every connection. The first that has the guest is taken, but for one
// where it runs; a guest that runs in two is unknown, and one that none has may
// still be in one that does not answer.
func (d *Driver) lookUp(ctx context.Context, what string, by func(*host) lookup) (found, error) {
	if err := ctx.Err(); err != nil {
		return found{}, err
	}
	var best found
	var silent []error
	var silentHosts []*host
	for _, h := range d.hosts {
		f, err := h.find(ctx, by(h))
		switch {
		case errors.Is(err, hypervisor.ErrNoGuest):
		case err != nil && len(d.hosts) == 1:
			return f, fmt.Errorf("%s: %w", what, err)
		case err != nil:
			silent, silentHosts = append(silent, fmt.Errorf("%s: %w", h.uri, err)), append(silentHosts, h)
		case best.h == nil:
			best = f
		case best.run != nil && f.run != nil && f.dom.UUID == best.dom.UUID:
			return found{}, fmt.Errorf("%s runs in two connections, %s and %s: one of them must be ended by hand", what, best.h.uri, h.uri)
		case best.run == nil && f.run != nil:
			best = f
		}
	}
	switch {
	case best.h != nil && (best.run != nil || !slices.ContainsFunc(silentHosts, func(h *host) bool { return h.mayHave(best.dom.UUID) })):
		return best, nil
	case len(silent) > 0:
		return found{}, fmt.Errorf("%s: %w: %w", what, hypervisor.ErrUnavailable, errors.Join(silent...))
	}
	return found{}, fmt.Errorf("%s: %w", what, hypervisor.ErrNoGuest)
}

// mayHave reports whether a connection that is silent now had the guest, or never
// said which it has.
func (h *host) mayHave(id lv.UUID) bool { return h.sessionNumber() == 0 || h.known(id) != nil }

// lookup is how one connection finds a guest.
type lookup struct {
	guess lv.Domain // which it was the last time, or the zero one
	ask   func() (lv.Domain, error)
}

func (h *host) find(ctx context.Context, by lookup) (found, error) {
	dom, state, err := h.findDomain(ctx, by)
	if err != nil {
		return found{}, unavailable(err)
	}
	if h.isHost(dom) {
		return found{}, hypervisor.ErrNoGuest
	}
	guest, r, err := h.lookFrom(ctx, dom, state)
	return found{h: h, dom: dom, guest: guest, run: r}, err
}

// findDomain asks which domain it is and, at the same time, for the state of the one
// that it should be: that saves a status half of its time. It waits for both.
func (h *host) findDomain(ctx context.Context, by lookup) (lv.Domain, stateAnswer, error) {
	var early stateAnswer
	var asking sync.WaitGroup
	guessed := by.guess.Name != "" && h.uri.Driver != "xen" // whose lookups say more
	if guessed {
		asking.Go(func() { early = h.askState(ctx, by.guess) })
	}
	dom, err := by.ask()
	asking.Wait()
	switch {
	case err != nil:
		return dom, stateAnswer{}, err
	case guessed && dom.UUID == by.guess.UUID && early.err == nil:
		return dom, early, nil
	}
	return dom, h.askState(ctx, dom), nil
}

// Ports implements hypervisor.Porter.
func (d *Driver) Ports(ctx context.Context, id cluster.GuestID) ([]hypervisor.Port, error) {
	f, err := d.find(ctx, id)
	if err != nil {
		return nil, err
	}
	if f.run == nil {
		return nil, hypervisor.ErrNotRunning
	}
	text, err := f.h.client.XML(ctx, f.dom, 0) // afresh: ports come and go
	if err != nil {
		return nil, unavailable(err)
	}
	config, err := parseDomain(text)
	if err != nil {
		return nil, err
	}
	return config.ports(id), nil
}

// ports returns the unix sockets at which QEMU listens for whoever serves the
// guest.
func (c *domainXML) ports(id cluster.GuestID) []hypervisor.Port {
	var ports []hypervisor.Port
	add := func(kind hypervisor.PortKind, x charXML) {
		if x.Type == "unix" && x.Source.Mode == "bind" && strings.HasPrefix(x.Source.Path, "/") {
			ports = append(ports, hypervisor.Port{Guest: id, Kind: kind, Path: x.Source.Path, Name: x.Target.Name})
		}
	}
	for _, x := range c.Devices.Serials {
		x.Target.Name = ""
		add(hypervisor.PortSerial, x)
	}
	for _, x := range c.Devices.Channels {
		switch x.Target.Type {
		case "virtio":
			add(hypervisor.PortVirtio, x)
		case "guestfwd":
			add(hypervisor.PortChannel, x)
		}
	}
	return ports
}

// GuestOfCID implements hypervisor.Porter.
func (d *Driver) GuestOfCID(ctx context.Context, cid uint32) (hypervisor.Guest, error) {
	for _, h := range d.hosts {
		if isRemote(h.uri) {
			continue
		}
		for _, g := range h.allKnown() {
			r := g.now()
			if r == nil || !slices.ContainsFunc(r.config.Devices.Vsocks, func(v vsockXML) bool { return v.CID.Address == cid }) {
				continue
			}
			if guest, err := d.State(ctx, g.id); err != nil || guest.Life == r.life {
				return guest, err
			}
		}
	}
	return hypervisor.Guest{}, fmt.Errorf("vsock address %d: %w", cid, hypervisor.ErrNoGuest)
}

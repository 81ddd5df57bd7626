package libvirt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/proc"
	lv "ringfence/internal/libvirt"
)

// stampTimeout bounds putting a stamp on a guest. Libvirt makes it wait while a
// job is under way, for as long as half a minute.
const stampTimeout = 3 * time.Second

// run is one run of the hypervisor for a guest, as long as its end was not heard.
type run struct {
	ident
	life    cluster.LifeID // "" while the guest arrives and carries no stamp
	process *proc.Process  // nil where there is none to hold
	config  *domainXML
	text    string // the live configuration
	dom     lv.Domain
	// renewed: a snapshot was loaded, and that is known for the first time.
	renewed bool

	// What is above never changes. What follows is guarded by the guest's mu and
	// changed by its worker alone.
	started  bool // the watchers know of it
	paused   bool // so the watchers were told
	arriving bool // a migration to here that has not switched over
	leaving  bool // a migration away from here is under way
	left     bool // the life is elsewhere, a rest of it is here (post-copy)
	ending   bool // Off is ending it
	resumed  bool // it was seen to resume since it was first seen

	over   chan struct{}     // closed when the end was handled
	reason hypervisor.Reason // of the end; written before over is closed
	stayed bool              // the end was that of an arrival; likewise
}

// guest is what is kept of one domain.
type guest struct {
	h    *host
	id   cluster.GuestID
	turn chan struct{} // holds a value while somebody identifies the guest

	mu      sync.Mutex // guards what follows; no call is made under it
	name    string
	current *run
	former  []*run // that have been followed by another, oldest first
	queue   []func(context.Context)
	working bool
}

func (g *guest) setName(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.name = name
}

// enqueue has the guest's worker do something, behind all that waits.
func (g *guest) enqueue(do func(context.Context)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = append(g.queue, do)
	if !g.working {
		g.working = g.h.d.spawn(g.work)
	}
}

// later is enqueue after a while.
func (g *guest) later(d time.Duration, do func(context.Context)) {
	time.AfterFunc(d, func() {
		if g.h.d.ctx.Err() == nil {
			g.enqueue(do)
		}
	})
}

func (g *guest) work() {
	for {
		g.mu.Lock()
		if len(g.queue) == 0 || g.h.d.ctx.Err() != nil {
			g.working = false
			g.mu.Unlock()
			return
		}
		do := g.queue[0]
		g.queue = g.queue[1:]
		g.mu.Unlock()
		do(g.h.d.ctx)
	}
}

// now returns the current run, or nil.
func (g *guest) now() *run {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.current
}

// set changes a run under the guest's lock.
func (g *guest) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

// see returns the run of an active domain, identified and stamped. errNoProcess
// and errUnclear: libvirt and the processes do not fit together, look again.
func (g *guest) see(ctx context.Context, dom lv.Domain, arriving bool) (*run, error) {
	id, err := g.h.identify(dom, g.now())
	if r := g.now(); r != nil && err == nil && r.key == id.key && (r.life != "" || arriving) {
		return r, nil
	}
	if err != nil {
		// A process that has ended is there until its end was heard.
		if r := g.now(); r != nil && r.process != nil && r.process.Exited() && errors.Is(err, errNoProcess) {
			return r, nil
		}
		return nil, err
	}
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r := g.now(); r != nil && r.key == id.key && (r.life != "" || arriving) {
		return r, nil
	}
	return g.adopt(ctx, dom, id, arriving)
}

// adopt identifies a run that is not known yet.
func (g *guest) adopt(ctx context.Context, dom lv.Domain, id ident, arriving bool) (*run, error) {
	process, err := id.hold()
	if err != nil {
		return nil, err
	}
	r := &run{ident: id, process: process, dom: dom, arriving: arriving, over: make(chan struct{})}
	if err := g.read(ctx, r); err != nil {
		r.close()
		return nil, err
	}
	// All of it was of one process, or is thrown away.
	if again, err := g.h.identify(dom, nil); err != nil || again.key != id.key {
		r.close()
		return nil, errUnclear
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch old := g.current; {
	case old != nil && old.key == r.key: // it has got its life now
		r.close()
		r.process, r.over, r.arriving = old.process, old.over, old.arriving
		r.started, r.paused, r.leaving, r.left, r.resumed = old.started, old.paused, old.leaving, old.left, old.resumed
	case old != nil:
		g.former = append(g.former, old)
	}
	g.current = r
	return r, nil
}

// read takes the configuration of a run and settles its life.
func (g *guest) read(ctx context.Context, r *run) (err error) {
	if r.text, err = g.h.client.XML(ctx, r.dom, 0); err != nil {
		return fmt.Errorf("identify guest %s: %w", g.id, err)
	}
	if r.config, err = parseDomain(r.text); err != nil {
		return fmt.Errorf("identify guest %s: %w", g.id, err)
	}
	life, stamped := lifeOf(r.config.stamp(), r.ident)
	switch {
	case stamped:
		r.life = life
		return nil
	case r.arriving:
		return nil // libvirt lets nobody write now; it gets its life when it runs
	}
	s := stamp{Life: life, Process: r.key}
	if old := r.config.stamp(); old.Life == life {
		s.Cluster = old.Cluster
	}
	if err := g.stamp(ctx, r.dom, s); err != nil {
		return fmt.Errorf("stamp guest %s: %w", g.id, err)
	}
	r.life, r.renewed = life, r.ident.reverted
	return nil
}

// stamp puts a stamp on a running domain.
func (g *guest) stamp(ctx context.Context, dom lv.Domain, s stamp) error {
	text, err := s.text()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stampTimeout)
	defer cancel()
	return g.h.act(ctx, func(c lv.Calls) error {
		return c.SetMetadata(ctx, dom, stampNamespace, stampKey, text, lv.AffectLive)
	})
}

// claim puts the claim of a cluster into the stamp of a run.
func (g *guest) claim(ctx context.Context, r *run, c cluster.ClusterID) error {
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := g.stamp(ctx, r.dom, stamp{Life: r.life, Process: r.key, Cluster: c}); err != nil {
		return err
	}
	// It went to this run, or to nobody that was meant.
	if id, err := g.h.identify(r.dom, nil); err != nil || id.key != r.key {
		return errUnclear
	}
	return nil
}

func (r *run) close() {
	if r.process != nil {
		r.process.Close()
	}
}

// release lets go of the guest's processes.
func (g *guest) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range append(g.former, g.current) {
		if r != nil {
			r.close()
		}
	}
	g.former, g.current = nil, nil
}

// finish notes that the end of a run was handled.
func (g *guest) finish(r *run, reason hypervisor.Reason, stayed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.reason, r.stayed = reason, stayed
	close(r.over)
	if g.current == r {
		g.current = nil
	} else if len(g.former) > 0 && g.former[0] == r {
		g.former = g.former[1:]
	}
	r.close()
}

func (g *guest) tell(r *run, kind hypervisor.EventKind, reason hypervisor.Reason) {
	if r.life == "" {
		return // nobody knows it yet
	}
	g.h.d.hub.emit(hypervisor.Event{Guest: g.id, Life: r.life, Kind: kind, Reason: reason})
}

// underWay returns the event of a migration that has begun and is not over.
func (g *guest) underWay() []hypervisor.Event {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.current
	if r == nil || r.life == "" || r.left || !(r.leaving || r.arriving) {
		return nil
	}
	kind := hypervisor.EventLeaving
	if r.arriving {
		kind = hypervisor.EventArriving
	}
	return []hypervisor.Event{{Guest: g.id, Life: r.life, Kind: kind}}
}

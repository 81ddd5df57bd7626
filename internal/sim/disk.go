package sim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
)

// Timings of what a service does.
const (
	writePause   = 80 * time.Millisecond // between two writes, at most
	writeLatency = 60 * time.Millisecond // until a write has reached the disk, at most
	slowWrite    = 500 * time.Millisecond
)

// disk is what all guests share, and the judge of promise I1: it sees writes
// in the order in which they arrive.
type disk struct {
	w      *World
	mu     sync.Mutex // guards everything below
	newest map[cluster.ServiceName]write
	holder map[cluster.ServiceName]*process // who answers at the service's address
	count  int
}

// write is one write of a service, as it arrives.
type write struct {
	service    cluster.ServiceName
	generation cluster.Generation
	node       string
	boot       cluster.BootID
	at         time.Duration
	excused    bool // of a reverted memory image that its host is about to destroy, or of what was started by hand
}

// land takes a write. One of an older generation behind one of a newer, one
// generation written by two boots, and a write of a boot whose end is proved
// are what must never be.
func (d *disk) land(x write) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count++
	x.at = d.w.now()
	if x.excused {
		return
	}
	last, any := d.newest[x.service]
	switch {
	case any && x.generation < last.generation:
		d.w.violate("I1", "%s of generation %d writes from %s behind generation %d of %s", x.service, x.generation, x.boot, last.generation, last.boot)
	case any && x.generation == last.generation && x.boot != last.boot:
		d.w.violate("I1", "%s of generation %d writes from %s and from %s", x.service, x.generation, last.boot, x.boot)
	}
	if evidence := d.w.history.endedBy(x.boot); evidence != "" {
		d.w.violate("P10", "%s writes from %s, whose end is proved: %s", x.service, x.boot, evidence)
	}
	d.newest[x.service] = x
}

// claim announces the service's address from a process.
func (d *disk) claim(p *process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.outside {
		return
	}
	if other := d.holder[p.service]; other != nil && other != p && other.answers() && !other.reverted && !p.reverted && other.boot != p.boot {
		d.w.violate("I1", "the address of %s is claimed by %s while %s answers at it", p.service, p.boot, other.boot)
	}
	d.holder[p.service] = p
}

// wrote returns when the service last wrote.
func (d *disk) wrote(s cluster.ServiceName) (write, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	x, ok := d.newest[s]
	return x, ok
}

// process is a service that runs in a guest.
type process struct {
	m          *machine
	g          *guest
	service    cluster.ServiceName
	generation cluster.Generation
	node       string
	boot       cluster.BootID
	ended      chan struct{} // closed when the process has ended
	// reverted: in an old memory image, which is outside of what is promised.
	reverted bool
	// outside: started by hand, which nobody can keep a person from.
	outside bool
}

// answers reports whether the process would answer a client now.
func (p *process) answers() bool {
	select {
	case <-p.ended:
		return false
	default:
		return p.m.running()
	}
}

// live writes again and again until the process or its machine ends. A write
// that was handed to the machine's disk arrives, also after a pause has begun;
// the machine's end waits for it (rule P10).
func (p *process) live() {
	w := p.g.w
	for {
		time.Sleep(time.Duration(1 + w.intn("disk", int(writePause))))
		if !p.m.isUp() || w.ctx.Err() != nil {
			return
		}
		if !p.m.running() {
			continue
		}
		select {
		case <-p.ended:
			return
		default:
		}
		x := write{service: p.service, generation: p.generation, node: p.node, boot: p.boot, excused: p.reverted || p.outside}
		latency := time.Duration(w.intn("disk", int(writeLatency)))
		if w.chance("disk", 0.02) {
			latency = time.Duration(w.intn("disk", int(slowWrite)))
		}
		p.g.submit(latency, func() { w.disk.land(x) })
	}
}

// agent is the one resource agent of the model.
type agent struct {
	p *program
	g *guest
}

var (
	_ resource.Agent   = agent{}
	_ resource.Watcher = agent{}
)

// AgentFaults are what is wrong with the services of a guest.
type AgentFaults struct {
	StartFails bool
	// StartHangs: the start never answers, and what it began comes up all the same.
	StartHangs bool
	StopFails  bool
	StopHangs  bool
	Blind      bool // monitor cannot tell
}

// Check implements resource.Agent.
func (agent) Check(cluster.Resource) error { return nil }

// Start implements resource.Agent.
func (a agent) Start(ctx context.Context, c resource.Call) error {
	if err := a.p.gate(); err != nil {
		return err
	}
	faults := a.g.agentFaults()
	a.wait(ctx, 5*time.Millisecond, 150*time.Millisecond)
	if faults.StartHangs {
		a.g.start(a.p, c)
		<-ctx.Done()
		return ctx.Err()
	}
	if err := a.p.gate(); err != nil {
		return err
	}
	if faults.StartFails {
		return fmt.Errorf("sim: %s does not start", c.Service)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	a.g.start(a.p, c)
	return a.p.gate()
}

// Stop implements resource.Agent.
func (a agent) Stop(ctx context.Context, c resource.Call) error {
	if err := a.p.gate(); err != nil {
		return err
	}
	faults := a.g.agentFaults()
	a.wait(ctx, 5*time.Millisecond, 100*time.Millisecond)
	if faults.StopHangs {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := a.p.gate(); err != nil {
		return err
	}
	if faults.StopFails {
		return fmt.Errorf("sim: %s does not stop", c.Service)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	a.g.stop(c.Service)
	return a.p.gate()
}

// Monitor implements resource.Agent.
func (a agent) Monitor(_ context.Context, c resource.Call) (resource.Status, error) {
	if err := a.p.gate(); err != nil {
		return resource.StatusUnknown, err
	}
	if a.g.agentFaults().Blind {
		return resource.StatusUnknown, fmt.Errorf("sim: nobody can tell whether %s runs", c.Service)
	}
	if a.g.process(c.Service) == nil {
		return resource.StatusInactive, nil
	}
	return resource.StatusActive, nil
}

// Watch implements resource.Watcher.
func (a agent) Watch(ctx context.Context, c resource.Call) error {
	if err := a.p.gate(); err != nil {
		return err
	}
	p := a.g.process(c.Service)
	if p == nil {
		return fmt.Errorf("sim: %s does not run", c.Service)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ended:
		if err := a.p.gate(); err != nil {
			return err
		}
		return fmt.Errorf("sim: %s has ended", c.Service)
	}
}

// wait takes some time, as agents do.
func (a agent) wait(ctx context.Context, least, most time.Duration) {
	d := least + time.Duration(a.g.w.intn("agent", int(most-least)))
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

package sim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostclient"
	"ringfence/internal/node"
	"ringfence/internal/resource"
	"ringfence/internal/wire/hostapi"
	"ringfence/internal/wire/voter"
)

// witnessName is the voter without services.
const witnessName = "w1"

// Timings of a guest.
const (
	bootLeast, bootMost = 300 * time.Millisecond, 1500 * time.Millisecond
	settleMargin        = 5 * time.Millisecond
	daemonRestart       = time.Second
	channelRetry        = 500 * time.Millisecond
)

// autostartChance is how often a boot brings a service up by itself, before the
// daemon of the node.
const autostartChance = 0.03

// guest is a virtual machine with a node in it, or the witness, which stands
// on a machine without a hypervisor.
type guest struct {
	w    *World
	name string
	bare bool // no host knows it
	// fate is held while the guest and what its hypervisor says of it change
	// together; nobody waits for time to pass while holding it.
	fate  sync.Mutex
	store conditions

	mu        sync.Mutex // guards everything below
	host      *host      // where it is, by the hypervisors; nil: bare
	machine   *machine   // its present boot; nil while it is off
	boots     int
	daemon    *daemon
	processes map[cluster.ServiceName]*process
	faults    AgentFaults
	votes     votes                             // on its disk
	remembers map[cluster.NodeName]voter.Memory // of other voters, on its disk
	joins     int                               // of the node, so far
	staleDisk bool                              // its voter was refused
	inflight  int                               // writes on their way to the disk
	settles   time.Duration                     // when the last of all writes so far has arrived
	trouble   time.Duration                     // when it was last known to be in trouble
	moving    bool                              // a migration is under way
	reverted  bool                              // runs an old memory image
	resetting bool                              // has asked its host to destroy it
	rebooting bool                              // the operating system is about to restart
}

func (g *guest) node() cluster.NodeName { return cluster.NodeName(g.name) }

func (g *guest) id() cluster.GuestID { return cluster.GuestID("guest-" + g.name) }

// lastTrouble returns when something last kept the guest from being heard.
func (g *guest) lastTrouble() time.Duration {
	g.look()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.trouble
}

// look notes whether the guest is in trouble now: it or its daemon does not
// run, or its paths to others are not whole.
func (g *guest) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	well := g.machine != nil && g.machine.running() && g.daemon != nil && g.daemon.node != nil && g.daemon.ctx.Err() == nil
	if !well || !g.w.net.clear(g.name) || g.machine.steppedLately() {
		g.trouble = g.w.now()
	}
}

// now returns the machine as it runs now, nil while the guest is off.
func (g *guest) now() *machine {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.machine
}

func (g *guest) place() *host {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.host
}

func (g *guest) agentFaults() AgentFaults {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.faults
}

func (g *guest) setFaults(f AgentFaults) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults = f
}

// boot starts an operating system on the guest: a new machine, and a daemon
// once it is up.
func (g *guest) boot() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.machine != nil && g.machine.isUp() {
		return
	}
	g.boots++
	m := newMachine(g.w, g.name)
	g.machine, g.faults, g.daemon = m, AgentFaults{}, nil
	g.rebooting, g.reverted, g.resetting = false, false, false
	byItself := g.w.chance("autostart", autostartChance)
	// Within a life, too: a disk that is reset waits for what it had taken, as QEMU's do.
	takes := max(g.w.between("boot", bootLeast, bootMost), g.settles-g.w.now()+settleMargin)
	g.w.later(takes, func() {
		if names := g.w.configured(); byItself && !g.bare && len(names) > 0 {
			g.byHand(names[g.w.intn("autostart", len(names))])
		}
		g.startDaemon(m)
	})
}

// haltLocked ends the operating system with all that runs in it.
func (g *guest) haltLocked() {
	if g.machine == nil {
		return
	}
	g.machine.end()
	for s, p := range g.processes {
		close(p.ended)
		delete(g.processes, s)
	}
	g.machine = nil
}

// halt ends the operating system at this instant. Writes that are on their way
// still arrive; drained waits for them.
func (g *guest) halt() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.haltLocked()
}

// drained waits until no write is on its way any more.
func (g *guest) drained() {
	for {
		g.mu.Lock()
		n := g.inflight
		g.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// submit hands a write to the disk, where it arrives after latency.
func (g *guest) submit(latency time.Duration, land func()) {
	g.mu.Lock()
	g.inflight++
	g.settles = max(g.settles, g.w.now()+latency)
	g.mu.Unlock()
	time.AfterFunc(latency, func() {
		land()
		g.mu.Lock()
		g.inflight--
		g.mu.Unlock()
	})
}

// start begins a process of a service, if there is none.
func (g *guest) start(by *program, c resource.Call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.processes[c.Service]
	if old != nil && !old.outside || g.machine != by.machine || !by.isUp() {
		return
	}
	if old != nil { // the agent takes what runs for its own
		close(old.ended)
	}
	p := g.beginLocked(c.Service, c.Generation, false)
	g.w.note("%s starts %s, generation %d", p.boot, c.Service, c.Generation)
}

// beginLocked lets a process live.
func (g *guest) beginLocked(s cluster.ServiceName, generation cluster.Generation, outside bool) *process {
	p := &process{
		m: g.machine, g: g, service: s, generation: generation, node: g.name,
		boot: g.bootIDLocked(), ended: make(chan struct{}), reverted: g.reverted, outside: outside,
	}
	g.processes[s] = p
	g.w.wg.Go(func() {
		g.w.disk.claim(p)
		p.live()
	})
	return p
}

// byHand starts a service as a person does who knows nothing of the cluster.
func (g *guest) byHand(s cluster.ServiceName) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.machine == nil || !g.machine.running() || g.processes[s] != nil {
		return false
	}
	g.beginLocked(s, 0, true)
	g.w.note("%s runs %s, and nobody ordered it", g.name, s)
	return true
}

// stop ends the process of a service, if there is one, and waits for its writes.
func (g *guest) stop(s cluster.ServiceName) {
	g.mu.Lock()
	p := g.processes[s]
	if p != nil {
		close(p.ended)
		delete(g.processes, s)
		g.w.note("%s stops %s", p.boot, s)
	}
	g.mu.Unlock()
	g.drained()
}

func (g *guest) process(s cluster.ServiceName) *process {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.processes[s]
}

func (g *guest) bootIDLocked() cluster.BootID {
	if g.daemon != nil && g.daemon.self.ID != "" {
		return g.daemon.self.ID
	}
	return cluster.BootID(fmt.Sprintf("%s-b%d", g.name, g.boots))
}

// daemon is one run of `ringfence node run`.
type daemon struct {
	*program
	g      *guest
	self   cluster.Boot
	beats  *beats
	link   *link
	node   *node.Node
	killed bool // nobody but the fault that did it starts another
}

// startDaemon begins a run of the daemon on a machine, if that is still the
// guest's and none runs.
func (g *guest) startDaemon(m *machine) {
	g.mu.Lock()
	if g.machine != m || !m.isUp() || g.daemon != nil && g.daemon.ctx.Err() == nil {
		g.mu.Unlock()
		return
	}
	d := &daemon{program: m.newProgram(g.w.ctx), g: g}
	d.self.ID = cluster.BootID(fmt.Sprintf("%s-b%d", g.name, g.boots))
	d.link = &link{p: d.program, client: g.w.raft.server.Client(g.name), raft: g.w.raft, conditions: &g.store}
	g.daemon = d
	g.mu.Unlock()
	g.w.wg.Go(func() { d.ended(d.run()) })
}

// run is what app.RunNode does, on the ports of the model.
func (d *daemon) run() error {
	boot := cluster.Boot{ID: d.self.ID, Node: d.g.node()}
	if d.g.bare {
		boot.Machine = "machine-" + d.g.name
	} else if err := d.identify(&boot); err != nil {
		return err
	}
	if !d.g.bare {
		if err := d.confirm(); err != nil {
			return err
		}
	}
	if err := d.bind(&boot); err != nil {
		return err
	}
	d.g.w.mu.Lock()
	d.g.w.bodies[boot.ID] = append(d.g.w.bodies[boot.ID], d.machine)
	d.g.w.mu.Unlock()
	d.g.mu.Lock()
	d.self = boot
	d.beats = newBeats(d.program, boot)
	d.node = node.New(node.Config{
		Self: boot, Cluster: clusterID, Incarnation: 1, Store: d.link, Raft: raftPort{d.link}, Beats: d.beats,
		DialHost: d.dialHost, Agents: func(string) (resource.Agent, error) { return agent{d.program, d.g}, nil },
		OnDoubt: func() {}, Reset: d.reset, Clock: machineClock{d.program}, Log: d.g.w.logger(d.g.name),
	})
	d.g.mu.Unlock()
	return d.node.Run(d.ctx)
}

// whyLimit is how many bytes of its reason a daemon tells its host, as in app.
const whyLimit = 500

// reset asks the host to destroy this life.
func (d *daemon) reset(ctx context.Context, why string) error {
	if d.self.Life == "" {
		return errors.New("sim: no host")
	}
	if err := d.gate(); err != nil {
		return err
	}
	d.g.mu.Lock()
	d.g.resetting = true
	d.g.mu.Unlock()
	channel := hostclient.NewChannel(d.dialChannel)
	defer channel.Close()
	return channel.Reset(ctx, hostapi.ResetRequest{Life: d.self.Life, Why: why[:min(len(why), whyLimit)]})
}

// ended sees to what follows the end of a daemon.
func (d *daemon) ended(err error) {
	d.cancel()
	g := d.g
	_, stuck := g.runsOwn()
	doomed := errors.Is(err, node.ErrDoomed)
	g.mu.Lock()
	mine := g.daemon == d
	g.rebooting = mine && doomed && !stuck
	g.mu.Unlock()
	if !mine || !d.isUp() || g.w.ctx.Err() != nil {
		return
	}
	g.w.note("daemon of %s ends: %v", g.name, err)
	switch {
	case doomed && !stuck:
		g.w.later(g.w.between("boot", time.Second, 20*time.Second), func() { g.reboot(d.machine) })
	case errors.Is(err, errStaleDisk):
		g.mu.Lock()
		g.staleDisk = true
		g.mu.Unlock()
	case errors.Is(err, node.ErrLeft), d.killed:
	default:
		g.w.later(daemonRestart, func() { g.startDaemon(d.machine) })
	}
}

// reboot restarts the operating system inside the same life.
func (g *guest) reboot(m *machine) {
	g.mu.Lock()
	if g.machine != m || !m.running() {
		g.mu.Unlock()
		return
	}
	g.w.note("%s reboots", g.name)
	g.haltLocked()
	h := g.host
	g.mu.Unlock()
	if h != nil {
		h.insideReboot(g)
	}
	g.boot()
}

// identify asks the host over the guest's own channel who this is.
func (d *daemon) identify(boot *cluster.Boot) error {
	channel := hostclient.NewChannel(d.dialChannel)
	defer channel.Close()
	return d.insist(func(ctx context.Context) error {
		self, err := channel.Self(ctx)
		if err == nil {
			boot.Life, boot.Guest, boot.Places = self.Life, self.Guest, []cluster.HostName{self.Host}
		}
		return err
	})
}

// bind chooses the boot id and has the host confirm it.
func (d *daemon) bind(boot *cluster.Boot) error {
	var s cluster.State
	err := d.insist(func(ctx context.Context) error {
		s = cluster.State{}
		kvs, _, err := d.link.Load(ctx, cluster.Prefix)
		for _, kv := range kvs {
			err = errors.Join(err, s.Apply(kv, false, 0))
		}
		return err
	})
	if err != nil {
		return err
	}
	boot.ID = node.BootFor(&s, boot.ID)
	if boot.Life == "" {
		return nil
	}
	channel := hostclient.NewChannel(d.dialChannel)
	defer channel.Close()
	return d.insist(func(ctx context.Context) error {
		binding, err := channel.Bind(ctx, hostapi.BindRequest{Cluster: clusterID, Node: boot.Node, Boot: boot.ID, Nonce: rand.Text()})
		if err == nil && binding.Life != boot.Life {
			return errors.New("sim: bound to another life than asked before")
		}
		boot.Binding = &binding
		return err
	})
}

// insist repeats a call until it succeeds or the daemon ends.
func (d *daemon) insist(f func(context.Context) error) error {
	clk := machineClock{d.program}
	for {
		if err := d.gate(); err != nil {
			return err
		}
		ctx, cancel := clk.WithTimeout(d.ctx, 3*time.Second)
		err := f(ctx)
		cancel()
		if err == nil {
			return d.gate()
		}
		if errors.Is(err, errStaleDisk) {
			return err
		}
		select {
		case <-d.ctx.Done():
			return errGone
		case <-clk.After(channelRetry):
		}
	}
}

func (d *daemon) dialChannel(ctx context.Context) (net.Conn, error) {
	if err := d.gate(); err != nil {
		return nil, err
	}
	h := d.g.place()
	if h == nil || !h.isUp() {
		return nil, errors.New("sim: no host behind the channel")
	}
	return h.driver.DialChannel(ctx, d.g.id())
}

func (d *daemon) dialHost(rec cluster.Host) (node.Host, error) {
	d.g.w.mu.Lock()
	h := d.g.w.hosts[string(rec.Name)]
	d.g.w.mu.Unlock()
	if h == nil {
		return nil, fmt.Errorf("sim: no host %s", rec.Name)
	}
	return hostclient.NewWithTransport(rec, wire{d.program, h})
}

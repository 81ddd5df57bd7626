package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/heartbeat"
	"ringfence/internal/hostclient"
	"ringfence/internal/hypervisor"
	"ringfence/internal/resource"
	"ringfence/internal/store/mem"
	"ringfence/internal/wire/hostapi"
)

// world is three hosts with a guest each, a network for beats and one store,
// all in memory and in one synctest bubble. Its journal holds effects, not
// states: who really ran what, and when.
type world struct {
	t     *testing.T
	store *mem.Server
	start time.Time
	ctx   context.Context

	mu      sync.Mutex
	guests  map[cluster.NodeName]*guest
	hosts   map[cluster.HostName]*fakeHost
	cut     map[cluster.NodeName]bool // no beats from and to it
	active  map[string]cluster.NodeName
	journal []string
	wg      sync.WaitGroup
}

type guest struct {
	w      *world
	name   cluster.NodeName
	boot   int
	life   cluster.LifeID
	alive  bool
	moving bool // its host says so
	node   *Node
	cancel context.CancelFunc
	inbox  chan heartbeat.Received
	clock  *guestClock
	err    error
	client *mem.Client
	agent  *fakeAgent
	resets []string                           // why it asked to be reset
	heard  map[cluster.NodeName]time.Duration // when a beat of a peer arrived last
	would  []cluster.ServiceName              // that its machine would start by itself
	lag    time.Duration                      // by which it sees the store late
}

func newWorld(t *testing.T) *world {
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{
		t: t, store: mem.New(), start: time.Now(), ctx: ctx,
		guests: map[cluster.NodeName]*guest{}, hosts: map[cluster.HostName]*fakeHost{},
		cut: map[cluster.NodeName]bool{}, active: map[string]cluster.NodeName{},
	}
	t.Cleanup(func() { cancel(); w.wg.Wait() })
	w.put(cluster.KeyMeta, cluster.Meta{ID: "c", Name: "test", Incarnation: 1, Format: 1})
	for i := range 3 {
		name := cluster.NodeName(fmt.Sprintf("n%d", i+1))
		w.put(cluster.KeyNode(name), cluster.Node{Name: name, Address: "192.0.2.1", BeatPort: 7000 + i})
		h := newFakeHost(w, cluster.HostName(fmt.Sprintf("h%d", i+1)))
		w.hosts[h.name] = h
		w.put(cluster.KeyHost(h.name), cluster.Host{Name: h.name, SigningKey: h.key.Public().(ed25519.PublicKey)})
	}
	w.configure()
	return w
}

// configure applies a configuration of three nodes and these services.
func (w *world) configure(services ...cluster.ServiceConfig) {
	w.put(cluster.KeyConfig, cluster.Config{
		Name: "test", Nodes: []cluster.NodeConfig{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}}, Services: services,
	})
}

func service(name string, nodes ...cluster.NodeName) cluster.ServiceConfig {
	return cluster.ServiceConfig{
		Name: cluster.ServiceName(name), Nodes: nodes, Restarts: 1,
		RestartWindow: cluster.DefaultRestartWindow, FailureExpiry: cluster.DefaultFailureExpiry,
		Resources: []cluster.Resource{{
			Name: "app", Agent: "fake", StartTimeout: time.Minute, StopTimeout: time.Minute,
			MonitorTimeout: time.Second, MonitorInterval: 10 * time.Second,
		}},
	}
}

func (w *world) put(key string, record any) {
	_, err := w.store.Client("setup").Commit(w.ctx, tx(cluster.Put(key, record)))
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) hostOf(name cluster.NodeName) *fakeHost {
	return w.hosts[cluster.HostName("h"+string(name[1]))]
}

func (w *world) now() time.Duration { return time.Since(w.start) }

func (w *world) note(format string, args ...any) {
	w.journal = append(w.journal, fmt.Sprintf(format, args...))
}

// boot starts a guest cold: a new life, a new boot, a new run of the daemon.
func (w *world) boot(name cluster.NodeName) *guest {
	w.mu.Lock()
	g := w.guests[name]
	if g == nil {
		g = &guest{w: w, name: name}
		w.guests[name] = g
	}
	if g.alive {
		g.die() // a person and the cluster start it at once
	}
	g.boot++
	host := w.hostOf(name)
	g.heard = nil
	g.life = cluster.LifeID(fmt.Sprintf("%s:%d:1", host.name, g.boot))
	g.alive, g.moving = true, false
	g.clock = newGuestClock(w.ctx, w.start)
	host.lives[g.life] = g
	g.agent = &fakeAgent{g: g}
	host.tell(g)
	w.mu.Unlock()
	w.daemon(g)
	return g
}

// daemon starts a run of the daemon in the present boot.
func (w *world) daemon(g *guest) {
	ctx, cancel := context.WithCancel(w.ctx)
	var out io.Writer = io.Discard
	if os.Getenv("NODE_TEST_LOG") != "" {
		out = os.Stderr
	}
	w.mu.Lock()
	inbox := make(chan heartbeat.Received, 1000)
	g.inbox, g.cancel, g.err = inbox, cancel, nil
	g.client = w.store.Client(fmt.Sprintf("%s-%d", g.name, g.boot))
	host := cluster.HostName("h" + string(g.name[1]))
	g.node = New(Config{
		Self: cluster.Boot{
			ID: cluster.BootID(fmt.Sprintf("%s-b%d", g.name, g.boot)), Node: g.name, Life: g.life,
			Guest: cluster.GuestID("guest-" + g.name), Places: []cluster.HostName{host},
		},
		Cluster: "c", Incarnation: 1, Store: late{g.client, g}, Beats: wire{g, inbox},
		DialHost: func(h cluster.Host) (Host, error) { return &fakeLink{h: w.hosts[h.Name], g: g}, nil },
		Agents: func(name string) (resource.Agent, error) {
			if name != "fake" {
				return nil, fmt.Errorf("no agent %s", name)
			}
			return g.agent, nil
		},
		Autostart: func(services []cluster.ServiceConfig) map[cluster.ServiceName]string { return w.autostart(g, services) },
		Reset:     func(_ context.Context, why string) error { return w.reset(g, why) },
		Clock:     g.clock, Log: slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	node := g.node
	w.mu.Unlock()
	w.wg.Go(func() {
		err := node.Run(ctx)
		w.mu.Lock()
		defer w.mu.Unlock()
		if g.node == node {
			g.err = err
		}
	})
}

// kill ends a guest: its daemon and all it ran are gone at this instant.
func (w *world) kill(name cluster.NodeName, hostTells bool) {
	w.mu.Lock()
	g := w.guests[name]
	former := guest{name: name, life: g.life} // it may be started anew at once
	g.die()
	w.mu.Unlock()
	host := w.hostOf(name)
	if hostTells {
		host.certify(&former, cluster.CauseCrashed)
	}
}

// autostart says what the machine of a guest would start by itself.
func (w *world) autostart(g *guest, services []cluster.ServiceConfig) map[cluster.ServiceName]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found map[cluster.ServiceName]string
	for _, def := range services {
		if slices.Contains(g.would, def.Name) {
			found = map[cluster.ServiceName]string{def.Name: "an enabled unit"}
		}
	}
	return found
}

// reset is a guest that asks its host to destroy it.
func (w *world) reset(g *guest, why string) error {
	host := w.hostOf(g.name)
	w.mu.Lock()
	g.resets = append(g.resets, why)
	if host.silent {
		w.mu.Unlock()
		return errors.New("host does not answer")
	}
	w.note("%s resets itself", g.name)
	g.die()
	w.mu.Unlock()
	host.certify(g, cluster.CauseDestroyed)
	return nil
}

// die is the end of a life, with the mutex held.
func (g *guest) die() {
	g.alive, g.moving = false, false
	g.w.hostOf(g.name).tell(g)
	g.cancel()
	g.client.SetFault(mem.Cut())
	for svc, node := range g.w.active {
		if node == g.name {
			delete(g.w.active, svc)
			g.w.note("%s dies with %s", svc, node)
		}
	}
}

// hears notes when a beat of a peer arrived, which the next beat to it answers.
func (g *guest) hears(peer *guest) {
	if g.heard == nil {
		g.heard = map[cluster.NodeName]time.Duration{}
	}
	g.heard[peer.name] = peer.clock.Now() // when it sent it, by its own clock
}

// wire is the network for heartbeats as one run of the daemon sees it.
type wire struct {
	*guest
	inbox chan heartbeat.Received
}

func (g wire) Send(_ []heartbeat.Peer, p heartbeat.Payload) {
	w := g.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut[g.name] || !g.alive || g.clock.stands() {
		return
	}
	for _, peer := range w.guests {
		if peer == g.guest || w.cut[peer.name] || !peer.alive || peer.clock.stands() {
			continue
		}
		select {
		case peer.inbox <- heartbeat.Received{
			Node: g.name, Boot: g.node.Self.ID, Tick: p.Tick, Revision: p.Revision, At: peer.clock.Now(),
			EchoOK: g.heard[peer.name] != 0, EchoSent: g.heard[peer.name],
		}:
			peer.hears(g.guest)
		default:
		}
	}
}

func (g wire) Beats() <-chan heartbeat.Received { return g.inbox }

// fakeAgent has effects in the world's journal and reports two runs at once.
type fakeAgent struct {
	g         *guest
	failStart bool
	failStop  bool
	slow      time.Duration
	broken    map[string]chan struct{} // by service: closed when its process ends
	slowStop  time.Duration
	blind     map[string]time.Duration // services that cannot be monitored, and how long that takes
}

func (a *fakeAgent) Check(cluster.Resource) error { return nil }

func (a *fakeAgent) Start(ctx context.Context, c resource.Call) error {
	if a.slow > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(a.slow):
		}
	}
	w := a.g.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if !a.g.alive {
		return errors.New("dead")
	}
	if a.failStart {
		w.note("%s fails to start on %s", c.Service, a.g.name)
		return errors.New("does not start")
	}
	if other := w.active[string(c.Service)]; other != "" && other != a.g.name {
		w.t.Errorf("%s runs on %s and %s at once", c.Service, other, a.g.name)
	}
	w.active[string(c.Service)] = a.g.name
	w.note("%s starts on %s, generation %d", c.Service, a.g.name, c.Generation)
	if a.broken == nil {
		a.broken = map[string]chan struct{}{}
	}
	a.broken[string(c.Service)] = make(chan struct{})
	return nil
}

func (a *fakeAgent) Stop(ctx context.Context, c resource.Call) error {
	if a.slowStop > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(a.slowStop):
		}
	}
	w := a.g.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, blind := a.blind[string(c.Service)]; blind || a.failStop {
		return errors.New("does not stop")
	}
	if w.active[string(c.Service)] == a.g.name {
		delete(w.active, string(c.Service))
		w.note("%s stops on %s", c.Service, a.g.name)
	}
	return nil
}

func (a *fakeAgent) Monitor(_ context.Context, c resource.Call) (resource.Status, error) {
	w := a.g.w
	w.mu.Lock()
	takes, blind := a.blind[string(c.Service)]
	w.mu.Unlock()
	if blind {
		time.Sleep(takes)
		return resource.StatusUnknown, errors.New("cannot look")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.active[string(c.Service)] == a.g.name {
		return resource.StatusActive, nil
	}
	return resource.StatusInactive, nil
}

// Watch notices a crash at once.
func (a *fakeAgent) Watch(ctx context.Context, c resource.Call) error {
	a.g.w.mu.Lock()
	broken := a.broken[string(c.Service)]
	a.g.w.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-broken:
		return errors.New("ended")
	}
}

// crash ends the service process, not the guest.
func (w *world) crash(name cluster.NodeName, svc string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.active, svc)
	w.note("%s crashes on %s", svc, name)
	broken := w.guests[name].agent.broken
	close(broken[svc])
	broken[svc] = make(chan struct{}) // nothing to watch until the next start
}

// fakeHost is hostd with its signing key.
type fakeHost struct {
	w      *world
	name   cluster.HostName
	key    ed25519.PrivateKey
	lives  map[cluster.LifeID]*guest
	certs  []cluster.DeathCertificate
	feeds  map[*fakeLink]chan hostclient.Event
	silent bool // unreachable
	deaf   bool // answers no order
	acked  map[uint64]bool
	ons    map[string]hostapi.Reply // by decision
	// refuses is how many orders to start a guest it does not carry out.
	refuses int
	started int // guests, by such orders
	moves
}

func newFakeHost(w *world, name cluster.HostName) *fakeHost {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return &fakeHost{
		w: w, name: name, key: ed25519.NewKeyFromSeed(seed),
		lives: map[cluster.LifeID]*guest{}, feeds: map[*fakeLink]chan hostclient.Event{}, ons: map[string]hostapi.Reply{},
	}
}

func (h *fakeHost) certify(g *guest, cause cluster.Cause) cluster.DeathCertificate {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	c := cluster.DeathCertificate{
		Cluster: "c", Guest: cluster.GuestID("guest-" + g.name), Life: g.life,
		Host: h.name, HostBoot: "hb", Seq: uint64(len(h.certs) + 1), Cause: cause,
	}
	c.Signature = ed25519.Sign(h.key, c.SigningBytes())
	h.certs = append(h.certs, c)
	h.publish(hostclient.Event{Certificate: &c})
	return c
}

// publish sends an event on every stream, with the mutex held.
func (h *fakeHost) publish(e hostclient.Event) {
	for _, feed := range h.feeds {
		feed <- e
	}
}

// tell says how a guest is, with the mutex held.
func (h *fakeHost) tell(g *guest) { h.publish(hostclient.Event{Guest: h.guest(g)}) }

func (h *fakeHost) guest(g *guest) *hostapi.Guest {
	told := hostapi.Guest{ID: cluster.GuestID("guest-" + g.name), State: string(hypervisor.StateOff)}
	if g.alive {
		told.State, told.Life, told.Moving = string(hypervisor.StateRunning), g.life, g.moving
		if g.clock.stands() {
			told.State = string(hypervisor.StatePaused)
		}
	}
	return &told
}

type fakeLink struct {
	h *fakeHost
	g *guest
}

func (l *fakeLink) Off(_ context.Context, _ cluster.GuestID, o hostapi.Order) (hostapi.Reply, error) {
	l.h.w.mu.Lock()
	g := l.h.lives[o.Life]
	if a := l.h.refuse(o.Life); a != nil {
		l.h.w.mu.Unlock()
		return hostapi.Reply{Outcome: cluster.OutcomeDone, Absence: a}, nil
	}
	if l.h.silent || l.h.deaf || g == nil {
		l.h.w.mu.Unlock()
		return hostapi.Reply{Outcome: cluster.OutcomeUnknown, Detail: "host does not answer"}, nil
	}
	if g.alive && g.life == o.Life {
		l.h.w.note("%s is switched off", g.name)
		g.die()
	}
	ended := guest{name: g.name, life: o.Life}
	l.h.w.mu.Unlock()
	cert := l.h.certify(&ended, cluster.CauseFenced)
	return hostapi.Reply{Outcome: cluster.OutcomeDone, Certificate: &cert}, nil
}

// On is hostd's: a decision is carried out once, a repeated one gets the same answer.
func (l *fakeLink) On(_ context.Context, id cluster.GuestID, o hostapi.Order) (hostapi.Reply, error) {
	w := l.h.w
	w.mu.Lock()
	g := w.guests[cluster.NodeName(strings.TrimPrefix(string(id), "guest-"))]
	known, repeated := l.h.ons[o.Decision]
	switch {
	case l.h.silent:
		w.mu.Unlock()
		return hostapi.Reply{Outcome: cluster.OutcomeUnknown, Detail: "host does not answer"}, errors.New("host does not answer")
	case repeated:
		w.mu.Unlock()
		return known, nil
	case l.h.refuses > 0:
		l.h.refuses--
		w.mu.Unlock()
		return hostapi.Reply{Outcome: cluster.OutcomeNotDone, Detail: "no memory"}, nil
	case g.alive:
		w.mu.Unlock()
		return hostapi.Reply{Outcome: cluster.OutcomeNotDone, Detail: "guest is running already"}, nil
	}
	w.mu.Unlock()
	w.boot(g.name)
	w.mu.Lock()
	defer w.mu.Unlock()
	l.h.started++
	reply := hostapi.Reply{Outcome: cluster.OutcomeDone, Life: g.life}
	l.h.ons[o.Decision] = reply
	return reply, nil
}

func (l *fakeLink) Stream(ctx context.Context, _ uint64, take func(hostclient.Event) error) error {
	feed := make(chan hostclient.Event, 100)
	l.h.w.mu.Lock()
	if l.h.silent {
		l.h.w.mu.Unlock()
		return errors.New("host does not answer")
	}
	l.h.feeds[l] = feed
	old := slices.Clone(l.h.certs)
	var guests []*hostapi.Guest
	for _, g := range l.h.w.guests {
		if l.h.w.hostOf(g.name) == l.h {
			guests = append(guests, l.h.guest(g))
		}
	}
	l.h.w.mu.Unlock()
	defer func() {
		l.h.w.mu.Lock()
		delete(l.h.feeds, l)
		l.h.w.mu.Unlock()
	}()
	_ = take(hostclient.Event{Hello: &hostapi.Hello{Host: l.h.name}})
	for _, c := range old {
		_ = take(hostclient.Event{Certificate: &c})
	}
	for _, g := range guests {
		_ = take(hostclient.Event{Guest: g})
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-feed:
			if e == (hostclient.Event{}) {
				return errors.New("the stream breaks")
			}
			_ = take(e)
		}
	}
}

func (l *fakeLink) Ack(_ context.Context, a hostapi.Ack) error {
	l.h.w.mu.Lock()
	defer l.h.w.mu.Unlock()
	if l.h.acked == nil {
		l.h.acked = map[uint64]bool{}
	}
	l.h.acked[a.Seq] = true
	return nil
}

func (l *fakeLink) Close() {}

// story returns the journal so far and empties it.
func (w *world) story() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(w.journal, "; ")
	w.journal = nil
	return s
}

package sim

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/wire/voter"
)

// clusterID is the identity of the cluster of every world.
const clusterID cluster.ClusterID = "sim"

// World is one cluster with everything that it stands on. It must be made and
// used within a testing/synctest bubble.
type World struct {
	Seed uint64
	Plan Plan

	start  time.Time
	ctx    context.Context
	cancel context.CancelFunc
	log    *recorder

	net     *network
	raft    *raft
	disk    *disk
	history *history

	randomMu sync.Mutex // guards streams and the numbers drawn from them
	streams  map[string]*rand.Rand

	mu       sync.Mutex // guards everything below, and what is marked so elsewhere
	guests   map[string]*guest
	hosts    map[string]*host
	story    []string
	violated []string
	pending  map[*time.Timer]bool
	bodies   map[cluster.BootID][]*machine // where each boot ran: the truth that an operator can find out
	sessions uint64                        // runs of daemons so far
	doubt    bool                          // something happened after which no host can prove an end
	wg       sync.WaitGroup
}

// Plan is the shape of a world: who stands where and what runs.
type Plan struct {
	Hosts    int
	Places   []int // of each guest: the number of its host
	Witness  bool  // a voter without services, on a machine of its own
	Services int
	// Mobile: guests may migrate and be saved, so that an end which nobody saw
	// is unknown.
	Mobile bool
	// Long: faults come for a minute more and may outlast every budget.
	Long bool
}

// NewWorld makes the world of a seed; nothing runs yet.
func NewWorld(seed uint64, log *recorder) *World { return newWorld(seed, (*World).draw, log) }

// newWorld makes a world of the shape that the function chooses.
func newWorld(seed uint64, shape func(*World) Plan, log *recorder) *World {
	w := &World{
		Seed: seed, start: time.Now(), log: log,
		streams: map[string]*rand.Rand{}, guests: map[string]*guest{}, hosts: map[string]*host{}, pending: map[*time.Timer]bool{},
		bodies: map[cluster.BootID][]*machine{},
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.Plan = shape(w)
	w.net = newNetwork(w)
	w.disk = &disk{w: w, newest: map[cluster.ServiceName]write{}, holder: map[cluster.ServiceName]*process{}}
	var voters []string
	for i := range w.Plan.Places {
		voters = append(voters, fmt.Sprintf("n%d", i+1))
	}
	if w.Plan.Witness {
		voters = append(voters, witnessName)
	}
	w.raft = newRaft(w, voters)
	w.history = newHistory(w, w.raft.server.Client("judge"))
	w.found()
	w.history.run(w.ctx)
	return w
}

// draw chooses the shape of the world.
func (w *World) draw() Plan {
	shapes := []Plan{
		{Hosts: 3, Places: []int{0, 1, 2}},
		{Hosts: 3, Places: []int{0, 1, 2}},
		{Hosts: 2, Places: []int{0, 1}, Witness: true},
		{Hosts: 2, Places: []int{0, 0, 1}},
		{Hosts: 3, Places: []int{0, 1, 2, 0, 1}},
	}
	p := shapes[w.intn("plan", len(shapes))]
	p.Services = 1 + w.intn("plan", 3)
	p.Mobile = w.chance("plan", 0.5)
	p.Long = w.chance("plan", 0.1)
	return p
}

// found writes what a cluster has after all have joined.
func (w *World) found() {
	w.put(cluster.KeyMeta, cluster.Meta{ID: clusterID, Name: "sim", Incarnation: 1, Format: cluster.FormatVersion})
	for i := range w.Plan.Hosts {
		h := newHost(w, fmt.Sprintf("h%d", i+1))
		w.hosts[h.name] = h
		w.put(cluster.KeyHost(cluster.HostName(h.name)), cluster.Host{
			Name: cluster.HostName(h.name), Address: "192.0.2.1:7411", SigningKey: h.key.Public().(ed25519.PublicKey),
		})
	}
	config := cluster.Config{Name: "sim"}
	for i, place := range w.Plan.Places {
		g := &guest{w: w, name: fmt.Sprintf("n%d", i+1), host: w.hosts[fmt.Sprintf("h%d", place+1)], processes: map[cluster.ServiceName]*process{}, votes: joined(0), remembers: map[cluster.NodeName]voter.Memory{}}
		w.guests[g.name] = g
		w.put(cluster.KeyNode(g.node()), cluster.Node{Name: g.node(), Address: "192.0.2.1", BeatPort: 7000 + i})
		config.Nodes = append(config.Nodes, cluster.NodeConfig{Name: g.node()})
	}
	if w.Plan.Witness {
		w.addWitness(&config)
	}
	for i := range w.Plan.Services {
		config.Services = append(config.Services, w.serviceConfig(i))
	}
	w.put(cluster.KeyConfig, config)
}

// addWitness gives the world a voter that runs no services.
func (w *World) addWitness(*cluster.Config) {
	g := &guest{w: w, name: witnessName, bare: true, processes: map[cluster.ServiceName]*process{}, remembers: map[cluster.NodeName]voter.Memory{}}
	w.guests[g.name] = g
	w.put(cluster.KeyNode(g.node()), cluster.Node{Name: g.node(), Address: "192.0.2.2", BeatPort: 7100, Witness: true})
}

// serviceNames are those that there may be; a world begins with up to three.
var serviceNames = []cluster.ServiceName{"db", "web", "nfs", "mail", "dns"}

func (w *World) serviceConfig(i int) cluster.ServiceConfig {
	s := cluster.ServiceConfig{
		Name: serviceNames[i], Restarts: w.intn("plan", 3),
		RestartWindow: time.Minute, FailureExpiry: 5 * time.Second,
		Resources: []cluster.Resource{{
			Name: "app", Agent: "model", StartTimeout: 2 * time.Second, StopTimeout: 2 * time.Second,
			MonitorTimeout: time.Second, MonitorInterval: time.Second,
		}},
	}
	if w.chance("plan", 0.3) {
		s.Resources = append(s.Resources, s.Resources[0])
		s.Resources[1].Name = "more"
	}
	return s
}

// configured names the services of the configuration.
func (w *World) configured() (names []cluster.ServiceName) {
	w.history.read(func(s *cluster.State) {
		for _, c := range s.Config.Value.Services {
			names = append(names, c.Name)
		}
	})
	return names
}

// put writes a record as an operator, from outside of all faults.
func (w *World) put(key string, record any) { w.commit(cluster.Put(key, record)) }

func (w *World) commit(writes ...cluster.Write) {
	if _, err := w.raft.server.Client("operator").Commit(context.Background(), store.Tx{Writes: writes}); err != nil {
		panic(fmt.Sprintf("sim: operator's write: %v", err))
	}
}

func (w *World) now() time.Duration { return time.Since(w.start) }

// random returns the stream of random numbers of that name. Streams are apart,
// so that a fault that is left out changes no other draw.
func (w *World) random(name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return rand.New(rand.NewPCG(w.Seed, h.Sum64()))
}

func (w *World) draws(stream string, f func(*rand.Rand)) {
	w.randomMu.Lock()
	defer w.randomMu.Unlock()
	r := w.streams[stream]
	if r == nil {
		r = w.random(stream)
		w.streams[stream] = r
	}
	f(r)
}

func (w *World) intn(stream string, n int) (out int) {
	w.draws(stream, func(r *rand.Rand) { out = r.IntN(max(1, n)) })
	return out
}

func (w *World) chance(stream string, p float64) (yes bool) {
	if p <= 0 {
		return false
	}
	w.draws(stream, func(r *rand.Rand) { yes = r.Float64() < p })
	return yes
}

// between draws a duration.
func (w *World) between(stream string, least, most time.Duration) time.Duration {
	return least + time.Duration(w.intn(stream, int(most-least)))
}

// later calls f after d, unless the world ends before.
func (w *World) later(d time.Duration, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		w.mu.Lock()
		live := w.pending[t] && w.ctx.Err() == nil
		delete(w.pending, t)
		if live {
			w.wg.Add(1)
		}
		w.mu.Unlock()
		if live {
			defer w.wg.Done()
			f()
		}
	})
	w.pending[t] = true
}

// nextSession numbers the runs of daemons.
func (w *World) nextSession() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sessions++
	return w.sessions
}

// runs reports whether a machine of that name is up and makes progress.
func (w *World) runs(name string) bool {
	w.mu.Lock()
	g, h := w.guests[name], w.hosts[name]
	w.mu.Unlock()
	switch {
	case g != nil:
		m := g.now()
		return m != nil && m.running()
	case h != nil:
		return h.isUp()
	}
	return false
}

// note adds a line to the story.
func (w *World) note(format string, args ...any) {
	line := fmt.Sprintf("%8.3fs  ", w.now().Seconds()) + fmt.Sprintf(format, args...)
	w.log.mark(line)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.story = append(w.story, line)
}

// violationsKept bounds what is told of one world: the first ones explain it.
const violationsKept = 3

// violate notes that a promise was broken.
func (w *World) violate(promise, format string, args ...any) {
	line := promise + ": " + fmt.Sprintf(format, args...)
	if len(w.Violations()) >= violationsKept {
		return
	}
	w.note("VIOLATED %s", line)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violated = append(w.violated, line)
}

// Violations returns the promises that were broken so far.
func (w *World) Violations() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.violated)
}

// Story tells what happened, shortened to what people need.
func (w *World) Story() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.story, "\n")
}

// sortedGuests returns the guests in the order of their names.
func (w *World) sortedGuests() []*guest {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*guest
	for _, g := range w.guests {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *guest) int { return strings.Compare(a.name, b.name) })
	return out
}

func (w *World) sortedHosts() []*host {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*host
	for _, h := range w.hosts {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b *host) int { return strings.Compare(a.name, b.name) })
	return out
}

// Close ends everything and waits for it.
func (w *World) Close() {
	w.cancel()
	for _, g := range w.sortedGuests() {
		if m := g.now(); m != nil {
			m.end()
		}
	}
	for _, h := range w.sortedHosts() {
		h.down()
	}
	w.history.stop()
	w.mu.Lock()
	for t := range w.pending {
		t.Stop()
	}
	w.mu.Unlock()
	w.wg.Wait()
}

// logger returns the log of one program.
func (w *World) logger(name string) *slog.Logger { return slog.New(w.log).With("on", name) }

package nodeapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/config"
	"ringfence/internal/detect"
	"ringfence/internal/mirror"
	"ringfence/internal/pki"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
	"ringfence/internal/wire/hostapi"
)

// bench is one API over the model store, with a cluster of three nodes.
type bench struct {
	t      *testing.T
	mem    *mem.Client
	mirror *mirror.Mirror
	events *EventLog
	deps   Deps
	api    *Client
	id     pki.Identity
	data   *pki.Data
	voters *fakeVoters
	log    *bytes.Buffer

	mu     sync.Mutex // guards what follows
	quorum bool
	guest  *hostapi.Guest
	said   map[cluster.BootID]detect.Said
	left   bool
	clock  time.Duration
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, mem: mem.New().Client("n1"), events: NewEventLog(time.Now), quorum: true, voters: newFakeVoters(), log: &bytes.Buffer{}}
	log := slog.New(slog.NewTextHandler(b.log, nil))
	dir := filepath.Join(t.TempDir(), "n1")
	var err error
	b.id, err = Found(FoundOptions{Name: "demo", Node: "n1", Address: "127.0.0.1", BeatPort: 1, PeerPort: 2, JoinPort: 3, Data: dir}, time.Now())
	must(t, err)
	b.data, err = pki.Open(dir, time.Now())
	must(t, err)
	b.mirror = mirror.New(b.mem, handClock{clock.New(time.Now()), b}, log, b.events.OnChange)
	b.deps = Deps{
		Self: "n1", Mirror: b.mirror, Store: b.mem, Leave: func() { b.set(func() { b.left = true }) },
		RaftLeader:    func() (string, bool, bool) { b.mu.Lock(); defer b.mu.Unlock(); return "n1", true, b.quorum },
		HostReachable: func(cluster.HostName) bool { return true },
		GuestSeen: func(cluster.GuestID) (hostapi.Guest, bool) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.guest == nil {
				return hostapi.Guest{}, false
			}
			return *b.guest, true
		},
		HostSays: func(boot cluster.BootID) detect.Said { b.mu.Lock(); defer b.mu.Unlock(); return b.said[boot] },
		CheckResource: config.Check(func(r cluster.Resource) error {
			if r.Agent == "exec" && r.Params["command"] == "" {
				return errors.New("exec needs params.command")
			}
			return nil
		}),
		NewToken: func() (pki.Token, error) { return pki.NewToken(rand.Reader, pki.FingerprintOf(b.data.CA.Certificate)) },
		Voters:   b.voters,
		CACert:   b.data.CA.CertPEM, Warnings: func() []string { return []string{"certificate ends soon"} },
		Now: b.now, Events: b.events, Log: log,
	}
	b.fill()
	b.run(func(ctx context.Context) { _ = b.mirror.Run(ctx) })
	<-b.mirror.Ready()
	b.serve()
	return b
}

// serve starts the API on a socket.
func (b *bench) serve() {
	dir, err := os.MkdirTemp("", "rf") // t.TempDir is too long for a socket
	must(b.t, err)
	b.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ln, err := Listen(filepath.Join(dir, SocketName))
	must(b.t, err)
	b.run(func(ctx context.Context) { must(b.t, NewServer(b.deps).Serve(ctx, ln)) })
	b.api = Dial(ln.Addr().String())
	b.t.Cleanup(b.api.Close)
}

// run runs f until the test ends.
func (b *bench) run(f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	b.t.Cleanup(func() { cancel(); <-done })
}

// handClock shows what the bench was set to; it waits by real time.
type handClock struct {
	clock.Clock
	b *bench
}

func (c handClock) Now() time.Duration { return c.b.now() }

func (b *bench) now() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clock
}

func (b *bench) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func bootOf(n cluster.NodeName) cluster.BootID { return "boot-" + cluster.BootID(n) }

// fill writes three nodes on three hosts and two services.
func (b *bench) fill() {
	b.put(cluster.KeyMeta, cluster.Meta{ID: b.id.Cluster, Name: "demo", Incarnation: 1, Format: 1})
	b.put(cluster.KeyLeader, cluster.Leader{Node: "n1", Boot: "boot-n1", Epoch: 4})
	b.put(cluster.KeyConfig, testConfig())
	for i, name := range []cluster.NodeName{"n1", "n2", "n3"} {
		host := cluster.HostName(fmt.Sprintf("h%d", i+1))
		b.put(cluster.KeyNode(name), cluster.Node{Name: name, Address: fmt.Sprintf("192.0.2.%d", i+1), BeatPort: 1, PeerPort: 2, JoinPort: 3, Member: uint64(i + 1)})
		b.put(cluster.KeyBoot(bootOf(name)), cluster.Boot{
			ID: bootOf(name), Node: name, Phase: cluster.PhaseMember,
			Places: []cluster.HostName{host}, Life: cluster.NewLifeID("hb", i+1, 1), Guest: "4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d10",
		})
		b.put(cluster.KeyProbe(name), cluster.Probe{Node: name, Boot: bootOf(name), Config: 1 << 40})
	}
	b.own("web", "n1", 3)
}

func testConfig() cluster.Config {
	service := func(name cluster.ServiceName) cluster.ServiceConfig {
		return cluster.ServiceConfig{
			Name: name, Nodes: []cluster.NodeName{"n1", "n2"}, Restarts: 3, RestartWindow: time.Minute, FailureExpiry: time.Minute,
			Resources: []cluster.Resource{{
				Name: "main", Agent: "exec", Params: map[string]string{"command": "sleep 1"}, StartTimeout: time.Second,
				StopTimeout: time.Second, MonitorTimeout: time.Second, MonitorInterval: time.Second,
			}},
		}
	}
	return cluster.Config{
		Name: "demo", Nodes: []cluster.NodeConfig{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}},
		Services: []cluster.ServiceConfig{service("db"), service("web")},
	}
}

// own makes a node the owner of a running service.
func (b *bench) own(service cluster.ServiceName, node cluster.NodeName, generation cluster.Generation) {
	def, _ := testConfig().Service(service)
	b.put(cluster.KeyOwner(service), cluster.Owner{Service: service, Generation: generation, Node: node, Boot: bootOf(node), Want: cluster.WantRun, Definition: def, Reason: "nobody owns it"})
	b.put(cluster.KeyReport(service), cluster.Report{Service: service, Node: node, Boot: bootOf(node), Generation: generation, State: cluster.ReportRunning})
}

// silent makes observers say that they do not hear a node.
func (b *bench) silent(accused cluster.NodeName, observers ...cluster.NodeName) {
	for _, name := range observers {
		b.put(cluster.KeyView(name), cluster.View{Node: name, Boot: bootOf(name), Silent: map[cluster.BootID]cluster.Silence{bootOf(accused): cluster.SilenceSuspect}})
	}
}

func (b *bench) put(key string, record any) { b.commit(cluster.Put(key, record)) }

// commit writes and waits until the mirror shows it, if it runs.
func (b *bench) commit(writes ...cluster.Write) {
	b.t.Helper()
	rev, err := b.mem.Commit(context.Background(), store.Tx{Writes: writes})
	must(b.t, err)
	select {
	case <-b.mirror.Ready():
		must(b.t, b.mirror.WaitFor(context.Background(), rev))
	default:
	}
}

func (b *bench) state() cluster.State { s, _ := b.mirror.Snapshot(); return s }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks code and text of a refusal.
func refused(t *testing.T, err error, code, text string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want a refusal %q", err, text)
	}
	if e.Code != code || !strings.Contains(e.Message, text) {
		t.Fatalf("refusal %s %q, want %s with %q", e.Code, e.Message, code, text)
	}
}

func freePort(t *testing.T) int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

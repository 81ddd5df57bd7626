// Package app wires the daemons: it opens what they stand on, starts the parts
// in order, and takes them down in the reverse. main and the command line call
// it; it decides nothing.
package app

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/decisions"
	"ringfence/internal/heartbeat"
	"ringfence/internal/hostclient"
	"ringfence/internal/lane"
	"ringfence/internal/mirror"
	"ringfence/internal/node"
	"ringfence/internal/nodeapi"
	"ringfence/internal/pki"
	"ringfence/internal/store"
	"ringfence/internal/store/etcd"
	"ringfence/internal/wire/beat"
)

// NodeOptions are the settings of `ringfence node run` and `witness run`.
type NodeOptions struct {
	Data   string // the node's data directory, made by init or join
	RunDir string // sockets and the state of resources; gone after a reboot
	// HostChannel is the guest's own channel to its host: the path of a socket, or
	// virtio:NAME for a virtio-serial port. Where nothing is at that path the node
	// takes itself for bare metal: no host can be asked. A port is waited for.
	HostChannel string
	// Boot replaces the kernel's boot id on a machine without a host: for tests
	// that run several nodes on one kernel.
	Boot cluster.BootID
	// Witness says that a witness is to run: a data directory of a node is
	// refused, and one of a witness where it is false.
	Witness bool
	// Host is the host on which a witness runs that has no channel to one: for
	// rule P14 only. Empty: a machine of its own.
	Host cluster.HostName
	// Contained: the process has other work to do and goes on when the store of
	// this node cannot.
	Contained bool
	// SelfReset is what the node may do that must stop and cannot; "" is host.
	SelfReset SelfReset
	Log       *slog.Logger
	// fatal is where the store says that it cannot go on. Tests put a crash in.
	fatal chan error
}

// Timings of the wiring.
const (
	channelRetry = 500 * time.Millisecond
	channelLimit = 3 * time.Second
	leaveLimit   = 3 * time.Minute
)

// RunNode runs a member until ctx ends; it then leaves the cluster cleanly. It
// returns nil after a clean leave.
func RunNode(ctx context.Context, o NodeOptions) (err error) {
	r, err := newNodeRun(o)
	if err != nil {
		return err
	}
	lock, err := r.data.Dir.Lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	defer func() { err = errors.Join(err, r.down.run()) }()
	return r.run(ctx)
}

// newNodeRun opens the data directory and makes the run directory.
func newNodeRun(o NodeOptions) (*nodeRun, error) {
	data, err := pki.Open(o.Data, time.Now())
	if err != nil {
		return nil, err
	}
	if err := checkRole(o, data.Identity); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.RunDir, 0o700); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if o.fatal == nil {
		o.fatal = make(chan error, 1)
	}
	return &nodeRun{NodeOptions: o, data: data, clock: clock.New(time.Now())}, nil
}

// nodeRun is one run of a member's daemon.
type nodeRun struct {
	NodeOptions
	data  *pki.Data
	clock clock.Clock
	down  teardown

	lane *lane.Dialer // over the virtio-serial port; nil without one

	door   *nodeapi.Door
	voter  *confirmation
	store  *etcd.Server
	events *nodeapi.EventLog
	node   *node.Node
}

func (r *nodeRun) run(ctx context.Context) error {
	r.openLane()
	boot, err := r.identify(ctx)
	if err != nil {
		return err
	}
	// Other voters are answered before this one starts: after a loss of all
	// power each of them needs the others' word first.
	if err := r.openDoor(); err != nil {
		return err
	}
	if err := r.confirm(ctx); err != nil {
		return err
	}
	if err := r.openStore(ctx); err != nil {
		return err
	}
	if err := r.found(ctx); err != nil {
		return err
	}
	if boot, err = r.bind(ctx, boot); err != nil {
		return err
	}
	beats, err := r.openBeats(boot.ID)
	if err != nil {
		return err
	}
	agents, err := r.openAgents()
	if err != nil {
		return err
	}
	saved := decisions.Open(r.data.Dir.Decisions(), r.Log)
	r.down.add("saved decisions", saved.Close)
	r.events = nodeapi.NewEventLog(time.Now)
	r.node = node.New(node.Config{
		Self: boot, Cluster: r.data.Identity.Cluster, Incarnation: r.data.Identity.Incarnation,
		Store: r.store, Raft: r.store, Beats: beats, DialHost: r.dialHost, Agents: agents.Find, Autostart: wouldStart,
		SaveDecision: saved.Save, OnChange: r.change, OnDoubt: agents.Announce, Reset: r.resetter(boot), Clock: r.clock, Log: r.Log,
	})
	if err := r.serve(agents); err != nil {
		return err
	}
	return r.live(ctx)
}

func (r *nodeRun) change(before, after *cluster.State, c mirror.Change) {
	r.events.OnChange(before, after, c)
}

// live runs the node; when ctx ends it leaves.
func (r *nodeRun) live(ctx context.Context) error {
	runCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() {
		r.node.Leave()
		select {
		case <-runCtx.Done():
		case <-time.After(leaveLimit):
			cancel(fmt.Errorf("could not leave within %v: peers will have this boot fenced", leaveLimit))
		}
	})
	defer stop()
	go func() {
		select {
		case err := <-r.fatal:
			r.stopRemoved(runCtx, err)
			cancel(err)
		case <-runCtx.Done():
		}
	}()
	if err := r.node.Run(runCtx); !errors.Is(err, node.ErrLeft) {
		return err
	}
	return nil
}

// removedStop bounds how long a removed node tries to stop what it runs.
const removedStop = 30 * time.Second

// stopRemoved stops everything where the node was removed, which presumes that
// its boots have ended: others may run its services, and no order will reach it
// any more. Like a doomed boot's, this is hygiene and no evidence (rule P7).
func (r *nodeRun) stopRemoved(ctx context.Context, err error) {
	if !errors.Is(err, node.ErrRemoved) {
		return
	}
	r.Log.Error("this node was removed from the cluster: it stops everything and ends", "component", "app")
	ctx, cancel := context.WithTimeout(ctx, removedStop)
	defer cancel()
	if err := r.node.Executor.StopAll(ctx, "this node was removed"); err != nil {
		r.Log.Error("not everything could be stopped", "component", "app", "err", err)
	}
}

// openStore starts this node's voter and waits for a quorum.
func (r *nodeRun) openStore(ctx context.Context) error {
	id := r.data.Identity
	marker := filepath.Join(r.Data, storeCreated)
	_, marked := os.Stat(marker)
	config := storeConfig(r.data, r.Log)
	_, made := os.Stat(filepath.Join(config.DataDir, "member"))
	if marked == nil && made != nil {
		return fmt.Errorf("the store of this node, %s, is gone: a voter without its memory must not vote; remove the node from the cluster and join again", config.DataDir)
	}
	config.New, config.Contained = made != nil && len(id.InitialCluster) == 1, r.Contained
	config.OnFatal = func(err error) {
		if errors.Is(err, etcd.ErrRemoved) {
			err = node.ErrRemoved
		}
		r.fatal <- fmt.Errorf("the store of this node cannot go on: %w", err)
	}
	s, err := etcd.Start(ctx, config)
	if err != nil {
		return err
	}
	r.store = s
	r.down.add("store", s.Close)
	if err := pki.WriteFile(marker, []byte("the store was created once; it must not be created anew\n"), 0o600); err != nil {
		return err
	}
	r.Log.Info("store runs; waiting for a quorum of the voters", "component", "app")
	select {
	case <-s.Ready():
		return nil
	case err := <-r.fatal:
		return err
	case <-ctx.Done():
		return fmt.Errorf("ended before there was a quorum of the voters: %w", ctx.Err())
	}
}

// storeCreated is the file that says that the node's store was made once.
const storeCreated = "store-created"

// storeConfig is what the voter of a data directory starts with. The token holds
// the incarnation: voters of different ones refuse each other (rule P21).
func storeConfig(data *pki.Data, log *slog.Logger) etcd.Config {
	id := data.Identity
	return etcd.Config{
		Name: string(id.Node), DataDir: data.Dir.Store(id.Incarnation), Address: id.Address, PeerPort: id.PeerPort,
		InitialCluster: id.InitialCluster, Token: fmt.Sprintf("%s/%d", id.Cluster, id.Incarnation),
		CertFile: data.Dir.NodeCert(), KeyFile: data.Dir.NodeKey(), CAFile: data.Dir.CACert(), Logger: log,
	}
}

// found writes the first records of a new cluster; the first node does it once.
func (r *nodeRun) found(ctx context.Context) error {
	id := r.data.Identity
	meta := cluster.Meta{ID: id.Cluster, Name: id.Name, Incarnation: id.Incarnation, Format: cluster.FormatVersion}
	s, err := r.load(ctx)
	if err != nil {
		return err
	}
	if s.Meta.Rev != 0 {
		return checkMeta(s.Meta.Value, meta)
	}
	members, err := r.store.Members(ctx)
	if err != nil || len(members) != 1 {
		return fmt.Errorf("the store has no cluster record and %d members: it was not made by `ringfence init` (%v)", len(members), err)
	}
	_, err = r.store.Commit(ctx, store.Tx{
		Guards: []cluster.Guard{{Key: cluster.KeyMeta}},
		Writes: []cluster.Write{
			cluster.Put(cluster.KeyMeta, meta),
			cluster.Put(cluster.KeyConfig, cluster.Config{Name: id.Name, Nodes: []cluster.NodeConfig{{Name: id.Node}}}),
			cluster.Put(cluster.KeyNode(id.Node), cluster.Node{
				Name: id.Node, Address: id.Address, BeatPort: id.BeatPort, PeerPort: id.PeerPort,
				JoinPort: id.JoinPort, Member: members[0].ID,
			}),
		},
	})
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("write the first records of the cluster: %w", err)
	}
	return nil
}

func checkMeta(stored, own cluster.Meta) error {
	switch {
	case stored.ID != own.ID:
		return fmt.Errorf("the store belongs to cluster %s, this node to %s", stored.ID, own.ID)
	case stored.Incarnation != own.Incarnation:
		return fmt.Errorf("the cluster is in incarnation %d, this node in %d: its data is from before a recovery; join again", stored.Incarnation, own.Incarnation)
	case stored.Format > cluster.FormatVersion:
		return fmt.Errorf("the store has format %d, this version reads up to %d: upgrade this node", stored.Format, cluster.FormatVersion)
	}
	return nil
}

// load reads everything, once, for decisions before the mirror runs.
func (r *nodeRun) load(ctx context.Context) (cluster.State, error) {
	var s cluster.State
	kvs, _, err := r.store.Load(ctx, cluster.Prefix)
	for attempt := 0; err != nil && attempt < 10 && ctx.Err() == nil; attempt++ {
		kvs, _, err = r.store.Load(ctx, cluster.Prefix)
	}
	if err != nil {
		return s, fmt.Errorf("read the store: %w", err)
	}
	for _, kv := range kvs {
		if err := s.Apply(kv, false, 0); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (r *nodeRun) openBeats(boot cluster.BootID) (*heartbeat.Transport, error) {
	id := r.data.Identity
	beats, err := heartbeat.New(heartbeat.Config{
		Address: id.Address, Port: id.BeatPort, Domain: beat.Domain{Cluster: id.Cluster, Incarnation: id.Incarnation}, Key: r.data.BeatKey,
		Node: id.Node, Boot: boot, Logger: r.Log, Now: r.clock.Now,
	})
	if err != nil {
		return nil, err
	}
	r.down.add("heartbeats", beats.Close)
	return beats, nil
}

func (r *nodeRun) dialHost(h cluster.Host) (node.Host, error) {
	return hostclient.New(h, r.data.Credentials.ClientTLS().Certificates[0])
}

// serve opens the API for the command line and the door for new nodes.
func (r *nodeRun) serve(agents agentSet) error {
	caPEM, err := os.ReadFile(r.data.Dir.CACert())
	if err != nil {
		return err
	}
	api := nodeapi.NewServer(nodeapi.Deps{
		Self: r.data.Identity.Node, Mirror: r.node.Mirror, Store: r.store, Leave: r.node.Leave,
		RaftLeader: r.store.Leader, Votes: func(n cluster.NodeName) bool { return r.store.Votes(string(n)) }, Voters: r.store, HostReachable: r.node.HostReachable, GuestSeen: r.node.GuestSeen, HostSays: r.node.HostSays,
		CheckResource: agents.Check, NewToken: r.newToken, CACert: caPEM,
		Warnings: r.warnings, Now: r.clock.Now, Events: r.events, Log: r.Log,
	})
	ln, err := nodeapi.Listen(filepath.Join(r.RunDir, nodeapi.SocketName))
	if err != nil {
		return err
	}
	r.background("local API", func(ctx context.Context) error { return api.Serve(ctx, ln) })
	r.serveJoin()
	return nil
}

// openDoor opens the join port, where other voters are answered at once.
func (r *nodeRun) openDoor() error {
	memory, err := nodeapi.OpenVoterMemory(r.data.Dir.VoterMemory(), r.data.Identity, r.Log)
	if err != nil {
		return err
	}
	ln, err := nodeapi.ListenJoin(r.data.Identity.Address, r.data.Identity.JoinPort)
	if err != nil {
		return err
	}
	r.door = nodeapi.NewDoor(r.data.Credentials, memory, r.Log)
	r.background("join listener", func(ctx context.Context) error { return r.door.Serve(ctx, ln) })
	return nil
}

// serveJoin admits new nodes, sees to it that they get their votes, and keeps
// this voter's memory outside of its disk up to date.
func (r *nodeRun) serveJoin() {
	admitter := nodeapi.NewAdmitter(nodeapi.AdmitConfig{
		Identity: r.data.Identity, Mirror: r.node.Mirror, Store: r.store, Voters: r.store, CA: r.data.CA,
		BeatKey: r.data.BeatKey, RaftLeader: r.store.Leader, Wall: time.Now, Now: r.clock.Now, Log: r.Log,
	})
	r.door.LetIn(admitter)
	r.background("admission", func(ctx context.Context) error { admitter.Run(ctx); return nil })
	r.background("voter's count", func(ctx context.Context) error {
		if err := r.voter.goOn(ctx); err != nil {
			select {
			case r.fatal <- err:
			default: // it ends already
			}
		}
		return nil
	})
}

func (r *nodeRun) newToken() (pki.Token, error) {
	return pki.NewToken(rand.Reader, pki.FingerprintOf(r.data.Credentials.CA))
}

// warnings are what only this machine knows, for `ringfence status`.
func (r *nodeRun) warnings() []string {
	var out []string
	for _, c := range []*x509.Certificate{r.data.Credentials.CA, r.data.Credentials.Node} {
		if urgency, text := pki.Warn(c, time.Now()); urgency != pki.UrgencyNone {
			out = append(out, text)
		}
	}
	return out
}

// background runs f until the teardown, which waits for it.
func (r *nodeRun) background(name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	r.down.add(name, func() error {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
}

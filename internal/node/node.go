// Package node is the loops of a cluster member: it hears its peers, listens to
// the hosts, leads when it is its turn, fences when it is told to, and lets the
// executor run what this boot owns. internal/app wires it to the real store,
// network and agents; a simulator can wire it to models, since every effect
// goes through the fields of Config.
//
// Each loop is an iterate(ctx, now) that one goroutine calls again and again.
// What a loop knows of the cluster it reads from the mirror; what it does to it
// is a transaction that compares what it read.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/executor"
	"ringfence/internal/heartbeat"
	"ringfence/internal/hostclient"
	"ringfence/internal/mirror"
	"ringfence/internal/plan"
	"ringfence/internal/resource"
	"ringfence/internal/store"
	"ringfence/internal/wire/hostapi"
)

// Beats carries heartbeats; *heartbeat.Transport is one.
type Beats interface {
	// Send sends one round of beats without blocking.
	Send(peers []heartbeat.Peer, payload heartbeat.Payload)
	// Beats delivers what peers sent.
	Beats() <-chan heartbeat.Received
}

// Raft is what the node may know and wish about the store's own leadership.
type Raft interface {
	// Leader names the voter that leads; ok is false while there is none.
	Leader() (name string, isMe, ok bool)
	// MoveLeader hands the lead to another voter; only the leader can.
	MoveLeader(ctx context.Context, name string) error
}

// Host is the connection to one host's daemon; *hostclient.Client is one.
type Host interface {
	// Off ends a life. An answer that did not come is OutcomeUnknown.
	Off(ctx context.Context, guest cluster.GuestID, o hostapi.Order) (hostapi.Reply, error)
	// On starts a guest cold. An answer that did not come is OutcomeUnknown.
	On(ctx context.Context, guest cluster.GuestID, o hostapi.Order) (hostapi.Reply, error)
	// Stream delivers events until the stream is lost or take fails.
	Stream(ctx context.Context, since uint64, take func(hostclient.Event) error) error
	// Ack tells the host that a certificate or an absence stands in the store.
	Ack(ctx context.Context, ack hostapi.Ack) error
	// Placed answers an arrival that the host asked for.
	Placed(ctx context.Context, p hostapi.Placed) (hostapi.PlacedReply, error)
	// Close releases the connection.
	Close()
}

// Config is everything a Node works with.
type Config struct {
	Self        cluster.Boot // this boot as it is to be registered; Phase and Predecessors are filled in
	Cluster     cluster.ClusterID
	Incarnation cluster.Incarnation
	Store       store.Store
	Raft        Raft
	Beats       Beats
	// DialHost connects to a host; it does not block.
	DialHost func(cluster.Host) (Host, error)
	Agents   func(agent string) (resource.Agent, error)
	// Autostart says which of these services this machine would start by itself at its
	// next boot, and how to end that (rule P24); nil: nothing is looked for.
	Autostart func(services []cluster.ServiceConfig) map[cluster.ServiceName]string
	// SaveDecision keeps the input of a plan that had orders, bounded.
	SaveDecision func(plan.Snapshot, plan.Result)
	// OnChange sees every change of the store in order, as mirror.New says.
	OnChange func(before, after *cluster.State, c mirror.Change)
	// OnDoubt is called when this node may have been away from its network: it
	// was paused, or hears again whom it did not. Addresses are announced anew.
	OnDoubt func()
	// Reset ends this run of the operating system, here and now, and returns only
	// where it could not. It is called when this boot must stop and cannot stop
	// all that it runs (rule P20). nil: the administrator wants none.
	Reset func(ctx context.Context, why string) error
	Clock clock.Clock // this machine's
	Log   *slog.Logger
}

// Errors with which Run ends of its own accord.
var (
	// ErrDoomed: this boot is to be fenced or has a tombstone; it has stopped
	// what it could and must not go on (rules P7, P19).
	ErrDoomed = errors.New("this boot is fenced or was declared ended; restart the node's operating system")
	// ErrRemoved: an operator took the node out of the cluster.
	ErrRemoved = errors.New("this node was removed from the cluster: join again with a new token, into a new data directory")
	// ErrLeft: the node left cleanly, as it was asked to.
	ErrLeft = errors.New("left the cluster")
)

// Node is one run of a member's daemon.
type Node struct {
	Config
	Mirror   *mirror.Mirror
	Executor *executor.Executor

	pulse   pulse
	hosts   hosts
	claimed cluster.Epoch // the newest epoch that this run asked for; owned by the lead loop
	epoch   cluster.Epoch // of the claim that we lead by; owned by the lead loop
	lead    leadership
	tried   map[cluster.BootID]int // fence attempts begun here; owned by the fencer loop
	leave   chan struct{}
	once    sync.Once
}

// New makes a Node; Run runs it.
func New(c Config) *Node {
	n := &Node{Config: c, tried: map[cluster.BootID]int{}, leave: make(chan struct{})}
	n.Log = c.Log.With("node", c.Self.Node, "boot", c.Self.ID)
	n.Mirror = mirror.New(c.Store, c.Clock, n.Log, c.OnChange)
	n.Executor = executor.New(executor.Config{
		Node: c.Self.Node, Boot: c.Self.ID, Store: c.Store, Mirror: n.Mirror,
		Agents: c.Agents, Clock: c.Clock, Log: n.Log,
	})
	n.pulse.init(n)
	n.hosts.init(n)
	return n
}

// Leave asks the node to stop its services, verified, and to leave; Run then
// returns ErrLeft.
func (n *Node) Leave() { n.once.Do(func() { close(n.leave) }) }

// Run takes part in the cluster until ctx ends, the node has left or is doomed.
// When ctx ends, services are left running for the next run of the daemon.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	run := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	run("mirror", n.Mirror.Run)
	run("pulse", n.pulse.run) // from the first moment: a node that joins is not silent
	run("views", n.pulse.writeViews)
	run("alarm", n.alarmLoop)
	run("register", func(ctx context.Context) error {
		if err := n.register(ctx); err != nil {
			return err
		}
		run("executor", n.Executor.Run)
		run("probe", n.probeLoop)
		run("lead", n.leadLoop)
		run("fencer", n.fenceLoop)
		run("power", n.powerLoop)
		run("hosts", n.hosts.run)
		run("appeal", n.appealLoop)
		run("doom", n.doomLoop)
		run("budget", n.budgetLoop)
		run("steer", n.steerLoop)
		run("leave", n.leaveLoop)
		return nil
	})
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return ctx.Err()
}

// each calls f now and after every change of the mirror, and at the latest
// after the pause that f returns (0: no limit), until ctx ends or f fails.
func (n *Node) each(ctx context.Context, f func(ctx context.Context, now time.Duration) (time.Duration, error)) error {
	return n.eachOr(ctx, nil, f)
}

// eachOr is each, with one more reason to call f.
func (n *Node) eachOr(ctx context.Context, wake <-chan struct{}, f func(ctx context.Context, now time.Duration) (time.Duration, error)) error {
	for ctx.Err() == nil {
		changed := n.Mirror.Read(func(*cluster.State) {})
		pause, err := f(ctx, n.Clock.Now())
		if err != nil {
			return err
		}
		var timer <-chan time.Time
		if pause > 0 {
			timer = n.Clock.After(pause)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-wake:
		case <-timer:
		}
	}
	return ctx.Err()
}

// Timings towards the store.
const (
	// commitTimeout bounds one try. It is short because a try that was handed
	// to a store leader which has just died is lost without a word; guards make
	// trying again safe.
	commitTimeout = 500 * time.Millisecond
	commitRetry   = 50 * time.Millisecond
)

// commit carries out one transaction with a deadline and waits until the
// mirror shows it, so that the caller's next look is not older than its act.
func (n *Node) commit(ctx context.Context, tx store.Tx) (cluster.Revision, error) {
	ctx, cancel := n.Clock.WithTimeout(ctx, commitTimeout)
	defer cancel()
	rev, err := n.Store.Commit(ctx, tx)
	if err != nil {
		return 0, err
	}
	return rev, n.Mirror.WaitFor(ctx, rev)
}

func (n *Node) sleep(ctx context.Context, d time.Duration) { clock.Sleep(ctx, n.Clock, d) }

package executor_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/executor"
	"ringfence/internal/mirror"
	"ringfence/internal/resource"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
)

// rig is node n1, boot b1, with one daemon at a time over a store in memory.
// The test plays the leader. Everything runs in a synctest bubble.
type rig struct {
	t      *testing.T
	server *mem.Server
	leader *mem.Client
	seen   <-chan store.Batch // every change of a report
	agent  *fakeAgent
	start  time.Time

	// Of the running daemon:
	client *mem.Client
	exec   *executor.Executor
	cancel context.CancelFunc
	wg     *sync.WaitGroup
}

// inBubble runs a test with a rig whose daemon runs.
func inBubble(t *testing.T, test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := mem.New()
		r := &rig{t: t, server: server, leader: server.Client("leader"), start: time.Now()}
		r.agent = &fakeAgent{
			r: r, active: map[string]bool{}, ended: map[string]chan struct{}{},
			startErr: map[string]error{}, stopErr: map[string]error{}, startTakes: map[string]time.Duration{},
		}
		r.seen = r.leader.Watch(t.Context(), cluster.KeyReport(""), 0)
		r.put(cluster.KeyLeader, cluster.Leader{Node: "n9", Boot: "b9", Epoch: 1})
		r.daemon("n1", nil)
		t.Cleanup(func() { r.end() })
		test(r)
	})
}

// daemon starts a run of the daemon on link; wrap may put itself between the
// executor and the store.
func (r *rig) daemon(link string, wrap func(store.Store) store.Store) {
	r.client = r.server.Client(link)
	var st store.Store = r.client
	if wrap != nil {
		st = wrap(st)
	}
	log := slog.New(slog.DiscardHandler)
	clk := clock.New(r.start)
	m := mirror.New(r.client, clk, log, nil)
	r.exec = executor.New(executor.Config{
		Node: "n1", Boot: "b1", Store: st, Mirror: m, Clock: clk, Log: log,
		Agents: func(name string) (resource.Agent, error) {
			if name != "fake" {
				return nil, fmt.Errorf("no agent %q", name)
			}
			return r.agent, nil
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.wg = cancel, &sync.WaitGroup{}
	r.wg.Go(func() { _ = m.Run(ctx) })
	r.wg.Go(func() { _ = r.exec.Run(ctx) })
	synctest.Wait()
}

// end ends the daemon, as a restart of it does.
func (r *rig) end() {
	r.cancel()
	r.wg.Wait()
}

// after lets virtual time pass.
func (r *rig) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) put(key string, record any) cluster.Revision {
	r.t.Helper()
	rev, err := r.leader.Commit(context.Background(), store.Tx{Writes: []cluster.Write{cluster.Put(key, record)}})
	if err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
	return rev
}

// state is the whole truth in the store.
func (r *rig) state() *cluster.State {
	kvs, _, err := r.leader.Load(context.Background(), cluster.Prefix)
	if err != nil {
		r.t.Fatal(err)
	}
	var s cluster.State
	for _, kv := range kvs {
		if err := s.Apply(kv, false, 0); err != nil {
			r.t.Fatal(err)
		}
	}
	return &s
}

// web is a service of two resources.
func web() cluster.ServiceConfig {
	def := cluster.ServiceConfig{Name: "web", Restarts: 2, RestartWindow: time.Minute}
	for _, name := range []string{"ip", "app"} {
		def.Resources = append(def.Resources, cluster.Resource{
			Name: name, Agent: "fake", StartTimeout: time.Minute, StopTimeout: time.Minute,
			MonitorTimeout: time.Second, MonitorInterval: 10 * time.Second,
		})
	}
	return def
}

// run is the order to run generation g of web here.
func run(g cluster.Generation) cluster.Owner {
	return cluster.Owner{Service: "web", Generation: g, Node: "n1", Boot: "b1", Want: cluster.WantRun, Epoch: 1, Definition: web()}
}

// stop is the order to stop generation g of web here.
func stop(g cluster.Generation) cluster.Owner {
	o := run(g)
	o.Want, o.Reason = cluster.WantStop, "ordered by the test"
	return o
}

// elsewhere is generation g of web owned by another boot.
func elsewhere(g cluster.Generation) cluster.Owner {
	o := run(g)
	o.Node, o.Boot = "n2", "b2"
	return o
}

func (r *rig) own(o cluster.Owner) cluster.Revision {
	r.t.Helper()
	return r.put(cluster.KeyOwner(o.Service), o)
}

// passing are states that a later report may overtake before it is committed.
var passing = []string{"starting", "restarting", "stopping"}

// reports is the sequence of reported states since the last call, without the
// passing ones that something followed.
func (r *rig) reports() string {
	var states []string
	for {
		select {
		case batch := <-r.seen:
			for _, c := range batch.Changes {
				var s cluster.State
				if err := s.Apply(c.KV, c.Deleted, 0); err != nil {
					r.t.Fatal(err)
				}
				states = append(states, string(s.Reports["web"].Value.State))
			}
		default:
			var said []string
			for i, state := range states {
				if i == len(states)-1 || !slices.Contains(passing, state) {
					said = append(said, state)
				}
			}
			return strings.Join(slices.Compact(said), ", ")
		}
	}
}

// want compares what the agents were told and what was reported since the last call.
func (r *rig) want(rule, calls, reports string) {
	r.t.Helper()
	synctest.Wait()
	if got := r.agent.take(); got != calls {
		r.t.Errorf("%s:\n  agents were told %q\n             want %q", rule, got, calls)
	}
	if got := r.reports(); got != reports {
		r.t.Errorf("%s:\n  reported %q\n      want %q", rule, got, reports)
	}
}

// fakeAgent runs resources in memory. It outlives daemons, as the machine does,
// and fails the test when a start breaks a rule, seen from the store.
type fakeAgent struct {
	r *rig

	mu         sync.Mutex // guards what follows
	calls      []string
	active     map[string]bool
	ended      map[string]chan struct{}
	startErr   map[string]error
	stopErr    map[string]error
	startTakes map[string]time.Duration
	stopTakes  time.Duration
	monitorErr error
	status     resource.Status // overrules active when not empty
	onStart    func()
	onStop     func()
	onMonitor  func()
}

func (a *fakeAgent) Check(cluster.Resource) error { return nil }

func (a *fakeAgent) Start(ctx context.Context, call resource.Call) error {
	name := call.Resource.Name
	a.mu.Lock()
	a.calls = append(a.calls, fmt.Sprintf("start %s#%d", name, call.Generation))
	takes, err, hook := a.startTakes[name], a.startErr[name], a.onStart
	a.mu.Unlock()
	if hook != nil {
		hook()
	}
	a.judge(call)
	if takes > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(takes):
		}
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.active[name] = true
	a.ended[name] = make(chan struct{})
	return nil
}

// judge checks rule P15 at the moment of a start: the boot owns the service,
// its ticket stands, and it has not said its last word on the generation.
func (a *fakeAgent) judge(call resource.Call) {
	s := a.r.state()
	if o := s.Owners[call.Service].Value; o.Boot != "b1" || o.Generation != call.Generation {
		a.r.t.Errorf("start of generation %d though the owner is %s, generation %d", call.Generation, o.Boot, o.Generation)
	}
	if t := s.Tickets[call.Service].Value; t.Boot != "b1" || t.Generation != call.Generation {
		a.r.t.Errorf("start of generation %d without its ticket: there is %+v", call.Generation, t)
	}
	if rp := s.Reports[call.Service].Value; rp.Boot == "b1" && rp.Generation == call.Generation &&
		(rp.State == cluster.ReportStopped || rp.State == cluster.ReportFailed) {
		a.r.t.Errorf("start of generation %d after it was reported %s", call.Generation, rp.State)
	}
}

func (a *fakeAgent) Stop(ctx context.Context, call resource.Call) error {
	a.mu.Lock()
	takes := a.stopTakes
	a.calls = append(a.calls, "stop "+call.Resource.Name)
	a.mu.Unlock()
	if takes > 0 {
		time.Sleep(takes)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.onStop != nil {
		a.onStop()
	}
	if err := a.stopErr[call.Resource.Name]; err != nil {
		return err
	}
	a.active[call.Resource.Name] = false
	return ctx.Err()
}

func (a *fakeAgent) Monitor(ctx context.Context, call resource.Call) (resource.Status, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.onMonitor != nil {
		a.onMonitor()
	}
	switch {
	case ctx.Err() != nil:
		return resource.StatusUnknown, ctx.Err()
	case a.status != "" || a.monitorErr != nil:
		return a.status, a.monitorErr
	case a.active[call.Resource.Name]:
		return resource.StatusActive, nil
	}
	return resource.StatusInactive, nil
}

// Watch makes it a resource.Watcher: an end is noticed at once.
func (a *fakeAgent) Watch(ctx context.Context, call resource.Call) error {
	a.mu.Lock()
	ended := a.ended[call.Resource.Name]
	a.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-ended:
		return fmt.Errorf("it ended")
	}
}

// kill ends a resource behind the executor's back.
func (a *fakeAgent) kill(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.active[name] = false
	close(a.ended[name])
}

// set changes the agent's behaviour.
func (a *fakeAgent) set(change func(a *fakeAgent)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

// take returns the starts and stops since the last call.
func (a *fakeAgent) take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := a.calls
	a.calls = nil
	return strings.Join(calls, ", ")
}

// anyActive tells whether anything of the service is left on the machine.
func (a *fakeAgent) anyActive() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.active["ip"] || a.active["app"]
}

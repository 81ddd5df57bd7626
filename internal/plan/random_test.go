package plan

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"testing"
	"time"

	"ringfence/internal/cluster"
)

// oddSeeds is how many odd snapshots the property tests look at.
const oddSeeds = 600

// records are what a state is made of, in any order.
type records []struct {
	kv    cluster.KV
	since time.Duration
}

func (r *records) put(key string, rev cluster.Revision, since time.Duration, record any) {
	*r = append(*r, struct {
		kv    cluster.KV
		since time.Duration
	}{cluster.KV{Key: key, Value: cluster.Put(key, record).Value, Rev: rev}, since})
}

func (r records) state() cluster.State {
	var s cluster.State
	for _, one := range r {
		if err := s.Apply(one.kv, false, one.since); err != nil {
			panic(err)
		}
	}
	return s
}

// odd makes a small cluster whose records need not fit together: what no run
// of the system would leave behind must not confuse the planner either.
type odd struct {
	*rand.Rand
	records
	rev      cluster.Revision
	deaf     int // in percent: how often a node does not hear another
	nodes    []cluster.NodeName
	boots    []cluster.Boot
	services []cluster.ServiceConfig
}

// oddNow is the clock of every odd snapshot; records are up to oddNow old.
const oddNow = time.Minute

func oddSnapshot(seed int64) (Snapshot, records) {
	g := &odd{Rand: rand.New(rand.NewSource(seed))}
	g.deaf = pick(g, 6, 6, 6, 6, 6, 80)
	g.addConfig()
	for _, node := range g.nodes {
		g.addNode(node)
	}
	for _, b := range g.boots {
		g.addBoot(b)
	}
	for _, def := range g.services {
		g.addService(def)
	}
	return Snapshot{State: g.state(), Now: oddNow, Self: pick(g, g.nodes...)}, g.records
}

// likely is true in so many of a hundred cases.
func (g *odd) likely(percent int) bool { return g.Intn(100) < percent }

func pick[T any](g *odd, from ...T) T { return from[g.Intn(len(from))] }

func (g *odd) some(percent int, from []cluster.NodeName) (out []cluster.NodeName) {
	for _, name := range from {
		if g.likely(percent) {
			out = append(out, name)
		}
	}
	return out
}

// add stores a record at the next revision, seen lately or long ago.
func (g *odd) add(key string, record any) {
	g.rev++
	since := oddNow - time.Duration(g.Intn(4000))*time.Millisecond
	if g.likely(30) {
		since = time.Duration(g.Intn(int(oddNow)))
	}
	g.put(key, g.rev, since, record)
}

func (g *odd) addConfig() {
	config := cluster.Config{Name: "test"}
	for i := range 1 + g.Intn(6) {
		name := cluster.NodeName(fmt.Sprintf("n%d", i+1))
		g.nodes = append(g.nodes, name)
		if g.likely(90) {
			config.Nodes = append(config.Nodes, cluster.NodeConfig{Name: name, Fence: pick(g, nil, [][]string{{"a"}, {"b", "c"}})})
		}
	}
	for i := range g.Intn(9) {
		def := cluster.ServiceConfig{Name: cluster.ServiceName(fmt.Sprintf("s%d", i+1)), FailureExpiry: pick(g, time.Second, 10*time.Minute)}
		if g.likely(60) {
			def.Nodes = g.some(60, g.nodes)
			g.Shuffle(len(def.Nodes), func(i, j int) { def.Nodes[i], def.Nodes[j] = def.Nodes[j], def.Nodes[i] })
		}
		for j := range 1 + g.Intn(2) {
			def.Resources = append(def.Resources, cluster.Resource{
				Name: fmt.Sprintf("r%d", j), Agent: "exec",
				Params: pick(g, nil, map[string]string{}, map[string]string{"command": "a", "user": "b"}), StartTimeout: time.Second,
			})
		}
		g.services = append(g.services, def)
		if g.likely(85) { // else it is owned, if at all, without being configured
			config.Services = append(config.Services, def)
		}
	}
	g.add(cluster.KeyMeta, cluster.Meta{ID: "c", Incarnation: 1})
	if g.likely(95) {
		g.add(cluster.KeyConfig, config)
	}
	if g.likely(95) {
		g.add(cluster.KeyLeader, cluster.Leader{Node: "n1", Boot: "n1-b1", Epoch: cluster.Epoch(g.Intn(5))})
	}
	if g.likely(10) {
		g.add(cluster.KeyDisarm, cluster.Disarm{By: "me", Reason: "work"})
	}
}

// addNode gives a node its record and up to three boots.
func (g *odd) addNode(name cluster.NodeName) {
	if g.likely(90) {
		g.add(cluster.KeyNode(name), cluster.Node{Name: name, Witness: g.likely(8), Removing: g.likely(5)})
	}
	if g.likely(6) {
		g.add(cluster.KeyStandby(name), cluster.Standby{Node: name, By: "me"})
	}
	var before []cluster.BootID
	life := cluster.LifeID("")
	for i := range pick(g, 0, 1, 1, 1, 1, 2, 2, 3) {
		b := cluster.Boot{
			ID: cluster.BootID(fmt.Sprintf("%s-b%d", name, i+1)), Node: name, Machine: pick(g, "", "m-"+string(name)),
			Phase: pick(g, cluster.PhaseMember, cluster.PhaseMember, cluster.PhaseMember, cluster.PhaseMember, cluster.PhaseJoining, cluster.PhaseLeaving),
		}
		if g.likely(70) {
			if life == "" || g.likely(60) {
				life = cluster.NewLifeID("h", 1+i, uint64(len(g.boots)))
			}
			b.Life, b.Guest = life, cluster.GuestID("g-"+string(name))
			b.Places = pick(g, nil, []cluster.HostName{"h1"}, []cluster.HostName{"h2"}, []cluster.HostName{"h1", "h2"})
		}
		if g.likely(90) {
			b.Predecessors = append(b.Predecessors, before...)
		}
		before = append(before, b.ID)
		g.boots = append(g.boots, b)
	}
	for i := range pick(g, 0, 0, 0, 0, 18) { // long forgotten
		id := cluster.BootID(fmt.Sprintf("%s-old%02d", name, i))
		g.add(cluster.KeyEnded(id), cluster.Ended{Boot: id, Node: name, Evidence: cluster.EvidenceLeave})
	}
}

// addBoot stores a boot and what was said of it.
func (g *odd) addBoot(b cluster.Boot) {
	if g.likely(97) {
		g.add(cluster.KeyBoot(b.ID), b)
	}
	if g.likely(20) {
		g.add(cluster.KeyEnded(b.ID), cluster.Ended{Boot: b.ID, Node: b.Node, Evidence: pick(g, cluster.EvidenceLeave, cluster.EvidenceFenced, cluster.EvidenceOperator)})
	}
	for _, host := range []cluster.HostName{"h1", "h2"} {
		if b.Life != "" && g.likely(20) {
			g.add(cluster.KeyCertificate(b.Life, host), cluster.DeathCertificate{
				Cluster: pick[cluster.ClusterID](g, "c", "c", "c", "other"), Guest: b.Guest, Life: b.Life, Host: host, Seq: 1,
				Cause: pick(g, cluster.CauseCrashed, cluster.CauseFenced, cluster.CauseHostRestarted),
			})
		}
	}
	if g.likely(12) {
		g.add(cluster.KeyFence(b.ID), cluster.Fence{Boot: b.ID, Node: b.Node, Reason: cluster.FenceSilent, Attempt: 1 + g.Intn(4), Executor: pick(g, g.nodes...)})
	}
	if g.likely(15) {
		g.add(cluster.KeyFenceReport(b.ID), cluster.FenceReport{
			Boot: b.ID, Attempt: 1 + g.Intn(4), Executor: pick(g, g.nodes...),
			Outcome: pick(g, cluster.OutcomeDone, cluster.OutcomeNotDone, cluster.OutcomeUnknown), Detail: "d",
		})
	}
	if g.likely(80) {
		view := cluster.View{Node: b.Node, Boot: b.ID, Abstain: g.likely(7), Silent: map[cluster.BootID]cluster.Silence{}}
		for _, other := range g.boots {
			if g.likely(g.deaf) || other.Node == "n2" && g.likely(60) {
				view.Silent[other.ID] = pick(g, cluster.SilenceSuspect, cluster.SilenceLost, cluster.SilenceLost)
			}
		}
		g.add(cluster.KeyView(b.Node), view)
	}
	if g.likely(25) {
		answers := map[cluster.NodeName]cluster.Revision{}
		for _, accuser := range g.some(50, g.nodes) {
			answers[accuser] = 1
		}
		g.add(cluster.KeyAppeal(b.ID), cluster.Appeal{Node: b.Node, Boot: b.ID, Answers: answers})
	}
	if g.likely(93) {
		probe := cluster.Probe{Node: b.Node, Boot: b.ID, Config: pick[cluster.Revision](g, 2, 2, 2, 2, 2, 2, 2, 1)}
		if len(g.services) > 0 && g.likely(6) {
			probe.Active = map[cluster.ServiceName]string{pick(g, g.services...).Name: "found"}
		}
		if len(g.services) > 0 && g.likely(4) {
			probe.Autostart = map[cluster.ServiceName]string{pick(g, g.services...).Name: "a unit is enabled"}
		}
		g.add(cluster.KeyProbe(b.Node), probe)
	}
}

// addService gives a service an owner, a report, wishes and failures, or not.
func (g *odd) addService(def cluster.ServiceConfig) {
	if g.likely(15) {
		wish := cluster.Wish{Service: def.Name, Stopped: g.likely(30), By: "me"}
		if !wish.Stopped {
			wish.MoveTo = pick(g, g.nodes...)
		}
		g.add(cluster.KeyWish(def.Name), wish)
	}
	for _, node := range g.some(10, g.nodes) {
		g.add(cluster.KeyFailure(def.Name, node), cluster.Failure{
			Service: def.Name, Node: node, Count: 1, Detail: "d",
			Ban: pick(g, cluster.BanNone, cluster.BanNone, cluster.BanNode, cluster.BanCluster), Config: pick[cluster.Revision](g, 1, 2),
		})
	}
	if g.likely(30) {
		return
	}
	owner := cluster.Owner{Service: def.Name, Generation: cluster.Generation(g.Intn(3)), Definition: def, Want: pick(g, cluster.WantRun, cluster.WantRun, cluster.WantStop)}
	if len(g.boots) > 0 && g.likely(90) {
		b := pick(g, g.boots...)
		owner.Node, owner.Boot = b.Node, b.ID
	}
	if g.likely(10) {
		owner.Definition.Resources = append(owner.Definition.Resources[:0:0], def.Resources...)
		owner.Definition.Resources[0].StopTimeout++
	}
	if g.likely(3) {
		owner.Node, owner.Boot = "n1", "nobody-knows"
	}
	g.add(cluster.KeyOwner(def.Name), owner)
	if g.likely(85) {
		g.add(cluster.KeyReport(def.Name), cluster.Report{
			Service: def.Name, Node: owner.Node, Boot: owner.Boot, Generation: owner.Generation + pick[cluster.Generation](g, 0, 0, 0, 0, 0, 1),
			State: pick(g, cluster.ReportStarting, cluster.ReportRunning, cluster.ReportRunning, cluster.ReportRunning, cluster.ReportRestarting,
				cluster.ReportStopping, cluster.ReportStopped, cluster.ReportFailed, cluster.ReportStopFailed),
			Detail: pick(g, "", "d"),
		})
	}
}

func encode(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// eachOdd calls f with many odd snapshots and their plans.
func eachOdd(t *testing.T, f func(t *testing.T, s Snapshot, result Result)) {
	t.Helper()
	for seed := range int64(oddSeeds) {
		s, _ := oddSnapshot(seed)
		result := Plan(s)
		t.Run(fmt.Sprint(seed), func(t *testing.T) { f(t, s, result) })
	}
}

// The tests below say something only if the odd snapshots lead to decisions of
// every kind, and to services in every state.
func TestOddSnapshotsLeadToEveryKindOfDecision(t *testing.T) {
	orders, states := map[OrderKind]int{}, map[cluster.ServiceState]int{}
	for seed := range int64(oddSeeds) {
		s, _ := oddSnapshot(seed)
		result := Plan(s)
		for _, o := range result.Orders {
			orders[o.Kind]++
		}
		for _, s := range result.Services {
			states[s.State]++
		}
	}
	for _, kind := range []OrderKind{OrderEnd, OrderFence, OrderRetry, OrderAssign, OrderStop, OrderRelease, OrderTidy} {
		if orders[kind] < 20 {
			t.Errorf("%d orders of the kind %s in %d snapshots: %v", orders[kind], kind, oddSeeds, orders)
		}
	}
	for state := range cluster.ServiceTransitions() {
		if states[state] < 10 && state != cluster.ServiceUnknown { // of which no plan speaks
			t.Errorf("%d services are %q in %d snapshots: %v", states[state], state, oddSeeds, states)
		}
	}
}

func TestEveryOrderComparesTheLeader(t *testing.T) {
	eachOdd(t, func(t *testing.T, s Snapshot, result Result) {
		want := cluster.Guard{Key: cluster.KeyLeader, Rev: s.State.Leader.Rev}
		for _, o := range result.Orders {
			if len(o.Guards) == 0 || o.Guards[0] != want {
				t.Errorf("%s %s: guards %v, want %v first", o.Kind, o.Subject, o.Guards, want)
			}
		}
	})
}

// Two orders of one plan for the same service, or two that put the same record,
// would contradict each other, or the second would be void for sure.
func TestNoServiceGetsTwoOrdersInOnePlan(t *testing.T) {
	eachOdd(t, func(t *testing.T, _ Snapshot, result Result) {
		ordered, put := map[string]string{}, map[string]string{}
		for _, o := range result.Orders {
			for _, w := range o.Writes {
				if !w.Delete && put[w.Key] != "" {
					t.Errorf("%s is put twice: %s; %s", w.Key, put[w.Key], o.Text)
				}
				put[w.Key] = o.Text
			}
			about := cluster.ServiceName(o.Subject)
			if !touches(o, cluster.KeyOwner(about)) && !touches(o, cluster.KeyWish(about)) {
				continue
			}
			if ordered[o.Subject] != "" {
				t.Errorf("%s gets two orders: %s; %s", o.Subject, ordered[o.Subject], o.Text)
			}
			ordered[o.Subject] = o.Text
		}
	})
}

func touches(o Order, key string) bool {
	for _, w := range o.Writes {
		if w.Key == key {
			return true
		}
	}
	return false
}

// An order that takes a service from a boot compares what proves that this boot
// does not run it any more (P15): its tombstone, or its own last report.
func TestOwnershipMovesOnlyWithItsProof(t *testing.T) {
	eachOdd(t, func(t *testing.T, s Snapshot, result Result) {
		for _, o := range result.Orders {
			was := s.State.Owners[cluster.ServiceName(o.Subject)].Value
			if o.Kind != OrderAssign && o.Kind != OrderRelease || was.Boot == "" {
				continue
			}
			proved := false
			for _, g := range o.Guards {
				tombstone := g.Key == cluster.KeyEnded(was.Boot) && g.Rev != 0
				report := s.State.Reports[was.Service].Value
				last := g.Key == cluster.KeyReport(was.Service) && g.Rev != 0 && report.Boot == was.Boot && report.Generation == was.Generation &&
					(report.State == cluster.ReportStopped || report.State == cluster.ReportFailed)
				proved = proved || tombstone || last
			}
			if !proved {
				t.Errorf("%s moves from boot %s without proof; guards %v", was.Service, was.Boot, o.Guards)
			}
		}
	})
}

func TestPlanDoesNotChangeItsSnapshot(t *testing.T) {
	for seed := range int64(oddSeeds) {
		s, _ := oddSnapshot(seed)
		before := encode(t, s)
		Plan(s)
		if after := encode(t, s); after != before {
			t.Fatalf("seed %d: the snapshot changed\nbefore %s\nafter  %s", seed, before, after)
		}
	}
}

// Maps are walked in any order, and are built in another one here.
func TestTheSameSnapshotGivesTheSamePlan(t *testing.T) {
	for seed := range int64(oddSeeds) {
		s, made := oddSnapshot(seed)
		want := encode(t, Plan(s))
		other := rand.New(rand.NewSource(-1 - seed))
		for range 3 {
			shuffled := append(records(nil), made...)
			lastOfKey := keepLast(shuffled)
			other.Shuffle(len(lastOfKey), func(i, j int) { lastOfKey[i], lastOfKey[j] = lastOfKey[j], lastOfKey[i] })
			again := Snapshot{State: lastOfKey.state(), Now: s.Now, Self: s.Self}
			if got := encode(t, Plan(again)); got != want {
				t.Fatalf("seed %d: two plans for one snapshot\n%s\n%s", seed, want, got)
			}
		}
	}
}

// keepLast drops records that later ones of the same key replace.
func keepLast(all records) records {
	var out records
	for i, one := range all {
		replaced := false
		for _, later := range all[i+1:] {
			replaced = replaced || later.kv.Key == one.kv.Key
		}
		if !replaced {
			out = append(out, one)
		}
	}
	return out
}

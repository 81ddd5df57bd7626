package plan

import (
	"fmt"
	"testing"
	"time"

	"ringfence/internal/cluster"
)

// size of a cluster that is measured.
type size struct{ nodes, services int }

func (z size) String() string { return fmt.Sprintf("%dx%d", z.nodes, z.services) }

var sizes = []size{{32, 1000}, {100, 10000}}

// scenes are the snapshots that BenchmarkPlan plans, with what must come out of
// them: a benchmark of the wrong plan would say nothing.
var scenes = []struct {
	name string
	make func(z size) Snapshot
	want func(z size) map[OrderKind]int
}{
	{"steady", steady, func(size) map[OrderKind]int { return nil }},
	{"death-proved", deathProved, func(size) map[OrderKind]int { return map[OrderKind]int{OrderEnd: 1} }},
	{"death-moves", deathMoves, func(z size) map[OrderKind]int { return map[OrderKind]int{OrderAssign: ownedByFirst(z)} }},
	{"cold-start", coldStart, func(z size) map[OrderKind]int { return map[OrderKind]int{OrderAssign: z.services} }},
	{"all-accuse-one", allAccuseOne, func(size) map[OrderKind]int { return map[OrderKind]int{OrderFence: 1} }},
	{"each-accuses-one", eachAccusesOne, func(size) map[OrderKind]int { return nil }},
}

func nodeName(i int) cluster.NodeName { return cluster.NodeName(fmt.Sprintf("node-%03d", i)) }

func bootID(i int) cluster.BootID { return cluster.BootID(fmt.Sprintf("5f7a1c2e-%03d-boot", i)) }

func lifeOf(i int) cluster.LifeID { return cluster.NewLifeID("host-boot", i, 1) }

// ownedByFirst is how many services the first node has in a steady cluster.
func ownedByFirst(z size) int { return (z.services + z.nodes - 1) / z.nodes }

// definitions of the services: an address and a program each. Every other one
// lists three nodes, the rest may run everywhere.
func definitions(z size) []cluster.ServiceConfig {
	var out []cluster.ServiceConfig
	for i := range z.services {
		def := cluster.ServiceConfig{
			Name: cluster.ServiceName(fmt.Sprintf("service-%05d", i)), Restarts: cluster.DefaultRestarts,
			RestartWindow: cluster.DefaultRestartWindow, FailureExpiry: cluster.DefaultFailureExpiry,
			Resources: []cluster.Resource{
				{Name: "address", Agent: "ip", Params: map[string]string{"address": "192.0.2.1/24", "interface": "eth0"}},
				{Name: "program", Agent: "exec", Params: map[string]string{"command": "/usr/local/bin/serve --port 8080", "user": "serve"}},
			},
		}
		for j := range def.Resources {
			r := &def.Resources[j]
			r.StartTimeout, r.StopTimeout = cluster.DefaultStartTimeout, cluster.DefaultStopTimeout
			r.MonitorTimeout, r.MonitorInterval = cluster.DefaultMonitorTimeout, cluster.DefaultMonitorInterval
		}
		if i%2 == 1 {
			def.Nodes = []cluster.NodeName{nodeName(i % z.nodes), nodeName((i + 1) % z.nodes), nodeName((i + 2) % z.nodes)}
		}
		out = append(out, def)
	}
	return out
}

// base is a cluster whose nodes are all members, each hears all, and has looked
// for the services, of which none is owned.
func base(z size) (records, []cluster.ServiceConfig) {
	var r records
	config := cluster.Config{Name: "bench", Services: definitions(z)}
	for i := range z.nodes {
		config.Nodes = append(config.Nodes, cluster.NodeConfig{Name: nodeName(i)})
	}
	r.put(cluster.KeyMeta, 1, 0, cluster.Meta{ID: "c", Incarnation: 1, Format: cluster.FormatVersion})
	r.put(cluster.KeyConfig, 2, 0, config)
	r.put(cluster.KeyLeader, 3, 0, cluster.Leader{Node: nodeName(1), Boot: bootID(1), Epoch: 1})
	for i := range z.nodes {
		n, b := nodeName(i), bootID(i)
		r.put(cluster.KeyNode(n), 4, 0, cluster.Node{Name: n, Address: "192.0.2.1"})
		r.put(cluster.KeyBoot(b), 5, 0, cluster.Boot{
			ID: b, Node: n, Phase: cluster.PhaseMember, Life: lifeOf(i), Guest: "g", Places: []cluster.HostName{"h"}, Binding: &cluster.Binding{Node: n, Boot: b},
		})
		r.put(cluster.KeyView(n), 6, 0, cluster.View{Node: n, Boot: b})
		r.put(cluster.KeyProbe(n), 7, 0, cluster.Probe{Node: n, Boot: b, Config: 2})
	}
	return r, config.Services
}

// running is base, and service i runs on node i modulo their number.
func running(z size) records {
	r, defs := base(z)
	for i, def := range defs {
		n, b := nodeName(i%z.nodes), bootID(i%z.nodes)
		r.put(cluster.KeyOwner(def.Name), 8, 0, cluster.Owner{
			Service: def.Name, Generation: 1, Node: n, Boot: b, Want: cluster.WantRun, Epoch: 1, Definition: def, Reason: "nobody owns it",
		})
		r.put(cluster.KeyTicket(def.Name), 9, 0, cluster.Ticket{Service: def.Name, Generation: 1, Node: n, Boot: b, Epoch: 1})
		r.put(cluster.KeyReport(def.Name), 10, 0, cluster.Report{Service: def.Name, Node: n, Boot: b, Generation: 1, State: cluster.ReportRunning})
	}
	return r
}

func (r records) snapshot() Snapshot {
	return Snapshot{State: r.state(), Now: time.Hour, Self: nodeName(1)}
}

// steady: everything runs, nothing is to do.
func steady(z size) Snapshot { return running(z).snapshot() }

// coldStart: everything is to be assigned.
func coldStart(z size) Snapshot {
	r, _ := base(z)
	return r.snapshot()
}

// deathProved: a certificate for the first node's life stands.
func deathProved(z size) Snapshot {
	r := running(z)
	r.put(cluster.KeyCertificate(lifeOf(0), "h"), 11, 0, cluster.DeathCertificate{Cluster: "c", Guest: "g", Life: lifeOf(0), Host: "h", Seq: 1, Cause: cluster.CauseCrashed})
	return r.snapshot()
}

// deathMoves: the next snapshot: the tombstone stands, the services are to move.
func deathMoves(z size) Snapshot {
	s := deathProved(z)
	carryOut(&s.State, Plan(s))
	return s
}

// allAccuseOne: every node says that the first is lost.
func allAccuseOne(z size) Snapshot {
	r := running(z)
	for i := 1; i < z.nodes; i++ {
		r.put(cluster.KeyView(nodeName(i)), 11, time.Hour, cluster.View{Node: nodeName(i), Boot: bootID(i), Silent: map[cluster.BootID]cluster.Silence{bootID(0): cluster.SilenceLost}})
	}
	return r.snapshot()
}

// eachAccusesOne: every node says that its neighbour is lost.
func eachAccusesOne(z size) Snapshot {
	r := running(z)
	for i := range z.nodes {
		r.put(cluster.KeyView(nodeName(i)), 11, time.Hour, cluster.View{Node: nodeName(i), Boot: bootID(i), Silent: map[cluster.BootID]cluster.Silence{bootID((i + 1) % z.nodes): cluster.SilenceLost}})
	}
	return r.snapshot()
}

// carryOut is a store in which every guard holds. It reports how many orders there were.
func carryOut(state *cluster.State, result Result) int {
	rev := state.Rev
	for _, o := range result.Orders {
		rev++
		for _, w := range o.Writes {
			if err := state.Apply(cluster.KV{Key: w.Key, Value: w.Value, Rev: rev}, w.Delete, time.Hour); err != nil {
				panic(err)
			}
		}
	}
	return len(result.Orders)
}

// BenchmarkPlan measures one plan.
func BenchmarkPlan(b *testing.B) {
	for _, scene := range scenes {
		for _, z := range sizes {
			b.Run(scene.name+"/"+z.String(), func(b *testing.B) {
				s := scene.make(z)
				b.ReportAllocs()
				for b.Loop() {
					Plan(s)
				}
			})
		}
	}
}

// BenchmarkPlanDeath measures all plans from a certificate on until nothing is
// ordered any more, and taking over what they order.
func BenchmarkPlanDeath(b *testing.B) {
	for _, z := range sizes {
		b.Run(z.String(), func(b *testing.B) {
			dead := deathProved(z)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				s := Snapshot{State: dead.State.Clone(), Now: dead.Now, Self: dead.Self}
				b.StartTimer()
				plans := 1
				for carryOut(&s.State, Plan(s)) > 0 {
					plans++
				}
				b.ReportMetric(float64(plans), "plans")
			}
		})
	}
}

// What is measured is what its name says.
func TestTheScenesOfTheBenchmarksPlanWhatTheySay(t *testing.T) {
	z := size{nodes: 5, services: 23}
	for _, scene := range scenes {
		s, got := scene.make(z), map[OrderKind]int{}
		for _, o := range Plan(s).Orders {
			got[o.Kind]++
		}
		if want := scene.want(z); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: orders %v, want %v", scene.name, got, want)
		}
	}
}

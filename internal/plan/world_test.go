package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ringfence/internal/cluster"
)

// world is a cluster made of nothing but its store: it commits what plan
// orders, plays the obedient nodes, and writes the story down.
type world struct {
	state cluster.State
	rev   cluster.Revision
	now   time.Duration
	self  cluster.NodeName
	away  bool                      // the planner had a gap
	obey  map[cluster.NodeName]bool // nodes that carry out orders
	fail  map[string]string         // service@node -> report state instead of running/stopped
	ban   cluster.Ban               // of the next report
	story []string
	// last states seen, to check every transition
	nodes    map[cluster.BootID]cluster.NodeState
	services map[cluster.ServiceName]cluster.ServiceState
	owned    map[cluster.ServiceName]cluster.Owner
	faults   []string
}

func newWorld() *world {
	w := &world{
		self: "n1", obey: map[cluster.NodeName]bool{}, fail: map[string]string{},
		nodes: map[cluster.BootID]cluster.NodeState{}, services: map[cluster.ServiceName]cluster.ServiceState{},
		owned: map[cluster.ServiceName]cluster.Owner{},
	}
	w.put(cluster.KeyMeta, cluster.Meta{ID: "c", Name: "test", Incarnation: 1, Format: cluster.FormatVersion})
	w.put(cluster.KeyLeader, cluster.Leader{Node: "n1", Boot: "n1-b1", Epoch: 1})
	return w
}

func (w *world) note(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf("%6.2f  ", w.now.Seconds())+fmt.Sprintf(format, args...))
}

func (w *world) put(key string, record any) { w.commit(nil, cluster.Put(key, record)) }

// commit is the store: guards, then all writes at one revision.
func (w *world) commit(guards []cluster.Guard, writes ...cluster.Write) bool {
	for _, g := range guards {
		if w.revOf(g.Key) != g.Rev {
			return false
		}
	}
	w.rev++
	for _, write := range writes {
		if err := w.state.Apply(cluster.KV{Key: write.Key, Value: write.Value, Rev: w.rev}, write.Delete, w.now); err != nil {
			panic(err)
		}
	}
	w.checkOwners()
	w.checkStates(Plan(Snapshot{State: w.state.Clone(), Now: w.now, Self: w.self, Abstain: w.away}))
	return true
}

// revOf finds a key's revision by asking the decoded state.
func (w *world) revOf(key string) cluster.Revision {
	kind, name, _ := strings.Cut(strings.TrimPrefix(key, cluster.Prefix), "/")
	s := &w.state
	switch kind {
	case "meta":
		return s.Meta.Rev
	case "config":
		return s.Config.Rev
	case "leader":
		return s.Leader.Rev
	case "disarm":
		return s.Disarm.Rev
	case "boot":
		return s.Boots[cluster.BootID(name)].Rev
	case "ended":
		return s.Ended[cluster.BootID(name)].Rev
	case "certificate":
		return s.Certs[name].Rev
	case "contradiction":
		return s.Contras[cluster.BootID(name)].Rev
	case "absence":
		return s.Absence[name].Rev
	case "view":
		return s.Views[cluster.NodeName(name)].Rev
	case "appeal":
		return s.Appeals[cluster.BootID(name)].Rev
	case "fence":
		return s.Fences[cluster.BootID(name)].Rev
	case "fence-report":
		return s.FenceRp[cluster.BootID(name)].Rev
	case "power-on":
		return s.PowerOn[cluster.BootID(name)].Rev
	case "node":
		return s.Nodes[cluster.NodeName(name)].Rev
	case "standby":
		return s.Standby[cluster.NodeName(name)].Rev
	case "owner":
		return s.Owners[cluster.ServiceName(name)].Rev
	case "report":
		return s.Reports[cluster.ServiceName(name)].Rev
	case "failure":
		return s.Failed[name].Rev
	case "wish":
		return s.Wishes[cluster.ServiceName(name)].Rev
	}
	panic("world: no revision for " + key)
}

// checkOwners is the rule P15 in a second, dumb form: an owner may change only
// when the former boot's verified stop or failure stands, or its tombstone.
func (w *world) checkOwners() {
	for name, rec := range w.state.Owners {
		was, is := w.owned[name], rec.Value
		if was.Boot != "" && (was.Boot != is.Boot || was.Generation != is.Generation) {
			_, ended := w.state.Ended[was.Boot]
			ended = ended && !w.answers(was.Boot)
			report := w.state.Reports[name].Value
			stopped := report.Boot == was.Boot && report.Generation == was.Generation &&
				(report.State == cluster.ReportStopped || report.State == cluster.ReportFailed)
			if !ended && !stopped {
				w.faults = append(w.faults, fmt.Sprintf("%s left boot %s without stop report or evidence", name, was.Boot))
			}
		}
		if is.Generation < was.Generation {
			w.faults = append(w.faults, fmt.Sprintf("generation of %s went back", name))
		}
		w.owned[name] = is
	}
}

// answers is the rule P11 in a dumb form: a contradiction stands that neither an
// operator, nor a newer boot, certificate or fence report has ended.
func (w *world) answers(boot cluster.BootID) bool {
	c, stands := w.state.Contras[boot]
	report := w.state.FenceRp[boot]
	config, _ := w.state.Config.Value.Node(c.Value.Node)
	levels := config.Fence
	byOther := len(levels) > 0 && !slices.Contains(levels[max(0, report.Value.Attempt-1)%len(levels)], "hostd")
	over := c.Value.Settled != "" || byOther && report.Rev > c.Value.Seen && report.Value.Outcome == cluster.OutcomeDone
	for _, b := range w.state.Boots {
		over = over || slices.Contains(b.Value.Predecessors, boot)
	}
	for _, cert := range w.state.Certs {
		over = over || cert.Value.Life == c.Value.Life && cert.Rev > c.Value.Seen && !slices.Contains(c.Value.Hosts, cert.Value.Host)
	}
	return stands && !over
}

// plan runs one plan and commits its orders.
func (w *world) plan() int {
	before := w.state.Clone()
	result := Plan(Snapshot{State: w.state.Clone(), Now: w.now, Self: w.self, Abstain: w.away})
	again := Plan(Snapshot{State: before, Now: w.now, Self: w.self, Abstain: w.away})
	if fmt.Sprint(result) != fmt.Sprint(again) {
		w.faults = append(w.faults, "the same snapshot gave two different plans")
	}
	for _, o := range result.Orders {
		if w.commit(o.Guards, o.Writes...) {
			w.note("%-8s %s", o.Kind, o.Text)
		} else {
			w.note("%-8s void: %s", o.Kind, o.Text)
		}
	}
	return len(result.Orders)
}

// checkStates compares every change of state with the tables of the vocabulary.
func (w *world) checkStates(result Result) {
	for _, n := range result.Nodes {
		was, known := w.nodes[n.Boot]
		if known && was != n.State && !slices.Contains(cluster.NodeTransitions()[was], n.State) {
			w.faults = append(w.faults, fmt.Sprintf("boot %s went from %q to %q", n.Boot, was, n.State))
		}
		w.nodes[n.Boot] = n.State
	}
	seen := map[cluster.ServiceName]cluster.ServiceState{}
	for _, s := range result.Services {
		seen[s.Name] = s.State
	}
	for name := range w.services {
		if _, reported := seen[name]; !reported {
			seen[name] = cluster.ServiceUnknown
		}
	}
	for name, is := range seen {
		if was := w.services[name]; was != is && !slices.Contains(cluster.ServiceTransitions()[was], is) {
			w.faults = append(w.faults, fmt.Sprintf("service %s went from %q to %q", name, was, is))
		}
	}
	w.services = seen
}

// settle plans and lets the nodes obey until nothing changes.
func (w *world) settle() {
	for range 100 {
		done := w.plan() + w.obeyOrders()
		if done == 0 {
			return
		}
	}
	w.faults = append(w.faults, "does not settle")
}

// obeyOrders lets every obedient live boot do what its owner records say.
func (w *world) obeyOrders() int {
	done := 0
	for _, name := range slices.Sorted(maps.Keys(w.state.Owners)) {
		owner := w.state.Owners[name].Value
		report := w.state.Reports[name].Value
		if owner.Boot == "" || !w.obey[owner.Node] || w.boot(owner.Node) != owner.Boot {
			continue
		}
		want := cluster.ReportRunning
		if owner.Want == cluster.WantStop {
			want = cluster.ReportStopped
		}
		detail := ""
		if other, ok := w.fail[string(name)+"@"+string(owner.Node)+"/"+string(owner.Want)]; ok {
			state, ban, _ := strings.Cut(other, "/") // failed/node: its agent bans it
			want, detail, w.ban = cluster.ReportState(state), "as the scenario says", cluster.Ban(ban)
		}
		if report.Boot == owner.Boot && report.Generation == owner.Generation && report.State == want {
			continue
		}
		w.report(owner, want, detail)
		w.ban = ""
		done++
	}
	return done
}

func (w *world) report(owner cluster.Owner, state cluster.ReportState, detail string) {
	if state == cluster.ReportRunning {
		w.put(cluster.KeyTicket(owner.Service), cluster.Ticket{Service: owner.Service, Generation: owner.Generation, Node: owner.Node, Boot: owner.Boot, Epoch: w.state.Leader.Value.Epoch})
	}
	w.put(cluster.KeyReport(owner.Service), cluster.Report{
		Service: owner.Service, Node: owner.Node, Boot: owner.Boot,
		Generation: owner.Generation, State: state, Detail: detail, Ban: w.ban,
	})
	w.note("report   %s on %s, generation %d: %s", owner.Service, owner.Node, owner.Generation, state)
}

// boot returns the newest boot of a node.
func (w *world) boot(node cluster.NodeName) cluster.BootID {
	for i := 99; i > 0; i-- {
		id := cluster.BootID(fmt.Sprintf("%s-b%d", node, i))
		if _, ok := w.state.Boots[id]; ok {
			return id
		}
	}
	return ""
}

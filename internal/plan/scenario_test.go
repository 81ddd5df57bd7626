package plan

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
)

var update = flag.Bool("update", false, "rewrite the expected stories; explain every changed line in the commit")

const wantMark = "-- want --\n"

// TestScenarios plays every file in testdata: a comment that says why, commands
// one a line, and behind the mark the expected story.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios found: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			script, want, marked := strings.Cut(string(data), wantMark)
			if !strings.HasPrefix(script, "# why: ") {
				t.Error("a scenario begins with `# why: `")
			}
			got := play(t, script)
			if *update {
				if err := os.WriteFile(file, []byte(script+wantMark+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !marked || strings.TrimSpace(want) == "" {
				t.Fatal("the scenario has no expected story")
			}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("story (-want +got):\n%s", diff)
			}
		})
	}
}

func play(t *testing.T, script string) string {
	w := newWorld()
	for i, line := range strings.Split(script, "\n") {
		line, _, _ = strings.Cut(line, "#")
		args := strings.Fields(line)
		if len(args) == 0 {
			continue
		}
		do, ok := verbs[args[0]]
		if args[0] == "late" { // not in the table: it looks others up there
			do, ok = doLate, true
		}
		if !ok {
			t.Fatalf("line %d: no command %q", i+1, args[0])
		}
		if args[0] != "settle" && args[0] != "plan" {
			w.note("> %s", strings.Join(args, " "))
		}
		do(w, args[1:])
		for _, fault := range w.faults {
			t.Errorf("line %d (%s): %s", i+1, strings.TrimSpace(line), fault)
		}
		w.faults = nil
	}
	return strings.Join(w.story, "\n") + "\n"
}

// verbs are the commands of a scenario. Wrong arguments panic: it is a test.
var verbs = map[string]func(w *world, args []string){
	"cluster":   func(w *world, args []string) { doCluster(w, args) },
	"witness":   func(w *world, args []string) { doWitness(w, args[0], opts(args[1:])) },
	"service":   doService,
	"unservice": doUnservice,
	"boot":      func(w *world, args []string) { doBoot(w, args[0], opts(args[1:])) },
	"member":    func(w *world, args []string) { w.phase(args[0], cluster.PhaseMember) },
	"leaving":   func(w *world, args []string) { w.phase(args[0], cluster.PhaseLeaving) },
	"left":      func(w *world, args []string) { w.end(args[0], cluster.EvidenceLeave) },
	"confirm":   func(w *world, args []string) { w.end(args[0], cluster.EvidenceOperator) },
	"probe":     doProbe,
	"autostart": doAutostart,
	"silent":    doSilent,
	"appeal":    doAppeal,
	"cert":      doCert,
	"attempt":   doAttempt,
	"answers":   doAnswers,
	"trust":     doTrust,
	"sure":      doSure,
	"started":   doStarted,
	"policy":    doPolicy,
	"deaf":      func(w *world, args []string) { w.obey[cluster.NodeName(args[0])] = false },
	"obey":      func(w *world, args []string) { w.obey[cluster.NodeName(args[0])] = true },
	"on":        func(w *world, args []string) { w.fail[args[0]+"/"+args[1]] = strings.Join(args[2:], " ") },
	"report":    doReport,
	"place":     doPlace,
	"arrive":    doArrive,
	"absent":    doAbsent,
	"absences":  func(w *world, _ []string) { w.note("%d absences on record", len(w.state.Absence)) },
	"standby":   func(w *world, args []string) { w.standby(args[0]) },
	"unstandby": func(w *world, args []string) {
		w.commit(nil, cluster.Remove(cluster.KeyStandby(cluster.NodeName(args[0]))))
	},
	"wish":     doWish,
	"clear":    doClear,
	"disarm":   func(w *world, _ []string) { w.put(cluster.KeyDisarm, cluster.Disarm{By: "op", Reason: "switch work"}) },
	"arm":      func(w *world, _ []string) { w.commit(nil, cluster.Remove(cluster.KeyDisarm)) },
	"warnings": doWarnings,
	"leader":   doLeader,
	"away":     func(w *world, args []string) { w.away = args[0] == "on" },
	"wait":     doWait,
	"settle":   func(w *world, _ []string) { w.settle() },
	"plan":     func(w *world, _ []string) { w.plan() },
	"why":      doWhy,
	"whynode":  doWhyNode,
	"levels":   doLevels,
	"level":    doLevel,
	"restamp":  func(w *world, _ []string) { w.restamp() },
	"retire":   doRetire,
	"doom":     doDoom,
	"tombs":    doTombs,
}

func opts(args []string) map[string]string {
	out := map[string]string{}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		out[k] = v
	}
	return out
}

// doCluster: cluster n1@h1 n2@h2 n3: members, booted, probed, obedient. Most
// scenarios are over with the recovery: what is fenced stays off; see policy.
func doCluster(w *world, args []string) {
	config := cluster.Config{Name: "test", AfterFence: cluster.AfterFenceStayOff}
	for _, a := range args {
		name, _, _ := strings.Cut(a, "@")
		config.Nodes = append(config.Nodes, cluster.NodeConfig{Name: cluster.NodeName(name)})
		w.put(cluster.KeyNode(cluster.NodeName(name)), cluster.Node{Name: cluster.NodeName(name)})
	}
	w.put(cluster.KeyConfig, config)
	for _, a := range args {
		name, host, _ := strings.Cut(a, "@")
		doBoot(w, name, map[string]string{"host": host})
		w.phase(name, cluster.PhaseMember)
		w.probe(name, "")
		w.obey[cluster.NodeName(name)] = true
	}
}

// doWitness: witness w [host=h3]: a member without services, which probes nothing.
func doWitness(w *world, name string, o map[string]string) {
	w.put(cluster.KeyNode(cluster.NodeName(name)), cluster.Node{Name: cluster.NodeName(name), Witness: true})
	doBoot(w, name, map[string]string{"machine": "machine of " + name})
	if o["host"] != "" {
		doPlace(w, []string{name, o["host"]})
	}
	w.phase(name, cluster.PhaseMember)
}

// doBoot: boot n1 host=h1 [life=same|NAME] [machine=M] [after=all]: registers
// the next boot, newer than the last one or than all that are on record.
func doBoot(w *world, node string, o map[string]string) {
	n := cluster.NodeName(node)
	last := w.boot(n)
	num := 1
	if last != "" {
		_, digits, _ := strings.Cut(string(last), "-b")
		num, _ = strconv.Atoi(digits)
		num++
	}
	b := cluster.Boot{ID: cluster.BootID(fmt.Sprintf("%s-b%d", n, num)), Node: n, Phase: cluster.PhaseJoining, Machine: o["machine"]}
	if o["host"] == "" && o["machine"] == "" {
		b.Machine = "machine of " + node
	}
	if last != "" {
		b.Predecessors = []cluster.BootID{last}
	}
	if o["after"] == "all" {
		b.Predecessors = w.bootsOf(n)
	}
	if o["host"] != "" {
		b.Life, b.Guest = cluster.LifeID(fmt.Sprintf("%s-life%d", n, num)), cluster.GuestID("guest-"+node)
		b.Places = []cluster.HostName{cluster.HostName(o["host"])}
	}
	switch o["life"] {
	case "":
	case "same":
		b.Life = w.state.Boots[last].Value.Life
	default:
		b.Life = cluster.LifeID(o["life"])
	}
	w.put(cluster.KeyBoot(b.ID), b)
}

func (w *world) phase(node string, phase cluster.Phase) {
	b := w.state.Boots[w.boot(cluster.NodeName(node))].Value
	b.Phase = phase
	w.put(cluster.KeyBoot(b.ID), b)
}

func (w *world) end(node string, kind cluster.EvidenceKind) {
	b := w.boot(cluster.NodeName(node))
	w.put(cluster.KeyEnded(b), cluster.Ended{Boot: b, Node: cluster.NodeName(node), Evidence: kind, Detail: "as the scenario says"})
}

func (w *world) probe(node, active string) {
	p := cluster.Probe{Node: cluster.NodeName(node), Boot: w.boot(cluster.NodeName(node)), Config: w.state.Config.Rev}
	if active != "" {
		p.Active = map[cluster.ServiceName]string{cluster.ServiceName(active): "found by its probe"}
	}
	w.put(cluster.KeyProbe(p.Node), p)
}

// doProbe: probe n1 [active=db]
func doProbe(w *world, args []string) { w.probe(args[0], opts(args[1:])["active"]) }

// doAutostart: autostart n2 db|none: n2's probe finds what would start db there.
func doAutostart(w *world, args []string) {
	p := w.state.Probes[cluster.NodeName(args[0])].Value
	p.Autostart = nil
	if args[1] != "none" {
		p.Autostart = map[cluster.ServiceName]string{cluster.ServiceName(args[1]): "a unit is enabled; run: systemctl disable it"}
	}
	w.put(cluster.KeyProbe(p.Node), p)
}

// doService: service db [nodes=n1,n2] [expiry=10m] [command=x] [noprobe=yes]
func doService(w *world, args []string) {
	o := opts(args[1:])
	def := cluster.ServiceConfig{Name: cluster.ServiceName(args[0]), FailureExpiry: cluster.DefaultFailureExpiry}
	if o["nodes"] != "" {
		for _, n := range strings.Split(o["nodes"], ",") {
			def.Nodes = append(def.Nodes, cluster.NodeName(n))
		}
	}
	if o["expiry"] != "" {
		def.FailureExpiry, _ = time.ParseDuration(o["expiry"])
	}
	def.Resources = []cluster.Resource{{Name: "app", Agent: "exec", Params: map[string]string{"command": o["command"]}}}
	config := w.state.Config.Value
	config.Services = append(without(config.Services, def.Name), def)
	w.put(cluster.KeyConfig, config)
	if o["noprobe"] == "" {
		w.probeAll()
	}
}

func doUnservice(w *world, args []string) {
	config := w.state.Config.Value
	config.Services = without(config.Services, cluster.ServiceName(args[0]))
	w.put(cluster.KeyConfig, config)
	w.probeAll()
}

func without(services []cluster.ServiceConfig, name cluster.ServiceName) []cluster.ServiceConfig {
	var out []cluster.ServiceConfig
	for _, s := range services {
		if s.Name != name {
			out = append(out, s)
		}
	}
	return out
}

func (w *world) probeAll() {
	for _, n := range w.state.Config.Value.Nodes {
		if w.boot(n.Name) != "" && w.obey[n.Name] {
			w.probe(string(n.Name), "")
		}
	}
}

// doSilent: silent n1 lost|suspect|heard|abstain by=n2,n3 [word=paused]: what
// its host says comes with the view.
//
// Where the planning node itself is lost, the first accuser plans from then on.
func doSilent(w *world, args []string) {
	accused := w.boot(cluster.NodeName(args[0]))
	if w.self == cluster.NodeName(args[0]) && args[1] == "lost" {
		w.self = cluster.NodeName(strings.Split(opts(args[2:])["by"], ",")[0])
	}
	for _, by := range strings.Split(opts(args[2:])["by"], ",") {
		n := cluster.NodeName(by)
		view := cluster.View{Node: n, Boot: w.boot(n), Silent: map[cluster.BootID]cluster.Silence{}, Words: map[cluster.BootID]cluster.HostWord{}}
		maps.Copy(view.Words, w.state.Views[n].Value.Words)
		view.Words[accused] = cluster.HostWord(opts(args[2:])["word"])
		for boot, s := range w.state.Views[n].Value.Silent {
			view.Silent[boot] = s
		}
		view.Silent[accused] = cluster.Silence(args[1])
		switch args[1] {
		case "heard":
			delete(view.Silent, accused)
		case "abstain":
			view.Silent, view.Words, view.Abstain = nil, nil, true
		}
		w.put(cluster.KeyView(n), view)
	}
}

// doAppeal: appeal n1 to=n2,n3
func doAppeal(w *world, args []string) {
	b := w.boot(cluster.NodeName(args[0]))
	a := cluster.Appeal{Node: cluster.NodeName(args[0]), Boot: b, Answers: map[cluster.NodeName]cluster.Revision{}}
	for _, n := range strings.Split(opts(args[1:])["to"], ",") {
		a.Answers[cluster.NodeName(n)] = w.state.Views[cluster.NodeName(n)].Rev
	}
	w.put(cluster.KeyAppeal(b), a)
}

// doCert: cert n1 [host=h1] [cause=crashed] [life=L] [guest=G] [boot=n1-b1] [cluster=c]
func doCert(w *world, args []string) {
	o := opts(args[1:])
	id := w.boot(cluster.NodeName(args[0]))
	if o["boot"] != "" {
		id = cluster.BootID(o["boot"])
	}
	b := w.state.Boots[id].Value
	c := cluster.DeathCertificate{Cluster: "c", Guest: b.Guest, Life: b.Life, Seq: 7, Cause: cluster.CauseCrashed}
	if len(b.Places) > 0 {
		c.Host = b.Places[0]
	}
	if o["host"] != "" {
		c.Host = cluster.HostName(o["host"])
	}
	if o["cause"] != "" {
		c.Cause = cluster.Cause(strings.ReplaceAll(o["cause"], "-", " "))
	}
	if o["life"] != "" {
		c.Life = cluster.LifeID(o["life"])
	}
	if o["guest"] != "" {
		c.Guest = cluster.GuestID(o["guest"])
	}
	if o["cluster"] != "" {
		c.Cluster = cluster.ClusterID(o["cluster"])
	}
	w.put(cluster.KeyCertificate(c.Life, c.Host), c)
}

// doAttempt: attempt n1 done|not-done|unknown [number=2] [boot=n1-b1] [at=h1,h2]:
// the executor's report, at all places of the record unless it names others.
func doAttempt(w *world, args []string) {
	b := w.boot(cluster.NodeName(args[0]))
	if id := opts(args[2:])["boot"]; id != "" {
		b = cluster.BootID(id)
	}
	f := w.state.Fences[b].Value
	r := cluster.FenceReport{Boot: b, Attempt: f.Attempt, Executor: f.Executor, Outcome: cluster.Outcome(strings.ReplaceAll(args[1], "-", " ")), Detail: "as the scenario says"}
	boot := w.state.Boots[b].Value
	hosts := boot.Places
	if at := opts(args[2:])["at"]; at != "" {
		hosts = hostNames(at)
	}
	r.Places = map[cluster.HostName]cluster.Arrival{}
	for _, h := range hosts {
		r.Places[h] = boot.Arrivals[h]
	}
	if n := opts(args[2:])["number"]; n != "" {
		r.Attempt, _ = strconv.Atoi(n)
	}
	w.put(cluster.KeyFenceReport(b), r)
}

// doAnswers: answers n1: its newest boot is heard after its tombstone.
func doAnswers(w *world, args []string) {
	boot := w.boot(cluster.NodeName(args[0]))
	w.put(cluster.KeyContradiction(boot), cluster.NewContradiction(&w.state, boot, "n2", "a beat"))
}

// doTrust: trust h1: an operator trusts the host again.
func doTrust(w *world, args []string) {
	for id, rec := range w.state.Contras {
		c := rec.Value
		c.Hosts = slices.DeleteFunc(slices.Clone(c.Hosts), func(h cluster.HostName) bool { return string(h) == args[0] })
		w.put(cluster.KeyContradiction(id), c)
	}
}

// doSure: sure n1: an operator confirms its end, knowing of the contradiction.
func doSure(w *world, args []string) {
	c := w.state.Contras[w.boot(cluster.NodeName(args[0]))].Value
	c.Settled = "by op"
	w.put(cluster.KeyContradiction(c.Boot), c)
}

// doStarted: started n1 done|not-done|unknown: the report of who should start it.
func doStarted(w *world, args []string) {
	b := w.boot(cluster.NodeName(args[0]))
	on := w.state.PowerOn[b].Value
	w.put(cluster.KeyPowerOnReport(b), cluster.PowerOnReport{
		Boot: b, Attempt: on.Attempt, Executor: on.Executor, Outcome: cluster.Outcome(strings.ReplaceAll(args[1], "-", " ")), Detail: "as the scenario says",
	})
}

// doPolicy: policy start|stay-off: after_fence of the cluster.
func doPolicy(w *world, args []string) {
	config := w.state.Config.Value
	config.AfterFence = cluster.AfterFence(args[0])
	w.put(cluster.KeyConfig, config)
	w.probeAll()
}

// doReport: report db running|... [boot=ID] [generation=N]: a report out of turn.
func doReport(w *world, args []string) {
	owner := w.state.Owners[cluster.ServiceName(args[0])].Value
	o := opts(args[2:])
	if o["boot"] != "" {
		owner.Boot = cluster.BootID(o["boot"])
	}
	if o["generation"] != "" {
		n, _ := strconv.Atoi(o["generation"])
		owner.Generation = cluster.Generation(n)
	}
	w.report(owner, cluster.ReportState(strings.ReplaceAll(args[1], "-", " ")), "as the scenario says")
}

// doPlace: place n1 h1,h2 | none: where its life is or may be.
func doPlace(w *world, args []string) {
	b := w.state.Boots[w.boot(cluster.NodeName(args[0]))].Value
	b.Places = nil
	if args[1] != "none" {
		b.Places = hostNames(args[1])
	}
	w.put(cluster.KeyBoot(b.ID), b)
}

func hostNames(list string) []cluster.HostName {
	var hosts []cluster.HostName
	for _, h := range strings.Split(list, ",") {
		hosts = append(hosts, cluster.HostName(h))
	}
	return hosts
}

// doArrive: arrive n1 h2 3 [boot=n1-b1]: the intent: a migration to h2, by its
// arrival no. 3, is about to begin. It is refused as nodes refuse it.
func doArrive(w *world, args []string) {
	id := w.boot(cluster.NodeName(args[0]))
	if boot := opts(args[3:])["boot"]; boot != "" {
		id = cluster.BootID(boot)
	}
	rec, host := w.state.Boots[id], cluster.HostName(args[1])
	next := rec.Value.Arrive(host, cluster.Arrival{Run: "run of " + args[1], Number: number(args[2])})
	if !w.commit([]cluster.Guard{guardOf(cluster.KeyBoot(id), rec.Rev), absent(cluster.KeyEnded(id)), absent(cluster.KeyFence(id))},
		cluster.Put(cluster.KeyBoot(id), next), cluster.Remove(cluster.KeyAbsence(next.Life, host))) {
		w.note("refused: the guest of %s may not move to %s now", args[0], host)
	}
}

func number(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// doAbsent: absent n1 host=h1 [seq=8] [run=R] [final=yes] [restarted=yes] [life=L] [guest=G] [cluster=c]:
// the host signs that the life is not there.
func doAbsent(w *world, args []string) {
	o := opts(args[1:])
	b := w.state.Boots[w.boot(cluster.NodeName(args[0]))].Value
	a := cluster.Absence{
		Cluster: cluster.ClusterID(cmp.Or(o["cluster"], "c")), Guest: cluster.GuestID(cmp.Or(o["guest"], string(b.Guest))),
		Life: cluster.LifeID(cmp.Or(o["life"], string(b.Life))), Host: cluster.HostName(o["host"]),
		Run: cmp.Or(o["run"], "run of "+o["host"]), Seq: number(cmp.Or(o["seq"], "8")), Why: "as the scenario says",
		Final: o["final"] != "", Restarted: o["restarted"] != "",
	}
	w.put(cluster.KeyAbsence(a.Life, a.Host), a)
}

func (w *world) standby(node string) {
	w.put(cluster.KeyStandby(cluster.NodeName(node)), cluster.Standby{Node: cluster.NodeName(node), By: "op"})
}

// doWish: wish db stop | start | move=n2
func doWish(w *world, args []string) {
	wish := cluster.Wish{Service: cluster.ServiceName(args[0]), By: "op"}
	if args[1] == "start" {
		w.commit(nil, cluster.Remove(cluster.KeyWish(wish.Service)))
		return
	}
	wish.Stopped = args[1] == "stop"
	wish.MoveTo = cluster.NodeName(opts(args[1:])["move"])
	w.put(cluster.KeyWish(wish.Service), wish)
}

// doClear: clear db: forget its failures.
func doClear(w *world, args []string) {
	for _, n := range w.state.Config.Value.Nodes {
		w.commit(nil, cluster.Remove(cluster.KeyFailure(cluster.ServiceName(args[0]), n.Name)))
	}
}

// doLeader: leader n2: a new epoch; its clock sees every record for the first time.
func doLeader(w *world, args []string) {
	w.self = cluster.NodeName(args[0])
	w.put(cluster.KeyLeader, cluster.Leader{Node: w.self, Boot: w.boot(w.self), Epoch: w.state.Leader.Value.Epoch + 1})
}

func doWait(w *world, args []string) {
	d, err := time.ParseDuration(args[0])
	if err != nil {
		panic(err)
	}
	w.now += d
}

// doWhy: why db: what explain would say.
func doWhy(w *world, args []string) {
	result := Plan(Snapshot{State: w.state.Clone(), Now: w.now, Self: w.self, Abstain: w.away})
	for _, s := range result.Services {
		if string(s.Name) == args[0] {
			w.note("%s is %s", s.Name, s.State)
			for _, line := range s.Why {
				w.note("  %s", line)
			}
		}
	}
}

// doWhyNode: whynode n1
func doWhyNode(w *world, args []string) {
	result := Plan(Snapshot{State: w.state.Clone(), Now: w.now, Self: w.self, Abstain: w.away})
	for _, n := range result.Nodes {
		if string(n.Name) == args[0] {
			w.note("%s is %s", n.Name, n.State)
			for _, line := range n.Why {
				w.note("  %s", line)
			}
		}
	}
}

// doWarnings: what keeps the whole cluster from acting.
func doWarnings(w *world, _ []string) {
	for _, warning := range Plan(Snapshot{State: w.state.Clone(), Now: w.now, Self: w.self, Abstain: w.away}).Warnings {
		w.note("  %s", warning)
	}
}

// doLevels: levels n1 xvm pdu+switch: how a node is fenced, level by level.
func doLevels(w *world, args []string) {
	config := w.state.Config.Value
	config.Nodes = slices.Clone(config.Nodes)
	for i := range config.Nodes {
		if string(config.Nodes[i].Name) != args[0] {
			continue
		}
		for _, level := range args[1:] {
			config.Nodes[i].Fence = append(config.Nodes[i].Fence, strings.Split(level, "+"))
		}
	}
	w.put(cluster.KeyConfig, config)
	w.probeAll()
}

// doLevel: level n1: which level its fence decision is at.
func doLevel(w *world, args []string) {
	fence := w.state.Fences[w.boot(cluster.NodeName(args[0]))].Value
	w.note("attempt %d on %s is of level %d", fence.Attempt, fence.Node, fence.Level)
}

// doRetire: retire n1: takes a node out of the configuration.
func doRetire(w *world, args []string) {
	config := w.state.Config.Value
	config.Nodes = slices.DeleteFunc(slices.Clone(config.Nodes), func(n cluster.NodeConfig) bool { return string(n.Name) == args[0] })
	w.put(cluster.KeyConfig, config)
	w.probeAll()
}

// bootsOf returns the boots of a node that are on record.
func (w *world) bootsOf(node cluster.NodeName) []cluster.BootID {
	var ids []cluster.BootID
	for _, id := range slices.Sorted(maps.Keys(w.state.Boots)) {
		if w.state.Boots[id].Value.Node == node {
			ids = append(ids, id)
		}
	}
	return ids
}

// restamp is what a new leader's clock does: it sees every record for the first time.
func (w *world) restamp() {
	restampAll(w.state.Views, w.now)
	restampAll(w.state.Appeals, w.now)
	restampAll(w.state.Fences, w.now)
	restampAll(w.state.FenceRp, w.now)
	restampAll(w.state.PowerOn, w.now)
	restampAll(w.state.PowerRp, w.now)
	restampAll(w.state.Failed, w.now)
}

func restampAll[K comparable, V any](records map[K]cluster.Rec[V], now time.Duration) {
	for key, rec := range records {
		rec.Since = now
		records[key] = rec
	}
}

// doLate: late leader n2: what is planned before that command is committed
// after it: a leader slept in between, or is none any more.
func doLate(w *world, args []string) {
	result := Plan(Snapshot{State: w.state.Clone(), Now: w.now, Self: w.self, Abstain: w.away})
	verbs[args[0]](w, args[1:])
	if len(result.Orders) == 0 {
		w.faults = append(w.faults, "nothing was planned that could be late")
	}
	for _, o := range result.Orders {
		if w.commit(o.Guards, o.Writes...) {
			w.note("%-8s late: %s", o.Kind, o.Text)
		} else {
			w.note("%-8s void: %s", o.Kind, o.Text)
		}
	}
}

// doDoom: doom n2: a fence decision of which the planner knows nothing yet.
func doDoom(w *world, args []string) {
	b := w.boot(cluster.NodeName(args[0]))
	w.put(cluster.KeyFence(b), cluster.Fence{
		Boot: b, Node: cluster.NodeName(args[0]), Reason: cluster.FenceStopFailed, Detail: "as the scenario says",
		Epoch: w.state.Leader.Value.Epoch, Attempt: 1, Executor: w.self,
	})
}

// doTombs: tombs n1: which tombstones of a node are kept, the oldest first.
func doTombs(w *world, args []string) {
	var kept []cluster.BootID
	for boot, ended := range w.state.Ended {
		if string(ended.Value.Node) == args[0] {
			kept = append(kept, boot)
		}
	}
	slices.SortFunc(kept, func(a, b cluster.BootID) int { return int(w.state.Ended[a].Rev - w.state.Ended[b].Rev) })
	w.note("%d tombstones: %v", len(kept), kept)
}

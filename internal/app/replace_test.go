package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/node"
	"ringfence/internal/nodeapi"
)

// daemonVerb makes the test binary one member, so that it can die.
const daemonVerb = "daemon"

func optionsOf(dir, name string) NodeOptions {
	return NodeOptions{
		Data: filepath.Join(dir, name), RunDir: filepath.Join(dir, name+"-run"),
		HostChannel: filepath.Join(dir, "no-channel"), Boot: cluster.BootID(name + "-boot"),
	}
}

func runDaemon(dir, name string) int {
	o := optionsOf(dir, name)
	o.Log = slog.New(slog.DiscardHandler)
	if err := RunNode(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// process is a member that can be paused and that dies as machines do.
type process struct {
	*exec.Cmd
	said bytes.Buffer
	done chan struct{}
}

func spawn(t *testing.T, dir, name string) *process {
	p := &process{Cmd: exec.Command("/proc/self/exe", daemonVerb, dir, name), done: make(chan struct{})}
	p.Stderr = &p.said
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.Wait()
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.done
	})
	return p
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// oneService runs web on n2, else on n1; each run notes its node and process.
func oneService(runs string) cluster.Config {
	return cluster.Config{
		Name: "test", Nodes: []cluster.NodeConfig{{Name: "n1"}, {Name: "n2"}},
		Services: []cluster.ServiceConfig{{
			Name: "web", Nodes: []cluster.NodeName{"n2", "n1"}, Restarts: 3, RestartWindow: time.Minute, FailureExpiry: time.Minute,
			Resources: []cluster.Resource{{
				Name: "app", Agent: "exec", Params: map[string]string{"command": "echo $$ >" + runs + ".$RINGFENCE_NODE; exec sleep 1000", "shell": "true"},
				StartTimeout: 10 * time.Second, StopTimeout: 20 * time.Second, MonitorTimeout: 10 * time.Second, MonitorInterval: 10 * time.Second,
			}},
		}},
	}
}

// runs reports whether the process that web noted on a node runs. One that has
// exited may stay a zombie for a while, until the machine's first process reaps it.
func runs(t *testing.T, file string) bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(text)) + "/stat")
	_, rest, _ := strings.Cut(string(stat), ") ") // behind the name, see proc(5)
	return err == nil && !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// found makes a cluster of one node, n1, and returns its join port.
func found(t *testing.T, dir, address string) int {
	t.Helper()
	p := ports(t, address, 3)
	_, err := nodeapi.Found(nodeapi.FoundOptions{
		Name: "test", Node: "n1", Address: address, BeatPort: p[0], PeerPort: p[1], JoinPort: p[2], Data: filepath.Join(dir, "n1"),
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return p[2]
}

// twoAndAWitness makes a cluster of n1, n2 as a process, and witness w1.
func twoAndAWitness(t *testing.T, dir string) (port int, n1 *daemon, n2 *process, w1 *daemon) {
	t.Helper()
	port = found(t, dir, "127.0.1.1")
	n1 = start(t, dir, "n1")
	n1.await("n1 is a member", members(1))
	joined := joinAs(t, n1, port, dir, "n2", "127.0.1.2", false)
	if len(joined.Warnings) != 1 || !strings.Contains(joined.Warnings[0], "the store has 2 voters") {
		t.Errorf("warnings of the second node: %q", joined.Warnings)
	}
	n2 = spawn(t, dir, "n2")
	n1.await("n2 is a member", members(2))
	joined = joinAs(t, n1, port, dir, "w1", "127.0.1.3", true)
	if len(joined.Warnings) != 0 {
		t.Errorf("warnings of the witness: %q", joined.Warnings)
	}
	w1 = startAs(t, dir, "w1", func(o *NodeOptions) { o.Witness, o.Host = true, "h3" })
	status := n1.await("the witness leads the store", func(s nodeapi.Status) bool { return members(3)(s) && s.RaftLeader == "w1" })
	if w, _ := status.Member("w1"); !w.Witness || !slices.Equal(w.Hosts, []cluster.HostName{"h3"}) || !status.QuorumSurvives {
		t.Errorf("the witness is %+v, quorum survives %v", w, status.QuorumSurvives)
	}
	return port, n1, n2, w1
}

// TestAVoterThatIsGoneForGoodIsReplaced plays two nodes and a witness with real
// voters: a node is taken for lost, by a person who errs, since it is only held
// up; another of the same name takes its place. The old one, when it goes on,
// stops what it runs and ends, and does not come in again.
func TestAVoterThatIsGoneForGoodIsReplaced(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := t.TempDir()
	port, n1, n2, w := twoAndAWitness(t, dir)
	api := n1.api()
	defer api.Close()
	web := filepath.Join(dir, "web")
	if _, err := api.Apply(ctx, nodeapi.ConfigOrder{By: "test", Config: oneService(web)}); err != nil {
		t.Fatal(err)
	}
	n1.await("web runs on n2", runsOn("web"))
	n2.signal(t, syscall.SIGSTOP)
	n1.await("n2 is lost", func(s nodeapi.Status) bool {
		n2, _ := s.Member("n2")
		return n2.State == string(cluster.NodeLost) && !s.QuorumSurvives
	})
	by := nodeapi.NodeOrder{By: "test"}
	if _, err := api.Node(ctx, "n2", "remove", by); err == nil || !strings.Contains(err.Error(), "n2 is lost, in boot n2-boot: stop its daemon there first") {
		t.Errorf("removal of a node that may live: %v", err)
	}
	if _, err := api.Node(ctx, "n2", "confirm-dead", nodeapi.NodeOrder{By: "test", Boot: "n2-boot", Reason: "seen by the test"}); err != nil {
		t.Fatal(err)
	}
	n1.await("web runs on n1", func(s nodeapi.Status) bool {
		one, _ := s.Service("web")
		return runsOn("web")(s) && one.Node == "n1"
	})
	if _, err := api.Node(ctx, "n2", "remove", by); err != nil {
		t.Fatal(err)
	}
	if !runs(t, web+".n2") {
		t.Fatal("nothing runs on n2 that it could stop")
	}
	n2.signal(t, syscall.SIGCONT)
	<-n2.done
	if runs(t, web+".n2") || !runs(t, web+".n1") { // it learns that it is doomed, or removed: whichever comes first
		t.Errorf("the removed node goes on: web runs on n2 %v, on n1 %v; it said %q", runs(t, web+".n2"), runs(t, web+".n1"), n2.said.String())
	}
	old := start(t, dir, "n2") // what is left of it
	select {
	case err := <-old.done:
		if !errors.Is(err, node.ErrRemoved) || !strings.Contains(err.Error(), "join again with a new token") {
			t.Errorf("the removed node ends with %v", err)
		}
		old.done <- nil // for stop
	case <-time.After(time.Minute):
		t.Fatal("the removed node goes on")
	}
	again := filepath.Join(dir, "again")
	joinAs(t, n1, port, again, "n2", "127.0.1.4", false)
	startAs(t, again, "n2", func(o *NodeOptions) { o.Boot = "n2-new" })
	n1.await("n2 is back", members(3))
	w.cancel() // SIGTERM
	n1.await("the witness has left", func(s nodeapi.Status) bool {
		w1, _ := s.Member("w1")
		return w1.State == string(cluster.NodeLeft)
	})
}

func TestANodeThatLearnsOfItsRemovalStopsWhatItRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	found(t, dir, "127.0.1.5")
	d := &daemon{t: t, o: optionsOf(dir, "n1"), done: make(chan error, 1)}
	d.o.Log = logTo(t)
	r, err := newNodeRun(d.o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	d.cancel = cancel
	go func() { d.done <- errors.Join(r.run(ctx), r.down.run()) }()
	d.await("n1 is a member", members(1))
	api := d.api()
	defer api.Close()
	config := oneService(filepath.Join(dir, "web"))
	if _, err := api.Apply(ctx, nodeapi.ConfigOrder{By: "test", Config: config}); err != nil {
		t.Fatal(err)
	}
	d.await("web runs", runsOn("web"))
	r.fatal <- fmt.Errorf("as by the store: %w", node.ErrRemoved)
	if err := <-d.done; !errors.Is(err, node.ErrRemoved) {
		t.Errorf("the daemon ends with %v", err)
	}
	if runs(t, filepath.Join(dir, "web.n1")) {
		t.Error("a removed node left its service running")
	}
	cancel()
}

package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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

// spawn starts a member as a process; the function that it returns kills it.
func spawn(t *testing.T, dir, name string) (kill func()) {
	cmd := exec.Command("/proc/self/exe", daemonVerb, dir, name)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dead := false
	kill = func() {
		if !dead {
			dead = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	return kill
}

// TestAVoterThatIsGoneForGoodIsReplaced plays two nodes and a witness with real
// voters: a node dies as a process dies, its machine is taken for lost, and
// another of the same name takes its place. What is left of the old one does
// not come in again.
func TestAVoterThatIsGoneForGoodIsReplaced(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := t.TempDir()
	p := ports(t, "127.0.1.1", 3)
	_, err := nodeapi.Found(nodeapi.FoundOptions{
		Name: "test", Node: "n1", Address: "127.0.1.1", BeatPort: p[0], PeerPort: p[1], JoinPort: p[2],
		Data: filepath.Join(dir, "n1"),
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	n1 := start(t, dir, "n1")
	n1.await("n1 is a member", members(1))
	joined := joinAs(t, n1, p[2], dir, "n2", "127.0.1.2", false)
	if len(joined.Warnings) != 1 || !strings.Contains(joined.Warnings[0], "the store has 2 voters") {
		t.Errorf("warnings of the second node: %q", joined.Warnings)
	}
	kill := spawn(t, dir, "n2")
	n1.await("n2 is a member", members(2))
	joined = joinAs(t, n1, p[2], dir, "w1", "127.0.1.3", true)
	if len(joined.Warnings) != 0 {
		t.Errorf("warnings of the witness: %q", joined.Warnings)
	}
	w := startAs(t, dir, "w1", func(o *NodeOptions) { o.Witness, o.Host = true, "h3" })
	status := n1.await("the witness leads the store", func(s nodeapi.Status) bool { return members(3)(s) && s.RaftLeader == "w1" })
	if w1, _ := status.Member("w1"); !w1.Witness || !slices.Equal(w1.Hosts, []cluster.HostName{"h3"}) || !status.QuorumSurvives {
		t.Errorf("the witness is %+v, quorum survives %v", w1, status.QuorumSurvives)
	}
	api := n1.api()
	defer api.Close()
	kill()
	n1.await("n2 is lost", func(s nodeapi.Status) bool {
		n2, _ := s.Member("n2")
		return n2.State == string(cluster.NodeLost) && !s.QuorumSurvives
	})
	by := nodeapi.NodeOrder{By: "test"}
	if _, err := api.Node(ctx, "n2", "remove", by); err == nil || !strings.Contains(err.Error(), "n2 is lost, in boot n2-boot: stop its daemon there first") {
		t.Errorf("removal of a node that may live: %v", err)
	}
	if _, err := api.Node(ctx, "n2", "confirm-dead", nodeapi.NodeOrder{By: "test", Boot: "n2-boot", Reason: "killed by the test"}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Node(ctx, "n2", "remove", by); err != nil {
		t.Fatal(err)
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
	joinAs(t, n1, p[2], again, "n2", "127.0.1.4", false)
	startAs(t, again, "n2", func(o *NodeOptions) { o.Boot = "n2-new" })
	n1.await("n2 is back", members(3))
	w.cancel() // SIGTERM
	n1.await("the witness has left", func(s nodeapi.Status) bool {
		w1, _ := s.Member("w1")
		return w1.State == string(cluster.NodeLeft)
	})
}

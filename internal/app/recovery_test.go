package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/internal/backup"
	"ringfence/internal/cluster"
	"ringfence/internal/nodeapi"
	"ringfence/internal/pki"
)

// foundOne makes the first node of a cluster and starts it.
func foundOne(t *testing.T, dir string) (*daemon, int) {
	t.Helper()
	p := ports(t, "127.0.0.1", 3)
	_, err := nodeapi.Found(nodeapi.FoundOptions{
		Name: "test", Node: "n1", Address: "127.0.0.1", BeatPort: p[0], PeerPort: p[1], JoinPort: p[2],
		Data: filepath.Join(dir, "n1"),
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	n1 := start(t, dir, "n1")
	n1.await("n1 is a member", members(1))
	return n1, p[2]
}

// crash ends a daemon without a leave.
func (d *daemon) crash() {
	d.t.Helper()
	d.o.fatal <- errors.New("crash")
	<-d.done
	d.done <- nil // for stop
}

// wantEnd waits for the end of a daemon that must not run.
func (d *daemon) wantEnd(text string) {
	d.t.Helper()
	select {
	case err := <-d.done:
		if err == nil || !strings.Contains(err.Error(), text) {
			d.t.Errorf("daemon ended with %v, want an error that says %q", err, text)
		}
	case <-time.After(time.Minute):
		d.t.Errorf("daemon runs, though: %s", text)
		d.crash()
		return
	}
	d.done <- nil // for stop
}

func (d *daemon) recovery(b *backup.Backup) RecoverOptions {
	return RecoverOptions{
		Data: d.o.Data, RunDir: d.o.RunDir, Backup: b, By: "ann", Reason: "all burnt", Log: d.o.Log,
		Progress: func(format string, args ...any) { d.t.Logf(format, args...) },
	}
}

func (d *daemon) backup() *backup.Backup {
	d.t.Helper()
	api := d.api()
	defer api.Close()
	b, _, err := api.Backup(context.Background())
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

// web is a service that writes down each of its starts.
func web(mark string) cluster.Config {
	return cluster.Config{
		Name: "test", Nodes: []cluster.NodeConfig{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}},
		Services: []cluster.ServiceConfig{{
			Name: "web", Restarts: 3, RestartWindow: time.Minute, FailureExpiry: time.Minute,
			Resources: []cluster.Resource{{
				Name: "app", Agent: "exec", Params: map[string]string{"command": "echo $RINGFENCE_NODE $RINGFENCE_GENERATION >>" + mark + "; exec sleep 1000", "shell": "true"},
				StartTimeout: 10 * time.Second, StopTimeout: 20 * time.Second, MonitorTimeout: 10 * time.Second, MonitorInterval: 10 * time.Second,
			}},
		}},
	}
}

func refused(t *testing.T, err error, want string) {
	t.Helper()
	var e *nodeapi.Error
	if !errors.As(err, &e) || e.Code != nodeapi.CodeRefused || !strings.Contains(e.Message, want) {
		t.Errorf("got %v, want a refusal that says %q", err, want)
	}
}

// TestRestoreMakesANewIncarnation: from the backup of a cluster of two nodes,
// one node goes on; the service starts on the operator's word, in a generation
// never seen; the other node joins again, and its former self is refused.
func TestRestoreMakesANewIncarnation(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := t.TempDir()
	n1, door := foundOne(t, dir)
	join(t, n1, door, dir, "n2", "127.0.0.2")
	n2 := start(t, dir, "n2")
	n1.await("n2 is a member", members(2))
	mark := filepath.Join(dir, "mark")
	api := n1.api()
	defer api.Close()
	if _, err := api.Apply(ctx, nodeapi.ConfigOrder{By: "test", Config: web(mark)}); err != nil {
		t.Fatal(err)
	}
	n1.await("web runs", runsOn("web"))
	saved := n1.backup()
	_, err := Recover(ctx, n1.recovery(saved))
	refused(t, err, "a node runs with the data directory")
	n1.crash()
	_, err = Recover(ctx, n1.recovery(saved))
	refused(t, err, "the daemon of n2 (127.0.0.2) is there")
	n2.crash()

	wrong := *saved
	wrong.Header.Cluster = "another"
	_, err = Recover(ctx, n1.recovery(&wrong))
	refused(t, err, "the backup is of cluster")
	low := n1.recovery(saved)
	low.Incarnation = 1
	_, err = Recover(ctx, low)
	refused(t, err, "incarnation 1 is not new")
	if data, err := pki.Open(n1.o.Data, time.Now()); err != nil || data.Identity.Incarnation != 1 {
		t.Errorf("after refusals: incarnation %v, %v", data, err)
	}

	done, err := Recover(ctx, n1.recovery(saved))
	if err != nil {
		t.Fatal(err)
	}
	if done.Incarnation != 2 || done.Reboot || len(done.Rejoin) != 1 || done.Aside == "" {
		t.Errorf("recovered as %+v", done)
	}
	n1.run()
	n1.await("n1 is a member alone", members(1))
	status := n1.await("web runs again", runsOn("web"))
	if svc, _ := status.Service("web"); svc.Generation <= backup.GenerationStep {
		t.Errorf("generation %d was perhaps given out before", svc.Generation)
	}

	marks, err := os.ReadFile(mark)
	if err != nil || strings.TrimSpace(string(marks)) != "n1 1\nn1 1000002" {
		t.Errorf("runs of the service: %q, %v; want one in each incarnation", marks, err)
	}
	n2.run()
	n2.wantEnd("recovered as incarnation 2")
	again := filepath.Join(dir, "again")
	join(t, n1, door, again, "n2", "127.0.0.2")
	startAs(t, again, "n2", func(o *NodeOptions) { o.Boot = "n2-next-boot" })
	n1.await("n2 is a member again", members(2))
}

// withTwoMore lets n2 and n3 join.
func withTwoMore(t *testing.T, n1 *daemon, door int, dir string) (more []*daemon) {
	t.Helper()
	for i, name := range []string{"n2", "n3"} {
		join(t, n1, door, dir, name, fmt.Sprintf("127.0.0.%d", i+2))
		more = append(more, start(t, dir, name))
		n1.await(name+" is a member", members(i+2))
	}
	return more
}

func TestRecoverQuorum(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := t.TempDir()
	n1, door := foundOne(t, dir)
	others := withTwoMore(t, n1, door, dir)
	n1.crash()
	_, err := Recover(ctx, n1.recovery(nil))
	refused(t, err, "the daemon of n2 (127.0.0.2), n3 (127.0.0.3) is there")
	others[0].crash()
	_, err = Recover(ctx, n1.recovery(nil))
	refused(t, err, "the daemon of n3 (127.0.0.3) is there")
	others[1].crash()
	done, err := Recover(ctx, n1.recovery(nil))
	if err != nil {
		t.Fatal(err)
	}
	if done.Incarnation != 2 || done.Reboot || len(done.Rejoin) != 2 {
		t.Errorf("recovered as %+v", done)
	}
	n1.run()
	n1.await("n1 is a member alone", members(1))
}

// Without the own store nobody knows what this boot may have left running: it
// is dead by the operator's word, and the next one goes on. What a try that was
// cut short left behind is in nobody's way.
func TestRestoreWithoutTheOwnStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n1, _ := foundOne(t, dir)
	saved := n1.backup()
	n1.crash()
	if err := os.RemoveAll(filepath.Join(n1.o.Data, "store")); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(context.Background(), n1.recovery(nil)); err == nil || !strings.Contains(err.Error(), "ringfence restore") {
		t.Errorf("recover-quorum without a store: %v", err)
	}
	for _, left := range []string{"store-2", "store-copy"} {
		if err := os.MkdirAll(filepath.Join(n1.o.Data, left, "member", "wal"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	done, err := Recover(context.Background(), n1.recovery(saved))
	if err != nil || !done.Reboot || done.Aside != "" || done.Incarnation != 2 {
		t.Fatalf("recovered as %+v, %v", done, err)
	}
	n1.run()
	n1.wantEnd("fence")
	n1.o.Boot = "n1-next-boot"
	n1.run()
	n1.await("n1 is a member in its next boot", members(1))
}

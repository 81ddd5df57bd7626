package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/nodeapi"
	"ringfence/internal/pki"
	"ringfence/internal/resource/proctree"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ReaperVerb {
		os.Exit(proctree.RunReaper(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == daemonVerb {
		os.Exit(runDaemon(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

// daemon is one member as a goroutine of the test, on a loopback address of its own.
type daemon struct {
	t      *testing.T
	o      NodeOptions
	cancel context.CancelFunc
	done   chan error
}

func logTo(t *testing.T) *slog.Logger {
	var out io.Writer = io.Discard
	if os.Getenv("APP_TEST_LOG") != "" {
		out = os.Stderr
	}
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func start(t *testing.T, dir, name string) *daemon {
	return startAs(t, dir, name, func(*NodeOptions) {})
}

func startAs(t *testing.T, dir, name string, change func(*NodeOptions)) *daemon {
	d := &daemon{t: t, o: optionsOf(dir, name)}
	d.o.Log = logTo(t).With("daemon", name)
	change(&d.o)
	d.run()
	t.Cleanup(d.stop)
	return d
}

func (d *daemon) run() {
	ctx, cancel := context.WithCancel(context.Background())
	d.o.fatal = make(chan error, 1)
	d.cancel, d.done = cancel, make(chan error, 1)
	done := d.done
	go func() { done <- RunNode(ctx, d.o) }()
}

func (d *daemon) stop() {
	d.cancel()
	select {
	case <-d.done:
	case <-time.After(time.Minute):
		d.t.Error("daemon does not end")
	}
}

// address is where the daemon listens.
func (d *daemon) address() string {
	data, err := pki.Open(d.o.Data, time.Now())
	if err != nil {
		d.t.Fatal(err)
	}
	return data.Identity.Address
}

func (d *daemon) api() *nodeapi.Client { return nodeapi.Dial(filepath.Join(d.o.RunDir, "node.sock")) }

// await polls the status of a daemon until f is content.
func (d *daemon) await(what string, f func(nodeapi.Status) bool) nodeapi.Status {
	d.t.Helper()
	api := d.api()
	defer api.Close()
	var last nodeapi.Status
	var err error
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-d.done:
			d.t.Fatalf("waiting until %s: daemon ended: %v", what, err)
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		last, err = api.Status(ctx)
		cancel()
		if err == nil && f(last) {
			return last
		}
	}
	d.t.Fatalf("waited in vain until %s; last status %+v, error %v", what, last, err)
	return last
}

// ports finds n ports that are free on an address.
func ports(t *testing.T, address string, n int) []int {
	var out []int
	for range n {
		ln, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		out = append(out, ln.Addr().(*net.TCPAddr).Port)
	}
	return out
}

func members(n int) func(nodeapi.Status) bool {
	return func(s nodeapi.Status) bool {
		found := 0
		for _, node := range s.Nodes {
			if node.State == string(cluster.NodeMember) && node.Voter {
				found++
			}
		}
		return found == n && s.Leader != ""
	}
}

func runsOn(service string) func(nodeapi.Status) bool {
	return func(s nodeapi.Status) bool {
		svc, ok := s.Service(service)
		return ok && svc.State == string(cluster.ServiceRunning)
	}
}

// TestThreeDaemons makes a cluster the way people do: init, token, join; runs a
// service, moves it by a clean leave, and cold-starts everything.
func TestThreeDaemons(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := t.TempDir()
	p := ports(t, "127.0.0.1", 3)
	_, err := nodeapi.Found(nodeapi.FoundOptions{
		Name: "test", Node: "n1", Address: "127.0.0.1", BeatPort: p[0], PeerPort: p[1], JoinPort: p[2],
		Data: filepath.Join(dir, "n1"),
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	daemons := map[string]*daemon{"n1": start(t, dir, "n1")}
	n1 := daemons["n1"]
	n1.await("n1 is a member", members(1))
	for i, name := range []string{"n2", "n3"} {
		join(t, n1, p[2], dir, name, fmt.Sprintf("127.0.0.%d", i+2))
		daemons[name] = start(t, dir, name)
		n1.await(name+" is a member", members(i+2))
	}
	mark := filepath.Join(dir, "mark")
	config := cluster.Config{Name: "test", Nodes: []cluster.NodeConfig{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}}}
	config.Services = []cluster.ServiceConfig{{
		Name: "web", Nodes: []cluster.NodeName{"n1", "n2"}, Restarts: 3, RestartWindow: time.Minute, FailureExpiry: time.Minute,
		Resources: []cluster.Resource{{
			Name: "app", Agent: "exec", Params: map[string]string{"command": "echo $RINGFENCE_NODE $RINGFENCE_GENERATION >>" + mark + "; exec sleep 1000", "shell": "true"},
			StartTimeout: 10 * time.Second, StopTimeout: 20 * time.Second, MonitorTimeout: 10 * time.Second, MonitorInterval: 10 * time.Second,
		}},
	}}
	api := n1.api()
	defer api.Close()
	if _, err := api.Apply(ctx, nodeapi.ConfigOrder{By: "test", Config: config}); err != nil {
		t.Fatal(err)
	}
	n1.await("web runs", runsOn("web"))
	n1.stop() // SIGTERM: a clean leave
	daemons["n2"].await("web runs on n2", func(s nodeapi.Status) bool {
		svc, _ := s.Service("web")
		return svc.State == string(cluster.ServiceRunning) && svc.Node == "n2"
	})
	n1.run()
	daemons["n2"].await("n1 is back after its leave", members(3))
	marks, err := os.ReadFile(mark)
	if err != nil || strings.TrimSpace(string(marks)) != "n1 1\nn2 2" {
		t.Errorf("runs of the service: %q, %v; want n1 1, n2 2", marks, err)
	}
}

func join(t *testing.T, member *daemon, port int, dir, name, address string) {
	t.Helper()
	joinAs(t, member, port, dir, name, address, false)
}

func joinAs(t *testing.T, member *daemon, port int, dir, name, address string, witness bool) nodeapi.Joined {
	t.Helper()
	ctx := context.Background()
	api := member.api()
	defer api.Close()
	secret, err := api.NewToken(ctx)
	if err != nil {
		t.Fatal(err)
	}
	token, err := pki.ParseToken(secret.Text)
	if err != nil {
		t.Fatal(err)
	}
	p := ports(t, address, 3)
	joined, err := nodeapi.Join(ctx, nodeapi.JoinOptions{
		Token: token, Member: net.JoinHostPort(member.address(), fmt.Sprint(port)), Node: cluster.NodeName(name), Address: address,
		BeatPort: p[0], PeerPort: p[1], JoinPort: p[2], Witness: witness, Data: filepath.Join(dir, name),
	})
	if err != nil {
		t.Fatal(err)
	}
	return joined
}

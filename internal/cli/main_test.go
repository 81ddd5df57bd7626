package cli_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ringfence/internal/cli"
	"ringfence/internal/cluster"
	"ringfence/internal/fencevirt/conf"
	"ringfence/internal/nodeapi"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"ringfence": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			code := cli.Run(ctx, testDeps(), os.Args[1:])
			stop()
			os.Exit(code)
		},
		"fence_virtd": func() { compat("fence_virtd") },
		"fence_xvmd":  func() { compat("fence_xvmd") },
	})
}

// compat is this binary under another name.
func compat(name string) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Compat(name)(ctx, testDeps(), os.Args[1:])
	stop()
	os.Exit(code)
}

// hostdModel tells what it was asked for; with the protocols of fence_virt it serves
// until ctx ends, as the daemon does. HOSTD_FAILS is an error at the start.
func hostdModel(ctx context.Context, o cli.HostdOptions) error {
	if o.Load == nil {
		o.Log.Info("hostd would run", "driver", o.Driver, "data", o.Data, "witness", o.Witness)
		return nil
	}
	if fails := os.Getenv("HOSTD_FAILS"); fails != "" {
		return errors.New(fails)
	}
	tell := func() {
		file, err := o.Load()
		o.Log.Info("hostd would serve", "driver", o.Driver, "data", o.Data, "wait", file.WaitForInit, "uris", file.URIs, "err", err)
		for _, l := range file.Server.Listeners {
			k := l.Keys[0]
			o.Log.Info("listener", "kind", l.Kind, "address", l.Address, "port", l.Port, "interfaces", l.Interfaces, "hash", k.Hash, "auth", k.Auth, "key", k.Name)
		}
	}
	tell()
	o.Ready()
	for {
		select {
		case <-ctx.Done():
			o.Stopping()
			return nil
		case <-o.Reload:
			o.Reloading()
			tell()
			o.Ready()
		}
	}
}

// hangup delivers SIGHUP.
func hangup(context.Context) <-chan struct{} {
	signals, out := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		for range signals {
			out <- struct{}{}
		}
	}()
	return out
}

// explainHostd stands for the daemon's rules: web1 is for 192.0.2.11, and nobody
// hears guests.
func explainHostd(_ context.Context, file conf.File, from, to string) ([]cli.HostdRuling, error) {
	switch from {
	case "192.0.2.11":
		l := file.Server.Listeners[0]
		r := cli.HostdRuling{Listener: string(l.Kind), At: l.Where, Key: l.Keys[0].Name, Allowed: to == "web1", Why: "no group of the requester has the guest"}
		if r.Allowed {
			r.Why = `group "web" at f.conf:9 has both`
		}
		return []cli.HostdRuling{r}, nil
	case "web1":
		return nil, nil
	}
	return nil, fmt.Errorf("there is no guest %s here", from)
}

// testDeps is the shipped command line with a model of a cluster behind `node
// run` (world_test.go) and agents that need nothing of the machine.
func testDeps() cli.Deps {
	return cli.Deps{
		Version: "v0.0.0-test", In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Getenv: os.Getenv, User: "ann@desk", CheckResource: checkResource,
		RunNode:  runWorld,
		RunHostd: hostdModel, ExplainHostd: explainHostd,
		Recover: recoverModel,
		Drivers: []string{"proc"},
		Hangup:  hangup,
	}
}

// recoverModel tells what it was asked for.
func recoverModel(_ context.Context, o cli.RecoverOptions) (cli.Recovered, error) {
	o.Progress("by %s, reason %s, data %s, run %s, incarnation %d", o.By, o.Reason, o.Data, o.RunDir, o.Incarnation)
	if o.Reason == "unsafe" {
		return cli.Recovered{}, &nodeapi.Error{Code: nodeapi.CodeRefused, Message: "the daemon of n2 is there"}
	}
	done := cli.Recovered{Name: "demo", Node: "n1", Incarnation: 2, Revision: 7, Rejoin: []cluster.NodeName{"n2", "n3"}, Aside: "/old/store"}
	if o.Backup != nil {
		done.Revision, done.Reboot, done.Disarmed = o.Backup.Header.Revision, true, true
	}
	return done, nil
}

// checkResource stands for the agents: exec needs a command, and no OCF agent
// is installed.
func checkResource(r cluster.Resource) error {
	switch {
	case r.Agent == "exec" && r.Params["command"] == "":
		return errors.New("agent exec needs params.command")
	case r.Agent == "exec":
		return nil
	}
	return fmt.Errorf("agent %s is not installed here", r.Agent)
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// Sockets must be short: the run directory is not below $WORK.
			run, err := os.MkdirTemp("", "rf")
			if err != nil {
				return err
			}
			env.Defer(func() { _ = os.RemoveAll(run) })
			env.Setenv("RUN", run)
			env.Setenv("RINGFENCE_SOCKET", filepath.Join(run, nodeapi.SocketName))
			for _, name := range []string{"PEERPORT", "JOINPORT"} {
				env.Setenv(name, strconv.Itoa(freePort(t)))
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await": await, "exit": expectExit, "exitof": expectExitOf, "secret": readSecret, "poll": poll,
		},
	})
}

// freePort returns a TCP port that nobody uses now.
func freePort(t *testing.T) int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// await PATTERN waits until `ringfence status --json` would show it.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await service=STATE|up")
	}
	client := nodeapi.Dial(ts.Getenv("RINGFENCE_SOCKET"))
	defer client.Close()
	var last nodeapi.Status
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		last, err = client.Status(context.Background())
		if err != nil {
			continue
		}
		service, state, ok := strings.Cut(args[0], "=")
		one, _ := last.Service(service)
		if !ok || one.State == state {
			return
		}
	}
	ts.Fatalf("not %s in time: %v %+v", args[0], err, last)
}

// exit CODE ARGS... runs ringfence and wants that exit code; its output goes to
// stdout and stderr as of exec.
func expectExit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exit CODE ARGS...")
	}
	expectExitOf(ts, false, append([]string{args[0], "ringfence"}, args[1:]...))
}

// exitof CODE PROGRAM ARGS... is exit for another program.
func expectExitOf(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitof CODE PROGRAM ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		if _, scanErr := fmt.Sscanf(err.Error(), "exit status %d", &got); scanErr != nil {
			ts.Fatalf("%s: %v", strings.Join(args[1:], " "), err)
		}
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// secret NAME puts the last standard output into the environment.
func readSecret(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: secret NAME")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// poll FILE [TEXT] waits until a file is there, with a text in it; ! poll FILE until
// it is gone.
func poll(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 || len(args) > 2 || neg && len(args) == 2 {
		ts.Fatalf("usage: [!] poll FILE [TEXT]")
	}
	text := strings.Join(args[1:], "")
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		if found := err == nil && strings.Contains(string(data), text); found != neg {
			return
		}
	}
	ts.Fatalf("%s was not so in time", args[0])
}

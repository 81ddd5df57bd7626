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
	})
}

// testDeps is the shipped command line with a model of a cluster behind `node
// run` (world_test.go) and agents that need nothing of the machine.
func testDeps() cli.Deps {
	return cli.Deps{
		Version: "v0.0.0-test", In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Getenv: os.Getenv, User: "ann@desk", CheckResource: checkResource,
		RunNode: runWorld,
		RunHostd: func(_ context.Context, o cli.HostdOptions) error {
			o.Log.Info("hostd would run", "driver", o.Driver, "data", o.Data, "witness", o.Witness)
			return nil
		},
		Recover: recoverModel,
		Drivers: []string{"proc"},
		Hangup:  func(context.Context) <-chan struct{} { return nil },
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
			"await": await, "exit": expectExit, "secret": readSecret,
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
	err := ts.Exec("ringfence", args[1:]...)
	got := 0
	if err != nil {
		if _, scanErr := fmt.Sscanf(err.Error(), "exit status %d", &got); scanErr != nil {
			ts.Fatalf("ringfence %s: %v", strings.Join(args[1:], " "), err)
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

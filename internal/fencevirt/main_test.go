package fencevirt

import (
	"context"
	"log/slog"
	"os/exec"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ringfence/internal/nstest"
)

// TestMain runs the tests in namespaces, or plays a guest there.
func TestMain(m *testing.M) {
	nstest.PlayGuest(guestJob.do)
	nstest.Main(m, func() error { return nstest.LinkUp("lo") })
}

// guestNS is a guest in the test's network.
type guestNS struct {
	*nstest.Guest[guestJob, guestResult]
}

// newGuest plugs a new guest into the bridge.
func newGuest(t testing.TB, br *netlink.Bridge, addresses ...string) guestNS {
	t.Helper()
	return guestNS{nstest.NewGuest[guestJob, guestResult](t, br, addresses...)}
}

// guestJob is what a guest is asked to do: run a command, or be a client of the
// protocol.
type guestJob struct {
	Command []string
	Client  *clientJob
}

type guestResult struct {
	Exit   int
	Output string
	Reply  reply
}

// run runs a command in the guest and returns its exit code and output.
func (g guestNS) run(t testing.TB, command ...string) (int, string) {
	t.Helper()
	r, err := g.Ask(t, guestJob{Command: command})
	if err != nil {
		t.Fatal(err)
	}
	return r.Exit, r.Output
}

func (j guestJob) do() (guestResult, error) {
	if j.Client != nil {
		r, err := j.Client.ask(context.Background())
		return guestResult{Reply: r}, err
	}
	cmd := exec.Command(j.Command[0], j.Command[1:]...)
	output, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return guestResult{Output: string(output)}, err
	}
	return guestResult{Exit: cmd.ProcessState.ExitCode(), Output: string(output)}, nil
}

// logOf logs into the test.
func logOf(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// start runs a server for as long as the test.
func start(t testing.TB, cfg Config, host Host) *Server {
	t.Helper()
	return startLogged(t, cfg, host, logOf(t))
}

func startLogged(t testing.TB, cfg Config, host Host, log *slog.Logger) *Server {
	t.Helper()
	s, err := New(cfg, host, log)
	if err != nil {
		t.Fatal(err)
	}
	runUntilEnd(t, s)
	return s
}

func runUntilEnd(t testing.TB, s *Server) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// addrOf returns where the only listener of the network listens.
func addrOf(t testing.TB, s *Server, network string) string {
	t.Helper()
	for _, a := range s.Addrs() {
		if a.Network() == network {
			return a.String()
		}
	}
	t.Fatalf("no %s listener among %v", network, s.Addrs())
	return ""
}

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("in vain: %s", what)
}

package fencevirt

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ringfence/internal/nstest"
)

// asGuest marks the test binary that is a guest in the test's network.
const asGuest = "RINGFENCE_FENCEVIRT_TEST_GUEST"

// TestMain runs the tests in namespaces, or plays a guest there.
func TestMain(m *testing.M) {
	if os.Getenv(asGuest) != "" {
		if err := guestMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	nstest.Main(m, func() error { return linkUp("lo") })
}

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

// bridge makes a bridge with addresses, which lasts as long as the test.
func bridge(t testing.TB, name string, addresses ...string) *netlink.Bridge {
	t.Helper()
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := netlink.LinkAdd(br); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(br) })
	for _, a := range addresses {
		addAddress(t, br, a)
	}
	if err := netlink.LinkSetUp(br); err != nil {
		t.Fatal(err)
	}
	return br
}

func addAddress(t testing.TB, link netlink.Link, address string) {
	t.Helper()
	if err := setAddress(link, address); err != nil {
		t.Fatal(err)
	}
}

func setAddress(link netlink.Link, address string) error {
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	a.Flags = syscall.IFA_F_NODAD
	return netlink.AddrAdd(link, a)
}

// guestNS is a network namespace with a cable to a bridge: a guest, for the network.
type guestNS struct {
	mu  sync.Mutex // guards the conversation
	in  *json.Encoder
	out *json.Decoder
}

// newGuest plugs a new namespace into the bridge.
func newGuest(t testing.TB, br *netlink.Bridge, addresses ...string) *guestNS {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asGuest+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	name := fmt.Sprintf("v%d", cmd.Process.Pid)
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: br.Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsPid(cmd.Process.Pid),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		t.Fatal(err)
	}
	g := &guestNS{in: json.NewEncoder(stdin), out: json.NewDecoder(bufio.NewReader(stdout))}
	g.ask(t, guestJob{Addresses: addresses})
	return g
}

// guestJob is what a guest is asked to do: take addresses, run a command, or be a
// client of the protocol.
type guestJob struct {
	Addresses []string
	Command   []string
	Client    *clientJob
}

type guestResult struct {
	Err    string
	Exit   int
	Output string
	Took   time.Duration
	Reply  reply
}

func (g *guestNS) ask(t testing.TB, job guestJob) guestResult {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.in.Encode(job); err != nil {
		t.Fatal(err)
	}
	var result guestResult
	if err := g.out.Decode(&result); err != nil {
		t.Fatal(err)
	}
	if result.Err != "" && job.Client == nil {
		t.Fatal(result.Err)
	}
	return result
}

// run runs a command in the guest and returns its exit code and output.
func (g *guestNS) run(t testing.TB, command ...string) (int, string) {
	t.Helper()
	r := g.ask(t, guestJob{Command: command})
	return r.Exit, r.Output
}

// guestMain is the guest's side.
func guestMain(r io.Reader, w io.Writer) error {
	in, out := json.NewDecoder(r), json.NewEncoder(w)
	for {
		var job guestJob
		if err := in.Decode(&job); err != nil {
			return nil // the test has ended
		}
		var result guestResult
		began := time.Now()
		if err := job.do(&result); err != nil {
			result.Err = err.Error()
		}
		result.Took = time.Since(began)
		if err := out.Encode(result); err != nil {
			return err
		}
	}
}

func (j guestJob) do(result *guestResult) error {
	switch {
	case len(j.Addresses) > 0:
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, a := range j.Addresses {
			if err := setAddress(eth, a); err != nil {
				return err
			}
		}
		if err := linkUp("lo"); err != nil {
			return err
		}
		return netlink.LinkSetUp(eth)
	case j.Client != nil:
		var err error
		result.Reply, err = j.Client.ask(context.Background())
		return err
	}
	cmd := exec.Command(j.Command[0], j.Command[1:]...)
	output, err := cmd.CombinedOutput()
	result.Output = string(output)
	if cmd.ProcessState == nil {
		return err
	}
	result.Exit = cmd.ProcessState.ExitCode()
	return nil
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

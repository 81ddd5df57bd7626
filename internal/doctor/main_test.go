package doctor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"

	"ringfence/internal/doctor/firewall"
	"ringfence/internal/nstest"
	"ringfence/internal/wire/xvm"
)

// asGuest marks the test binary that is a guest in the test's network.
const asGuest = "RINGFENCE_DOCTOR_TEST_GUEST"

// TestMain runs the tests in namespaces, where faults are made for real, or plays a
// guest there.
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

func needNamespace(t testing.TB) {
	t.Helper()
	nstest.Need(t)
	if !slices.Contains(firewall.Load(t.Context()).Tools, "nft") {
		t.Skip("SKIPPED: needs nft; as root, make test installs it")
	}
}

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

// bridge makes a bridge of the host, which lasts as long as the test.
func bridge(t testing.TB, name string, addresses ...string) *netlink.Bridge {
	t.Helper()
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	must(t, netlink.LinkAdd(br))
	t.Cleanup(func() { _ = netlink.LinkDel(br) })
	for _, a := range addresses {
		must(t, setAddress(br, a))
	}
	must(t, netlink.LinkSetUp(br))
	return br
}

func setAddress(link netlink.Link, address string) error {
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	a.Flags = syscall.IFA_F_NODAD
	return netlink.AddrAdd(link, a)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// command runs a program of the host.
func command(t testing.TB, input, name string, args ...string) {
	t.Helper()
	if out, err := runWith(input, name, args...); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func runWith(input, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/sbin:/usr/bin:/bin")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// nft loads rules on the host for as long as the test.
func nft(t testing.TB, rules string) {
	t.Helper()
	t.Cleanup(func() { command(t, "flush ruleset\n", "nft", "-f", "-") })
	command(t, rules, "nft", "-f", "-")
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
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("v%d", cmd.Process.Pid), MasterIndex: br.Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsPid(cmd.Process.Pid),
	}
	must(t, netlink.LinkAdd(veth))
	must(t, netlink.LinkSetUp(veth))
	g := &guestNS{in: json.NewEncoder(stdin), out: json.NewDecoder(bufio.NewReader(stdout))}
	g.ask(t, guestJob{Addresses: addresses})
	return g
}

// guestJob is what a guest is asked to do: take addresses, run a program, hold a
// port, ask for a membership query, or be examined.
type guestJob struct {
	Addresses []string
	Program   []string
	Input     string
	Hold      uint16
	Query     bool
	Doctor    *GuestOptions
	TCP       bool
}

type guestResult struct {
	Err       string
	Diagnosis Diagnosis
}

func (g *guestNS) ask(t testing.TB, job guestJob) Diagnosis {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	must(t, g.in.Encode(job))
	var result guestResult
	must(t, g.out.Decode(&result))
	if result.Err != "" {
		t.Fatal(result.Err)
	}
	return result.Diagnosis
}

// run runs a program in the guest.
func (g *guestNS) run(t testing.TB, input string, program ...string) {
	t.Helper()
	g.ask(t, guestJob{Program: program, Input: input})
}

func guestMain(r io.Reader, w io.Writer) error {
	in, out := json.NewDecoder(r), json.NewEncoder(w)
	for {
		var job guestJob
		if err := in.Decode(&job); err != nil {
			return nil // the test has ended
		}
		var result guestResult
		if err := job.do(&result); err != nil {
			result.Err = err.Error()
		}
		if err := out.Encode(result); err != nil {
			return err
		}
	}
}

func (j guestJob) do(result *guestResult) error {
	switch {
	case j.Doctor != nil && j.TCP:
		result.Diagnosis = GuestTCP(context.Background(), *j.Doctor)
		return nil
	case j.Doctor != nil:
		result.Diagnosis = Guest(context.Background(), *j.Doctor)
		return nil
	case j.Hold != 0:
		_, err := net.Listen("tcp4", fmt.Sprintf(":%d", j.Hold)) // for as long as the guest lives
		return err
	case j.Query:
		return query()
	case len(j.Program) > 0:
		out, err := runWith(j.Input, j.Program[0], j.Program[1:]...)
		if err != nil {
			return fmt.Errorf("%v: %w\n%s", j.Program, err, out)
		}
		return nil
	}
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
}

// queryTime is how long the answers to a query may take.
const queryTime = 100 * time.Millisecond

// query asks as a querier does who has joined any group, for an answer within queryTime.
func query() error {
	conn, err := net.ListenPacket("ip4:igmp", "0.0.0.0")
	if err != nil {
		return err
	}
	defer conn.Close()
	eth, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	p := ipv4.NewPacketConn(conn)
	if err := errors.Join(p.SetMulticastTTL(1), p.SetMulticastInterface(eth)); err != nil {
		return err
	}
	packet := []byte{0x11, byte(queryTime / (100 * time.Millisecond)), 0xee, 0xfe, 0, 0, 0, 0} // IGMPv2, with its checksum
	_, err = conn.WriteTo(packet, &net.IPAddr{IP: net.IPv4allsys})
	return err
}

const testKey = "fence-virt-go interop test key 01"

// keyFile writes a key; the guest sees the same file.
func keyFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// client has the defaults of the C programs.
func client(t testing.TB) GuestOptions {
	return GuestOptions{
		KeyFile: keyFile(t, testKey), Group: netip.MustParseAddr(xvm.DefaultGroup4), Port: xvm.DefaultPort,
		Hash: xvm.HashSHA256, Auth: xvm.HashSHA256, Wait: time.Second,
	}
}

// wantBroken compares the broken legs with the expected ones, and demands that each
// has a fix. Of a guest everything behind a broken leg is skipped.
func wantBroken(t testing.TB, d Diagnosis, want ...string) {
	t.Helper()
	if got := d.Broken(); !slices.Equal(got, want) {
		t.Errorf("broken %v, want %v\n%s", got, want, d.text())
	}
	if d.Healthy != (len(want) == 0) {
		t.Errorf("healthy: %v", d.Healthy)
	}
	for _, l := range d.Legs {
		if l.Status == Failed && (l.Fix == "" || l.Detail == "") {
			t.Errorf("leg %s has no fix or no detail: %+v", l.Name, l)
		}
		if len(want) == 0 && l.Status != OK && l.Status != Skipped {
			t.Errorf("leg %s of a healthy way: %+v", l.Name, l)
		}
	}
	if d.Side == "guest" && len(want) == 1 {
		behind := false
		for _, l := range d.Legs {
			if behind && l.Status != Skipped {
				t.Errorf("leg %s lies behind the broken one, and was looked at: %+v", l.Name, l)
			}
			behind = behind || l.Name == want[0]
		}
	}
}

func (d Diagnosis) text() string {
	var out strings.Builder
	for _, l := range d.Legs {
		fmt.Fprintf(&out, "  %-13s %-8s %s [%s]\n", l.Name, l.Status, l.Detail, l.Fix)
	}
	for _, n := range d.Notes {
		fmt.Fprintln(&out, "  note:", n)
	}
	return out.String()
}

// says demands a text in the detail or the fix of a leg.
func (d Diagnosis) says(t testing.TB, leg, text string) {
	t.Helper()
	for _, l := range d.Legs {
		if l.Name == leg && strings.Contains(l.Detail+" "+l.Fix, text) {
			return
		}
	}
	t.Errorf("leg %s does not say %q:\n%s", leg, text, d.text())
}

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("in vain: %s", what)
}

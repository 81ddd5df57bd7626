package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"

	"ringfence/internal/doctor/firewall"
	"ringfence/internal/nstest"
	"ringfence/internal/wire/xvm"
)

// TestMain runs the tests in namespaces, where faults are made for real, or plays a
// guest there.
func TestMain(m *testing.M) {
	nstest.PlayGuest(guestJob.do)
	nstest.Main(m, func() error { return nstest.LinkUp("lo") })
}

func needNamespace(t testing.TB) {
	t.Helper()
	nstest.Need(t)
	if !slices.Contains(firewall.Load(t.Context()).Tools, "nft") {
		t.Skip("SKIPPED: needs nft; as root, make test installs it")
	}
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

// guestNS is a guest in the test's network.
type guestNS struct {
	*nstest.Guest[guestJob, Diagnosis]
}

// newGuest plugs a new guest into the bridge.
func newGuest(t testing.TB, br *netlink.Bridge, addresses ...string) guestNS {
	t.Helper()
	return guestNS{nstest.NewGuest[guestJob, Diagnosis](t, br, addresses...)}
}

// guestJob is what a guest is asked to do: run a program, hold a port, ask for a
// membership query, or be examined.
type guestJob struct {
	Program []string
	Input   string
	Hold    uint16
	Query   bool
	Doctor  *GuestOptions
	TCP     bool
}

func (g guestNS) ask(t testing.TB, job guestJob) Diagnosis {
	t.Helper()
	d, err := g.Ask(t, job)
	must(t, err)
	return d
}

// run runs a program in the guest.
func (g guestNS) run(t testing.TB, input string, program ...string) {
	t.Helper()
	g.ask(t, guestJob{Program: program, Input: input})
}

func (j guestJob) do() (Diagnosis, error) {
	var none Diagnosis
	switch {
	case j.Doctor != nil && j.TCP:
		return GuestTCP(context.Background(), *j.Doctor), nil
	case j.Doctor != nil:
		return Guest(context.Background(), *j.Doctor), nil
	case j.Hold != 0:
		_, err := net.Listen("tcp4", fmt.Sprintf(":%d", j.Hold)) // for as long as the guest lives
		return none, err
	case j.Query:
		return none, query()
	}
	if out, err := runWith(j.Input, j.Program[0], j.Program[1:]...); err != nil {
		return none, fmt.Errorf("%v: %w\n%s", j.Program, err, out)
	}
	return none, nil
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
	eth, err := net.InterfaceByName(nstest.Cable)
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

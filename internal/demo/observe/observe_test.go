package observe

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ringfence/internal/demo/trace"
)

var (
	vip = netip.MustParseAddr("10.77.0.100")
	mac = net.HardwareAddr{2, 0, 0, 0, 0, 1}
)

// arpFrame makes an ARP packet in an Ethernet frame.
func arpFrame(operation uint16, sender, target netip.Addr) []byte {
	frame := append([]byte{255, 255, 255, 255, 255, 255}, mac...)
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_ARP)
	frame = append(frame, 0, 1, 8, 0, 6, 4)
	frame = binary.BigEndian.AppendUint16(frame, operation)
	frame = append(append(frame, mac...), sender.AsSlice()...)
	return append(append(frame, 0, 0, 0, 0, 0, 0), target.AsSlice()...)
}

func TestParseClaim(t *testing.T) {
	other, unspecified := netip.MustParseAddr("10.77.0.1"), netip.IPv4Unspecified()
	garbled := arpFrame(arpReply, vip, other)
	garbled[etherHeaderBytes+4] = 8 // hardware addresses of another length
	ipv4 := arpFrame(arpReply, vip, other)
	ipv4[12], ipv4[13] = 8, 0
	for name, c := range map[string]struct {
		frame []byte
		kind  string
	}{
		"a reply that the address is here":           {arpFrame(arpReply, vip, other), "reply"},
		"a request in the name of the address":       {arpFrame(arpRequest, vip, other), "request"},
		"an announcement":                            {arpFrame(arpRequest, vip, vip), "gratuitous"},
		"an announcement as a reply":                 {arpFrame(arpReply, vip, vip), "gratuitous"},
		"a question for the address is no claim":     {arpFrame(arpRequest, other, vip), ""},
		"a probe is no claim":                        {arpFrame(arpRequest, unspecified, vip), ""},
		"another operation":                          {arpFrame(9, vip, other), ""},
		"cut short":                                  {arpFrame(arpReply, vip, other)[:etherHeaderBytes+arpBytes-1], ""},
		"padded to the least length of Ethernet":     {append(arpFrame(arpReply, vip, other), make([]byte, 18)...), "reply"},
		"other sizes than those of IPv4 on Ethernet": {garbled, ""},
		"no ARP":  {ipv4, ""},
		"nothing": {nil, ""},
	} {
		claim, ok := parseClaim(c.frame, vip)
		if ok != (c.kind != "") || claim.Kind != c.kind || ok && claim.MAC != mac.String() {
			t.Errorf("%s: %+v, %v; want %q", name, claim, ok, c.kind)
		}
	}
}

func FuzzParseClaim(f *testing.F) {
	f.Add(arpFrame(arpReply, vip, vip))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		claim, ok := parseClaim(frame, vip)
		if ok && (claim.Kind == "" || len(claim.MAC) != len(mac.String())) {
			t.Errorf("claim %+v", claim)
		}
	})
}

func TestQuestion(t *testing.T) {
	id := trace.Identity{Node: "n1", Boot: "b", Generation: 2, Run: "r"}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		failure string
	}{
		"an answer":         {func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(id) }, ""},
		"another status":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, "status 503"},
		"nothing said":      {func(http.ResponseWriter, *http.Request) {}, "the connection broke"},
		"a broken identity": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }, "want 1 to"},
		"hanging":           {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer in time"},
	} {
		server := httptest.NewServer(c.handler)
		a := question(t.Context(), &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, server.URL)
		server.Close()
		if !strings.Contains(a.Failure, c.failure) || (a.From != nil) != (c.failure == "") || a.Done < a.Sent {
			t.Errorf("%s: %+v", name, a)
		}
		if a.From != nil && *a.From != id {
			t.Errorf("%s: from %v", name, *a.From)
		}
	}
}

func TestQuestionToNobody(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	if a := question(t.Context(), http.DefaultClient, "http://"+address); a.Failure != "refused" {
		t.Errorf("%+v", a)
	}
}

func TestArguments(t *testing.T) {
	got, err := ParseArgs([]string{"--address", "10.77.0.100:80", "--bridge", "br0"})
	want := Settings{Address: netip.AddrPortFrom(vip, 80), Bridge: "br0", Interval: Interval}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, args := range [][]string{
		{},
		{"--bridge", "br0"},
		{"--address", "10.77.0.100:80"},
		{"--address", "[::1]:80", "--bridge", "br0"},
		{"--address", "10.77.0.100:80", "--bridge", "br0", "more"},
		{"--address", "x", "--bridge", "br0"},
	} {
		if _, err := ParseArgs(args); err == nil {
			t.Errorf("arguments %q were accepted", args)
		}
	}
}

// TestRun observes a service and a claim in a network namespace of its own.
func TestRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
	// The thread is not unlocked: with this goroutine ends its namespace.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	peer := makeBridge(t)
	defer peer.Close()
	sniffer, err := openSniffer(Settings{Address: netip.AddrPortFrom(vip, 80), Bridge: "br-test"})
	if err != nil {
		t.Fatal(err)
	}
	from, to := io.Pipe()
	ctx, cancel := context.WithCancelCause(t.Context())
	lines := &printer{json: json.NewEncoder(to), failed: cancel}
	done := make(chan error, 1)
	go func() { done <- sniffer.run(ctx, lines) }()
	go func() { // until the test is over: a port that has just come up loses frames
		for ctx.Err() == nil {
			_, _ = peer.WriteTo(arpFrame(arpRequest, vip, vip), &packet.Addr{HardwareAddr: net.HardwareAddr{255, 255, 255, 255, 255, 255}})
			time.Sleep(10 * time.Millisecond)
		}
	}()
	line, err := bufio.NewReader(from).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	from.Close() // nobody reads the claims that follow
	o, err := trace.ParseObservation(line)
	if err != nil || o.Claim == nil || o.Claim.MAC != mac.String() || o.Claim.Kind != "gratuitous" {
		t.Errorf("heard %s (%v)", line, err)
	}
	cancel(errors.New("over"))
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// makeBridge returns a connection of a machine on a bridge.
func makeBridge(t *testing.T) *packet.Conn {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br-test"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port", MTU: 1500, TxQLen: -1}, PeerName: "machine"}
	for _, link := range []netlink.Link{bridge, port} {
		if err := netlink.LinkAdd(link); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetMaster(port, bridge); err != nil {
		t.Fatal(err)
	}
	machine, err := netlink.LinkByName("machine")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(machine); err != nil {
		t.Fatal(err)
	}
	found, err := net.InterfaceByName("machine")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := packet.Listen(found, packet.Raw, unix.ETH_P_ARP, nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

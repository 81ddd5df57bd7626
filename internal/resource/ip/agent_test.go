package ip

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/nstest"
	"ringfence/internal/resource"
	"ringfence/internal/resource/resourcetest"
)

// world is a pair of connected interfaces: nic is ours, peer the neighbour's.
type world struct{ nic, peer netlink.Link }

func newWorld(t *testing.T) world {
	t.Helper()
	nstest.Need(t)
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nic0"}, PeerName: "peer0"}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(pair) }) // a case may have deleted it
	w := world{nic: linkByName(t, "nic0"), peer: linkByName(t, "peer0")}
	for _, link := range []netlink.Link{w.nic, w.peer} {
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func linkByName(t *testing.T, name string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func newAgent(t *testing.T) *Agent {
	t.Helper()
	a := New(Options{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func callFor(address string) resource.Call {
	return resource.Call{Service: "web", Node: "n1", Generation: 1, Resource: cluster.Resource{
		Name: "vip", Agent: "ip", Params: map[string]string{"address": address, "interface": "nic0"},
	}}
}

const (
	addr4 = "192.0.2.10/24"
	addr6 = "2001:db8::10/64"
)

func TestConformance(t *testing.T) {
	for _, address := range []string{addr4, addr6} {
		t.Run(address, func(t *testing.T) {
			resourcetest.Run(t, func(t *testing.T) resourcetest.Harness { return harness(t, address) })
		})
	}
}

func harness(t *testing.T, address string) resourcetest.Harness {
	w := newWorld(t)
	remove := func(t *testing.T) { changeAddr(t, netlink.AddrDel, w.nic, address) }
	return resourcetest.Harness{
		Agent: newAgent(t), Call: callFor(address), Bad: badParams,
		Left: func(t *testing.T) []string { return addresses(t, address) },
		End:  remove,
		Damage: func(t *testing.T) {
			remove(t)
			bare, _, _ := strings.Cut(address, "/")
			changeAddr(t, netlink.AddrAdd, w.peer, bare+"/28")
		},
		Blind: func(t *testing.T) func() {
			var was syscall.Rlimit
			if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
				t.Fatal(err)
			}
			set := func(limit syscall.Rlimit) {
				if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
					t.Fatal(err)
				}
			}
			set(syscall.Rlimit{Cur: 0, Max: was.Max}) // no socket to ask the kernel with
			return func() { set(was) }
		},
	}
}

var badParams = []resourcetest.BadParams{
	{Name: "nothing", Params: map[string]string{}, Want: []string{"params.address", "required", "params.interface", "192.0.2.10/24", "eth0"}},
	{Name: "no prefix length", Params: map[string]string{"address": "192.0.2.10", "interface": "nic0"}, Want: []string{"params.address", `"192.0.2.10"`, "prefix length"}},
	{Name: "prefix length too long", Params: map[string]string{"address": "192.0.2.10/33", "interface": "nic0"}, Want: []string{"params.address", "/33", "prefix length"}},
	{Name: "multicast", Params: map[string]string{"address": "ff02::1/64", "interface": "nic0"}, Want: []string{"params.address", "ff02::1/64", "multicast"}},
	{Name: "mapped", Params: map[string]string{"address": "::ffff:192.0.2.1/120", "interface": "nic0"}, Want: []string{"params.address", "mapped"}},
	{Name: "interface too long", Params: map[string]string{"address": addr4, "interface": "abcdefghijklmnop"}, Want: []string{"params.interface", "abcdefghijklmnop", "15"}},
	{Name: "interface is a path", Params: map[string]string{"address": addr4, "interface": "../x"}, Want: []string{"params.interface", `"../x"`}},
	{Name: "unknown key", Params: map[string]string{"address": addr4, "interface": "nic0", "nic": "eth0"}, Want: []string{"params.nic", `"eth0"`, "address, interface"}},
}

// changeAddr does what somebody else on the machine could do.
func changeAddr(t *testing.T, change func(netlink.Link, *netlink.Addr) error, link netlink.Link, address string) {
	t.Helper()
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		t.Fatal(err)
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := change(link, addr); err != nil {
		t.Fatalf("%s on %s: %v", address, link.Attrs().Name, err)
	}
}

// addresses lists where the machine has the address, by the standard library.
func addresses(t *testing.T, address string) []string {
	t.Helper()
	want := netip.MustParsePrefix(address).Addr()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range addrs {
			if netip.MustParsePrefix(addr.String()).Addr() == want {
				found = append(found, link.Name+" "+addr.String())
			}
		}
	}
	return found
}

// listen returns what the neighbour hears: a function that waits for a frame.
func listen(t *testing.T, w world) (waitFor func(frame []byte)) {
	t.Helper()
	link, err := net.InterfaceByName(w.peer.Attrs().Name)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := packet.Listen(link, packet.Raw, unix.ETH_P_ALL, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return func(frame []byte) {
		t.Helper()
		for buf := make([]byte, 2048); ; {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				t.Fatalf("the neighbour did not hear %x: %v", frame, err)
			}
			if bytes.Equal(buf[:n], frame) {
				return
			}
		}
	}
}

func mustStart(t *testing.T, a *Agent, call resource.Call) {
	t.Helper()
	if err := a.Start(t.Context(), call); err != nil {
		t.Fatal(err)
	}
}

func TestNeighboursAreToldBeforeStartReturnsAndAgain(t *testing.T) {
	for _, address := range []string{addr4, addr6} {
		t.Run(address, func(t *testing.T) {
			w := newWorld(t)
			waitFor, a, call := listen(t, w), newAgent(t), callFor(address)
			ip, mac := netip.MustParsePrefix(address).Addr(), w.nic.Attrs().HardwareAddr
			frames := [][]byte{unsolicitedNA(mac, ip, false)}
			if ip.Is4() {
				frames = [][]byte{gratuitousARP(arpRequest, mac, ip), gratuitousARP(arpReply, mac, ip)}
			}
			mustStart(t, a, call)
			a.silence("web@vip") // what is heard now was sent before Start returned
			for _, frame := range frames {
				waitFor(frame)
			}
			if err := a.Announce(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			for _, frame := range slices.Concat(frames, frames) { // at once, and by the schedule
				waitFor(frame)
			}
		})
	}
}

func TestAnnounceIsRefusedWithoutTheAddress(t *testing.T) {
	newWorld(t)
	a := newAgent(t)
	if err := a.Announce(t.Context(), callFor(addr4)); err == nil {
		t.Fatal("announced an address that is not here")
	}
	if len(a.announcers) > 0 {
		t.Fatal("a schedule was begun")
	}
}

func TestStopKeepsOtherAddressesOfTheSubnet(t *testing.T) {
	newWorld(t)
	a, first, second := newAgent(t), callFor(addr4), callFor("192.0.2.11/24")
	second.Resource.Name = "vip2"
	mustStart(t, a, first)
	mustStart(t, a, second)
	if err := a.Stop(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if status, err := a.Monitor(t.Context(), second); status != resource.StatusActive {
		t.Fatalf("the other address is %q, %v", status, err)
	}
}

func TestWatchSeesTheInterface(t *testing.T) {
	cases := map[string]struct {
		do   func(netlink.Link) error
		then resource.Status
	}{
		"administratively down is failed": {netlink.LinkSetDown, resource.StatusFailed},
		"gone is inactive":                {netlink.LinkDel, resource.StatusInactive},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a, call := newAgent(t), callFor(addr4)
			mustStart(t, a, call)
			got := make(chan error, 1)
			go func() { got <- a.Watch(t.Context(), call) }()
			if err := c.do(w.nic); err != nil {
				t.Fatal(err)
			}
			if err := <-got; err == nil || errors.Is(err, t.Context().Err()) {
				t.Fatalf("watch = %v", err)
			}
			if status, err := a.Monitor(t.Context(), call); status != c.then {
				t.Fatalf("monitor = %q, %v, want %q", status, err, c.then)
			}
			if err := a.Stop(t.Context(), call); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestLostCarrierIsNoFailure(t *testing.T) {
	w := newWorld(t)
	a, call := newAgent(t), callFor(addr4)
	mustStart(t, a, call)
	if err := netlink.LinkSetDown(w.peer); err != nil { // the cable's other end
		t.Fatal(err)
	}
	for linkByName(t, "nic0").Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
	}
	if status, err := a.Monitor(t.Context(), call); status != resource.StatusActive {
		t.Fatalf("monitor = %q, %v", status, err)
	}
}

func TestStartSaysWhatIsWrongWithTheInterface(t *testing.T) {
	w := newWorld(t)
	a, call := newAgent(t), callFor(addr4)
	if err := netlink.LinkSetDown(w.nic); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context(), call); err == nil || !strings.Contains(err.Error(), "administratively down") {
		t.Errorf("start = %v", err)
	}
	call.Resource.Params["interface"] = "none0"
	if err := a.Start(t.Context(), call); err == nil || !strings.Contains(err.Error(), `"none0"`) {
		t.Errorf("start = %v", err)
	}
	if left := addresses(t, addr4); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestLoopbackHasNobodyToTell(t *testing.T) {
	nstest.Need(t)
	lo := linkByName(t, "lo")
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	a, call := newAgent(t), callFor("192.0.2.10/32")
	call.Resource.Params["interface"] = "lo"
	mustStart(t, a, call)
	if err := a.Stop(t.Context(), call); err != nil {
		t.Fatal(err)
	}
}

func TestScheduleOfAnnouncements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var sent []time.Duration
		a := New(Options{Logger: slog.New(slog.DiscardHandler)})
		a.send = func(params) error {
			sent = append(sent, time.Since(begin))
			return errors.New("link lost") // must not end the schedule
		}
		expect := func(when string, want ...time.Duration) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(sent, want) {
				t.Fatalf("%s: sent at %v, want %v", when, sent, want)
			}
		}
		const s, ms = time.Second, time.Millisecond
		a.announce("k", params{})
		time.Sleep(70 * s)
		want := []time.Duration{200 * ms, 500 * ms, s, 2 * s, 32 * s, 62 * s}
		expect("after start", want...)
		_ = a.AnnounceAll() // the fake's error
		time.Sleep(600 * ms)
		want = append(want, 70*s, 70*s+200*ms, 70*s+500*ms)
		expect("after a doubt", want...)
		a.silence("k")
		_ = a.AnnounceAll()
		time.Sleep(100 * s)
		expect("after stop", want...)
		a.announce("k", params{})
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		a.announce("k", params{})
		time.Sleep(100 * s)
		expect("after close", want...)
	})
}

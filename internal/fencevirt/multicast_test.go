package fencevirt

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ringfence/internal/nstest"
	"ringfence/internal/wire/xvm"
)

const testPort = 1229 // in namespaces of the test

func multicastListener(group string, interfaces ...string) Listener {
	return Listener{
		Kind: KindMulticast, Where: "test:" + group, Address: netip.MustParseAddr(group), Port: testPort,
		Interfaces: interfaces, Keys: []Key{strong(testKey)},
	}
}

// byMulticast is a client in a guest with the address.
func byMulticast(group, address string, op xvm.Op, guest string) clientJob {
	c := clientOf("udp", netip.AddrPortFrom(netip.MustParseAddr(group), testPort).String(), op, guest)
	c.CallBack, c.Interface, c.Port = netip.MustParseAddr(address), "eth0", testPort
	c.Every = 200 * time.Millisecond
	return c
}

func (g guestNS) mustGet(t testing.TB, c clientJob, want xvm.Result) {
	t.Helper()
	if r, err := g.Ask(t, guestJob{Client: &c}); err != nil || r.Reply.Result != want {
		t.Errorf("%v of %q by %s: %d, %v; want %d", c.Op, c.Guest, c.To, r.Reply.Result, err, want)
	}
}

func (g guestNS) mustNotGet(t testing.TB, c clientJob) {
	t.Helper()
	c.Timeout = 500 * time.Millisecond
	if r, err := g.Ask(t, guestJob{Client: &c}); err == nil {
		t.Errorf("%v of %q by %s was answered: %d", c.Op, c.Guest, c.To, r.Reply.Result)
	}
}

func TestMulticastOnTwoBridgesInBothFamilies(t *testing.T) {
	nstest.Need(t)
	one := nstest.Bridge(t, "br1", "10.77.1.1/24", "fd77:1::1/64")
	two := nstest.Bridge(t, "br2", "10.77.2.1/24", "fd77:2::1/64")
	host := newHost(t, "a")
	start(t, Config{Listeners: []Listener{multicastListener(xvm.DefaultGroup4), multicastListener(xvm.DefaultGroup6)}}, host)
	g1 := newGuest(t, one, "10.77.1.2/24", "fd77:1::2/64")
	g2 := newGuest(t, two, "10.77.2.2/24", "fd77:2::2/64")
	for range 2 {
		g1.mustGet(t, byMulticast(xvm.DefaultGroup4, "10.77.1.2", xvm.OpStatus, "a"), xvm.ResultOK)
		g2.mustGet(t, byMulticast(xvm.DefaultGroup4, "10.77.2.2", xvm.OpStatus, "a"), xvm.ResultOK)
		g1.mustGet(t, byMulticast(xvm.DefaultGroup6, "fd77:1::2", xvm.OpStatus, "a"), xvm.ResultOK)
		g2.mustGet(t, byMulticast(xvm.DefaultGroup6, "fd77:2::2", xvm.OpStatus, "a"), xvm.ResultOK)
	}
	// Unicast to the same port, as with C.
	c := byMulticast(xvm.DefaultGroup4, "10.77.1.2", xvm.OpOff, "a")
	c.To, c.Interface = "10.77.1.1:1229", ""
	g1.mustGet(t, c, xvm.ResultOK)
	c = byMulticast(xvm.DefaultGroup6, "fd77:2::2", xvm.OpStatus, "a")
	c.To, c.Interface = "[fd77:2::1]:1229", ""
	g2.mustGet(t, c, xvm.ResultOff)
	// Another group is not this listener's, though others of this host may join it.
	g1.mustNotGet(t, byMulticast("225.0.0.13", "10.77.1.2", xvm.OpOn, "a"))
}

func TestMulticastOnChosenInterfacesOnly(t *testing.T) {
	nstest.Need(t)
	one, two := nstest.Bridge(t, "br1", "10.77.1.1/24"), nstest.Bridge(t, "br2", "10.77.2.1/24")
	g1, g2 := newGuest(t, one, "10.77.1.2/24"), newGuest(t, two, "10.77.2.2/24")
	var log record
	s := startLogged(t, Config{Listeners: []Listener{multicastListener(xvm.DefaultGroup4, "br1")}}, newHost(t, "a"), log.log())
	c1 := byMulticast(xvm.DefaultGroup4, "10.77.1.2", xvm.OpStatus, "a")
	c2 := byMulticast(xvm.DefaultGroup4, "10.77.2.2", xvm.OpStatus, "a")
	g1.mustGet(t, c1, xvm.ResultOK)
	g2.mustNotGet(t, c2)
	// Somebody else of this host may have joined there, so that it arrives.
	other, err := New(Config{Listeners: []Listener{func() Listener {
		l := multicastListener(xvm.DefaultGroup4, "br2")
		l.Port = 1230
		return l
	}()}}, newHost(t), log.log())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	g2.mustNotGet(t, c2)
	if !log.has("it came by an interface that the listener does not use") || !log.has("interface=br2") {
		t.Error("the drop was not logged")
	}
	if err := s.Reload(Config{Listeners: []Listener{multicastListener(xvm.DefaultGroup4, "br3")}}); err == nil {
		t.Error("an interface that does not exist was taken")
	}
	// A reload moves it, with the same socket.
	if err := s.Reload(Config{Listeners: []Listener{multicastListener(xvm.DefaultGroup4, "br2")}}); err != nil {
		t.Fatal(err)
	}
	g2.mustGet(t, c2, xvm.ResultOK)
	c1.Seq = nextSeq()
	g1.mustNotGet(t, c1)
}

func TestMulticastFollowsInterfacesThatComeAndGo(t *testing.T) {
	nstest.Need(t)
	start(t, Config{Listeners: []Listener{multicastListener(xvm.DefaultGroup4), multicastListener(xvm.DefaultGroup6)}}, newHost(t, "a"))
	for range 2 {
		br := nstest.Bridge(t, "br-late", "10.77.3.1/24", "fd77:3::1/64")
		g := newGuest(t, br, "10.77.3.2/24", "fd77:3::2/64")
		g.mustGet(t, byMulticast(xvm.DefaultGroup4, "10.77.3.2", xvm.OpStatus, "a"), xvm.ResultOK)
		g.mustGet(t, byMulticast(xvm.DefaultGroup6, "fd77:3::2", xvm.OpStatus, "a"), xvm.ResultOK)
		if err := netlink.LinkDel(br); err != nil {
			t.Fatal(err)
		}
	}
	// A chosen one may vanish and come back too.
	br := nstest.Bridge(t, "br-named", "10.77.4.1/24")
	l := multicastListener(xvm.DefaultGroup4, "br-named")
	l.Port = 1230
	start(t, Config{Listeners: []Listener{l}}, newHost(t, "a"))
	if err := netlink.LinkDel(br); err != nil {
		t.Fatal(err)
	}
	br = nstest.Bridge(t, "br-named", "10.77.4.1/24")
	g := newGuest(t, br, "10.77.4.2/24")
	c := byMulticast(xvm.DefaultGroup4, "10.77.4.2", xvm.OpStatus, "a")
	c.To = "225.0.0.12:1230"
	g.mustGet(t, c, xvm.ResultOK)
}

func TestMembershipIsRenewedWithoutLosingRequests(t *testing.T) {
	nstest.Need(t)
	br := nstest.Bridge(t, "br1", "10.77.1.1/24")
	g := newGuest(t, br, "10.77.1.2/24")
	s := start(t, Config{Listeners: []Listener{multicastListener(xvm.DefaultGroup4)}}, newHost(t, "a"))
	for _, e := range s.all() {
		m := e.(*datagram).socket.(*multicast)
		for range 5 {
			if err := m.sync(true); err != nil {
				t.Fatal(err)
			}
			g.mustGet(t, byMulticast(xvm.DefaultGroup4, "10.77.1.2", xvm.OpStatus, "a"), xvm.ResultOK)
		}
		if m.joined[br.Index] != "br1" {
			t.Errorf("joined %v", m.joined)
		}
		for index, name := range m.joined {
			if link, err := netlink.LinkByIndex(index); err != nil || link.Attrs().MasterIndex != 0 {
				t.Errorf("joined on %s, which is a port of a bridge", name)
			}
		}
	}
}

func TestAClientWithALinkLocalAddressIsCalledBackByItsInterface(t *testing.T) {
	nstest.Need(t)
	br := nstest.Bridge(t, "br1", "fd77:1::1/64", "fe80::77:1/64")
	g := newGuest(t, br, "fe80::77:2/64")
	start(t, Config{Listeners: []Listener{multicastListener(xvm.DefaultGroup6)}}, newHost(t, "a"))
	g.mustGet(t, byMulticast(xvm.DefaultGroup6, "fe80::77:2%eth0", xvm.OpStatus, "a"), xvm.ResultOK)
}

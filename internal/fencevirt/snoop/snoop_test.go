package snoop

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"

	"ringfence/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m, nil) }

func TestABridgeSaysWhatItDoesAndWhoHasJoined(t *testing.T) {
	nstest.Need(t)
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br-snoop"}}
	if err := netlink.LinkAdd(br); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(br); err != nil {
		t.Fatal(err)
	}
	index := br.Index
	got := func() Bridge {
		all, err := Bridges()
		if err != nil {
			t.Fatal(err)
		}
		return all[index]
	}
	group := netip.MustParseAddr("225.0.0.12")
	if b := got(); b.Name != "br-snoop" || !b.Snoops || b.Asked(group) {
		t.Errorf("a new bridge: %+v", b)
	}
	conn, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	addr, _ := netlink.ParseAddr("10.77.9.1/24")
	if err := netlink.AddrAdd(br, addr); err != nil {
		t.Fatal(err)
	}
	if err := ipv4.NewPacketConn(conn).JoinGroup(&net.Interface{Index: index}, &net.UDPAddr{IP: group.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	want := Membership{Bridge: index, Port: index, Group: group}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		members, err := Memberships()
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(members, want) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the bridge did not learn of the host's own join: %v", members)
		}
	}
	if err := netlink.BridgeSetMcastSnoop(br, false); err != nil {
		t.Fatal(err)
	}
	if b := got(); b.Snoops {
		t.Errorf("a bridge that snoops no more: %+v", b)
	}
}

// TestWhatCannotBeReadIsNothing keeps a cut or wrong message from being a crash.
func TestWhatCannotBeReadIsNothing(t *testing.T) {
	whole := []byte{8, 0, 1, 0, 1, 2, 3, 4, 7, 0, 2, 0, 'a', 'b', 0, 0}
	for n := range whole {
		attributes(whole[:n])
	}
	if got := attributes(whole); string(got[2]) != "ab\x00" || len(got) != 2 {
		t.Errorf("%v", got)
	}
	if got := attributes([]byte{2, 0, 1, 0}); len(got) != 0 {
		t.Errorf("a length that is too small: %v", got)
	}
	if _, ok := parseEntry(1, make([]byte, sizeofEntry-1)); ok {
		t.Error("a cut entry was taken")
	}
	if _, ok := parseEntry(1, make([]byte, sizeofEntry)); ok {
		t.Error("an entry of no known protocol was taken")
	}
}

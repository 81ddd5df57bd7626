package snoop

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
)

const inside = "RINGFENCE_SNOOP_TEST_INSIDE"

// TestMain runs the tests in a new user and network namespace.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Start(); err != nil {
		os.Exit(m.Run())
	}
	_ = cmd.Wait() // the exit code says it
	os.Exit(cmd.ProcessState.ExitCode())
}

func TestABridgeSaysWhatItDoesAndWhoHasJoined(t *testing.T) {
	if os.Getenv(inside) == "" {
		t.Skip("SKIPPED: needs a user and network namespace, or root")
	}
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

package doctor

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ringfence/internal/fencevirt/snoop"
	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/nstest"
	"ringfence/internal/wire/xvm"
	"ringfence/internal/wire/xvmdiag"
)

// network is a host with the bridge br0, and a guest on it.
func network(t testing.TB) guestNS {
	t.Helper()
	needNamespace(t)
	return newGuest(t, nstest.Bridge(t, "br0", "10.77.0.1/24", "fd77::1/64"), "10.77.0.11/24", "fd77::11/64")
}

// examine has doctor look at the guest.
func (g guestNS) examine(t testing.TB, o GuestOptions) Diagnosis {
	t.Helper()
	return g.ask(t, guestJob{Doctor: &o})
}

func TestAHealthyWayIsWholeOnBothSides(t *testing.T) {
	g := network(t)
	s := newStation(t, settings{})
	o := client(t)
	began := time.Now()
	d := g.examine(t, o)
	wantBroken(t, d)
	d.says(t, LegPacket, "ringfence v0.0.0-test")
	d.says(t, LegKeyFile, xvmdiag.FingerprintOf([]byte(testKey)).String())
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	o.Target, o.Host = "n1", "10.77.0.1"
	d = g.examine(t, o)
	wantBroken(t, d)
	d.says(t, LegGuest, "n1 is there, and is on")
	o.Target = string(idOf("off1"))
	g.examine(t, o).says(t, LegGuest, "is there, and is off")
	host := s.examineFor("n1")
	wantBroken(t, host)
	host.says(t, LegLibvirt, ": 2")
	host.says(t, LegKeys, xvmdiag.FingerprintOf([]byte(testKey)).String())
	host.says(t, LegMembership, "225.0.0.12 on br0")
}

func TestAHealthyWayByIPv6(t *testing.T) {
	g := network(t)
	s := newStation(t, settings{listener: "kind = \"multicast\"\naddress = \"ff05::3:1\"\ninterfaces = [\"br0\"]"})
	o := client(t)
	o.Group, o.Target = netip.MustParseAddr(xvm.DefaultGroup6), "n1"
	wantBroken(t, g.examine(t, o))
	wantBroken(t, s.examine())
}

func TestAWayWithoutAnyKey(t *testing.T) {
	g := network(t)
	newStation(t, settings{keyLines: "hash = \"none\"\nauth = \"none\""})
	o := client(t)
	o.Hash, o.Auth, o.Target = xvm.HashNone, xvm.HashNone, "n1"
	wantBroken(t, g.examine(t, o))
	o.Auth = xvm.HashSHA256
	wantBroken(t, g.examine(t, o), LegAuth)
}

func TestAMissingKeyFile(t *testing.T) {
	g := network(t)
	newStation(t, settings{})
	o := client(t)
	o.KeyFile = filepath.Join(t.TempDir(), "none")
	wantBroken(t, g.examine(t, o), LegKeyFile)
	o.KeyFile = keyFile(t, "")
	wantBroken(t, g.examine(t, o), LegKeyFile)
	o = client(t)
	must(t, os.Chmod(o.KeyFile, 0o644))
	if d := g.examine(t, o); len(d.Notes) == 0 || !d.Healthy {
		t.Errorf("a key that others can read is not told\n%s", d.text())
	}
}

func TestAGuestWithoutAddress(t *testing.T) {
	needNamespace(t)
	g := newGuest(t, nstest.Bridge(t, "br0", "10.77.0.1/24"))
	newStation(t, settings{})
	wantBroken(t, g.examine(t, client(t)), LegAddresses)
}

func TestAPortThatIsTaken(t *testing.T) {
	g := network(t)
	newStation(t, settings{})
	g.ask(t, guestJob{Hold: xvm.DefaultPort})
	wantBroken(t, g.examine(t, client(t)), LegPort)
}

func TestAFirewallOfTheGuestThatDropsTheCallBack(t *testing.T) {
	g := network(t)
	newStation(t, settings{})
	g.run(t, "table inet f { chain i { type filter hook input priority 0; policy accept; tcp dport 1229 drop; }; }", "nft", "-f", "-")
	wantBroken(t, g.examine(t, client(t)), LegFirewall)
	g.run(t, "flush ruleset\n", "nft", "-f", "-")
	wantBroken(t, g.examine(t, client(t)))
	g.run(t, "", "iptables", "-A", "INPUT", "-p", "tcp", "-m", "tcp", "--dport", "1229", "-j", "REJECT")
	d := g.examine(t, client(t))
	wantBroken(t, d, LegFirewall)
	d.says(t, LegFirewall, "iptables -I INPUT -p tcp --dport 1229 -j ACCEPT")
}

func TestAFirewallOfTheGuestThatDropsWhatLeaves(t *testing.T) {
	g := network(t)
	newStation(t, settings{})
	g.run(t, "table inet f { chain o { type filter hook output priority 0; policy accept; udp dport 1229 drop; }; }", "nft", "-f", "-")
	wantBroken(t, g.examine(t, client(t)), LegFirewall)
}

func TestNoDaemon(t *testing.T) {
	g := network(t)
	s := newStation(t, settings{notRun: true})
	o := client(t)
	wantBroken(t, g.examine(t, o), LegPacket)
	o.Host = "10.77.0.1"
	d := g.examine(t, o)
	wantBroken(t, d, LegPacket)
	d.says(t, LegPacket, "nothing listens")
	wantBroken(t, s.examine(), LegDaemon)
}

func TestAnotherGroup(t *testing.T) {
	g := network(t)
	s := newStation(t, settings{listener: "kind = \"multicast\"\naddress = \"225.0.0.13\"\ninterfaces = [\"br0\"]"})
	o := client(t)
	wantBroken(t, g.examine(t, o), LegPacket) // without the host more cannot be told
	o.Host = "10.77.0.1"
	d := g.examine(t, o)
	wantBroken(t, d, LegGroup)
	d.says(t, LegGroup, "multicast_address=225.0.0.13")
	wantBroken(t, s.examine())
}

func TestADaemonOfUnicastOnly(t *testing.T) {
	g := network(t)
	newStation(t, settings{listener: "kind = \"udp\"\naddress = \"10.77.0.1\""})
	o := client(t)
	o.Host = "10.77.0.1"
	wantBroken(t, g.examine(t, o), LegGroup)
}

func TestAnotherInterface(t *testing.T) {
	g := network(t)
	nstest.Bridge(t, "br1", "10.77.1.1/24")
	s := newStation(t, settings{listener: "kind = \"multicast\"\ninterfaces = [\"br1\"]"})
	o := client(t)
	o.Host = "10.77.0.1"
	d := g.examine(t, o)
	wantBroken(t, d, LegInterface)
	d.says(t, LegInterface, "br1 (10.77.1.1/24)")
	d.says(t, LegInterface, "add br0")
	wantBroken(t, s.examine())
	// Where somebody else of the host has joined on br0, the packet arrives, and is
	// refused.
	other, err := net.ListenMulticastUDP("udp4", mustInterface(t, "br0"), &net.UDPAddr{IP: net.ParseIP(xvm.DefaultGroup4), Port: 1230})
	must(t, err)
	defer other.Close()
	o.Host = ""
	wantBroken(t, g.examine(t, o), LegInterface)
	wantBroken(t, s.examine(), LegRequests)
}

func mustInterface(t testing.TB, name string) *net.Interface {
	t.Helper()
	ifi, err := net.InterfaceByName(name)
	must(t, err)
	return ifi
}

// TestSnoopingWithoutAMembership: a bridge of the host has heard a querier, and its
// host's own firewall keeps the answer from it.
func TestSnoopingWithoutAMembership(t *testing.T) {
	g := network(t)
	nft(t, "table ip f { chain o { type filter hook output priority 0; ip protocol igmp drop; }; }")
	s := newStation(t, settings{})
	g.ask(t, guestJob{Query: true})
	eventually(t, "the bridge knows of the querier", func() bool { return bridgeIsAsked(t, "br0") })
	time.Sleep(2 * queryTime) // before, the kernel waits for answers and floods
	o := client(t)
	o.Host = "10.77.0.1"
	d := g.examine(t, o)
	wantBroken(t, d, LegSnooping)
	d.says(t, LegSnooping, "br0 is a bridge that watches joins and knows of a querier")
	d = s.examine()
	wantBroken(t, d, LegSnooping)
	if len(d.Notes) == 0 {
		t.Error("the firewall that drops IGMP is not told")
	}
}

// TestSnoopingWithoutAQuerier: a switch between forgets who has joined, since nobody
// asks, and does not flood.
func TestSnoopingWithoutAQuerier(t *testing.T) {
	needNamespace(t)
	sw := nstest.Bridge(t, "sw0")
	must(t, netlink.BridgeSetMcastSnoop(sw, true))
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "sw-up0"}
	must(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	port, err := netlink.LinkByName("sw-up0")
	must(t, err)
	must(t, netlink.LinkSetMaster(port, sw))
	must(t, nstest.AddAddress(veth, "10.77.0.1/24"))
	command(t, "", "ip", "link", "set", "sw0", "arp", "off") // it is none of the host's, but for this test
	command(t, "", "ip", "link", "set", "sw0", "type", "bridge", "mcast_querier", "0", "mcast_membership_interval", "100")
	command(t, "", "bridge", "link", "set", "dev", "sw-up0", "mcast_flood", "off")
	must(t, netlink.LinkSetUp(port))
	must(t, netlink.LinkSetUp(veth))
	g := newGuest(t, sw, "10.77.0.11/24")
	newStation(t, settings{listener: "kind = \"multicast\"\ninterfaces = [\"up0\"]"})
	o := client(t)
	o.Host = "10.77.0.1"
	eventually(t, "the switch forgets the join", func() bool { return !isMember(t, "sw0", "sw-up0", o.Group) })
	d := g.examine(t, o)
	wantBroken(t, d, LegSnooping)
	d.says(t, LegSnooping, "mcast_querier 1")
	// What doctor says mends it.
	command(t, "", "ip", "link", "set", "sw0", "type", "bridge", "mcast_membership_interval", "26000", "mcast_query_response_interval", "10")
	command(t, "", "ip", "link", "set", "sw0", "type", "bridge", "mcast_querier", "1")
	eventually(t, "the switch learns of the join", func() bool { return isMember(t, "sw0", "sw-up0", o.Group) })
	time.Sleep(2 * queryTime)
	wantBroken(t, g.examine(t, o))
}

func bridgeIsAsked(t testing.TB, name string) bool {
	t.Helper()
	bridges, err := snoop.Bridges()
	must(t, err)
	return bridges[mustInterface(t, name).Index].Asked(netip.MustParseAddr(xvm.DefaultGroup4))
}

func isMember(t testing.TB, bridge, port string, group netip.Addr) bool {
	t.Helper()
	members, err := snoop.Memberships()
	must(t, err)
	return slices.Contains(members, snoop.Membership{Bridge: mustInterface(t, bridge).Index, Port: mustInterface(t, port).Index, Group: group})
}

func TestAFirewallOfTheHost(t *testing.T) {
	for name, rules := range map[string]string{
		"nft":       "table inet f { chain i { type filter hook input priority 0; policy accept; udp dport 1229 drop; }; }",
		"firewalld": "table inet firewalld { chain filter_IN_public { tcp dport 22 accept; }; chain filter_INPUT { type filter hook input priority 10; ct state { established, related } accept; iifname \"lo\" accept; iifname \"br0\" jump filter_IN_public; reject with icmpx admin-prohibited; }; }",
	} {
		t.Run(name, func(t *testing.T) {
			g := network(t)
			s := newStation(t, settings{})
			nft(t, rules)
			o := client(t)
			if name == "nft" {
				o.Host = "10.77.0.1"
			}
			wantBroken(t, g.examine(t, o), LegPacket)
			d := s.examine()
			wantBroken(t, d, LegFirewall)
			if name == "firewalld" {
				d.says(t, LegFirewall, "firewall-cmd --permanent --add-port=1229/udp")
			}
		})
	}
	t.Run("iptables", func(t *testing.T) {
		g := network(t)
		s := newStation(t, settings{})
		command(t, "", "iptables", "-A", "INPUT", "-p", "udp", "-i", "br+", "-j", "DROP")
		t.Cleanup(func() { command(t, "", "iptables", "-F", "INPUT") })
		wantBroken(t, g.examine(t, client(t)), LegPacket)
		wantBroken(t, s.examine(), LegFirewall)
	})
}

func TestAnotherKey(t *testing.T) {
	g := network(t)
	s := newStation(t, settings{key: "another key"})
	d := g.examine(t, client(t))
	wantBroken(t, d, LegKey)
	d.says(t, LegKey, xvmdiag.FingerprintOf([]byte(testKey)).String())
	d.says(t, LegKey, xvmdiag.FingerprintOf([]byte("another key")).String())
	d = s.examine()
	wantBroken(t, d, LegRequests)
	d.says(t, LegRequests, "from 10.77.0.11")
	d.says(t, LegRequests, "digest does not fit")
}

func TestAnotherKeyWhereNothingIsSigned(t *testing.T) {
	g := network(t)
	newStation(t, settings{key: "another key", keyLines: "hash = \"none\""})
	o := client(t)
	o.Hash = xvm.HashNone
	wantBroken(t, g.examine(t, o), LegKey)
}

func TestAHashThatIsTooWeak(t *testing.T) {
	g := network(t)
	s := newStation(t, settings{keyLines: "hash = \"sha512\""})
	d := g.examine(t, client(t))
	wantBroken(t, d, LegHash)
	d.says(t, LegHash, "hash=sha512 (-c)")
	wantBroken(t, s.examine(), LegRequests)
}

func TestAnotherAuth(t *testing.T) {
	g := network(t)
	s := newStation(t, settings{keyLines: "auth = \"sha512\""})
	d := g.examine(t, client(t))
	wantBroken(t, d, LegAuth)
	d.says(t, LegAuth, "auth=sha512 (-C)")
	eventually(t, "the daemon sees that the guest has hung up", func() bool { return len(s.examine().Broken()) > 0 })
	wantBroken(t, s.examine(), LegRequests)
}

// TestACallBackThatDoesNotArrive: neither side's own rules for what comes in stop it.
func TestACallBackThatDoesNotArrive(t *testing.T) {
	t.Run("by the host's rules", func(t *testing.T) {
		g := network(t)
		s := newStation(t, settings{})
		nft(t, "table inet f { chain o { type filter hook output priority 0; tcp dport 1229 reject with tcp reset; }; }")
		// The host's rules are the cause; looked at before any guest asks, they are all.
		wantBroken(t, s.examine(), LegFirewall)
		wantBroken(t, g.examine(t, client(t)), LegCallBack)
	})
	// What filters in between is seen by neither.
	t.Run("between", func(t *testing.T) {
		g := network(t)
		s := newStation(t, settings{})
		nft(t, "table bridge f { chain o { type filter hook output priority 0; tcp dport 1229 drop; }; }")
		d := g.examine(t, client(t))
		wantBroken(t, d, LegCallBack)
		d.says(t, LegCallBack, "something drops it")
		d = s.examine()
		wantBroken(t, d, LegRequests)
		d.says(t, LegRequests, "something drops the call back")
	})
}

// TestSomebodyElseCalls: a program without the key is faster than the daemon, whose
// packets are held up.
func TestSomebodyElseCalls(t *testing.T) {
	g := network(t)
	newStation(t, settings{})
	nft(t, "table inet f { chain o { type filter hook output priority 0; tcp dport 1229 meta mark != 7 drop; }; }")
	dialer := net.Dialer{Timeout: time.Second, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, 7) })
	}}
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			conn, err := dialer.Dial("tcp4", "10.77.0.11:1229")
			if err != nil {
				continue
			}
			conn.SetDeadline(time.Now().Add(time.Second))
			io.ReadFull(conn, make([]byte, xvm.ChallengeSize))
			conn.Write(make([]byte, 2*xvm.ChallengeSize))
			conn.Close()
		}
	}()
	defer func() { close(stop); <-ended }()
	wantBroken(t, g.examine(t, client(t)), LegChallenge)
}

func TestAHypervisorThatDoesNotAnswer(t *testing.T) {
	g := network(t)
	s := newStation(t, settings{})
	s.host.SetFault(mem.FaultOn(mem.OpList, mem.Fault{Fail: errors.New("connection refused")}))
	wantBroken(t, g.examine(t, client(t)), LegHypervisor)
}

func TestAGuestThatIsNotPermitted(t *testing.T) {
	g := network(t)
	s := newStation(t, settings{keyLines: "[[listener.key.group]]\nfrom = [\"10.77.0.11\"]\nguests = [\"off1\"]"})
	o := client(t)
	o.Target = "n1"
	wantBroken(t, g.examine(t, o), LegPermission)
	o.Target = "off1"
	wantBroken(t, g.examine(t, o))
	wantBroken(t, s.examine())
}

func TestAGuestThatIsNotThere(t *testing.T) {
	g := network(t)
	s := newStation(t, settings{})
	o := client(t)
	o.Target = "n7"
	wantBroken(t, g.examine(t, o), LegGuest)
	wantBroken(t, s.examineFor("n7"), LegGuest)
}

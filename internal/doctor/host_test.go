package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"ringfence/internal/nstest"
)

func TestAConfigurationThatIsNone(t *testing.T) {
	needNamespace(t)
	d := Host(t.Context(), HostOptions{Config: filepath.Join(t.TempDir(), "none")})
	wantBroken(t, d, LegConfiguration)
	path := filepath.Join(t.TempDir(), "f.conf")
	must(t, os.WriteFile(path, []byte("fence_virtd {\n\tlistener = multicast;\n}\n"), 0o600))
	d = Host(t.Context(), HostOptions{Config: path})
	wantBroken(t, d, LegConfiguration)
	d.says(t, LegConfiguration, "f.conf:2:")
	must(t, os.WriteFile(path, []byte(`fence_virtd { listener = "multicast"; backend = "libvirt"; }
listeners { multicast { key_file = "/none/key"; } } backends { libvirt { uri = "qemu:///system"; } }`), 0o600))
	wantBroken(t, Host(t.Context(), HostOptions{Config: path}), LegKeys)
}

func TestInterfacesThatCannotListen(t *testing.T) {
	needNamespace(t)
	br := nstest.Bridge(t, "br0", "10.77.0.1/24")
	s := newStation(t, settings{listener: "kind = \"multicast\"\ninterfaces = [\"br9\"]", notRun: true})
	d := s.examine()
	wantBroken(t, d, LegInterfaces)
	d.says(t, LegInterfaces, "there are br0")
	s = newStation(t, settings{})
	must(t, netlink.LinkSetDown(br))
	wantBroken(t, s.examine(), LegInterfaces)
	must(t, netlink.LinkSetUp(br))
	wantBroken(t, s.examine())
	must(t, netlink.LinkSetMulticastOff(br))
	wantBroken(t, s.examine(), LegInterfaces)
}

func TestAPortThatSomebodyElseHas(t *testing.T) {
	needNamespace(t)
	nstest.Bridge(t, "br0", "10.77.0.1/24")
	s := newStation(t, settings{notRun: true})
	conn, err := net.ListenPacket("udp4", "0.0.0.0:1229")
	must(t, err)
	defer conn.Close()
	d := s.examine()
	wantBroken(t, d, LegPort)
	d.says(t, LegPort, "pid ")
}

// TestADaemonThatServesSomethingElse than its file says by now.
func TestADaemonThatServesSomethingElse(t *testing.T) {
	needNamespace(t)
	nstest.Bridge(t, "br0", "10.77.0.1/24")
	nstest.Bridge(t, "br1", "10.77.1.1/24")
	s := newStation(t, settings{other: "kind = \"multicast\"\ninterfaces = [\"br1\"]"})
	d := s.examine()
	wantBroken(t, d, LegMembership)
	d.says(t, LegMembership, "has not joined 225.0.0.12 on br0")
}

func TestADaemonThatLacksAListener(t *testing.T) {
	needNamespace(t)
	nstest.Bridge(t, "br0", "10.77.0.1/24")
	s := newStation(t, settings{other: "kind = \"tcp\"\naddress = \"10.77.0.1\""})
	d := s.examine()
	wantBroken(t, d, LegDaemon)
	d.says(t, LegDaemon, "SIGHUP")
}

func TestLibvirtThatIsNotThere(t *testing.T) {
	needNamespace(t)
	nstest.Bridge(t, "br0", "10.77.0.1/24")
	s := newStation(t, settings{uris: `["qemu+unix:///system?socket=/none/sock"]`})
	d := s.examine()
	wantBroken(t, d, LegLibvirt)
	d.says(t, LegLibvirt, "systemctl start libvirtd")
	// One that is there, and nobody listens.
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	must(t, err)
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	s = newStation(t, settings{uris: `["` + uriOf(path) + `"]`, notRun: true})
	if got := strings.Join(s.examine().Broken(), " "); !strings.Contains(got, LegLibvirt) {
		t.Errorf("broken %s", got)
	}
}

func TestTheWrongURI(t *testing.T) {
	needNamespace(t)
	nstest.Bridge(t, "br0", "10.77.0.1/24")
	empty, full := fakeLibvirt(t), fakeLibvirt(t, "web1", "web2")
	s := newStation(t, settings{uris: `["` + uriOf(empty) + `"]`})
	d := s.examine(uriOf(full))
	wantBroken(t, d, LegURI)
	d.says(t, LegURI, "has web1, web2")
	d.says(t, LegURI, uriOf(full))
	// No guest anywhere is no fault.
	d = s.examine(uriOf(fakeLibvirt(t)), "qemu+unix:///system?socket=/none/sock")
	wantBroken(t, d)
	if len(d.Notes) == 0 {
		t.Error("no word of there being no guest")
	}
	// Guests that the configuration wants are elsewhere, beside others here.
	s = newStation(t, settings{keyLines: "[[listener.key.group]]\nfrom = [\"10.77.0.11\"]\nguests = [\"n1\", \"web1\"]", notRun: true})
	if got := strings.Join(s.examine(uriOf(full)).Broken(), " "); !strings.Contains(got, LegURI) {
		t.Errorf("broken %s", got)
	}
}

func TestGroupsOfGuestsThatAreNotThere(t *testing.T) {
	needNamespace(t)
	nstest.Bridge(t, "br0", "10.77.0.1/24")
	group := "[[listener.key.group]]\nfrom = [\"10.77.0.11\"]\nguests = "
	s := newStation(t, settings{keyLines: group + `["n7", "n8"]`})
	d := s.examine()
	wantBroken(t, d, LegGroups)
	d.says(t, LegGroups, "n7, n8")
}

func TestSomeGuestsOfAGroupMayBeElsewhere(t *testing.T) {
	needNamespace(t)
	nstest.Bridge(t, "br0", "10.77.0.1/24")
	s := newStation(t, settings{keyLines: "[[listener.key.group]]\nfrom = [\"10.77.0.11\"]\nguests = [\"N1\", \"n7\"]"})
	d := s.examine()
	wantBroken(t, d)
	if len(d.Notes) != 1 && len(d.Notes) != 2 || !strings.Contains(strings.Join(d.Notes, " "), "n7") {
		t.Errorf("notes %v", d.Notes)
	}
}

func TestTheKernelsListsOfGroupsAreRead(t *testing.T) {
	got := map[string][]netip.Addr{}
	parseIGMP([]byte("Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"+
		"2\tbr0       :     2      V3\n\t\t\t\t0C0000E1     1 0:00000000\t\t0\n\t\t\t\tbad\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"), got)
	parseIGMP6([]byte("1    lo              ff020000000000000000000000000001     1 0000000C 0\n7    br0             ff050000000000000000000000030001     1 00000004 0\nx\n1 br0 zz\n"), got)
	want := map[string][]netip.Addr{
		"lo":  {netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("ff02::1")},
		"br0": {netip.MustParseAddr("225.0.0.12"), netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("ff05::3:1")},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

// TestWhoIsNotLetInIsToldToBeRoot: the namespaces of the tests have one user, so that
// the errors are made by hand.
func TestWhoIsNotLetInIsToldToBeRoot(t *testing.T) {
	denied := fmt.Errorf("open key: %w", syscall.EACCES)
	if got := unlessDenied(denied, "x"); got != "run as root" {
		t.Error(got)
	}
	if got := unlessDenied(syscall.ENOENT, "x"); got != "x" {
		t.Error(got)
	}
}

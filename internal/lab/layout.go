package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor/proc"
)

// The network of a lab, the same in each: it is private to the lab.
const (
	Bridge      = "br0"
	bridgeAddr  = "10.77.0.254/24"
	bridgeMAC   = "02:52:46:00:00:fe"
	addrPrefix  = 24
	hostAddrOff = 100 // h1 is 10.77.0.101
)

// size is how many hosts and guests a lab has.
const size = 3

// Layout says what is where in a lab. Every path is the same inside guests and
// outside, since guests see the files of their host (but not its /run).
type Layout struct {
	Dir string
}

// DefaultDir returns $RINGFENCE_LAB, or a directory of this user under /tmp.
func DefaultDir() string {
	if dir := os.Getenv("RINGFENCE_LAB"); dir != "" {
		return dir
	}
	return filepath.Join("/tmp", "ringfence-lab-"+strconv.Itoa(os.Getuid()))
}

// Nodes returns n1 to n3. Guest and node have the same name.
func Nodes() []cluster.NodeName { return []cluster.NodeName{"n1", "n2", "n3"} }

// Hosts returns h1 to h3; n1 starts on h1, and so on.
func Hosts() []cluster.HostName { return []cluster.HostName{"h1", "h2", "h3"} }

// HostOf returns the host on which a node starts, and stays unless it migrates.
func HostOf(node cluster.NodeName) (cluster.HostName, error) {
	i, err := numberOf(string(node), 'n')
	if err != nil {
		return "", fmt.Errorf("no node %.63q in the lab, there are n1 to n%d", string(node), size)
	}
	return Hosts()[i-1], nil
}

func checkHost(host cluster.HostName) error {
	if _, err := numberOf(string(host), 'h'); err != nil {
		return fmt.Errorf("no host %.63q in the lab, there are h1 to h%d", string(host), size)
	}
	return nil
}

func numberOf(name string, kind byte) (int, error) {
	if len(name) != 2 || name[0] != kind || name[1] < '1' || name[1] > '0'+size {
		return 0, strconv.ErrSyntax
	}
	return int(name[1] - '0'), nil
}

// number is numberOf for names that come from Nodes and Hosts.
func number(name string) int {
	i, err := numberOf(name, name[0])
	if err != nil {
		panic("lab: name " + strconv.Quote(name) + " is none of a lab")
	}
	return i
}

// NodeAddr returns the address of a node's eth0, 10.77.0.1 to 10.77.0.3.
func (l Layout) NodeAddr(node cluster.NodeName) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, 0, byte(number(string(node)))})
}

// HostAddr returns the address of a host on the bridge, 10.77.0.101 to .103.
func (l Layout) HostAddr(host cluster.HostName) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, 0, byte(hostAddrOff + number(string(host)))})
}

// GuestID returns the UUID of a node's guest, the same in every lab.
func (l Layout) GuestID(node cluster.NodeName) cluster.GuestID {
	return cluster.GuestID(fmt.Sprintf("7a6b0077-0000-4000-8000-%012d", number(string(node))))
}

// GuestDisk returns the directory that only this node uses.
func (l Layout) GuestDisk(node cluster.NodeName) string {
	return filepath.Join(l.guestDir(node), "disk")
}

// Console returns the file with all that a guest's command wrote.
func (l Layout) Console(node cluster.NodeName) string {
	return filepath.Join(l.guestDir(node), "console.log")
}

// HostDir returns the directory that only this host uses.
func (l Layout) HostDir(host cluster.HostName) string {
	return filepath.Join(l.Dir, "hosts", string(host))
}

// HostLog returns the file with all that a host's hostd wrote.
func (l Layout) HostLog(host cluster.HostName) string {
	return filepath.Join(l.HostDir(host), "hostd.log")
}

// HostProcConfig returns the file that describes the guests of a host to the
// proc driver; see proc.ReadConfig.
func (l Layout) HostProcConfig(host cluster.HostName) string {
	return filepath.Join(l.HostDir(host), "proc.json")
}

// Shared returns the directory that all nodes use: the shared disk.
func (l Layout) Shared() string { return filepath.Join(l.Dir, "shared") }

// Socket returns the control socket.
func (l Layout) Socket() string { return filepath.Join(l.Dir, "control.sock") }

func (l Layout) guestDir(node cluster.NodeName) string {
	return filepath.Join(l.Dir, "guests", string(node))
}

func (l Layout) stateDir(host cluster.HostName) string {
	return filepath.Join(l.HostDir(host), "proc")
}

func (l Layout) lockPath() string { return filepath.Join(l.Dir, "lock") }
func (l Layout) specPath() string { return filepath.Join(l.Dir, "lab.json") }
func (l Layout) initPath() string { return filepath.Join(l.Dir, "init.json") }
func (l Layout) logPath() string  { return filepath.Join(l.Dir, "supervisor.log") }

// procConfig describes one host to the proc driver. Where guests can move, every
// host knows all of them.
func (l Layout) procConfig(host cluster.HostName, s spec) proc.Config {
	config := proc.Config{
		StateDir: l.stateDir(host), Bridge: Bridge, Launcher: []string{s.Executable, "guest-init"}, Immobile: !s.Movable,
	}
	if s.Cgroup != "" {
		config.Cgroup = filepath.Join(s.Cgroup, string(host))
	}
	for _, node := range guestsOf(host, s.Movable) {
		config.Guests = append(config.Guests, proc.Guest{
			ID: l.GuestID(node), Name: string(node),
			Command: s.Guests[node], Env: s.Env, Dir: l.GuestDisk(node),
			Addr: netip.PrefixFrom(l.NodeAddr(node), addrPrefix),
			MAC:  nodeMAC(node), Link: linkOf(host, node),
			Console: l.Console(node), ChannelDir: filepath.Join(l.guestDir(node), "channel"),
		})
	}
	return config
}

// guestsOf returns the guests that may run on a host.
func guestsOf(host cluster.HostName, movable bool) []cluster.NodeName {
	if movable {
		return Nodes()
	}
	return []cluster.NodeName{homeOf(host)}
}

// homeOf returns the node that starts on a host of the lab.
func homeOf(host cluster.HostName) cluster.NodeName { return Nodes()[number(string(host))-1] }

// MACs says which node has which address of Ethernet on the bridge.
func MACs() map[string]cluster.NodeName {
	out := map[string]cluster.NodeName{}
	for _, node := range Nodes() {
		out[nodeMAC(node)] = node
	}
	return out
}

func nodeMAC(node cluster.NodeName) string {
	return fmt.Sprintf("02:52:46:00:00:%02x", number(string(node)))
}

// linkOf names a guest's link on a host; all of them are in one network
// namespace.
func linkOf(host cluster.HostName, node cluster.NodeName) string {
	return string(host) + "-" + string(node)
}

package doctor

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"ringfence/internal/fencevirt"
	"ringfence/internal/fencevirt/snoop"
)

// interfacesOf returns the interfaces of a listener: those that it names, or all
// that are up and no ports of bridges.
func interfacesOf(l fencevirt.Listener) []string {
	if len(l.Interfaces) > 0 {
		return l.Interfaces
	}
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil
	}
	kinds := map[int]string{}
	for _, link := range links {
		kinds[link.Attrs().Index] = link.Type()
	}
	var out []string
	for _, link := range links {
		a := link.Attrs()
		multicast := a.Flags&net.FlagMulticast != 0 || l.Kind != fencevirt.KindMulticast
		if a.Flags&net.FlagUp != 0 && a.Flags&net.FlagLoopback == 0 && multicast && kinds[a.MasterIndex] != "bridge" {
			out = append(out, a.Name)
		}
	}
	slices.Sort(out)
	return out
}

// interfaces sees whether multicast has where to listen.
func (h *host) interfaces() bool {
	var good []string
	for _, l := range h.file.Server.Listeners {
		if l.Kind != fencevirt.KindMulticast {
			continue
		}
		names := interfacesOf(l)
		if len(names) == 0 {
			return h.fail(LegInterfaces, fmt.Sprintf("%s: no interface is up that takes multicast", l.Where), "see `ip link`: bring up the interface or bridge of the guests")
		}
		for _, name := range names {
			link, err := netlink.LinkByName(name)
			switch {
			case err != nil:
				return h.fail(LegInterfaces, fmt.Sprintf("%s: interface %s does not exist", l.Where, name),
					"correct the name in the configuration (there are "+strings.Join(interfacesOf(fencevirt.Listener{Kind: l.Kind}), ", ")+"), or leave it out to take all")
			case link.Attrs().Flags&net.FlagUp == 0:
				return h.fail(LegInterfaces, fmt.Sprintf("%s: interface %s is down", l.Where, name), "ip link set "+name+" up; for a network of libvirt: virsh net-start")
			case link.Attrs().Flags&net.FlagMulticast == 0:
				return h.fail(LegInterfaces, fmt.Sprintf("%s: interface %s does not take multicast", l.Where, name), "ip link set "+name+" multicast on")
			}
			if !slices.Contains(good, name) {
				good = append(good, name)
			}
		}
	}
	if len(good) == 0 {
		h.skip(LegInterfaces, "no listener is of kind multicast")
		return true
	}
	h.ok(LegInterfaces, strings.Join(good, ", "))
	return true
}

// sockets sees who has the ports of the listeners.
func (h *host) sockets() bool {
	var served, missing []string
	for _, l := range h.file.Server.Listeners {
		if !isNetworkListener(l) {
			continue
		}
		what := fmt.Sprintf("%s port %d", map[bool]string{true: "TCP", false: "UDP"}[l.Kind == fencevirt.KindTCP], l.Port)
		owner, taken := owner(l)
		switch {
		case !taken:
			missing = append(missing, what)
		case h.serves(l), slices.Contains([]string{"fence_virtd", "fence_xvmd"}, owner.name):
			served = append(served, what)
		case h.asked == nil:
			return h.fail(LegPort, fmt.Sprintf("%s (%s) is held by %s", what, l.Where, owner), "stop that program, or choose another port; then reload the daemon (SIGHUP)")
		case owner.name == "ringfence":
			h.note("a daemon of Ringfence runs and does not tell its status: run doctor as root")
			served = append(served, what)
		default:
			return h.fail(LegPort, fmt.Sprintf("%s (%s) is held by %s, which is no daemon of fence_virt", what, l.Where, owner), "stop that program, or choose another port")
		}
	}
	if len(served)+len(missing) == 0 {
		h.skip(LegPort, "no listener is on the network")
		return h.daemon(nil)
	}
	h.ok(LegPort, "nobody else has "+strings.Join(append(slices.Clone(served), missing...), ", "))
	return h.daemon(missing)
}

// daemon judges whether the daemon runs, and serves all that the configuration has.
func (h *host) daemon(missing []string) bool {
	const start = "systemctl start ringfence-hostd; if it runs with another configuration, name that with --config"
	switch {
	case len(missing) > 0 && h.asked == nil:
		return h.fail(LegDaemon, fmt.Sprintf("a daemon runs (pid %d), and nothing listens on %s", h.status.PID, strings.Join(missing, ", ")),
			"have it read its configuration again (SIGHUP), and see its log; or name its configuration with --config")
	case len(missing) > 0:
		return h.fail(LegDaemon, "nothing listens on "+strings.Join(missing, ", ")+": no daemon runs", start)
	case h.asked == nil:
		h.ok(LegDaemon, fmt.Sprintf("it runs: ringfence %s, pid %d", h.status.Version, h.status.PID))
	case len(h.file.Server.Listeners) > 0 && !slices.ContainsFunc(h.file.Server.Listeners, isNetworkListener):
		h.unknown(LegDaemon, "no daemon of Ringfence tells its status here: "+h.asked.Error())
	default:
		h.ok(LegDaemon, "it runs, and does not tell its status: fence_virtd of the C sources, or another user asks")
	}
	return true
}

// serves reports whether the daemon says that it has the listener.
func (h *host) serves(l fencevirt.Listener) bool {
	return slices.ContainsFunc(h.status.Listeners, func(s fencevirt.ListenerStatus) bool {
		return s.Kind == l.Kind && s.Port == l.Port && s.Address == l.Address.String()
	})
}

// program has a socket.
type program struct {
	pid  int // 0: not known
	name string
}

func (p program) String() string {
	if p.pid == 0 {
		return "a program that this user cannot see"
	}
	return fmt.Sprintf("%s (pid %d)", p.name, p.pid)
}

// tcpListen is the state of a socket that accepts, as the kernel prints it.
const tcpListen = "0A"

// owner finds who has the port of a listener.
func owner(l fencevirt.Listener) (program, bool) {
	proto := "udp"
	if l.Kind == fencevirt.KindTCP {
		proto = "tcp"
	}
	for _, file := range []string{proto, proto + "6"} {
		data, err := os.ReadFile("/proc/net/" + file)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(data) {
			f := strings.Fields(string(line))
			if len(f) < 10 || proto == "tcp" && f[3] != tcpListen {
				continue
			}
			_, port, _ := strings.Cut(f[1], ":")
			if n, err := strconv.ParseUint(port, 16, 16); err == nil && uint16(n) == l.Port && l.Port != 0 {
				return holder(f[9]), true
			}
		}
	}
	return program{}, false
}

// holder finds the program that has a socket, by its inode.
func holder(inode string) program {
	want := "socket:[" + inode + "]"
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*") // those of others cannot be seen by all
	for _, file := range files {
		if target, err := os.Readlink(file); err == nil && target == want {
			parts := strings.Split(file, "/")
			pid, _ := strconv.Atoi(parts[2])
			name, _ := os.ReadFile("/proc/" + parts[2] + "/comm")
			return program{pid, strings.TrimSpace(string(name))}
		}
	}
	return program{}
}

// membership sees whether the kernel has the groups on the listeners' interfaces.
func (h *host) membership() {
	joined := joinedGroups()
	var found []string
	for _, l := range h.file.Server.Listeners {
		if l.Kind != fencevirt.KindMulticast {
			continue
		}
		any := false
		for _, name := range interfacesOf(l) {
			switch {
			case isGroupOn(joined, name, l.Address):
				any = true
				found = append(found, fmt.Sprintf("%v on %s", l.Address, name))
			case len(l.Interfaces) > 0:
				h.fail(LegMembership, fmt.Sprintf("the daemon has not joined %v on %s", l.Address, name), "have it read its configuration again (SIGHUP), or start it anew; see its log")
				return
			}
		}
		if !any {
			h.fail(LegMembership, fmt.Sprintf("the daemon has not joined %v anywhere", l.Address), "start it anew; see its log")
			return
		}
	}
	if len(found) == 0 {
		h.skip(LegMembership, "no listener is of kind multicast")
		return
	}
	h.ok(LegMembership, strings.Join(found, ", "))
}

// joinedGroups reads which groups this machine has joined, by interface.
func joinedGroups() map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	if data, err := os.ReadFile("/proc/net/igmp"); err == nil {
		parseIGMP(data, out)
	}
	if data, err := os.ReadFile("/proc/net/igmp6"); err == nil {
		parseIGMP6(data, out)
	}
	return out
}

// parseIGMP reads lines of interfaces, with lines of their groups behind each.
func parseIGMP(data []byte, out map[string][]netip.Addr) {
	name := ""
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) >= 2 && !strings.HasPrefix(lines.Text(), "\t"):
			name = f[1]
		case len(f) >= 1 && name != "":
			n, err := strconv.ParseUint(f[0], 16, 32)
			if err != nil || len(f[0]) != 8 {
				continue
			}
			var b [4]byte
			binary.NativeEndian.PutUint32(b[:], uint32(n))
			out[name] = append(out[name], netip.AddrFrom4(b))
		}
	}
}

func parseIGMP6(data []byte, out map[string][]netip.Addr) {
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) < 3 {
			continue
		}
		if b, err := hex.DecodeString(f[2]); err == nil && len(b) == 16 {
			out[f[1]] = append(out[f[1]], netip.AddrFrom16([16]byte(b)))
		}
	}
}

// snooping sees whether bridges under the listeners' interfaces pass their groups on.
func (h *host) snooping() {
	bridges, err1 := snoop.Bridges()
	members, err2 := snoop.Memberships()
	if err := cmp.Or(err1, err2); err != nil {
		h.unknown(LegSnooping, err.Error())
		return
	}
	joined := joinedGroups()
	seen := 0
	for _, l := range h.file.Server.Listeners {
		for _, name := range interfacesOf(l) {
			link, err := netlink.LinkByName(name)
			if l.Kind != fencevirt.KindMulticast || err != nil || !isGroupOn(joined, name, l.Address) {
				continue
			}
			index := link.Attrs().Index
			b, ok := bridges[index]
			if !ok || !b.Snoops {
				continue
			}
			seen++
			has := slices.Contains(members, snoop.Membership{Bridge: index, Port: index, Group: l.Address})
			switch {
			case b.Asked(l.Address) && !has:
				h.fail(LegSnooping, fmt.Sprintf("the bridge %s watches joins, knows of a querier, and does not know that this host has joined %v: it drops its packets", name, l.Address),
					fmt.Sprintf("let IGMP (for IPv6, MLD) pass the firewall of this host in and out; or ip link set %s type bridge mcast_snooping 0", name))
				return
			case !b.Asked(l.Address):
				h.note(fmt.Sprintf("the bridge %s watches joins and knows of no querier: Linux floods then, but a switch behind it may stop multicast after some minutes; ip link set %s type bridge mcast_querier 1 is safe", name, name))
			}
		}
	}
	h.ok(LegSnooping, fmt.Sprintf("bridges of the listeners that watch joins: %d; they drop nothing", seen))
}

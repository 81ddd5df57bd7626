package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"ringfence/internal/doctor/firewall"
	"ringfence/internal/wire/xvm"
	"ringfence/internal/wire/xvmdiag"
)

// GuestOptions are the settings of a guest's client, fence_xvm.
type GuestOptions struct {
	KeyFile    string
	Group      netip.Addr
	Port       uint16
	Hash, Auth xvm.Hash
	// Target is the guest to ask about, by name or UUID; "": permission and guest are
	// not looked at.
	Target string
	// Host is an address or a name of the host, for probes by unicast; "": none is known.
	Host string
	// Wait is how long silence is waited out.
	Wait time.Duration
}

// DefaultWait is long enough for a packet to come back, and to be sent three times.
const DefaultWait = 3 * time.Second

// lookupLimit bounds the look-up of the host's name.
const lookupLimit = 3 * time.Second

// The legs of a guest, in the order of the way.
const (
	LegKeyFile    = "key-file"
	LegAddresses  = "addresses"
	LegPort       = "port"
	LegFirewall   = "firewall"
	LegPacket     = "packet"     // a daemon sees the packet
	LegGroup      = "group"      // it listens to this group
	LegInterface  = "interface"  // on the interface by which the packet comes
	LegSnooping   = "snooping"   // nothing between that watches joins drops it
	LegHash       = "hash"       // it is signed strongly enough
	LegKey        = "key"        // with the daemon's key
	LegAuth       = "auth"       // both authenticate in the same way
	LegCallBack   = "call-back"  // the daemon's call gets here
	LegChallenge  = "challenge"  // and both prove that they have the key
	LegHypervisor = "hypervisor" // the host's hypervisor answers
	LegPermission = "permission"
	LegGuest      = "guest" // the guest is on that host
)

// GuestLegs returns the names of all legs of a guest, in their order.
func GuestLegs() []string {
	return []string{
		LegKeyFile, LegAddresses, LegPort, LegFirewall, LegPacket, LegGroup, LegInterface, LegSnooping, LegHash, LegKey, LegAuth,
		LegCallBack, LegChallenge, LegHypervisor, LegPermission, LegGuest,
	}
}

// guest is one diagnosis of a guest.
type guest struct {
	*checkup
	asker
	locals []local
}

// Guest looks at the way from this guest to the daemon of its host. It ends within
// about a minute, or with ctx.
func Guest(ctx context.Context, o GuestOptions) Diagnosis {
	g := &guest{checkup: newCheckup("guest", GuestLegs()), asker: asker{o: o}}
	_ = g.keyFile() && g.addresses() && g.port(ctx) && g.firewall(ctx) && g.path(ctx) && g.target(ctx)
	return g.diagnosis()
}

func (g *guest) keyFile() bool {
	o := g.o
	if o.Hash == xvm.HashNone && o.Auth == xvm.HashNone {
		g.skip(LegKeyFile, "hash and auth are none: there is no key, and nothing is safe")
		return true
	}
	key, remark, err := readKey(o.KeyFile)
	if err != nil {
		return g.fail(LegKeyFile, err.Error(), unlessDenied(err, "copy the key file of the host to "+o.KeyFile+", mode 0600, or name another one with --key-file"))
	}
	g.key = key
	if remark != "" {
		g.note(remark)
	}
	g.ok(LegKeyFile, fmt.Sprintf("%s, %d bytes, fingerprint %v", o.KeyFile, len(key), xvmdiag.FingerprintOf(key)))
	return true
}

// unlessDenied is the fix, unless this user alone is not let in.
func unlessDenied(err error, fix string) string {
	if strings.Contains(err.Error(), syscall.EACCES.Error()) {
		return "run as root"
	}
	return fix
}

// readKey reads what counts of a key file, with a remark about it.
func readKey(path string) (key []byte, remark string, err error) {
	// A device is not even opened, and a named pipe holds up nothing.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, "", fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	key, err = io.ReadAll(io.LimitReader(f, xvm.KeyLimitBytes))
	switch {
	case err != nil:
		return nil, "", err
	case len(key) == 0:
		return nil, "", fmt.Errorf("%s is empty", path)
	case info.Mode().Perm()&0o077 != 0:
		remark = fmt.Sprintf("%s has mode %04o: others can read the key; run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return key, remark, nil
}

func (g *guest) addresses() bool {
	family := "IPv4"
	if g.o.Group.Is6() {
		family = "IPv6"
	}
	all, err := locals(g.o.Group.Is6())
	if err != nil {
		return g.fail(LegAddresses, err.Error(), "see `ip address`")
	}
	var names []string
	for _, l := range all {
		if !l.addr.IsLoopback() {
			names = append(names, fmt.Sprintf("%v on %s", l.addr, l.ifi.Name))
			if l.ifi.Flags&net.FlagMulticast == 0 {
				g.note(l.ifi.Name + " does not take multicast")
			}
			g.locals = append(g.locals, l)
		}
	}
	if len(names) == 0 {
		return g.fail(LegAddresses, fmt.Sprintf("no interface that is up has an %s address, and the group %v is of that family", family, g.o.Group),
			"give this guest an address (`ip address`), or use a group of the other family on both sides")
	}
	g.ok(LegAddresses, strings.Join(names, ", "))
	return true
}

// port sees whether the port that the daemon calls back to is free.
func (g *guest) port(ctx context.Context) bool {
	ln, err := listen(ctx, g.o.Group.Is6(), g.o.Port)
	if err != nil {
		fix := "run as root, or choose a port above 1023"
		if errors.Is(err, syscall.EADDRINUSE) {
			fix = fmt.Sprintf("wait for the fence_xvm that has it, or stop what listens there: ss -ltnp sport = :%d", g.o.Port)
		}
		return g.fail(LegPort, fmt.Sprintf("the daemon calls back to TCP port %d of this guest, which cannot be had: %v", g.o.Port, err), fix)
	}
	ln.Close()
	g.ok(LegPort, fmt.Sprintf("TCP port %d is free for the call back", g.o.Port))
	return true
}

// firewall judges the rules of this guest.
func (g *guest) firewall(ctx context.Context) bool {
	rules := firewall.Load(ctx)
	v6 := g.o.Group.Is6()
	var in, out []firewall.Packet
	for _, l := range g.locals {
		in = append(in, firewall.Packet{In: true, Proto: "tcp", Port: g.o.Port, IPv6: v6, Interface: l.ifi.Name, Dst: l.addr})
		out = append(out, firewall.Packet{Proto: "udp", Port: g.o.Port, IPv6: v6, Interface: l.ifi.Name, Src: l.addr, Dst: g.o.Group})
	}
	for _, one := range []struct {
		what    string
		packets []firewall.Packet
	}{{"the daemon's call to TCP", in}, {"packets to UDP", out}} {
		r := judge(rules, one.packets)
		if r.Verdict == firewall.Drop {
			return g.fail(LegFirewall, fmt.Sprintf("this guest's own rules drop %s port %d: %s", one.what, g.o.Port, r.By), openPort(rules, r, one.packets[0]))
		}
		if r.Verdict == firewall.Unknown {
			g.unknown(LegFirewall, fmt.Sprintf("cannot tell whether this guest's own rules let %s port %d pass%s", one.what, g.o.Port, why(rules)))
			return true
		}
	}
	g.ok(LegFirewall, fmt.Sprintf("this guest's own rules (%s) let UDP port %d out and TCP port %d in", strings.Join(rules.Tools, ", "), g.o.Port, g.o.Port))
	return true
}

// judge takes the best ruling: one way is enough.
func judge(rules *firewall.Rules, packets []firewall.Packet) firewall.Ruling {
	var best firewall.Ruling
	rank := map[firewall.Verdict]int{firewall.Accept: 2, firewall.Unknown: 1, firewall.Drop: 0}
	for i, p := range packets {
		if r := rules.Judge(p); i == 0 || rank[r.Verdict] > rank[best.Verdict] {
			best = r
		}
	}
	return best
}

func why(rules *firewall.Rules) string {
	if len(rules.Tools) == 0 && len(rules.Missing) > 0 {
		return ": " + strings.Join(rules.Missing, "; ")
	}
	return ": it depends on rules that are too much for this look at them"
}

// zoneForm finds the zone of firewalld in the name of a chain of it: filter_IN_ZONE,
// which may have the name of one of its parts behind it.
var zoneForm = regexp.MustCompile(`\bfilter_IN_([^ ]+?)(?:_(?:pre|log|deny|allow|post))? of table inet firewalld:`)

// openPort says how to open a port, in the words of what made the rules.
func openPort(rules *firewall.Rules, r firewall.Ruling, p firewall.Packet) string {
	port := fmt.Sprintf("%d/%s", p.Port, p.Proto)
	direction, chain := "in", "INPUT"
	if !p.In {
		direction, chain = "out", "OUTPUT"
	}
	switch {
	case rules.Manager == "firewalld" && p.In && strings.Contains(r.By, "firewalld"):
		zone := ""
		if m := zoneForm.FindStringSubmatch(r.By); m != nil && !strings.HasPrefix(m[1], "policy_") {
			zone = "--zone=" + m[1] + " "
		}
		return "firewall-cmd --permanent " + zone + "--add-port=" + port + " && firewall-cmd --reload"
	case rules.Manager == "ufw":
		return "ufw allow " + direction + " " + port
	case strings.Contains(r.By, "iptables"):
		tool := "iptables"
		if p.IPv6 {
			tool = "ip6tables"
		}
		return fmt.Sprintf("%s -I %s -p %s --dport %d -j ACCEPT, and make it last", tool, chain, p.Proto, p.Port)
	}
	return fmt.Sprintf("let %s pass %s before the rule that drops it, in /etc/nftables.conf: %s dport %d accept", port, direction, p.Proto, p.Port)
}

// path sends a request that only asks whether the daemon is well, and follows it.
func (g *guest) path(ctx context.Context) bool {
	x, err := g.ask(ctx, xvm.OpMonitor, "", netip.Addr{})
	if err != nil {
		return g.fail(LegPort, err.Error(), "see what listens there: ss -ltnp")
	}
	if !x.answered() {
		return g.unheard(ctx, x)
	}
	if !g.seen(x) || !g.accepted(x) || !g.called(x) {
		return false
	}
	switch {
	case x.result == xvm.ResultOK:
		g.ok(LegHypervisor, "the daemon's hypervisor answers")
		return true
	case x.result == xvm.ResultFailed:
		return g.fail(LegHypervisor, "the daemon is well, but its hypervisor does not answer it",
			"on the host: see that libvirtd (or virtqemud) runs, and that the daemon's URI is right; `ringfence doctor` there says more")
	}
	return g.fail(LegHypervisor, fmt.Sprintf("the daemon answers with result %d, which has no meaning here", x.result), "see the daemon's log")
}

// target asks for the guest by its name.
func (g *guest) target(ctx context.Context) bool {
	if g.o.Target == "" {
		why := "no guest was named: name one with --guest"
		g.skip(LegPermission, why)
		g.skip(LegGuest, why)
		return true
	}
	x, err := g.ask(ctx, xvm.OpStatus, g.o.Target, netip.Addr{})
	switch {
	case err != nil:
		return g.fail(LegPort, err.Error(), "see what listens there: ss -ltnp")
	case !x.got:
		return g.fail(LegCallBack, "the first request was answered, and the second was not", "try again; if it stays so, the network loses packets")
	case x.result == xvm.ResultDenied:
		return g.denied()
	}
	g.ok(LegPermission, "this guest may deal with "+g.o.Target)
	r, told := x.first(xvmdiag.StageEnded)
	switch {
	case told && r.Outcome == xvmdiag.OutcomeNoGuest:
		return g.absent()
	case x.result == xvm.ResultOK:
		g.ok(LegGuest, g.o.Target+" is there, and is on")
	case x.result == xvm.ResultOff && told:
		g.ok(LegGuest, g.o.Target+" is there, and is off")
	case x.result == xvm.ResultOff:
		g.unknown(LegGuest, g.o.Target+" is off, or is not on that host: the daemon does not say which")
	default:
		return g.fail(LegHypervisor, fmt.Sprintf("the daemon cannot say whether %s is on", g.o.Target), "see the daemon's log on the host")
	}
	return true
}

func (g *guest) denied() bool {
	return g.fail(LegPermission, fmt.Sprintf("this guest may not deal with %s, or no such guest is there", g.o.Target),
		"on the host: put an address of this guest and "+g.o.Target+" into one group of the configuration; `ringfence hostd explain` says what holds")
}

func (g *guest) absent() bool {
	return g.fail(LegGuest, g.o.Target+" is not on the host that answers",
		"name the guest as its host does (virsh list --all), by name or UUID (pcmk_host_map); it may have moved to another host")
}

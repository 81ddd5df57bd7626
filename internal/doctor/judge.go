package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"

	"ringfence/internal/wire/xvm"
	"ringfence/internal/wire/xvmdiag"
)

// The words for what only somebody on the host can see.
const lookThere = "run `ringfence doctor` on the host: it looks at the daemon, its firewall and its bridges"

// unheard judges what multicast did not bring. Unicast tells more, if a host is known.
func (g *guest) unheard(ctx context.Context, x *exchange) bool {
	what := fmt.Sprintf("nobody answers to %v, UDP port %d", g.o.Group, g.o.Port)
	if x.sent == 0 {
		return g.fail(LegPacket, fmt.Sprintf("no packet to %v, UDP port %d, could be sent: %v", g.o.Group, g.o.Port, x.problem),
			"see `ip route get "+g.o.Group.String()+"`, and the rules of this guest for what leaves it")
	}
	if g.o.Host == "" {
		hint := "name an address of the host with --host, then this guest can find out more" + gateway(g.o.Group.Is6()) + "; or " + lookThere
		return g.fail(LegPacket, what+"; a fence_virtd of the C sources is silent too when the key differs or the hash is too weak", hint)
	}
	host, err := resolve(ctx, g.o.Host, g.o.Group.Is6())
	if err != nil {
		return g.fail(LegPacket, what+", and "+err.Error(), "give --host an address of the host")
	}
	direct, err := g.ask(ctx, xvm.OpMonitor, "", host)
	if err != nil {
		return g.fail(LegPort, err.Error(), "see what listens there: ss -ltnp")
	}
	r, told := direct.first(xvmdiag.StageArrived)
	switch {
	case told:
		g.ok(LegPacket, fmt.Sprintf("%v sees packets by unicast (%s)", host, daemonOf(r)))
		return g.astray(r)
	case direct.called:
		return g.fail(LegPacket, fmt.Sprintf("%s; a daemon on %v that answers no probes (fence_virtd?) takes packets by unicast", what, host),
			"compare the group and the interface in its configuration; if they are right, a bridge or switch between drops multicast: "+lookThere)
	case errors.Is(direct.problem, syscall.ECONNREFUSED):
		return g.fail(LegPacket, fmt.Sprintf("%s, and %v says that nothing listens on UDP port %d, or its firewall refuses it", what, host, g.o.Port),
			"start the daemon, or give it that port; else "+lookThere)
	case errors.Is(direct.problem, syscall.EHOSTUNREACH), errors.Is(direct.problem, syscall.ENETUNREACH):
		return g.fail(LegPacket, fmt.Sprintf("%s, and %v cannot be reached: %v", what, host, direct.problem), "see `ip route get "+host.String()+"` and `ping "+host.String()+"`")
	}
	return g.fail(LegPacket, fmt.Sprintf("%s, nor does %v by unicast", what, host),
		"start the daemon, and let UDP port "+fmt.Sprint(g.o.Port)+" into the host; "+lookThere)
}

// gateway names the default gateway, which is the host in a network of libvirt's own.
func gateway(v6 bool) string {
	family := netlink.FAMILY_V4
	if v6 {
		family = netlink.FAMILY_V6
	}
	routes, _ := netlink.RouteList(nil, family) // only a hint
	for _, r := range routes {
		if ones := 0; r.Gw != nil {
			if r.Dst != nil {
				ones, _ = r.Dst.Mask.Size()
			}
			if ones == 0 {
				return fmt.Sprintf(" (the default gateway of this guest is %v)", r.Gw)
			}
		}
	}
	return ""
}

func resolve(ctx context.Context, name string, v6 bool) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	network := "ip4"
	if v6 {
		network = "ip6"
	}
	all, err := net.DefaultResolver.LookupNetIP(ctx, network, name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("host %s cannot be found: %w", name, err)
	}
	if len(all) == 0 {
		return netip.Addr{}, fmt.Errorf("host %s has no address of the family of the group", name)
	}
	return all[0].Unmap(), nil
}

func daemonOf(r xvmdiag.Report) string { return strings.TrimSpace("ringfence " + r.Version) }

// astray judges packets that come by unicast and not by multicast, from what the
// daemon says of its listener.
func (g *guest) astray(r xvmdiag.Report) bool {
	if r.Kind == xvmdiag.KindUDP {
		return g.fail(LegGroup, fmt.Sprintf("that listener takes unicast only, at %v", r.Address),
			"on the host: add a listener of kind multicast; or give fence_xvm the host as ipaddr")
	}
	if r.Address != g.o.Group {
		return g.fail(LegGroup, fmt.Sprintf("the daemon listens to the group %v, and this guest sends to %v", r.Address, g.o.Group),
			fmt.Sprintf("set multicast_address=%v (-a) of fence_xvm here, or address in the daemon's configuration", r.Address))
	}
	g.ok(LegGroup, fmt.Sprintf("both use %v, port %d", r.Address, r.Port))
	at, known := arrival(r)
	if known && !at.Joined {
		return g.interfaceUnused(r, at)
	}
	g.ok(LegInterface, "the daemon has joined the group on "+at.Name)
	detail := fmt.Sprintf("the daemon has joined %v on %s, and packets to it are lost on their way there", g.o.Group, at.Name)
	fix := "find the bridge or switch between that watches joins (IGMP snooping) without a querier: turn its querier on (ip link set BRIDGE type bridge mcast_querier 1), or the snooping off (mcast_snooping 0); let IGMP through the host's firewall"
	if at.Snoops {
		querier := "knows of no querier"
		if at.Querier {
			querier = "knows of a querier"
		}
		detail += fmt.Sprintf(" (%s is a bridge that watches joins and %s)", at.Name, querier)
		fix = fmt.Sprintf("on the host: ip link set %s type bridge mcast_querier 1 (or mcast_snooping 0), and let IGMP pass its firewall in and out; else %s", at.Name, lookThere)
	}
	return g.fail(LegSnooping, detail, fix)
}

func withPrefix(i xvmdiag.Interface) string {
	if !i.Prefix.IsValid() {
		return i.Name
	}
	return fmt.Sprintf("%s (%v)", i.Name, i.Prefix)
}

// arrival returns the interface by which the probe came.
func arrival(r xvmdiag.Report) (xvmdiag.Interface, bool) {
	for _, i := range r.Interfaces {
		if i.Arrived {
			return i, true
		}
	}
	return xvmdiag.Interface{Name: "its interface"}, false
}

func (g *guest) interfaceUnused(r xvmdiag.Report, at xvmdiag.Interface) bool {
	var joined []string
	for _, i := range r.Interfaces {
		if i.Joined {
			joined = append(joined, withPrefix(i))
		}
	}
	if len(joined) == 0 {
		joined = []string{"none"}
	}
	return g.fail(LegInterface, fmt.Sprintf("packets from here reach the host by %s, and the daemon takes the group on %s only", withPrefix(at), strings.Join(joined, ", ")),
		fmt.Sprintf("add %s to interfaces (interface in a fence_virt.conf) of the daemon's listener, or leave it out to take all", at.Name))
}

// seen judges that multicast brought the packet.
func (g *guest) seen(x *exchange) bool {
	r, told := x.first(xvmdiag.StageArrived)
	if !told {
		g.ok(LegPacket, "a daemon called back from "+x.calls)
		g.note("the daemon answers no probes, or its answers are dropped here: fence_virtd of the C sources does not know them")
		for _, leg := range []string{LegGroup, LegInterface, LegSnooping} {
			g.ok(leg, "it got a packet to the group")
		}
		return true
	}
	g.ok(LegPacket, fmt.Sprintf("a daemon saw it (%s)", daemonOf(r)))
	g.ok(LegGroup, fmt.Sprintf("both use %v, port %d", r.Address, r.Port))
	at, _ := arrival(r)
	if r.Outcome == xvmdiag.OutcomeInterface {
		return g.interfaceUnused(r, at)
	}
	g.ok(LegInterface, "it came to the daemon by "+at.Name)
	g.ok(LegSnooping, "multicast gets through")
	if at.Snoops && !at.Querier {
		g.note(fmt.Sprintf("the bridge %s of the host watches joins and knows of no querier: Linux floods then, but a switch behind it may stop multicast after some minutes; ip link set %s type bridge mcast_querier 1 is safe", at.Name, at.Name))
	}
	return true
}

// accepted judges what the daemon makes of the packet: signature and settings.
func (g *guest) accepted(x *exchange) bool {
	r, told := x.first(xvmdiag.StageArrived)
	if !told {
		g.ok(LegHash, "a daemon called back, so it takes "+g.o.Hash.String())
		g.ok(LegKey, "a daemon called back, so its key fits, unless it asks for no signature")
		g.unknown(LegAuth, "the daemon does not say how it authenticates; see the challenge")
		return true
	}
	var wants, fingerprints []string
	for _, k := range r.Keys {
		wants = append(wants, k.Hash.String())
		fingerprints = append(fingerprints, k.Fingerprint.String())
	}
	own := xvmdiag.FingerprintOf(g.key).String()
	switch r.Outcome {
	case xvmdiag.OutcomeWeakHash, xvmdiag.OutcomeNoHash:
		return g.fail(LegHash, fmt.Sprintf("this guest signs with %v, and the daemon wants at least %s", g.o.Hash, strings.Join(wants, " or ")),
			fmt.Sprintf("set hash=%s (-c) of fence_xvm here, or hash in the daemon's configuration", wants[0]))
	case xvmdiag.OutcomeDigest, xvmdiag.OutcomeNoKey:
		g.ok(LegHash, g.o.Hash.String()+" is strong enough")
		have := "the daemon has " + strings.Join(fingerprints, ", ")
		if r.Outcome == xvmdiag.OutcomeNoKey {
			have = "the daemon has no key at all"
		}
		return g.fail(LegKey, fmt.Sprintf("the keys differ: the fingerprint here is %s, %s", own, have), "copy the key file of the host to "+g.o.KeyFile)
	case xvmdiag.OutcomeAccepted, xvmdiag.OutcomeRepeated, xvmdiag.OutcomeReplay, xvmdiag.OutcomeBusy:
	default:
		return g.fail(LegPacket, fmt.Sprintf("the daemon makes no sense of the packet (outcome %d)", r.Outcome), "use the same version on both sides")
	}
	g.ok(LegHash, g.o.Hash.String()+" is strong enough")
	if r.Fits == 0 {
		g.unknown(LegKey, "the daemon does not say which key fits")
		g.unknown(LegAuth, "the daemon does not say how it authenticates")
		return true
	}
	k := r.Keys[r.Fits-1]
	if (g.o.Hash == xvm.HashNone && g.o.Auth != xvm.HashNone && k.Auth != xvm.HashNone) && k.Fingerprint.String() != own {
		return g.fail(LegKey, fmt.Sprintf("the keys differ: the fingerprint here is %s, the daemon has %v", own, k.Fingerprint), "copy the key file of the host to "+g.o.KeyFile)
	}
	g.ok(LegKey, "the keys are the same")
	if k.Auth != g.o.Auth {
		return g.fail(LegAuth, fmt.Sprintf("this guest authenticates the call back with %v, and the daemon with %v", g.o.Auth, k.Auth),
			fmt.Sprintf("set auth=%v (-C) of fence_xvm here, or auth in the daemon's configuration", k.Auth))
	}
	g.ok(LegAuth, "both use "+k.Auth.String())
	return true
}

// called judges the call back and what was said there.
func (g *guest) called(x *exchange) bool {
	end, ended := x.first(xvmdiag.StageEnded)
	if !x.called {
		return g.uncalled(end, ended)
	}
	g.ok(LegCallBack, "the daemon called back from "+x.calls)
	switch {
	case x.proved == nil:
		g.ok(LegChallenge, "both sides have the key")
		return true
	case ended && (end.Outcome == xvmdiag.OutcomeServed || end.Outcome == xvmdiag.OutcomeNoGuest):
		return g.fail(LegChallenge, fmt.Sprintf("the daemon has answered, and it was not heard: %v", x.proved), "see who else calls this port, and what changes TCP between")
	}
	detail := fmt.Sprintf("whoever called from %s could not be proved to have the key: %v", x.calls, x.proved)
	fix := "see who that is: something else than the daemon may have called; "
	if len(x.reports) == 0 {
		fix = fmt.Sprintf("set auth (-C) to what the daemon's configuration has, which is %v here, and compare the key files (sha256sum); ", g.o.Auth)
	}
	return g.fail(LegChallenge, detail, fix+lookThere)
}

// uncalled judges why nobody called.
func (g *guest) uncalled(end xvmdiag.Report, ended bool) bool {
	open := fmt.Sprintf("let TCP port %d into this guest, and out of the host: firewalls of both, and what filters between (security groups, nwfilter)", g.o.Port)
	if !ended {
		return g.fail(LegCallBack, "the daemon took the request, and no call back came", open)
	}
	switch end.Outcome {
	case xvmdiag.OutcomeRefused:
		return g.fail(LegCallBack, fmt.Sprintf("the daemon's call to TCP port %d was refused on its way", g.o.Port), open)
	case xvmdiag.OutcomeTimeout:
		return g.fail(LegCallBack, fmt.Sprintf("the daemon's call to TCP port %d got no answer: something drops it", g.o.Port), open)
	case xvmdiag.OutcomeUnreachable:
		return g.fail(LegCallBack, "the host has no way to the address that this guest gave", "see `ip route get` with that address on the host; "+open)
	case xvmdiag.OutcomeRepeated, xvmdiag.OutcomeBusy:
		return g.fail(LegCallBack, "the daemon is busy with other requests of this guest", "wait ten seconds and try again")
	}
	return g.fail(LegCallBack, fmt.Sprintf("the daemon's call did not come here (outcome %d)", end.Outcome),
		"see whether another address of this guest leads elsewhere; "+open)
}

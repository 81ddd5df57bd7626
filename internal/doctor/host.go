package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"ringfence/internal/doctor/firewall"
	"ringfence/internal/fencevirt"
	"ringfence/internal/fencevirt/conf"
	"ringfence/internal/wire/xvmdiag"
)

// HostOptions say what to look at on a host.
type HostOptions struct {
	// Config is the daemon's configuration; "": the first of DefaultConfigs that is there.
	Config string
	// Target is a guest that must be on this host; "": none.
	Target string
	// OtherURIs are hypervisors to look for guests at, where the configured ones have
	// none; nil: those that libvirt usually has.
	OtherURIs []string
}

// DefaultConfigs returns where a configuration may stand.
func DefaultConfigs() []string { return []string{conf.DefaultPath, conf.DefaultVirtPath} }

// FindConfig returns the first of the paths that exists; "" without any.
func FindConfig(paths []string) string {
	i := slices.IndexFunc(paths, func(path string) bool {
		_, err := os.Stat(path)
		return !errors.Is(err, fs.ErrNotExist)
	})
	if i < 0 {
		return ""
	}
	return paths[i]
}

// The legs of a host that a guest does not have, or has under the same name.
const (
	LegConfiguration = "configuration"
	LegKeys          = "keys"
	LegInterfaces    = "interfaces"
	LegDaemon        = "daemon"
	LegMembership    = "membership" // the daemon has joined its groups
	LegLibvirt       = "libvirt"
	LegURI           = "uri"
	LegGroups        = "groups"
	LegRequests      = "requests" // none was dropped lately
)

// HostLegs returns the names of all legs of a host.
func HostLegs() []string {
	return []string{
		LegConfiguration, LegKeys, LegInterfaces, LegPort, LegDaemon, LegMembership, LegSnooping, LegFirewall,
		LegLibvirt, LegURI, LegGroups, LegGuest, LegRequests,
	}
}

// host is one diagnosis of a host.
type host struct {
	*checkup
	o      HostOptions
	file   conf.File
	status fencevirt.Status
	asked  error // why the daemon has not told its status
}

// Host looks at everything on this host that the protocols of fence_virt need. It
// ends within about a minute, or with ctx.
func Host(ctx context.Context, o HostOptions) Diagnosis {
	h := &host{checkup: newCheckup("host", HostLegs()), o: o}
	if !h.configuration() {
		return h.diagnosis()
	}
	h.keys()
	h.status, h.asked = fencevirt.AskStatus(ctx, fencevirt.StatusSocket)
	if h.interfaces() && h.sockets() {
		h.membership()
		h.snooping()
	}
	h.firewall(ctx)
	h.hypervisors(ctx)
	h.requests()
	return h.diagnosis()
}

func (h *host) configuration() bool {
	path := h.o.Config
	if path == "" {
		path = FindConfig(DefaultConfigs())
	}
	if path == "" {
		return h.fail(LegConfiguration, "there is none: neither "+strings.Join(DefaultConfigs(), " nor "), "name it with --config, or make one: ringfence-hostd.toml(5)")
	}
	file, err := conf.Read(path)
	var faulty *conf.InvalidError
	switch {
	case errors.As(err, &faulty):
		for _, fault := range faulty.Faults {
			if !strings.Contains(fault.Message, "key file") && !strings.Contains(fault.Message, "key_file") {
				return h.fail(LegConfiguration, err.Error(), "ringfence hostd config check "+path)
			}
		}
		h.ok(LegConfiguration, path+" is well-formed")
		return h.fail(LegKeys, err.Error(), unlessDenied(err, "make the key once, 32 random bytes or more with mode 0600, and copy it to the guests"))
	case err != nil:
		return h.fail(LegConfiguration, err.Error(), unlessDenied(err, "name the configuration with --config"))
	}
	for _, w := range file.Warnings {
		h.note(w.String())
	}
	h.file = file
	h.ok(LegConfiguration, fmt.Sprintf("%s is a valid %s (listeners: %d)", path, file.Format, len(file.Server.Listeners)))
	return true
}

// keys tells the fingerprints, for comparison with what guests have.
func (h *host) keys() {
	var found []string
	for _, l := range h.file.Server.Listeners {
		for _, k := range l.Keys {
			if len(k.Secret) > 0 {
				found = append(found, fmt.Sprintf("%s, fingerprint %v, hash %v, auth %v", k.Name, xvmdiag.FingerprintOf(k.Secret), k.Hash, k.Auth))
			}
		}
	}
	if len(found) == 0 {
		h.ok(LegKeys, "no listener has a key")
		return
	}
	h.ok(LegKeys, strings.Join(found, "; "))
}

// packets are those that must pass, for each listener and each of its interfaces.
type passing struct {
	what    string
	packets []firewall.Packet
}

func (h *host) passings() (out []passing) {
	for _, l := range h.file.Server.Listeners {
		in := firewall.Packet{In: true, Proto: "udp", Port: l.Port, IPv6: l.Address.Is6()}
		switch l.Kind {
		case fencevirt.KindMulticast:
			in.Dst = l.Address
		case fencevirt.KindTCP:
			in.Proto = "tcp"
		case fencevirt.KindUDP:
		default:
			continue
		}
		request := passing{what: fmt.Sprintf("requests to %s port %d", strings.ToUpper(in.Proto), l.Port)}
		calls := passing{what: fmt.Sprintf("calls back to TCP port %d of guests", l.Port)}
		for _, name := range interfacesOf(l) {
			in.Interface = name
			request.packets = append(request.packets, in)
			calls.packets = append(calls.packets, firewall.Packet{Proto: "tcp", Port: l.Port, IPv6: in.IPv6, Interface: name})
		}
		out = append(out, request)
		if l.Kind != fencevirt.KindTCP {
			out = append(out, calls)
		}
	}
	return out
}

func (h *host) firewall(ctx context.Context) {
	all := h.passings()
	if len(all) == 0 {
		h.skip(LegFirewall, "no listener is on the network")
		return
	}
	rules, seen := firewall.Load(ctx), []string{}
	for _, one := range all {
		if len(one.packets) == 0 {
			continue
		}
		r := judge(rules, one.packets)
		switch r.Verdict {
		case firewall.Drop:
			h.fail(LegFirewall, fmt.Sprintf("the rules of this host drop %s: %s", one.what, r.By), openPort(rules, r, one.packets[0]))
			return
		case firewall.Unknown:
			h.unknown(LegFirewall, fmt.Sprintf("cannot tell whether the rules of this host let %s pass%s", one.what, why(rules)))
			return
		}
		for _, p := range one.packets {
			if r := rules.Judge(p); r.Verdict == firewall.Drop {
				h.note(fmt.Sprintf("the rules of this host drop %s on %s: %s", one.what, p.Interface, r.By))
			}
		}
		seen = append(seen, one.what)
	}
	h.igmp(rules)
	h.ok(LegFirewall, fmt.Sprintf("the rules of this host (%s) let pass: %s", strings.Join(rules.Tools, ", "), strings.Join(seen, ", ")))
}

// igmp notes rules that keep bridges and switches from learning what is joined. They
// break nothing where nobody watches.
func (h *host) igmp(rules *firewall.Rules) {
	for _, l := range h.file.Server.Listeners {
		if l.Kind != fencevirt.KindMulticast || l.Address.Is6() {
			continue
		}
		for _, name := range interfacesOf(l) {
			for _, in := range []bool{true, false} {
				if r := rules.Judge(firewall.Packet{In: in, Proto: "igmp", Interface: name}); r.Verdict == firewall.Drop {
					h.note(fmt.Sprintf("the rules of this host drop IGMP on %s (%s): where a switch or bridge watches joins, the daemon's joins are forgotten", name, r.By))
				}
			}
		}
	}
}

// requestsSince is how long ago a drop may be to count.
const requestsSince = 10 * time.Minute

// dropsLimit is how many drops are told.
const dropsLimit = 5

func (h *host) requests() {
	if h.asked != nil {
		h.unknown(LegRequests, "no daemon of Ringfence tells here what it dropped: "+h.asked.Error())
		return
	}
	var lines, fixes []string
	for _, d := range slices.Backward(h.status.Drops) {
		ago := time.Since(d.Last)
		if ago > requestsSince || len(lines) == dropsLimit {
			continue
		}
		lines = append(lines, fmt.Sprintf("%d from %s, the last %v ago: %s", d.Count, d.Source, ago.Round(time.Second), d.Reason))
		if fix := fixOf(d.Reason); !slices.Contains(fixes, fix) {
			fixes = append(fixes, fix)
		}
	}
	if len(lines) == 0 {
		h.ok(LegRequests, "none was dropped in the last ten minutes")
		return
	}
	h.fail(LegRequests, "dropped: "+strings.Join(lines, "; "), strings.Join(fixes, "; "))
}

// fixOf says what mends the reason of a drop.
func fixOf(reason string) string {
	for part, fix := range map[string]string{
		"digest does not fit": "copy the key file of this host to that guest (compare fingerprints: `ringfence doctor` there)",
		"weaker than allowed": "set hash (-c) of fence_xvm on that guest to what the configuration here wants",
		"does not use":        "add that interface to the listener, or leave interfaces out to take all",
		"accepts the call":    "let the port into that guest: its firewall refuses the call back",
		"be called back":      "let the port into that guest and out of this host: something drops the call back",
		"handshake":           "set auth (-C) of fence_xvm on that guest to what the configuration here has",
		"does not fit: keys":  "set auth (-C) and the key of that guest to what this host has",
	} {
		if strings.Contains(reason, part) {
			return fix
		}
	}
	return "see the daemon's log"
}

func isNetworkListener(l fencevirt.Listener) bool {
	return l.Kind == fencevirt.KindMulticast || l.Kind == fencevirt.KindUDP || l.Kind == fencevirt.KindTCP
}

// isGroupOn reports whether the group is among those of the interface.
func isGroupOn(joined map[string][]netip.Addr, name string, group netip.Addr) bool {
	return slices.Contains(joined[name], group)
}

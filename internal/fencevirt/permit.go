package fencevirt

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// Requester is who asks: an address over the network, a CID over vsock, a guest
// over its own line or, where the hypervisor knows it, over vsock. The zero value
// is nobody.
type Requester struct {
	Address netip.Addr
	CID     uint32 // 0: none
	Guest   hypervisor.Guest
}

// ParseRequester reads who asks: an IP address or a vsock CID. Everything else is
// the name or UUID of a guest, which the caller looks up: it gets false.
func ParseRequester(s string) (Requester, bool) {
	if address, err := netip.ParseAddr(s); err == nil {
		return Requester{Address: plain(address)}, true
	}
	if cid, err := strconv.ParseUint(s, 10, 32); err == nil && cid > 0 {
		return Requester{CID: uint32(cid)}, true
	}
	return Requester{}, false
}

func (r Requester) String() string {
	switch {
	case r.Address.IsValid():
		return r.Address.String()
	case r.CID != 0 && r.Guest.ID != "":
		return fmt.Sprintf("vsock CID %d, guest %s", r.CID, r.Guest.Name)
	case r.CID != 0:
		return fmt.Sprintf("vsock CID %d", r.CID)
	case r.Guest.ID != "":
		return "guest " + r.Guest.Name
	}
	return "nobody"
}

// plain is the address without zone and without the IPv6 form of an IPv4 address,
// so that one peer has one address.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// uuidOf returns the guest id that s is, in any case; false: s is a name.
func uuidOf(s string) (cluster.GuestID, bool) {
	id := cluster.GuestID(strings.ToLower(s))
	return id, cluster.CheckGuestID(id) == nil
}

// names reports whether an entry of a configuration means the guest. One that is a
// UUID never means a guest that has taken it for its name.
func names(entry string, g hypervisor.Guest) bool {
	if id, ok := uuidOf(entry); ok {
		return id == cluster.GuestID(strings.ToLower(string(g.ID)))
	}
	return g.Name != "" && strings.EqualFold(entry, g.Name)
}

func named(entries []string, g hypervisor.Guest) bool {
	return slices.ContainsFunc(entries, func(entry string) bool { return names(entry, g) })
}

// has reports whether the group contains the requester.
func (g Group) has(from Requester) bool {
	if from.Guest.ID != "" && named(g.Guests, from.Guest) {
		return true
	}
	return slices.ContainsFunc(g.From, func(entry string) bool {
		who, ok := ParseRequester(entry)
		return ok && (who.CID != 0 && who.CID == from.CID || who.Address.IsValid() && who.Address == plain(from.Address))
	})
}

// ruling finds the rule that lets the requester deal with the guest: nil and true
// where no groups are in force.
func (k Key) ruling(from Requester, to hypervisor.Guest) (*Group, bool) {
	if k.Groups == nil {
		return nil, true
	}
	for i, g := range k.Groups {
		if g.has(from) && named(g.Guests, to) {
			return &k.Groups[i], true
		}
	}
	return nil, false
}

func (k Key) allows(from Requester, to hypervisor.Guest) bool {
	_, ok := k.ruling(from, to)
	return ok
}

// allowsUnknown reports whether the requester may learn that there is no such
// guest: one of its groups has the very string.
func (k Key) allowsUnknown(from Requester, guest string) bool {
	return k.Groups == nil || slices.ContainsFunc(k.Groups, func(g Group) bool {
		return g.has(from) && slices.ContainsFunc(g.Guests, func(entry string) bool { return strings.EqualFold(entry, guest) })
	})
}

// mapped reports whether the host is to have the guest.
func (c Config) mapped(g hypervisor.Guest) bool { return len(c.Guests) == 0 || named(c.Guests, g) }

// Verdict is what one key of one listener lets a requester do with a guest.
type Verdict struct {
	Listener Listener
	Key      Key
	Allowed  bool
	// Group is the rule that allows it; nil: no groups are in force, or it is not
	// allowed.
	Group *Group
	// Why says it for people.
	Why string
}

// Explain says for each listener that can hear the requester, and for each of its
// keys, what the requester may do with the guest. It reads nothing but its
// arguments.
func Explain(cfg Config, from Requester, to hypervisor.Guest) []Verdict {
	var verdicts []Verdict
	for _, l := range cfg.Listeners {
		if !l.hears(from) {
			continue
		}
		for _, k := range l.Keys {
			v := Verdict{Listener: l, Key: k}
			v.Group, v.Allowed = k.ruling(from, to)
			switch {
			case !cfg.mapped(to):
				v.Group, v.Allowed = nil, false
				v.Why = "the guest is not in the map of guests of this host, so it is as if absent"
			case !v.Allowed && len(k.Groups) == 0:
				v.Why = "the list of groups is empty, which allows nobody"
			case !v.Allowed && !slices.ContainsFunc(k.Groups, func(g Group) bool { return g.has(from) }):
				v.Why = "no group has the requester"
			case !v.Allowed:
				v.Why = "no group of the requester has the guest"
			case v.Group == nil:
				v.Why = "no groups are in force"
			default:
				v.Why = fmt.Sprintf("group %q at %s has both", v.Group.Name, v.Group.Where)
			}
			verdicts = append(verdicts, v)
		}
	}
	return verdicts
}

// hears reports whether such a requester can ask at the listener.
func (l Listener) hears(from Requester) bool {
	switch l.Kind {
	case KindMulticast, KindUDP, KindTCP:
		return from.Address.IsValid()
	case KindVsock:
		return from.CID != 0
	case KindSerial, KindVMChannel, KindVirtio:
		return from.Guest.ID != "" && from.CID == 0
	}
	return false
}

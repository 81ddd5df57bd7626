// Package snoop reads what the kernel's bridges do with multicast: which of them
// watch joins, whether they know of a querier, and who has joined. The server of the
// fence_virt protocols tells it to guests that ask for a diagnosis, and `ringfence
// doctor` looks at it on a host. It asks by netlink, which needs no sysfs and works
// in any network namespace, and changes nothing.
//
// What the kernel does, and all judgements rest on: a bridge that snoops forwards
// packets of a group to those that have joined only, and only while it knows of a
// querier, be it itself or another one that asked a moment ago. Without one it
// floods, except to ports that do not take floods of multicast.
package snoop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Bridge is how one bridge deals with multicast.
type Bridge struct {
	Name     string
	Snoops   bool
	Querier  bool // it asks by itself
	Querier4 bool // somebody else asks, for IPv4
	Querier6 bool
}

// Asked reports whether the bridge knows of a querier of the group's family.
func (b Bridge) Asked(group netip.Addr) bool {
	return b.Querier || group.Is4() && b.Querier4 || group.Is6() && b.Querier6
}

// The attributes of a bridge's querier; the numbers are the kernel's.
const (
	querier4Timer = 3
	querier6Timer = 7

	attrType = 0x3fff // without the flags of nesting and byte order
)

var ne = binary.NativeEndian

// Bridges returns all bridges of this network namespace by their index.
func Bridges() (map[int]Bridge, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list bridges: %w", err)
	}
	bridges := map[int]Bridge{}
	for _, m := range messages {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		attrs := attributes(m[unix.SizeofIfInfomsg:])
		info := attributes(attrs[unix.IFLA_LINKINFO])
		if cString(info[unix.IFLA_INFO_KIND]) != "bridge" {
			continue
		}
		data := attributes(info[unix.IFLA_INFO_DATA])
		_, asks4 := attributes(data[unix.IFLA_BR_MCAST_QUERIER_STATE])[querier4Timer]
		_, asks6 := attributes(data[unix.IFLA_BR_MCAST_QUERIER_STATE])[querier6Timer]
		index := int(int32(ne.Uint32(m[4:])))
		bridges[index] = Bridge{
			Name: cString(attrs[unix.IFLA_IFNAME]), Snoops: isSet(data[unix.IFLA_BR_MCAST_SNOOPING]),
			Querier: isSet(data[unix.IFLA_BR_MCAST_QUERIER]), Querier4: asks4, Querier6: asks6,
		}
	}
	return bridges, nil
}

// Membership is what a bridge has learned: somebody behind a port, or the host
// itself (Port equals Bridge), has joined a group.
type Membership struct {
	Bridge, Port int // indexes
	Group        netip.Addr
}

// The nested attributes of the kernel's table of memberships.
const (
	mdbaMDB       = 1
	mdbaMDBEntry  = 1
	mdbaEntryInfo = 1

	sizeofPortMsg = 8
	sizeofEntry   = 28
	entryIP       = 8
	entryProtocol = 24
)

// Memberships returns what all bridges have learned.
func Memberships() ([]Membership, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETMDB, unix.NLM_F_DUMP)
	request.AddRawData(append([]byte{unix.AF_BRIDGE}, make([]byte, sizeofPortMsg-1)...))
	messages, err := request.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list what bridges have learned: %w", err)
	}
	var out []Membership
	for _, m := range messages {
		if len(m) < sizeofPortMsg {
			continue
		}
		bridge := int(ne.Uint32(m[4:]))
		each(attributes(m[sizeofPortMsg:])[mdbaMDB], mdbaMDBEntry, func(entry []byte) {
			each(entry, mdbaEntryInfo, func(info []byte) {
				if one, ok := parseEntry(bridge, info); ok {
					out = append(out, one)
				}
			})
		})
	}
	return out, nil
}

func parseEntry(bridge int, info []byte) (Membership, bool) {
	if len(info) < sizeofEntry {
		return Membership{}, false
	}
	one := Membership{Bridge: bridge, Port: int(ne.Uint32(info))}
	switch binary.BigEndian.Uint16(info[entryProtocol:]) {
	case unix.ETH_P_IP:
		one.Group = netip.AddrFrom4([4]byte(info[entryIP : entryIP+4]))
	case unix.ETH_P_IPV6:
		one.Group = netip.AddrFrom16([16]byte(info[entryIP : entryIP+16]))
	default:
		return Membership{}, false
	}
	return one, true
}

// attributes returns the attributes in b by their type; of what cannot be read none.
func attributes(b []byte) map[uint16][]byte {
	out := map[uint16][]byte{}
	for kind, value := range walk(b) {
		out[kind] = value
	}
	return out
}

func each(b []byte, kind uint16, do func([]byte)) {
	for k, value := range walk(b) {
		if k == kind {
			do(value)
		}
	}
}

// walk goes through the attributes in b.
func walk(b []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(ne.Uint16(b))
			if n < unix.SizeofRtAttr || n > len(b) {
				return
			}
			if !yield(ne.Uint16(b[2:])&attrType, b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min(len(b), (n+syscall.RTA_ALIGNTO-1)&^(syscall.RTA_ALIGNTO-1)):]
		}
	}
}

func cString(b []byte) string { return unix.ByteSliceToString(b) }

func isSet(b []byte) bool { return len(b) > 0 && b[0] != 0 }

package fencevirt

import (
	"log/slog"
	"net/netip"

	"ringfence/internal/wire/xvm"
)

// Config is what a Server serves. It is validated by conf, and again by New.
type Config struct {
	Listeners []Listener
	// Guests is the fixed map of standalone mode: which guests this host is to
	// have. Empty: every guest of the hypervisor. A mapped guest that is not here
	// is unknown, and one that is here without being mapped is as if it were not.
	Guests []string
	// Version is told to guests that ask for a diagnosis.
	Version string
}

// Kind is how requests come in.
type Kind string

// The kinds of listeners.
const (
	KindMulticast Kind = "multicast" // the answer goes over a TCP connection to the client
	KindUDP       Kind = "udp"       // unicast; else as multicast
	KindTCP       Kind = "tcp"
	KindVsock     Kind = "vsock"
	KindSerial    Kind = "serial"    // serial lines of guests
	KindVMChannel Kind = "vmchannel" // guestfwd channels of guests
	KindVirtio    Kind = "virtio"    // virtio-serial ports of guests
)

// Kinds lists all kinds.
func Kinds() []Kind {
	return []Kind{KindMulticast, KindUDP, KindTCP, KindVsock, KindSerial, KindVMChannel, KindVirtio}
}

// Listener is one way in.
type Listener struct {
	Kind Kind
	// Where it stands: "file:line", for messages.
	Where string
	// Address is the group of multicast, and the local address of udp and tcp.
	Address netip.Addr
	Port    uint16 // of multicast, udp, tcp, vsock
	// Interfaces are those on which multicast joins; empty: every interface that is
	// up and can multicast, also those that come later.
	Interfaces []string
	// Keys are tried one after another. A listener of serial, vmchannel and virtio
	// has exactly one, without Secret: the line says who speaks.
	Keys []Key
	// Dir restricts serial, vmchannel and virtio to sockets directly in it; "" does not.
	Dir string
	// PortName is the name of the port of virtio inside of the guest.
	PortName string
	// NoDiagnosis keeps multicast, udp and tcp from saying what became of a request, to
	// guests that ask for a diagnosis (package xvmdiag).
	NoDiagnosis bool
}

// Key is one shared secret with what its holders may do.
type Key struct {
	// Name tells keys apart in logs: the path of its file.
	Name   string
	Secret Secret
	// Hash is the weakest signature of a request that is taken, Auth how streams are
	// authenticated.
	Hash, Auth xvm.Hash
	// Groups restrict who may deal with which guest; nil: everybody with all. An
	// empty list that is not nil allows nobody.
	Groups []Group
}

// Group lets each of its requesters deal with each of its guests.
type Group struct {
	Name  string // for messages only
	Where string // "file:line"
	// From are requesters: IP addresses, vsock CIDs in decimal; and Guests that ask
	// over their own line are requesters too.
	From []string
	// Guests are names or UUIDs, in any case.
	Guests []string
}

// Secret is the content of a key file. It never shows in a log.
type Secret []byte

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue("(secret)") }

// String implements fmt.Stringer.
func (Secret) String() string { return "(secret)" }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return "(secret)" }

package hypervisor

import (
	"context"

	"ringfence/internal/cluster"
)

// Finder is an optional ability: one guest is found by its name without a
// listing. ErrNoGuest: the hypervisor answered and has none; ErrUnavailable.
type Finder interface {
	Find(ctx context.Context, name string) (Guest, error)
}

// Rebooter is an optional ability: the named life is ended as by Off, and the
// guest started again from the configuration with which it ran, which may differ
// from the one that is stored. It returns the new life. Errors are Off's, and On's
// once the old life has ended; the caller sees by State which it was. A guest that
// is off stays off: ErrNotRunning.
type Rebooter interface {
	Reboot(ctx context.Context, id cluster.GuestID, life cluster.LifeID) (cluster.LifeID, error)
}

// Bystander is an optional ability: a stream as that of Watch for one who looks on
// beside hostd. It takes nothing of what the driver keeps while hostd, which alone
// calls Watch, has no stream.
type Bystander interface {
	WatchBeside(ctx context.Context) (<-chan Event, error)
}

// Departer is an optional ability: of a guest that is off here, it knows whether
// its last run went to another host, also where nobody watched then. False says
// nothing: that is forgotten with the hypervisor's daemon. ErrNoGuest, ErrUnavailable.
type Departer interface {
	Departed(ctx context.Context, id cluster.GuestID) (bool, error)
}

// Checker is an optional ability: it asks the hypervisor something that it can
// answer only when it could also end a guest. ErrUnavailable otherwise.
type Checker interface {
	Check(ctx context.Context) error
}

// PortKind says what a Port is inside of the guest.
type PortKind string

// The kinds of ports.
const (
	PortSerial  PortKind = "serial"  // a serial line
	PortChannel PortKind = "channel" // guestfwd of QEMU: a TCP address inside of the guest
	PortVirtio  PortKind = "virtio"  // a virtio-serial port
)

// Port is a unix socket on the host that belongs to one guest alone: who speaks
// there is that guest. The hypervisor listens; whoever serves the guest connects.
type Port struct {
	Guest cluster.GuestID
	Kind  PortKind
	Path  string
	// Name is the name of a virtio-serial port inside of the guest, else "".
	Name string
}

// Porter is an optional ability: it knows the ports of the guests that run now,
// and their vsock addresses.
type Porter interface {
	// Ports returns the ports of one running guest. ErrNoGuest, ErrNotRunning.
	Ports(ctx context.Context, id cluster.GuestID) ([]Port, error)
	// GuestOfCID returns the running guest that has a vsock address. ErrNoGuest:
	// none of this host's.
	GuestOfCID(ctx context.Context, cid uint32) (Guest, error)
}

// Package hypervisor is the contract between hostd and whatever runs guests on
// one host. Sibling packages implement it: proc (a guest is a process tree in
// namespaces), libvirt (KVM/QEMU and Xen), mem (a model for tests);
// hypervisortest holds the one conformance suite.
//
// A driver reports what its hypervisor says and does what it is told. It
// decides nothing and remembers no promises: journal, permissions, epochs and
// certificates are hostd's.
package hypervisor

import (
	"context"
	"errors"
	"net"

	"ringfence/internal/cluster"
)

// Errors that hostd branches on. Every other error of a call that changes
// something means: outcome unknown.
var (
	// ErrNoGuest: the hypervisor answered, and has no guest of that id.
	ErrNoGuest = errors.New("hypervisor: no such guest")
	// ErrOtherLife: the guest runs, but in another life than the one named;
	// nothing was done.
	ErrOtherLife = errors.New("hypervisor: guest runs in another life")
	// ErrNotRunning: the guest has no life now; nothing was done.
	ErrNotRunning = errors.New("hypervisor: guest is not running")
	// ErrRunning: On found the guest running; nothing was done.
	ErrRunning = errors.New("hypervisor: guest is running already")
	// ErrNoClaims: the hypervisor cannot note with a life which cluster claimed it.
	ErrNoClaims = errors.New("hypervisor: keeps no claim with a life")
	// ErrUnavailable: the hypervisor did not answer; nothing is known.
	ErrUnavailable = errors.New("hypervisor: unavailable")
)

// GuestState is what the hypervisor says of a guest.
type GuestState string

// The states. Unknown is the zero value and is never taken for off.
const (
	StateUnknown GuestState = ""
	StateRunning GuestState = "running"
	StatePaused  GuestState = "paused" // exists, makes no progress; can be continued
	StateOff     GuestState = "off"    // no process of the hypervisor runs it; Life is ""
	StateSaved   GuestState = "saved"  // off with a memory image that can be restored; Life is ""
	// StateArriving: the target of a migration that has not switched over. The
	// guest exists here and does not run here; Life is the one that arrives. A
	// guest whose migration goes out is running at its source until then.
	StateArriving GuestState = "arriving"
)

// Guest is one guest as the hypervisor reports it.
type Guest struct {
	ID    cluster.GuestID
	Name  string
	State GuestState
	Life  cluster.LifeID // "" when State is StateOff, StateSaved or StateUnknown
}

// EventKind is what happened to a guest.
type EventKind string

// The kinds of events.
const (
	EventStarted  EventKind = "started"
	EventEnded    EventKind = "ended" // see Reason: not every end is a death
	EventPaused   EventKind = "paused"
	EventUnpaused EventKind = "unpaused"
	EventInside   EventKind = "inside" // panic, reset or guest reboot in the same life: a hint, no end

	// A migration is told at both ends. The source tells leaving, then ended with
	// ReasonMigrated, which may come late; the target tells arriving, then started
	// with ReasonMigrated and the same life. One that comes to nothing ends with
	// stayed instead, at each end where it had begun and the life has not ended.
	// These three have no Reason.

	// EventLeaving: an outgoing migration of the life has begun here.
	EventLeaving EventKind = "leaving"
	// EventArriving: an incoming migration of the life is about to begin here;
	// the guest does not run here yet.
	EventArriving EventKind = "arriving"
	// EventStayed: a migration that had begun failed or was aborted. At its
	// source the life runs on; at its target it never came.
	EventStayed EventKind = "stayed"
)

// Reason says why, in the words of the hypervisor reduced to what matters
// (rule P4: which ends are ends).
type Reason string

// The reasons. A life has ended with ReasonShutdown, ReasonDestroyed,
// ReasonCrashed or ReasonFailed, when the driver says so; with ReasonSaved,
// ReasonMigrated or ReasonUnknown it has not.
const (
	ReasonUnknown      Reason = ""
	ReasonBooted       Reason = "booted"
	ReasonRestored     Reason = "restored"
	ReasonMigrated     Reason = "migrated"
	ReasonFromSnapshot Reason = "from snapshot"
	ReasonShutdown     Reason = "shutdown"
	ReasonDestroyed    Reason = "destroyed"
	ReasonCrashed      Reason = "crashed"
	ReasonFailed       Reason = "failed"
	ReasonSaved        Reason = "saved"
	ReasonIOError      Reason = "io error"
	ReasonPanicked     Reason = "panicked"
	ReasonReset        Reason = "reset"
	ReasonUser         Reason = "user"
)

// Ends reports whether an EventEnded with this reason is the end of the life,
// as opposed to a memory image that went elsewhere or was kept.
func (r Reason) Ends() bool {
	switch r {
	case ReasonShutdown, ReasonDestroyed, ReasonCrashed, ReasonFailed:
		return true
	}
	return false
}

// Event is one change at the hypervisor, in the order in which it happened.
type Event struct {
	Guest  cluster.GuestID
	Life   cluster.LifeID
	Kind   EventKind
	Reason Reason
}

// Driver runs the guests of one host. It is safe for concurrent use; no call
// may delay another by more than the hypervisor itself does. Every call
// returns when its ctx ends, with an error that means unknown.
type Driver interface {
	// HostBoot returns the boot id of the host; constant while the host runs.
	HostBoot(ctx context.Context) (string, error)
	// List returns all guests that the hypervisor knows, running or not.
	List(ctx context.Context) ([]Guest, error)
	// State returns one guest. ErrNoGuest, ErrUnavailable.
	State(ctx context.Context, id cluster.GuestID) (Guest, error)
	// Off ends exactly the named life and returns nil only when it is verified
	// gone: every process reaped and the guest's link removed (P3, P10).
	// ErrNotRunning: the guest has no life here at all; so it is when the guest
	// is saved, or has switched over to another host. ErrOtherLife, ErrNoGuest:
	// nothing done. Any other error: unknown.
	//
	// While the life migrates, nil means that it is gone at both ends, and the
	// migration has failed. At the target before switch-over Off refuses the
	// arrival, so that it cannot switch over any more, and returns ErrNotRunning:
	// the life may go on at its source.
	Off(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error
	// On starts the guest cold and returns its new life; a saved image is
	// discarded. ErrRunning (also for a guest that arrives), ErrNoGuest.
	On(ctx context.Context, id cluster.GuestID) (cluster.LifeID, error)
	// Pause stops the named life's progress, and what others see of it on the
	// network, without ending it; Unpause continues it.
	Pause(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error
	Unpause(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error
	// Watch delivers events from now on, in order. When the stream breaks the
	// channel is closed: the caller lists again and watches anew. The driver
	// must have registered before Watch returns, so that List after Watch
	// misses nothing. A slow reader loses the stream, never delays the driver.
	Watch(ctx context.Context) (<-chan Event, error)
}

// Channeler is an optional ability: a channel that belongs to one guest alone,
// so that whoever speaks on it is that guest (rule P11). Virtio-serial and
// vsock are such channels; for proc it is a unix socket in the guest's mount
// namespace.
type Channeler interface {
	// Channel listens for connections from that guest. Closing the listener
	// ends it; calling again replaces an earlier listener of the same guest.
	Channel(ctx context.Context, id cluster.GuestID) (net.Listener, error)
}

// Incoming is a life that is about to come to a host.
type Incoming struct {
	Guest cluster.GuestID
	Life  cluster.LifeID
	// Claimed is what Claim has noted with the life, be it on another host.
	Claimed cluster.ClusterID
	Why     Reason // ReasonMigrated or ReasonRestored
}

// Guard decides whether a life may come; an error refuses it.
type Guard func(ctx context.Context, in Incoming) error

// Mover is an optional ability: guests can migrate and be saved.
type Mover interface {
	// SetGuard sets who is asked on the target before an incoming migration
	// begins and before a saved guest is restored here; where it refuses, nothing
	// has happened. There is at most one guard, set before Watch; a later one
	// replaces it. The driver calls it without locks, with a ctx that is bounded;
	// a guard that does not answer in time has refused.
	SetGuard(guard Guard)
	// Claim notes with the running life, so that it goes wherever that goes and
	// ends with it, which cluster has claimed its guest. nil: every guard that is
	// asked about the life from now on is told. ErrNoClaims: this hypervisor keeps
	// nothing with a life. ErrNotRunning, ErrOtherLife, ErrNoGuest. Any other
	// error, such as while a migration of the life is under way: not known to be
	// noted.
	Claim(ctx context.Context, g cluster.GuestID, life cluster.LifeID, c cluster.ClusterID) error
	// Abort ends an outgoing or incoming migration of the life. It returns nil
	// only when that is seen: the life is at its source and nowhere else.
	// ErrNotRunning: no migration of that life is known here, be it that it has
	// switched over. ErrNoGuest. Any other error: unknown.
	//
	// However it ends, an arrival of which the guard was asked before and that
	// has not begun is refused, whatever the guard said: the caller takes it that
	// the life cannot come any more without the guard being asked again.
	Abort(ctx context.Context, g cluster.GuestID, life cluster.LifeID) error
}

// Package resource is the contract between the node's executor and whatever
// runs one resource. Sibling packages implement it: exec (a command), ip (a
// virtual address), ocf (an OCF resource agent); resourcetest holds the one
// conformance suite.
//
// An agent does what it is told on this machine. Whether it may is decided
// before: the executor calls Start only behind a committed start ticket.
package resource

import (
	"context"

	"ringfence/internal/cluster"
)

// Status is what a probe of a resource found.
type Status string

// The results of a probe. Whoever reads it must take StatusUnknown for active
// (rule P16).
const (
	StatusUnknown  Status = ""
	StatusActive   Status = "active"
	StatusInactive Status = "inactive" // verified: no trace of it here
	StatusFailed   Status = "failed"   // there, but not well: must be stopped before a start
)

// Call carries what an agent needs to know of its resource.
type Call struct {
	Service    cluster.ServiceName
	Resource   cluster.Resource
	Node       cluster.NodeName
	Generation cluster.Generation // passed on as RINGFENCE_GENERATION
}

// Agent runs one kind of resource. Calls for different resources come
// concurrently, calls for one resource never overlap, except that Watch may run
// beside Monitor. The executor bounds every call by ctx; a call that ends with
// an error or by ctx has an unknown effect.
type Agent interface {
	// Check reports whether the parameters are right, without touching the
	// resource; `config check` and Start both call it.
	Check(r cluster.Resource) error
	// Start returns nil once the resource is usable; nil too when it already is.
	Start(ctx context.Context, call Call) error
	// Stop returns nil only when the resource is verified stopped: nothing of it
	// is left here. nil too when it already is.
	Stop(ctx context.Context, call Call) error
	// Monitor looks without disturbing. The error explains StatusFailed and
	// StatusUnknown.
	Monitor(ctx context.Context, call Call) (Status, error)
}

// Watcher is an optional ability: an agent that notices the end of an active
// resource at once instead of being polled.
type Watcher interface {
	// Watch returns when the resource is no longer active, with the reason, or
	// with ctx.Err(). An error that it cannot watch at all wraps
	// errors.ErrUnsupported; the executor polls then.
	Watch(ctx context.Context, call Call) error
}

// Banner is an optional ability of an agent's error: it says that another try
// cannot succeed, here or anywhere, until somebody changes something.
type Banner interface {
	error
	Ban() cluster.Ban
}

// Announcer is an optional ability: an agent whose active resource has to be
// made known to neighbours, also when it was taken over and not started.
type Announcer interface {
	// Announce makes the active resource known once more.
	Announce(ctx context.Context, call Call) error
}

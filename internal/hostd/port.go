package hostd

import (
	"context"
	"time"

	"ringfence/internal/cluster"
)

// Permissions is what all clusters may do on this host. It is safe for
// concurrent use and asked each time, so that a change counts at once. After a
// change, end the streams with DropStreams.
type Permissions interface {
	// Allows reports whether a cluster may deal with a guest.
	Allows(c cluster.ClusterID, g cluster.GuestID) bool
	// Clusters returns all that may, in order. Where it is none hostd does not
	// listen on the guest's own channel.
	Clusters(g cluster.GuestID) []cluster.ClusterID
}

// AuditLog takes who wanted what, and what came of it. Note must not wait and
// is safe for concurrent use. Callers choose the texts: bound them.
type AuditLog interface {
	Note(e AuditEntry)
}

// AuditEntry is one line of the audit log. Time and Dropped are the log's.
type AuditEntry struct {
	Time        time.Time           `json:"time"`
	Cluster     cluster.ClusterID   `json:"cluster,omitempty"`
	Name        string              `json:"certificate,omitempty"` // common name of the caller's certificate
	Remote      string              `json:"remote,omitempty"`
	Action      string              `json:"action"`
	Guest       cluster.GuestID     `json:"guest,omitempty"`
	Life        cluster.LifeID      `json:"life,omitempty"`
	Incarnation cluster.Incarnation `json:"incarnation,omitempty"`
	Epoch       cluster.Epoch       `json:"epoch,omitempty"`
	Decision    string              `json:"decision,omitempty"`
	Outcome     string              `json:"outcome"`
	Detail      string              `json:"detail,omitempty"`
	Dropped     int64               `json:"dropped_before,omitempty"`
}

// Caller is who sends a request, proved by whoever serves the Handler.
type Caller struct {
	Cluster cluster.ClusterID
	Name    string // common name of the certificate
	Remote  string
	// Refused says why a caller that was known may ask for nothing any more.
	Refused string
}

type callerKey struct{}

// WithCaller returns the context of a request of who. Only code that has
// proved who that is may call it.
func WithCaller(ctx context.Context, who Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, who)
}

package fencevirt

import (
	"context"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// Host is what the server needs of a hypervisor; each method is that of
// hypervisor.Driver, and every driver is a Host. A driver that is also a
// hypervisor.Finder, Rebooter, Checker, Porter, Departer or Bystander is used as such.
type Host interface {
	Observer
	Power
}

// Observer says what there is.
type Observer interface {
	List(ctx context.Context) ([]hypervisor.Guest, error)
	State(ctx context.Context, id cluster.GuestID) (hypervisor.Guest, error)
	Watch(ctx context.Context) (<-chan hypervisor.Event, error)
}

// Power changes it.
type Power interface {
	Off(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error
	On(ctx context.Context, id cluster.GuestID) (cluster.LifeID, error)
}

var _ Host = hypervisor.Driver(nil)

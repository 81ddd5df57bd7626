// Package plan decides. Plan turns a snapshot of the store and the leader's
// clock into orders with reasons; the node that leads commits them. It is
// pure: the same snapshot gives the same plan, so every decision can be
// simulated, shown again from its saved snapshot, and explained.
//
// The invariant it keeps is DESIGN section 5: ownership of a service moves only
// by the owner's verified stop report or by evidence that ended the owner's
// boot (rule P15). Silence and time decide only whom to ask and whom to fence.
package plan

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"ringfence/internal/cluster"
)

// Snapshot is everything a decision is made from.
type Snapshot struct {
	State cluster.State `json:"state"`
	// Now is the reader's monotonic clock, the same that stamped Rec.Since.
	Now time.Duration `json:"now"`
	// Self is the node that plans.
	Self cluster.NodeName `json:"self"`
	// Abstain: the planning node was away a moment ago, so that what it takes for
	// silence, or for an old answer, may be its own absence (O-9).
	Abstain bool `json:"abstain,omitempty"`
}

// OrderKind names what an order does.
type OrderKind string

// The kinds of orders.
const (
	OrderEnd     OrderKind = "end"      // a boot has ended: write its tombstone
	OrderFence   OrderKind = "fence"    // decide to fence a boot, first attempt included
	OrderRetry   OrderKind = "retry"    // assign the next attempt of a fence decision
	OrderPowerOn OrderKind = "power on" // start a fenced node's guest anew, or try again
	OrderAssign  OrderKind = "assign"   // give a service to a boot and start it there
	OrderStop    OrderKind = "stop"     // the owner shall stop a service
	OrderRelease OrderKind = "release"  // nobody owns the service any more
	OrderPlace   OrderKind = "place"    // a life is not at one of its places any more
	OrderTidy    OrderKind = "tidy"     // remove records that no decision needs
)

// Order is one decision: a transaction and why. All its guards, among them the
// leader's epoch, must hold at commit, else the decision is void and the next
// snapshot is planned anew (rule O-7).
type Order struct {
	Kind    OrderKind       `json:"kind"`
	Subject string          `json:"subject"` // service, boot or node
	Text    string          `json:"text"`    // what and why, for people
	Guards  []cluster.Guard `json:"guards"`
	Writes  []cluster.Write `json:"writes"`
}

// NodeStatus is a node as the snapshot shows it.
type NodeStatus struct {
	Name   cluster.NodeName   `json:"name"`
	State  cluster.NodeState  `json:"state"`
	Boot   cluster.BootID     `json:"boot,omitempty"`
	Places []cluster.HostName `json:"places,omitempty"`
	// Unproved are earlier boots whose end is not proved: while there is one the
	// node gets no services.
	Unproved []cluster.BootID `json:"unproved,omitempty"`
	Why      []string         `json:"why,omitempty"`
}

// ServiceStatus is a service as the snapshot shows it: Why answers "why is it
// here, or why does nothing happen".
type ServiceStatus struct {
	Name       cluster.ServiceName  `json:"name"`
	State      cluster.ServiceState `json:"state"`
	Node       cluster.NodeName     `json:"node,omitempty"`
	Generation cluster.Generation   `json:"generation"`
	Why        []string             `json:"why,omitempty"`
}

// Result is a plan.
type Result struct {
	Orders   []Order         `json:"orders"`
	Nodes    []NodeStatus    `json:"nodes"`
	Services []ServiceStatus `json:"services"`
	// Warnings say what keeps the whole cluster from acting.
	Warnings []string `json:"warnings,omitempty"`
	// Wake is when the plan may change though no record does; 0: never.
	Wake time.Duration `json:"wake,omitempty"`
}

// planner holds one run of Plan.
type planner struct {
	Snapshot
	s      *cluster.State
	boots  []standing // sorted by node, then boot
	byBoot map[cluster.BootID]*standing
	index
	load   map[cluster.NodeName]int // services owned, orders of this plan included
	ending bool                     // this plan ends a boot
	braked string                   // why nobody is fenced for silence; "" while one may be
	result Result
}

// Plan decides what to do now. It does not change the snapshot.
func Plan(snapshot Snapshot) Result {
	p := &planner{Snapshot: snapshot, s: &snapshot.State, load: map[cluster.NodeName]int{}}
	p.judgeBoots()
	p.endBoots()
	p.fenceLost()
	p.fenceContradicted()
	p.leavePlaces()
	p.retryFences()
	p.countLoad()
	names := p.serviceNames()
	p.result.Services = slices.Grow(p.result.Services, len(names))
	for _, name := range names {
		p.planService(name)
	}
	p.powerOn()
	p.tidy()
	p.nodeStatus()
	for _, warning := range []string{p.disarmed(), p.braked} {
		if warning != "" {
			p.result.Warnings = append(p.result.Warnings, warning)
		}
	}
	p.result.Warnings = append(p.result.Warnings, p.doubts()...)
	return p.result
}

// order adds a decision. Every decision compares the leader record.
func (p *planner) order(kind OrderKind, subject, text string, guards []cluster.Guard, writes ...cluster.Write) {
	guards = append([]cluster.Guard{{Key: cluster.KeyLeader, Rev: p.s.Leader.Rev}}, guards...)
	p.result.Orders = append(p.result.Orders, Order{
		Kind: kind, Subject: subject, Text: text, Guards: guards, Writes: writes,
	})
}

// wakeAt asks to be planned again at t at the latest.
func (p *planner) wakeAt(t time.Duration) {
	if p.result.Wake == 0 || t < p.result.Wake {
		p.result.Wake = t
	}
}

// serviceNames returns every service that is configured or has ever been owned.
func (p *planner) serviceNames() []cluster.ServiceName {
	names := slices.Collect(maps.Keys(p.services))
	for name, owner := range p.s.Owners {
		if owner.Value.Boot != "" && p.services[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (p *planner) countLoad() {
	for _, owner := range p.s.Owners {
		if owner.Value.Boot != "" {
			p.load[owner.Value.Node]++
		}
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}

// guardOf compares a record that was read.
func guardOf(key string, rev cluster.Revision) cluster.Guard {
	return cluster.Guard{Key: key, Rev: rev}
}

// absent compares that a record does not exist.
func absent(key string) cluster.Guard { return cluster.Guard{Key: key} }

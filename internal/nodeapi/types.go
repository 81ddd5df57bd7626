package nodeapi

import (
	"time"

	"ringfence/internal/cluster"
)

// bodyLimitBytes bounds every request and reply body but the event stream.
const bodyLimitBytes = 1 << 20

// Status is the cluster as one node sees it. Its JSON is stable: fields are
// added, never renamed or removed.
type Status struct {
	Cluster     cluster.ClusterID   `json:"cluster"`
	Name        string              `json:"name"`
	Incarnation cluster.Incarnation `json:"incarnation"`
	// Node is the node that answers.
	Node   cluster.NodeName `json:"node"`
	Leader cluster.NodeName `json:"leader,omitempty"`
	Epoch  cluster.Epoch    `json:"epoch"`
	// Quorum is false while the answering node's store has no leader: what is
	// shown then may be old.
	Quorum bool `json:"quorum"`
	// QuorumSurvives says whether the loss of any one host, or machine without
	// one, leaves a quorum (rule P14); where not, Warnings name the remedy.
	QuorumSurvives bool `json:"quorum_survives"`
	// RaftLeader is the voter that leads the store's consensus, as far as the
	// answering node knows; its death costs an election more.
	RaftLeader     cluster.NodeName `json:"raft_leader,omitempty"`
	Revision       cluster.Revision `json:"revision"`
	ConfigRevision cluster.Revision `json:"config_revision"` // 0: no configuration was ever applied
	Nodes          []NodeStatus     `json:"nodes"`
	Services       []ServiceStatus  `json:"services"`
	Hosts          []HostStatus     `json:"hosts"`
	Warnings       []string         `json:"warnings"`
}

// NodeStatus is one node. State is a cluster.NodeState, with "absent" for none.
type NodeStatus struct {
	Name     cluster.NodeName      `json:"name"`
	State    string                `json:"state"`
	Boot     cluster.BootID        `json:"boot,omitempty"`
	Hosts    []cluster.HostName    `json:"hosts"`
	Guest    cluster.GuestID       `json:"guest,omitempty"`
	Voter    bool                  `json:"voter"`
	Witness  bool                  `json:"witness"` // votes, runs no services
	Standby  bool                  `json:"standby"`
	Address  string                `json:"address,omitempty"`
	Services []cluster.ServiceName `json:"services"`
	// Unproved are earlier boots whose end is not proved: while there is one the
	// node gets no services.
	Unproved []cluster.BootID `json:"unproved,omitempty"`
	Why      []string         `json:"why"`
}

// ServiceStatus is one service. State is a cluster.ServiceState, with "unknown"
// for none.
type ServiceStatus struct {
	Name       cluster.ServiceName `json:"name"`
	State      string              `json:"state"`
	Node       cluster.NodeName    `json:"node,omitempty"`
	Generation cluster.Generation  `json:"generation"`
	Why        []string            `json:"why"`
}

// HostStatus is one enrolled host.
type HostStatus struct {
	Name    cluster.HostName `json:"name"`
	Address string           `json:"address"`
	// Reachable says whether the answering node has the host's event stream.
	Reachable bool `json:"reachable"`
	// Fingerprint is the SHA-256 of the host's TLS certificate, in hex.
	Fingerprint string `json:"fingerprint"`
	// Untrusted says why its word on lives does not count; "" when it does.
	Untrusted string `json:"untrusted,omitempty"`
}

// Service returns the status of one service.
func (s Status) Service(name string) (ServiceStatus, bool) {
	for _, one := range s.Services {
		if string(one.Name) == name {
			return one, true
		}
	}
	return ServiceStatus{}, false
}

// Member returns the status of one node.
func (s Status) Member(name string) (NodeStatus, bool) {
	for _, one := range s.Nodes {
		if string(one.Name) == name {
			return one, true
		}
	}
	return NodeStatus{}, false
}

// Explanation says why a service is where it is, or why nothing happens.
type Explanation struct {
	ServiceStatus
	Boot  cluster.BootID     `json:"boot,omitempty"`
	Hosts []cluster.HostName `json:"hosts"`
	// Wish is what an operator asked for, in words; "" for nothing.
	Wish   string      `json:"wish,omitempty"`
	Nodes  []Candidate `json:"nodes"`
	Events []Event     `json:"events"` // the newest that concern it, oldest first
}

// Candidate is a node on which a service may run, in the order of preference.
type Candidate struct {
	Name cluster.NodeName `json:"name"`
	// Bar is why it could not take the service now; "" when it could.
	Bar string `json:"bar,omitempty"`
}

// Event is one change of the cluster, in words.
type Event struct {
	Revision cluster.Revision `json:"revision"`
	// Time is when the answering node saw it, by its wall clock.
	Time    time.Time        `json:"time"`
	Kind    string           `json:"kind"`
	Subject string           `json:"subject"` // name of the service, node or host
	Node    cluster.NodeName `json:"node,omitempty"`
	Text    string           `json:"text"`
}

// Done is the answer to an order.
type Done struct {
	// Revision is where the order stands in the store, or, when nothing had to
	// be changed, the revision that was looked at.
	Revision cluster.Revision `json:"revision"`
	Changed  bool             `json:"changed"`
	// Message says what will happen now, or why nothing had to be done.
	Message string `json:"message"`
}

// ServiceOrder is the body of POST /v1/services/{name}/{action}.
type ServiceOrder struct {
	By string           `json:"by"`           // who asks, for the records
	To cluster.NodeName `json:"to,omitempty"` // move only
}

// NodeOrder is the body of POST /v1/nodes/{name}/{action}.
type NodeOrder struct {
	By string `json:"by"`
	// Boot and Reason are for confirm-dead only.
	Boot   cluster.BootID `json:"boot,omitempty"`
	Reason string         `json:"reason,omitempty"`
}

// ArmOrder is the body of POST /v1/cluster/{action}. Reason is for disarm only.
type ArmOrder struct {
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
}

// LeaveOrder is the body of POST /v1/leave.
type LeaveOrder struct {
	By string `json:"by"`
	// Force leaves though the voters that remain have no quorum then.
	Force bool `json:"force,omitempty"`
}

// Configuration is the answer to GET /v1/config. Revision 0: none was applied.
type Configuration struct {
	Revision cluster.Revision `json:"revision"`
	Config   cluster.Config   `json:"config"`
	// Stale: the store could not be asked, and this is what the node saw last;
	// else it is what stood at some time during the call.
	Stale bool `json:"stale,omitempty"`
}

// ConfigOrder is the body of PUT /v1/config.
type ConfigOrder struct {
	By     string         `json:"by"`
	Config cluster.Config `json:"config"`
	// Expect, if set, is the revision of the configuration that this one was
	// made from; another one standing there is a conflict.
	Expect *cluster.Revision `json:"expect,omitempty"`
}

// HostOrder is the body of POST /v1/hosts.
type HostOrder struct {
	By   string       `json:"by"`
	Host cluster.Host `json:"host"`
	// Replace takes new keys for a host that is enrolled already.
	Replace bool `json:"replace,omitempty"`
}

// TrustOrder is the body of POST /v1/hosts/{name}/trust.
type TrustOrder struct {
	By string `json:"by"`
}

// NewToken is the answer to POST /v1/tokens. Text is a secret.
type NewToken struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

// TokenStatus is one join token, without its secret.
type TokenStatus struct {
	ID string `json:"id"`
	// UsedBy is the node that it admitted; "" while it is good.
	UsedBy string `json:"used_by,omitempty"`
}

// Public is what a host must know to let the cluster in; nothing of it is
// secret.
type Public struct {
	Cluster cluster.ClusterID `json:"cluster"`
	Name    string            `json:"name"`
	CA      string            `json:"ca"` // PEM
}

package cluster

import (
	"cmp"
	"maps"
	"time"
)

// Config is the desired state that an administrator applies: which nodes take
// part, how each is fenced, and which services run. internal/config reads it
// from TOML and validates it; the store keeps it under KeyConfig.
type Config struct {
	Name string `json:"name"`
	// PauseGrace is how long a guest that its host shows paused may stay silent
	// before its node is lost; 0 means DefaultPauseGrace.
	PauseGrace time.Duration `json:"pause_grace,omitempty"`
	// AfterFence says what becomes of a fenced guest; "" means AfterFenceStart.
	AfterFence AfterFence      `json:"after_fence,omitempty"`
	Nodes      []NodeConfig    `json:"nodes"`
	Services   []ServiceConfig `json:"services"`
}

// NodeConfig says when and how one member is fenced.
type NodeConfig struct {
	Name NodeName `json:"name"`
	// Fence holds the levels in order; the methods of one level are all
	// carried out together. Empty means DefaultFence.
	Fence [][]string `json:"fence,omitempty"`
	// PauseGrace is the cluster's, for this node; 0 means as the cluster.
	PauseGrace time.Duration `json:"pause_grace,omitempty"`
	// AfterFence is the cluster's, for this node; "" means as the cluster.
	AfterFence AfterFence `json:"after_fence,omitempty"`
}

// AfterFence is what becomes of a guest whose life a fence decision has ended.
type AfterFence string

// The policies after fencing. A cluster heals itself by default: a node that
// stays off is one failure less that the others survive, and nobody may be
// there to notice. The new boot probes and joins before it may own anything.
const (
	AfterFenceStart   AfterFence = "start"    // its last host starts it anew
	AfterFenceStayOff AfterFence = "stay-off" // a person starts it
)

// FenceHostd is the fence method that asks the host daemon at the life's place.
const FenceHostd = "hostd"

// DefaultFence is what a node without a fence key gets.
func DefaultFence() [][]string { return [][]string{{FenceHostd}} }

// ServiceConfig is one service: resources started in order, stopped in reverse,
// on one node at a time.
type ServiceConfig struct {
	Name ServiceName `json:"name"`
	// Nodes lists where it may run, most wanted first; empty means on every
	// node of the configuration, in its order.
	Nodes     []NodeName `json:"nodes,omitempty"`
	Resources []Resource `json:"resources"`
	// Restarts is how often a failed resource is restarted in place within
	// RestartWindow before the service is moved to another node.
	Restarts      int           `json:"restarts"`
	RestartWindow time.Duration `json:"restart_window"`
	// FailureExpiry is how long a node that failed to run the service is
	// avoided; `ringfence service clear` ends it earlier.
	FailureExpiry time.Duration `json:"failure_expiry"`
}

// Resource is one thing that an agent runs.
type Resource struct {
	Name string `json:"name"`
	// Agent is exec, ip or ocf:<provider>:<type>.
	Agent  string            `json:"agent"`
	Params map[string]string `json:"params,omitempty"`
	// StartTimeout, StopTimeout and MonitorTimeout bound one call of the agent.
	StartTimeout   time.Duration `json:"start_timeout"`
	StopTimeout    time.Duration `json:"stop_timeout"`
	MonitorTimeout time.Duration `json:"monitor_timeout"`
	// MonitorInterval is the pause between two checks by an agent that must
	// poll (ocf). exec and ip notice an end at once and poll besides.
	MonitorInterval time.Duration `json:"monitor_interval"`
}

// Equal reports whether two resources are the same in everything that an agent
// sees. No parameters and an empty list of them are the same.
func (r Resource) Equal(o Resource) bool {
	return r.Name == o.Name && r.Agent == o.Agent && maps.Equal(r.Params, o.Params) &&
		r.StartTimeout == o.StartTimeout && r.StopTimeout == o.StopTimeout &&
		r.MonitorTimeout == o.MonitorTimeout && r.MonitorInterval == o.MonitorInterval
}

// Defaults of the configuration, shared by parser, documents and tests.
const (
	DefaultPauseGrace      = 3 * time.Second
	DefaultRestarts        = 3
	DefaultRestartWindow   = 10 * time.Minute
	DefaultFailureExpiry   = 10 * time.Minute
	DefaultStartTimeout    = 60 * time.Second
	DefaultStopTimeout     = 60 * time.Second
	DefaultMonitorTimeout  = 20 * time.Second
	DefaultMonitorInterval = 10 * time.Second
)

// Service returns the configuration of one service.
func (c Config) Service(name ServiceName) (ServiceConfig, bool) {
	for _, s := range c.Services {
		if s.Name == name {
			return s, true
		}
	}
	return ServiceConfig{}, false
}

// Node returns the configuration of one node.
func (c Config) Node(name NodeName) (NodeConfig, bool) {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return NodeConfig{}, false
}

// PauseGraceOf returns how long a paused guest of a node may stay silent.
func (c Config) PauseGraceOf(name NodeName) time.Duration {
	node, _ := c.Node(name)
	return cmp.Or(node.PauseGrace, c.PauseGrace, DefaultPauseGrace)
}

// AfterFenceOf returns what becomes of the guest of a node after it was fenced.
func (c Config) AfterFenceOf(name NodeName) AfterFence {
	node, _ := c.Node(name)
	return cmp.Or(node.AfterFence, c.AfterFence, AfterFenceStart)
}

// Candidates returns the nodes on which a service may run, most wanted first.
func (c Config) Candidates(s ServiceConfig) []NodeName {
	if len(s.Nodes) > 0 {
		return s.Nodes
	}
	all := make([]NodeName, 0, len(c.Nodes))
	for _, n := range c.Nodes {
		all = append(all, n.Name)
	}
	return all
}

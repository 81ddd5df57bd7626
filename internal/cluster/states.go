package cluster

// NodeState is what the cluster takes a node to be. It is computed from the
// records by plan, never stored.
type NodeState string

// The node states. The zero value is NodeAbsent: no boot is known.
const (
	NodeAbsent  NodeState = ""        // no boot registered, or all forgotten
	NodeJoining NodeState = "joining" // registered; probing before it may own anything
	NodeMember  NodeState = "member"  // may own services
	NodeSuspect NodeState = "suspect" // observers agree that it is silent; nothing is decided
	NodeLost    NodeState = "lost"    // a fence decision stands; its end is not proved yet
	NodeLeaving NodeState = "leaving" // takes no order any more, stops what it has
	NodeLeft    NodeState = "left"    // ended by a clean leave
	NodeFenced  NodeState = "fenced"  // ended, proved by a fence method
	NodeEnded   NodeState = "ended"   // ended, proved by other evidence
)

// ServiceState is what the cluster takes a service to be. It is computed from
// the records by plan, never stored.
type ServiceState string

// The service states.
const (
	ServiceUnknown    ServiceState = ""           // not in the configuration, no owner
	ServiceStopped    ServiceState = "stopped"    // nobody owns it, by an operator's wish
	ServiceWaiting    ServiceState = "waiting"    // nobody owns it; no node may take it yet
	ServiceStarting   ServiceState = "starting"   // owned and ordered to run; not reported running
	ServiceRunning    ServiceState = "running"    // its owner reports it running
	ServiceRestarting ServiceState = "restarting" // failed; its owner restarts it in place
	ServiceStopping   ServiceState = "stopping"   // owned and ordered to stop; stop not verified
	ServiceFailed     ServiceState = "failed"     // its owner could not run it; verified stopped there
	ServiceRecovering ServiceState = "recovering" // its owner is silent, lost or cannot stop it: waits for evidence
)

// NodeTransitions lists which state of one boot may follow which; doc/states.md
// shows it and a test compares the two.
func NodeTransitions() map[NodeState][]NodeState {
	return map[NodeState][]NodeState{
		NodeAbsent:  {NodeJoining, NodeMember},
		NodeJoining: {NodeMember, NodeSuspect, NodeLost, NodeLeft, NodeFenced, NodeEnded},
		NodeMember:  {NodeSuspect, NodeLost, NodeLeaving, NodeLeft, NodeFenced, NodeEnded},
		NodeSuspect: {NodeJoining, NodeMember, NodeLeaving, NodeLost, NodeLeft, NodeFenced, NodeEnded},
		NodeLost:    {NodeLeft, NodeFenced, NodeEnded},
		NodeLeaving: {NodeSuspect, NodeLost, NodeLeft, NodeFenced, NodeEnded},
		NodeLeft:    {NodeAbsent},
		NodeFenced:  {NodeAbsent},
		NodeEnded:   {NodeAbsent},
	}
}

// ServiceTransitions lists which state of a service may follow which, as seen
// at every revision of the store; doc/states.md shows it and a test compares
// the two.
func ServiceTransitions() map[ServiceState][]ServiceState {
	return map[ServiceState][]ServiceState{
		ServiceUnknown:    {ServiceStopped, ServiceWaiting, ServiceStarting},
		ServiceStopped:    {ServiceUnknown, ServiceWaiting, ServiceStarting},
		ServiceWaiting:    {ServiceUnknown, ServiceStopped, ServiceStarting},
		ServiceStarting:   {ServiceRunning, ServiceRestarting, ServiceFailed, ServiceStopping, ServiceRecovering, ServiceWaiting, ServiceStopped, ServiceUnknown},
		ServiceRunning:    {ServiceRestarting, ServiceFailed, ServiceStopping, ServiceRecovering, ServiceStarting, ServiceWaiting, ServiceStopped, ServiceUnknown},
		ServiceRestarting: {ServiceRunning, ServiceFailed, ServiceStopping, ServiceRecovering, ServiceStarting, ServiceWaiting, ServiceStopped, ServiceUnknown},
		ServiceStopping:   {ServiceRunning, ServiceRestarting, ServiceStarting, ServiceWaiting, ServiceStopped, ServiceRecovering, ServiceFailed, ServiceUnknown},
		ServiceFailed:     {ServiceStarting, ServiceWaiting, ServiceStopped, ServiceRecovering, ServiceUnknown},
		ServiceRecovering: {ServiceStarting, ServiceRunning, ServiceRestarting, ServiceStopping, ServiceFailed, ServiceWaiting, ServiceStopped, ServiceUnknown},
	}
}

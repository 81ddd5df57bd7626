package nodeapi

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/detect"
	"ringfence/internal/pki"
	"ringfence/internal/plan"
)

func (s *Server) getStatus(http.ResponseWriter, *http.Request) (any, error) {
	state, _ := s.Mirror.Snapshot()
	return s.status(&state), nil
}

// judge runs the planner over the mirror's snapshot. Its orders are ignored: on
// every node but the leader they are what the leader is about to do.
func (s *Server) judge(state *cluster.State) plan.Result {
	return plan.Plan(plan.Snapshot{State: *state, Now: s.Now(), Self: s.Self})
}

func (s *Server) status(state *cluster.State) Status {
	result := s.judge(state)
	raftLeader, _, quorum := s.RaftLeader()
	out := Status{
		Cluster: state.Meta.Value.ID, Name: state.Meta.Value.Name, Incarnation: state.Meta.Value.Incarnation,
		Node: s.Self, Leader: state.Leader.Value.Node, Epoch: state.Leader.Value.Epoch,
		Quorum: quorum, RaftLeader: cluster.NodeName(raftLeader), Revision: state.Rev, ConfigRevision: state.Config.Rev,
		Services: []ServiceStatus{}, Hosts: s.hosts(state),
	}
	out.Nodes = nodeStatuses(state, result, s.Votes)
	for i, n := range out.Nodes {
		out.Nodes[i].Why = append(s.whyStretched(state, n.Boot), n.Why...)
	}
	for _, one := range result.Services {
		out.Services = append(out.Services, serviceStatus(one))
	}
	out.QuorumSurvives = quorum && quorumSurvives(out.Nodes)
	slices.SortFunc(out.Services, func(a, b ServiceStatus) int { return cmp.Compare(a.Name, b.Name) })
	out.Warnings = list(append(slices.Clone(result.Warnings), s.warnings(state, out)...))
	return out
}

// nodeStatuses joins a plan's view of the nodes with their records. A voter that
// was announced but never ran has no vote yet and does not count for quorum;
// votes says which of the others have theirs, nil: all.
func nodeStatuses(state *cluster.State, result plan.Result, votes func(cluster.NodeName) bool) []NodeStatus {
	ran := booted(state)
	out := []NodeStatus{}
	for _, n := range result.Nodes {
		record := state.Nodes[n.Name].Value
		_, standby := state.Standby[n.Name]
		out = append(out, NodeStatus{
			Name: n.Name, State: stateName(string(n.State), "absent"), Boot: n.Boot,
			Hosts: list(n.Places), Guest: state.Boots[n.Boot].Value.Guest,
			Voter: ran[n.Name] && record.Member != 0 && (votes == nil || votes(n.Name)), Witness: record.Witness,
			Standby: standby, Address: record.Address, Services: ownedBy(state, n.Name),
			Unproved: n.Unproved, Why: list(n.Why),
		})
	}
	return out
}

// ownedBy returns the services that a node owns.
func ownedBy(state *cluster.State, node cluster.NodeName) []cluster.ServiceName {
	out := []cluster.ServiceName{}
	for _, name := range slices.Sorted(maps.Keys(state.Owners)) {
		if owner := state.Owners[name].Value; owner.Boot != "" && owner.Node == node {
			out = append(out, name)
		}
	}
	return out
}

// whyStretched says why the silence of a boot counts for less, if it does.
func (s *Server) whyStretched(state *cluster.State, id cluster.BootID) []string {
	boot, known := state.Boots[id]
	if _, ended := state.Ended[id]; !known || ended {
		return []string{}
	}
	said := s.HostSays(id)
	lasts := (s.Now() - said.Since).Round(100 * time.Millisecond)
	switch {
	case said.Moving:
		return []string{fmt.Sprintf("moving to another host for %v; its silence counts from %v on, or %v after the end of the move", lasts, detect.MovingCap, detect.MovingMargin)}
	case said.Paused:
		return []string{fmt.Sprintf("paused by its host for %v, fenced at %v (pause_grace)", lasts, state.Config.Value.PauseGraceOf(boot.Value.Node))}
	}
	return []string{}
}

func serviceStatus(one plan.ServiceStatus) ServiceStatus {
	return ServiceStatus{
		Name: one.Name, State: stateName(string(one.State), "unknown"),
		Node: one.Node, Generation: one.Generation, Why: list(one.Why),
	}
}

// stateName gives the zero value of a state a name.
func stateName(state, zero string) string { return cmp.Or(state, zero) }

// list makes an empty list of none, so that JSON says [] and not null.
func list[T any](in []T) []T {
	if in == nil {
		return []T{}
	}
	return in
}

func (s *Server) hosts(state *cluster.State) []HostStatus {
	out := []HostStatus{}
	for _, name := range slices.Sorted(maps.Keys(state.Hosts)) {
		host := state.Hosts[name].Value
		one := HostStatus{Name: name, Address: host.Address, Reachable: s.HostReachable(name)}
		if cert, err := pki.ParseCertificate([]byte(host.Certificate)); err == nil {
			one.Fingerprint = pki.FingerprintOf(cert).String()
		}
		for _, boot := range doubtedBy(state, name) {
			c := state.Contras[boot].Value
			one.Untrusted = fmt.Sprintf("it gave evidence that boot %s of %s had ended (%s), which answered afterwards", boot, c.Node, c.Evidence)
		}
		out = append(out, one)
	}
	return out
}

package nodeapi

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"ringfence/internal/cluster"
)

// warnings is what an operator should know though nothing has failed yet.
func (s *Server) warnings(state *cluster.State, status Status) []string {
	out := []string{}
	if !status.Quorum {
		out = append(out, fmt.Sprintf("node %s has no quorum: nothing can be decided here, and what is shown may be old", s.Self))
	}
	if status.ConfigRevision == 0 {
		out = append(out, "no configuration has been applied: run `ringfence config apply FILE`")
	}
	for _, n := range status.Nodes {
		if n.State == string(cluster.NodeMember) && !n.Voter {
			out = append(out, fmt.Sprintf("node %s has no vote in the store yet: it gets it once it has caught up", n.Name))
		}
	}
	out = append(out, quorumRisks(status.Nodes)...)
	for _, host := range status.Hosts {
		if !host.Reachable {
			out = append(out, fmt.Sprintf("host %s (%s) cannot be reached from node %s: guests there cannot be fenced from here", host.Name, host.Address, s.Self))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(state.Standby)) {
		out = append(out, fmt.Sprintf("node %s is on standby, set by %s: `ringfence node unstandby %s` ends that", name, state.Standby[name].Value.By, name))
	}
	return append(out, s.Warnings()...)
}

// quorumRisks says which loss of one machine would cost quorum (rule P14),
// judged by where the voters are now: a host takes all its voters with it, and
// a voter whose host is not known is a machine of its own.
func quorumRisks(nodes []NodeStatus) []string {
	var voters, present []NodeStatus
	for _, n := range nodes {
		if !n.Voter {
			continue
		}
		voters = append(voters, n)
		switch cluster.NodeState(n.State) {
		case cluster.NodeMember, cluster.NodeJoining, cluster.NodeLeaving:
			present = append(present, n)
		}
	}
	need := len(voters)/2 + 1
	if len(voters) == 0 || len(present) < need {
		return nil // it is lost already, and Status.Quorum says so
	}
	if len(voters) < 3 {
		return []string{fmt.Sprintf("the store has %s, so the loss of one costs quorum: join nodes until there are three", count(len(voters), "voter"))}
	}
	taken := map[string][]string{}
	for _, n := range present {
		for _, machine := range machines(n) {
			taken[machine] = append(taken[machine], string(n.Name))
		}
	}
	var out []string
	for _, machine := range slices.Sorted(maps.Keys(taken)) {
		if left := len(present) - len(taken[machine]); left < need {
			out = append(out, fmt.Sprintf("quorum would not survive the loss of %s (voters there: %s): %d of %d voters would be left, %d are needed",
				machine, strings.Join(taken[machine], ", "), left, len(voters), need))
		}
	}
	return out
}

func machines(n NodeStatus) []string {
	if len(n.Hosts) == 0 {
		return []string{"node " + string(n.Name)}
	}
	out := make([]string, 0, len(n.Hosts))
	for _, h := range n.Hosts {
		out = append(out, "host "+string(h))
	}
	return out
}

// count writes "1 voter" and "2 voters".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

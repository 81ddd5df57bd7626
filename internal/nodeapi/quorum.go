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
	out = append(out, misplacedWitnesses(status.Nodes)...)
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
	voters, present := votersOf(nodes)
	need := len(voters)/2 + 1
	if len(voters) == 0 || len(present) < need {
		return nil // it is lost already, and Status.Quorum says so
	}
	if len(voters) < 3 {
		return []string{fmt.Sprintf("the store has %s, so the loss of one costs quorum: join nodes, or a witness (`ringfence witness join`), until there are three", count(len(voters), "voter"))}
	}
	taken := map[string][]string{}
	for _, n := range present {
		for _, machine := range machines(n) {
			taken[machine] = append(taken[machine], string(n.Name))
		}
	}
	remedy := "run the voters on more hosts"
	if len(present) < len(voters) {
		remedy = "bring the absent voters back, or replace them (`ringfence node remove --help`)"
	}
	var out []string
	for _, machine := range slices.Sorted(maps.Keys(taken)) {
		if left := len(present) - len(taken[machine]); left < need {
			out = append(out, fmt.Sprintf("quorum would not survive the loss of %s (voters there: %s): %d of %d voters would be left, %d are needed; %s",
				machine, strings.Join(taken[machine], ", "), left, len(voters), need, remedy))
		}
	}
	return out
}

// quorumSurvives says whether quorum is there and outlasts the loss of any one
// machine.
func quorumSurvives(nodes []NodeStatus) bool {
	voters, present := votersOf(nodes)
	return len(present) > len(voters)/2 && len(quorumRisks(nodes)) == 0
}

// votersOf returns the voters, and those of them that take part now.
func votersOf(nodes []NodeStatus) (voters, present []NodeStatus) {
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
	return voters, present
}

// misplacedWitnesses names the witnesses whose host carries another voter: such
// a host takes both with it (rule P14).
func misplacedWitnesses(nodes []NodeStatus) []string {
	var out []string
	for _, w := range nodes {
		if !w.Witness || !w.Voter {
			continue
		}
		for _, n := range nodes {
			shared := slices.IndexFunc(n.Hosts, func(h cluster.HostName) bool { return slices.Contains(w.Hosts, h) })
			if n.Name != w.Name && n.Voter && shared >= 0 {
				out = append(out, fmt.Sprintf("fault: witness %s is on host %s, which carries voter %s too: its loss takes both votes; run the witness on a host without another voter",
					w.Name, n.Hosts[shared], n.Name))
			}
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

package journal

import (
	"cmp"
	"slices"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/voter"
)

// voterLimit bounds the voters that are remembered for each cluster, far above
// what a cluster takes.
const voterLimit = 64

// Voter is what the host remembers of the starts of one voter (rule P22).
type Voter struct {
	Cluster cluster.ClusterID `json:"cluster"`
	Node    cluster.NodeName  `json:"node"`
	voter.Memory
}

type voterKey struct {
	cluster cluster.ClusterID
	node    cluster.NodeName
}

// Voter returns what is remembered of a voter.
func (s *State) Voter(c cluster.ClusterID, n cluster.NodeName) (voter.Memory, bool) {
	m, ok := s.voters[voterKey{c, n}]
	return m, ok
}

// VotersFull reports whether no more voters of a cluster are remembered.
func (s *State) VotersFull(c cluster.ClusterID) bool {
	n := 0
	for key := range s.voters {
		if key.cluster == c {
			n++
		}
	}
	return n >= voterLimit
}

// Incarnation returns the highest incarnation that has spoken for a cluster, by
// a leader's order or a voter's claim; 0: none.
func (s *State) Incarnation(c cluster.ClusterID) cluster.Incarnation {
	highest := s.Leaderships[c].Incarnation
	for key, m := range s.voters {
		if key.cluster == c {
			highest = max(highest, m.Incarnation)
		}
	}
	return highest
}

// voterEntries returns the entries of all voters, in the order of their names.
func (s *State) voterEntries() []Entry {
	var out []Entry
	for key, m := range s.voters {
		out = append(out, Entry{Voter: &Voter{Cluster: key.cluster, Node: key.node, Memory: m}})
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Voter.Cluster, b.Voter.Cluster), cmp.Compare(a.Voter.Node, b.Voter.Node))
	})
	return out
}

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
	// Guest is the one at whose channel it was told.
	Guest cluster.GuestID `json:"guest,omitempty"`
	// Elsewhere: the guest has left this host, or was about to come from another,
	// since the voter was remembered. What it did there is not in this memory.
	Elsewhere bool `json:"elsewhere,omitempty"`
	voter.Memory
}

type voterKey struct {
	cluster cluster.ClusterID
	node    cluster.NodeName
}

// Voter returns what is remembered of a voter.
func (s *State) Voter(c cluster.ClusterID, n cluster.NodeName) (Voter, bool) {
	v, ok := s.voters[voterKey{c, n}]
	return v, ok
}

// wentElsewhere marks the voters of a guest of which a life is or may be at
// another host.
func (s *State) wentElsewhere(guest cluster.GuestID) {
	for key, v := range s.voters {
		if v.Guest == guest {
			v.Elsewhere = true
			s.voters[key] = v
		}
	}
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
	for key, v := range s.voters {
		if key.cluster == c {
			highest = max(highest, v.Incarnation)
		}
	}
	return highest
}

// voterEntries returns the entries of all voters, in the order of their names.
func (s *State) voterEntries() []Entry {
	var out []Entry
	for _, v := range s.voters {
		out = append(out, Entry{Voter: &v})
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Voter.Cluster, b.Voter.Cluster), cmp.Compare(a.Voter.Node, b.Voter.Node))
	})
	return out
}

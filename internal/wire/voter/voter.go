// Package voter is the memory of a voter's starts that hosts and other voters
// keep for it outside of its disk, and the one rule by which they confirm a
// start (rule P22). It is pure; hostd and nodeapi store what it returns.
//
// The rule: a voter counts its starts, and while it runs counts on, in a file
// that is durable before it asks. Whoever remembers a count that is not below
// the one told knows that the disk is older than the memory, or that two
// machines bear one identity, and refuses for good.
package voter

import (
	"errors"
	"fmt"
	"slices"

	"ringfence/internal/cluster"
)

// Path is where a claim is posted, at hosts and at voters.
const Path = "/v1/voter"

// Claim is what a voter says of itself before its store handles a message, and
// at intervals while it runs.
type Claim struct {
	Cluster     cluster.ClusterID   `json:"cluster"`
	Incarnation cluster.Incarnation `json:"incarnation"`
	Node        cluster.NodeName    `json:"node"`
	// Identity is the fingerprint of the node's key, drawn anew by each join.
	Identity string `json:"identity"`
	// Run is a random word of this run of the daemon, by which a claim that is
	// repeated because its answer was lost is told from that of another run.
	Run string `json:"run"`
	// Count is above every count that the voter's disk has ever held.
	Count uint64 `json:"count"`
	// Previous is what the disk held before; 0: this is the first start ever.
	Previous uint64 `json:"previous"`
	// Vouched says that others have confirmed this run.
	Vouched bool `json:"vouched,omitempty"`
}

// Answer is what becomes of a claim that is not refused.
type Answer struct {
	// Known is false when nothing is remembered of a voter that has started
	// before: that confirms nothing.
	Known bool `json:"known"`
}

// Lengths of what a claim may bring, in bytes.
const (
	identityBytes    = 64
	runLimitBytes    = 64
	clusterIDLimit   = 64
	formerIdentities = 8
)

// Check reports what is wrong with a claim by itself.
func (c Claim) Check() error {
	if err := cluster.CheckName(string(c.Node)); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	switch {
	case c.Cluster == "" || len(c.Cluster) > clusterIDLimit:
		return fmt.Errorf("cluster: want 1 to %d bytes", clusterIDLimit)
	case c.Incarnation == 0:
		return errors.New("incarnation: want a number above 0")
	case len(c.Identity) != identityBytes:
		return fmt.Errorf("identity: want %d bytes", identityBytes)
	case c.Run == "" || len(c.Run) > runLimitBytes:
		return fmt.Errorf("run: want 1 to %d bytes", runLimitBytes)
	case c.Count <= c.Previous:
		return errors.New("count: want it above previous")
	}
	return nil
}

// Memory is what is remembered of one voter; the zero Memory is nothing.
type Memory struct {
	Incarnation cluster.Incarnation `json:"incarnation"`
	Identity    string              `json:"identity"`
	Run         string              `json:"run"`
	Count       uint64              `json:"count"`
	// Former are the identities that later joins of the node have replaced.
	Former []string `json:"former,omitempty"`
}

// Judge returns what is to be remembered from then on, before the answer is
// given, or an error that refuses the claim for good. incarnation is the highest
// that is known of the cluster. m is returned as it was where nothing is new.
func (m Memory) Judge(c Claim, incarnation cluster.Incarnation) (Memory, Answer, error) {
	if newest := max(m.Incarnation, incarnation); c.Incarnation < newest {
		return m, Answer{}, fmt.Errorf("the cluster was recovered as incarnation %d, and the data of node %s is of incarnation %d, from before that: "+
			"move its data directory away and let it join again with a new token, or, if this very node was to found a new incarnation, "+
			"restore again with --incarnation %d", newest, c.Node, c.Incarnation, newest+1)
	}
	if slices.Contains(m.Former, c.Identity) {
		return m, Answer{}, fmt.Errorf("node %s has joined again since with other data: this data directory is void", c.Node)
	}
	// A store of a new incarnation has no votes to remember, and its founder's
	// data may come from an old copy: counts are compared within one only.
	newer := m.Identity != "" && c.Incarnation > m.Incarnation
	if c.Identity != m.Identity {
		if c.Previous != 0 && !c.Vouched && !newer {
			return m, Answer{}, nil
		}
		return m.replaced(c), Answer{Known: true}, nil
	}
	if newer {
		return m.moved(c), Answer{Known: true}, nil
	}
	if c.Count == m.Count && c.Run == m.Run {
		return m, Answer{Known: true}, nil
	}
	if c.Count <= m.Count {
		return m, Answer{}, fmt.Errorf("the disk of node %s was rolled back, or two machines bear its identity: it says %d and has said %d before; "+
			"what it has voted for since is lost, so it must not vote: `ringfence node remove %s` on another node, then join again with an empty data directory",
			c.Node, c.Count, m.Count, c.Node)
	}
	return m.moved(c), Answer{Known: true}, nil
}

func (m Memory) moved(c Claim) Memory {
	m.Incarnation, m.Identity, m.Run, m.Count = c.Incarnation, c.Identity, c.Run, c.Count
	return m
}

// replaced is the memory of a node that has joined anew.
func (m Memory) replaced(c Claim) Memory {
	if m.Identity != "" {
		former := append(slices.Clone(m.Former), m.Identity)
		m.Former = former[max(0, len(former)-formerIdentities):]
	}
	return m.moved(c)
}

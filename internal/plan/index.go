package plan

import (
	"slices"

	"ringfence/internal/cluster"
)

// index answers what is asked for each service, or for each service on each
// node. It is built once: a walk over all services or boots for every such
// question would make the time of a plan grow with their product.
type index struct {
	services   map[cluster.ServiceName]*cluster.ServiceConfig // as configured
	everywhere []cluster.NodeName                             // where a service without a list of its own may run
	configured map[cluster.NodeName]bool                      // the same as a set
	newest     map[cluster.NodeName]*standing                 // see bootOf
	unproved   map[cluster.NodeName][]*standing               // earlier boots not proved ended, by boot
	bans       map[cluster.ServiceName]*cluster.Failure       // see banned: the first by node
	present    []*standing                                    // newest boots not ended, by node, then boot
}

// indexOf needs to know of each boot whether it has ended and is the latest.
func indexOf(s *cluster.State, boots []standing) index {
	config := &s.Config.Value
	x := index{
		services:   make(map[cluster.ServiceName]*cluster.ServiceConfig, len(config.Services)),
		everywhere: config.Candidates(cluster.ServiceConfig{}), configured: map[cluster.NodeName]bool{},
		newest: map[cluster.NodeName]*standing{}, unproved: map[cluster.NodeName][]*standing{},
		bans: map[cluster.ServiceName]*cluster.Failure{},
	}
	for i := range slices.Backward(config.Services) { // the first of a name counts, as in Config.Service
		x.services[config.Services[i].Name] = &config.Services[i]
	}
	for _, name := range x.everywhere {
		x.configured[name] = true
	}
	for _, key := range sortedKeys(s.Failed) {
		f := s.Failed[key].Value
		if f.Ban == cluster.BanCluster && f.Config == s.Config.Rev && x.bans[f.Service] == nil {
			x.bans[f.Service] = &f
		}
	}
	for i := range boots {
		b := &boots[i]
		if b.latest && x.newest[b.node()] == nil {
			x.newest[b.node()] = b
		}
		switch {
		case b.ended:
		case b.latest:
			x.present = append(x.present, b)
		default:
			x.unproved[b.node()] = append(x.unproved[b.node()], b)
		}
	}
	return x
}

// bootOf returns the newest boot of a node that is not known to have a
// successor, or nil.
func (x *index) bootOf(node cluster.NodeName) *standing { return x.newest[node] }

// candidates returns the nodes on which a service may run, most wanted first.
func (x *index) candidates(def *cluster.ServiceConfig) []cluster.NodeName {
	if len(def.Nodes) > 0 {
		return def.Nodes
	}
	return x.everywhere
}

// allows reports whether a node is among the candidates of a service.
func (x *index) allows(def *cluster.ServiceConfig, node cluster.NodeName) bool {
	if len(def.Nodes) > 0 {
		return slices.Contains(def.Nodes, node)
	}
	return x.configured[node]
}

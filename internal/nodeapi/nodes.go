package nodeapi

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// nodeAction derives the change for one node.
type nodeAction func(s *Server, state *cluster.State, node cluster.NodeName, order NodeOrder) (store.Tx, string, error)

func nodeActions() map[string]nodeAction {
	return map[string]nodeAction{"standby": standby, "unstandby": unstandby, "confirm-dead": confirmDead}
}

func (s *Server) postNode(w http.ResponseWriter, r *http.Request) (any, error) {
	action, ok := nodeActions()[r.PathValue("action")]
	if !ok {
		return nil, refusal(CodeNotFound, "action %.40q: allowed are standby, unstandby, confirm-dead and remove", r.PathValue("action"))
	}
	var order NodeOrder
	if err := readJSON(w, r, bodyLimitBytes, &order); err != nil {
		return nil, err
	}
	if err := checkBy(order.By); err != nil {
		return nil, err
	}
	name := cluster.NodeName(r.PathValue("name"))
	done, err := change(r.Context(), s.Mirror, s.Store, func(state *cluster.State) (store.Tx, string, error) {
		if _, joined := state.Nodes[name]; !joined {
			return store.Tx{}, "", refusal(CodeNotFound, "there is no node %.70q; %s", name,
				known("nodes", words(slices.Sorted(maps.Keys(state.Nodes)))))
		}
		return action(s, state, name, order)
	})
	s.note(done, "node order", "subject", name, "action", r.PathValue("action"), "by", order.By, "reason", order.Reason)
	return done, err
}

func standby(_ *Server, state *cluster.State, node cluster.NodeName, order NodeOrder) (store.Tx, string, error) {
	if is, on := state.Standby[node]; on {
		return store.Tx{}, fmt.Sprintf("%s is on standby already, set by %s", node, is.Value.By), nil
	}
	if state.Nodes[node].Value.Witness {
		return store.Tx{}, "", refusal(CodeConflict, "%s is a witness: it runs no services that could be taken from it", node)
	}
	moves := words(ownedBy(state, node))
	message := fmt.Sprintf("%s gets no services until `ringfence node unstandby %s`; it keeps its vote", node, node)
	if len(moves) > 0 {
		message = fmt.Sprintf("%s stops %s, which move to other nodes, and gets no services until `ringfence node unstandby %s`; it keeps its vote",
			node, strings.Join(moves, ", "), node)
	}
	return put(cluster.KeyStandby(node), 0, cluster.Standby{Node: node, By: order.By}), message, nil
}

func unstandby(_ *Server, state *cluster.State, node cluster.NodeName, _ NodeOrder) (store.Tx, string, error) {
	is, on := state.Standby[node]
	if !on {
		return store.Tx{}, fmt.Sprintf("%s is not on standby", node), nil
	}
	return drop(cluster.KeyStandby(node), is.Rev), fmt.Sprintf("%s may get services again", node), nil
}

// postLeave asks this node to leave. It refuses to take quorum away from those
// who stay, because then the leave itself could never be completed.
func (s *Server) postLeave(w http.ResponseWriter, r *http.Request) (any, error) {
	var order LeaveOrder
	if err := readJSON(w, r, bodyLimitBytes, &order); err != nil {
		return nil, err
	}
	if err := checkBy(order.By); err != nil {
		return nil, err
	}
	state, _ := s.Mirror.Snapshot()
	if !order.Force {
		if err := s.mayLeave(&state); err != nil {
			return nil, err
		}
	}
	s.Leave()
	s.log.Info("leave asked for", "by", order.By, "force", order.Force)
	return Done{
		Revision: state.Rev, Changed: true,
		Message: fmt.Sprintf("%s stops what it runs, verifies it, hands it over and leaves; its daemon ends then", s.Self),
	}, nil
}

func (s *Server) mayLeave(state *cluster.State) error {
	voters, left := 0, 0
	for _, n := range s.status(state).Nodes {
		if !n.Voter {
			continue
		}
		voters++
		is := cluster.NodeState(n.State)
		if n.Name != s.Self && (is == cluster.NodeMember || is == cluster.NodeJoining) {
			left++
		}
	}
	if voters > 1 && left < voters/2+1 {
		return refusal(CodeRefused, "%s would take quorum with it: %s of %d would be left, %d are needed; start the others first, or force it",
			s.Self, count(left, "voter"), voters, voters/2+1)
	}
	return nil
}

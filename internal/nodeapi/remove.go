package nodeapi

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// Removing a node takes three steps, each of which may be repeated:
//
//	1  its record is marked, in a transaction that compares that its boots have
//	   ended; a boot registers only beside an unmarked record of its node;
//	2  its voter is taken out of the store, which refuses that voter's id and
//	   data for good from then on;
//	3  its records go, but for the tombstones of its boots.
//
// Who dies in between leaves a marked record, which `status` shows; the same
// order again goes on from there. Nothing of the node's can act meanwhile: every
// boot of its has ended, and none can register.

func (s *Server) removeNode(w http.ResponseWriter, r *http.Request) (any, error) {
	var order NodeOrder
	if err := readJSON(w, r, bodyLimitBytes, &order); err != nil {
		return nil, err
	}
	if err := checkBy(order.By); err != nil {
		return nil, err
	}
	name := cluster.NodeName(r.PathValue("name"))
	if err := s.markRemoving(r.Context(), name); err != nil {
		return nil, err
	}
	state, _ := s.Mirror.Snapshot()
	if err := takeBack(r.Context(), s.Voters, state.Nodes[name].Value); err != nil {
		return nil, refusal(CodeUnavailable, "%s is marked for removal, but its voter cannot be taken out now: %v; run `ringfence node remove %s` again", name, err, name)
	}
	done, err := change(r.Context(), s.Mirror, s.Store, func(state *cluster.State) (store.Tx, string, error) {
		return forgetNode(state, name), "", nil
	})
	if err != nil {
		return nil, err
	}
	s.note(done, "node removed", "subject", name, "by", order.By, "reason", order.Reason)
	done.Message = s.removed(name)
	return done, nil
}

// markRemoving carries out the first step. A boot may have registered between
// the look and the mark; behind the mark none can, so that a second look is final.
func (s *Server) markRemoving(ctx context.Context, name cluster.NodeName) error {
	marked, err := change(ctx, s.Mirror, s.Store, func(state *cluster.State) (store.Tx, string, error) {
		if err := s.mayRemove(state, name); err != nil {
			return store.Tx{}, "", err
		}
		have := state.Nodes[name]
		next := have.Value
		if next.Removing {
			return store.Tx{}, "", nil
		}
		next.Removing = true
		tx := put(cluster.KeyNode(name), have.Rev, next)
		for id, boot := range state.Boots {
			if boot.Value.Node == name {
				tx.Guards = append(tx.Guards, cluster.Guard{Key: cluster.KeyBoot(id), Rev: boot.Rev}, cluster.Guard{Key: cluster.KeyEnded(id), Rev: state.Ended[id].Rev})
			}
		}
		return tx, "", nil
	})
	if err != nil {
		return err
	}
	state, _ := s.Mirror.Snapshot()
	if state.Rev < marked.Revision {
		return refusal(CodeUnavailable, "this node is behind the store: run `ringfence node remove %s` again", name)
	}
	refused := s.mayRemove(&state, name)
	if refused == nil || !marked.Changed {
		return refused
	}
	_, err = change(ctx, s.Mirror, s.Store, func(state *cluster.State) (store.Tx, string, error) {
		have := state.Nodes[name]
		next := have.Value
		next.Removing = false
		if !have.Value.Removing {
			return store.Tx{}, "", nil
		}
		return put(cluster.KeyNode(name), have.Rev, next), "", nil
	})
	if err != nil {
		return refusal(CodeUnknown, "%v; and the mark for its removal could not be taken back: %v", refused, err)
	}
	return refused
}

// mayRemove says why a node may not be removed now; nil when it may.
func (s *Server) mayRemove(state *cluster.State, name cluster.NodeName) error {
	if _, joined := state.Nodes[name]; !joined {
		return refusal(CodeNotFound, "there is no node %.70q; %s", name, known("nodes", words(slices.Sorted(maps.Keys(state.Nodes)))))
	}
	if len(state.Nodes) == 1 {
		return refusal(CodeRefused, "%s is the last node of the cluster; to give the cluster up, stop it and remove its data directory", name)
	}
	if name == s.Self {
		return refusal(CodeRefused, "%s is the node that you are asking: stop it, and give this order on another node", name)
	}
	if _, _, quorum := s.RaftLeader(); !quorum {
		return refusal(CodeUnavailable, "node %s has no quorum, so nobody can be removed: start more of the voters first", s.Self)
	}
	status := s.status(state)
	if standing := notEnded(state, name); len(standing) > 0 {
		n, _ := status.Member(string(name))
		return refusal(CodeRefused, "%s is %s, in boot %s: stop its daemon there first (SIGTERM, as by systemctl stop, or `ringfence node leave`), which lets it leave; if it is dead for good, say so with `ringfence node confirm-dead %s --boot %s`",
			name, n.State, strings.Join(words(standing), ", "), name, standing[0])
	}
	if owned := ownedBy(state, name); len(owned) > 0 {
		return refusal(CodeRefused, "%s still owns %s, until another node can take it: see `ringfence explain %s`", name, strings.Join(words(owned), ", "), owned[0])
	}
	return quorumWithout(status.Nodes, name)
}

// quorumWithout refuses unless the voters that would remain without one are
// there in a majority.
func quorumWithout(nodes []NodeStatus, name cluster.NodeName) error {
	voters, present := votersOf(slices.DeleteFunc(slices.Clone(nodes), func(n NodeStatus) bool { return n.Name == name }))
	if need := len(voters)/2 + 1; len(present) < need {
		return refusal(CodeRefused, "without %s %s of %d would be there, %d are needed: bring the others back first", name, count(len(present), "voter"), len(voters), need)
	}
	return nil
}

// takeBack takes the voter of a node out of the store, also of one that has
// never started. Where the join did not come to noting its id, announcing it
// again tells the id.
func takeBack(ctx context.Context, voters Voters, node cluster.Node) error {
	id := node.Member
	if id == 0 {
		var err error
		id, _, err = voters.AddVoter(ctx, string(node.Name), peerURL(node.Address, node.PeerPort))
		if err != nil {
			return err
		}
	}
	return voters.RemoveVoter(ctx, id)
}

// forgetNode derives the third step. Its tombstones stay: should a boot of its
// ever be met again, they say that it has ended (rule P7).
func forgetNode(state *cluster.State, name cluster.NodeName) store.Tx {
	have, marked := state.Nodes[name]
	if !marked || !have.Value.Removing {
		return store.Tx{} // the same order, given twice, was faster; or the name has joined anew
	}
	tx := drop(cluster.KeyNode(name), have.Rev)
	remove := func(key string) { tx.Writes = append(tx.Writes, cluster.Remove(key)) }
	remove(cluster.KeyView(name))
	remove(cluster.KeyProbe(name))
	remove(cluster.KeyStandby(name))
	certificates := map[string]bool{}
	for id, boot := range state.Boots {
		if boot.Value.Node != name {
			continue
		}
		for _, key := range []string{cluster.KeyBoot(id), cluster.KeyAppeal(id), cluster.KeyFence(id), cluster.KeyFenceReport(id)} {
			remove(key)
		}
		for _, place := range boot.Value.Places {
			if cert, ok := state.CertificateOf(boot.Value.Life, place); ok {
				certificates[cluster.KeyCertificate(cert.Value.Life, cert.Value.Host)] = true // boots may share a life
			}
		}
	}
	for key := range certificates {
		remove(key)
	}
	for _, failure := range state.Failed {
		if failure.Value.Node == name {
			remove(cluster.KeyFailure(failure.Value.Service, name))
		}
	}
	for service, wish := range state.Wishes {
		if wish.Value.MoveTo == name {
			tx.Guards = append(tx.Guards, cluster.Guard{Key: cluster.KeyWish(service), Rev: wish.Rev})
			remove(cluster.KeyWish(service))
		}
	}
	return tx
}

// removed tells what is left, and what a person should do beside.
func (s *Server) removed(name cluster.NodeName) string {
	state, _ := s.Mirror.Snapshot()
	message := fmt.Sprintf("%s is removed; nodes are %s; its data directory is void: delete it there", name, strings.Join(words(slices.Sorted(maps.Keys(state.Nodes))), ", "))
	if _, configured := state.Config.Value.Node(name); configured {
		message += fmt.Sprintf("; take [[node]] %s out of the configuration, unless that name joins again", name)
	}
	for _, risk := range quorumRisks(s.status(&state).Nodes) {
		message += "\nwarning: " + risk
	}
	return message
}

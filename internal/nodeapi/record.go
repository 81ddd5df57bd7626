package nodeapi

import (
	"context"
	"errors"
	"slices"

	"ringfence/internal/cluster"
	"ringfence/internal/pki"
	"ringfence/internal/store"
)

// record uses up the token and writes the node's record, in one transaction,
// after taking back the voter of an earlier join of the same node elsewhere.
func (a *Admitter) record(ctx context.Context, token pki.Token, req JoinRequest) error {
	s, _ := a.Mirror.Snapshot()
	if _, err := admission(&s, token, req); err != nil {
		return err
	}
	if err := a.removeStray(ctx, s.Nodes[req.Node], req); err != nil {
		return err
	}
	tried := false // a try of ours may have been carried out without an answer
	_, err := change(ctx, a.Mirror, a.Store, func(s *cluster.State) (store.Tx, string, error) {
		if tried && s.Tokens[token.ID].Value.Node == string(req.Node) && sameButMember(s.Nodes[req.Node].Value, req.record()) {
			return store.Tx{}, "", nil
		}
		tried = true
		tx, err := admission(s, token, req)
		return tx, "", err
	})
	return err
}

// admission derives the transaction that admits a node, or says why it may not
// join.
func admission(s *cluster.State, token pki.Token, req JoinRequest) (store.Tx, error) {
	have, known := s.Tokens[token.ID]
	if !known || !pki.SecretMatches(token.Secret, have.Value.SecretHash) {
		return store.Tx{}, refusal(CodeRefused, "the cluster does not know this token; make one with `ringfence token create`")
	}
	if have.Value.Node != "" {
		return store.Tx{}, refusal(CodeRefused, "token was used already, by node %s; make another with `ringfence token create`", have.Value.Node)
	}
	if err := mayJoin(s, req); err != nil {
		return store.Tx{}, err
	}
	used := have.Value
	used.Node = string(req.Node)
	return store.Tx{
		Guards: []cluster.Guard{
			{Key: cluster.KeyToken(token.ID), Rev: have.Rev}, {Key: cluster.KeyNode(req.Node), Rev: s.Nodes[req.Node].Rev},
		},
		Writes: []cluster.Write{cluster.Put(cluster.KeyToken(token.ID), used), cluster.Put(cluster.KeyNode(req.Node), req.record())},
	}, nil
}

// record returns the node's record as it is before the store knows the voter.
func (r JoinRequest) record() cluster.Node {
	return cluster.Node{Name: r.Node, Address: r.Address, BeatPort: r.BeatPort, PeerPort: r.PeerPort, JoinPort: r.JoinPort, Witness: r.Witness}
}

func sameButMember(a, b cluster.Node) bool {
	a.Member, b.Member = 0, 0
	return a == b
}

// mayJoin refuses a name that takes part, an address that is taken, and anybody
// while the node that joined before has not started. The name of a node that was
// removed is free: every boot of its has ended.
func mayJoin(s *cluster.State, req JoinRequest) error {
	booted := booted(s)
	former, known := s.Nodes[req.Node]
	switch {
	case known && former.Value.Removing:
		return refusal(CodeConflict, "node %s is being removed: complete that with `ringfence node remove %s` first", req.Node, req.Node)
	case known && booted[req.Node] || len(notEnded(s, req.Node)) > 0:
		return refusal(CodeConflict, "node %s has taken part in the cluster already: start it with its own data directory, join under another name, or remove it first (`ringfence node remove --help`)", req.Node)
	}
	var names, waiting []string
	for name, node := range s.Nodes {
		if name == req.Node {
			continue
		}
		names = append(names, string(name))
		if !booted[name] {
			waiting = append(waiting, string(name))
		}
		if peerURL(node.Value.Address, node.Value.PeerPort) == peerURL(req.Address, req.PeerPort) {
			return refusal(CodeConflict, "address %s with peer port %d is that of node %s: give each node its own", req.Address, req.PeerPort, name)
		}
	}
	if len(names) >= nodeLimit {
		return refusal(CodeConflict, "the cluster has %d nodes; this version takes no more", len(names))
	}
	if len(waiting) > 0 {
		slices.Sort(waiting)
		return refusal(CodeConflict, "node %s has joined and never started: run `ringfence node run` there first, since voters are taken in one at a time, or `ringfence node remove %s` (this token stays good)", waiting[0], waiting[0])
	}
	return nil
}

// booted returns the nodes that have taken part since they joined: the record of
// a node's newest boot stays as long as the node's own. Tombstones may be of an
// earlier node of that name, which was removed.
func booted(s *cluster.State) map[cluster.NodeName]bool {
	out := map[cluster.NodeName]bool{}
	for _, boot := range s.Boots {
		out[boot.Value.Node] = true
	}
	return out
}

// removeStray takes back the voter that an earlier join of this node announced
// at another address, since the store lets in one newcomer at a time.
func (a *Admitter) removeStray(ctx context.Context, former cluster.Rec[cluster.Node], req JoinRequest) error {
	at := peerURL(former.Value.Address, former.Value.PeerPort)
	if former.Rev == 0 || at == peerURL(req.Address, req.PeerPort) {
		return nil
	}
	err := takeBack(ctx, a.Voters, former.Value)
	if err != nil {
		return refusal(CodeUnavailable, "node %s joined before from %s, and that voter cannot be taken back now: %v; the token stays good", req.Node, at, err)
	}
	return nil
}

// announce makes the node known to the store and notes its voter's id.
func (a *Admitter) announce(ctx context.Context, req JoinRequest) (map[string]string, error) {
	id, voters, err := a.Voters.AddVoter(ctx, string(req.Node), peerURL(req.Address, req.PeerPort))
	if err != nil {
		return nil, refusal(CodeUnavailable, "the store cannot take in a voter now: %v; the token is used up, make another and try again", err)
	}
	gone := false
	_, err = change(ctx, a.Mirror, a.Store, func(s *cluster.State) (store.Tx, string, error) {
		have, ok := s.Nodes[req.Node]
		if gone = !ok || have.Value.Removing; gone {
			return store.Tx{}, "", refusal(CodeConflict, "node %s was removed while it joined", req.Node)
		}
		next := have.Value
		if next.Member == id {
			return store.Tx{}, "", nil
		}
		next.Member = id
		return put(cluster.KeyNode(req.Node), have.Rev, next), "", nil
	})
	if gone { // nobody else knows this voter, and it would keep others from joining
		err = errors.Join(err, a.Voters.RemoveVoter(ctx, id))
	}
	return voters, err
}

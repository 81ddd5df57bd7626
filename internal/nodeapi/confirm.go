package nodeapi

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/plan"
	"ringfence/internal/store"
	"ringfence/internal/wire/hostapi"
)

// confirmDead takes a person's word that a boot has ended (DESIGN section 5).
// It is refused while anything says alive: a host that sees its life, an answer
// of its through the store, or members that hear it. The transaction compares
// the views and the answer that it was judged by.
func confirmDead(s *Server, state *cluster.State, node cluster.NodeName, order NodeOrder) (store.Tx, string, error) {
	if order.Reason == "" || len(order.Reason) > byLimitBytes {
		return store.Tx{}, "", refusal(CodeBadRequest, "reason: say in at most %d bytes how you know that %s is dead; it goes into the records", byLimitBytes, node)
	}
	standing := notEnded(state, node)
	if c, ok := state.Contras[order.Boot]; ok && c.Value.Node == node && c.Value.Settled == "" {
		return s.confirmAgain(state, c, order)
	}
	if !slices.Contains(standing, order.Boot) {
		if ended, ok := state.Ended[order.Boot]; ok && ended.Value.Node == node {
			return store.Tx{}, fmt.Sprintf("boot %s of %s has ended already: %s, %s", order.Boot, node, ended.Value.Evidence, ended.Value.Detail), nil
		}
		return store.Tx{}, "", refusal(CodeConflict, "%s has no boot %.70q that could be confirmed dead; %s", node, order.Boot,
			known("boots not ended", words(standing)))
	}
	guards, err := s.silent(state, node, order.Boot)
	if err != nil {
		return store.Tx{}, "", err
	}
	if err := s.unseen(state.Boots[order.Boot].Value); err != nil {
		return store.Tx{}, "", err
	}
	boot := state.Boots[order.Boot]
	return store.Tx{
		Guards: append(guards,
			cluster.Guard{Key: cluster.KeyEnded(order.Boot)},
			cluster.Guard{Key: cluster.KeyBoot(order.Boot), Rev: boot.Rev},
			cluster.Guard{Key: cluster.KeyAppeal(order.Boot), Rev: state.Appeals[order.Boot].Rev}),
		Writes: []cluster.Write{cluster.Put(cluster.KeyEnded(order.Boot), cluster.Ended{
			Boot: order.Boot, Node: node, Evidence: cluster.EvidenceOperator,
			Detail: fmt.Sprintf("confirmed dead by %s: %s", order.By, order.Reason),
		})},
	}, fmt.Sprintf("boot %s of %s counts as ended by your word; its services are recovered now", order.Boot, node), nil
}

// confirmAgain takes a person's word that a boot has ended which answered after
// its tombstone: only their word, given in that knowledge, lets its services go.
func (s *Server) confirmAgain(state *cluster.State, c cluster.Rec[cluster.Contradiction], order NodeOrder) (store.Tx, string, error) {
	guards, err := s.silent(state, c.Value.Node, order.Boot)
	if err != nil {
		return store.Tx{}, "", err
	}
	if err := s.unseen(state.Boots[order.Boot].Value); err != nil {
		return store.Tx{}, "", err
	}
	next := c.Value
	next.Settled = fmt.Sprintf("confirmed dead by %s: %s", order.By, order.Reason)
	return store.Tx{
		Guards: append(guards, cluster.Guard{Key: cluster.KeyContradiction(order.Boot), Rev: c.Rev}),
		Writes: []cluster.Write{cluster.Put(cluster.KeyContradiction(order.Boot), next)},
	}, fmt.Sprintf("boot %s of %s counts as ended by your word, though it answered after its tombstone; its services are recovered now", order.Boot, c.Value.Node), nil
}

// notEnded returns the boots of a node whose end is not proved, those included
// that only own something and have no record any more.
func notEnded(state *cluster.State, node cluster.NodeName) []cluster.BootID {
	found := map[cluster.BootID]bool{}
	for id, boot := range state.Boots {
		found[id] = found[id] || boot.Value.Node == node
	}
	for _, owner := range state.Owners {
		if owner.Value.Node == node && owner.Value.Boot != "" {
			found[owner.Value.Boot] = true
		}
	}
	maps.DeleteFunc(found, func(id cluster.BootID, of bool) bool {
		_, ended := state.Ended[id]
		return ended || !of
	})
	return slices.Sorted(maps.Keys(found))
}

// silent refuses unless this node and a majority of the observers do not hear
// the boot and it has not answered lately. It returns the guards on the views.
func (s *Server) silent(state *cluster.State, node cluster.NodeName, accused cluster.BootID) ([]cluster.Guard, error) {
	former := state.Boots[accused].Value
	if node == s.Self && !succeeded(state, former) {
		return nil, refusal(CodeRefused, "%s is the node that you are asking: it is alive", node)
	}
	if _, known := state.Boots[accused]; !known {
		return nil, nil // nobody listens for a boot without a record
	}
	if appeal, ok := state.Appeals[accused]; ok && s.Now() < appeal.Since+plan.AppealAge {
		return nil, refusal(CodeRefused, "%s is alive: it answers through the store; check the network of the heartbeats", node)
	}
	var guards []cluster.Guard
	var hear []string
	observers, deaf := 0, 0
	for _, id := range slices.Sorted(maps.Keys(state.Boots)) {
		observer := state.Boots[id].Value
		view := state.Views[observer.Node]
		if !observes(state, observer, node) || view.Value.Boot == id && view.Value.Abstain {
			continue
		}
		observers++
		if view.Value.Boot != id || view.Value.Silent[accused] == "" {
			hear = append(hear, string(observer.Node))
			continue
		}
		deaf++
		guards = append(guards, cluster.Guard{Key: cluster.KeyView(observer.Node), Rev: view.Rev})
	}
	if slices.Contains(hear, string(s.Self)) || 2*deaf <= observers {
		return nil, refusal(CodeRefused, "%s may be alive: its heartbeats reach %s; if it is the machine that must go, turn it off there",
			node, strings.Join(hear, ", "))
	}
	return guards, nil
}

// observes reports whether a boot counts as a witness, as in plan (rule P17).
func observes(state *cluster.State, observer cluster.Boot, accused cluster.NodeName) bool {
	_, ended := state.Ended[observer.ID]
	_, doomed := state.Fences[observer.ID]
	return !ended && !doomed && !succeeded(state, observer) && observer.Node != accused && observer.Phase != cluster.PhaseJoining
}

// succeeded reports whether a newer boot of the same node is registered.
func succeeded(state *cluster.State, former cluster.Boot) bool {
	for _, boot := range state.Boots {
		if boot.Value.Node == former.Node && slices.Contains(boot.Value.Predecessors, former.ID) {
			return true
		}
	}
	return false
}

// unseen refuses while a host says that it has the life.
func (s *Server) unseen(boot cluster.Boot) error {
	if boot.Guest == "" {
		return nil
	}
	guest, ok := s.GuestSeen(boot.Guest)
	if !ok || guest.Life != boot.Life || guest.Life == "" {
		return nil
	}
	return refusal(CodeRefused, "%s is there: a host says that its guest %s is %s, in this very life; turn it off at the host", boot.Node, boot.Guest, guestState(guest))
}

func guestState(g hostapi.Guest) string {
	if g.State == "" {
		return "in an unknown state"
	}
	return g.State
}

package nodeapi

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/plan"
	"ringfence/internal/store"
)

// byLimitBytes bounds the words of a person that are stored.
const byLimitBytes = 512

func checkBy(by string) error {
	if by == "" || len(by) > byLimitBytes {
		return refusal(CodeBadRequest, "by: want who asks, in at most %d bytes", byLimitBytes)
	}
	return nil
}

// serviceAction derives the change for one service.
type serviceAction func(s *Server, state *cluster.State, def cluster.ServiceConfig, order ServiceOrder) (store.Tx, string, error)

func serviceActions() map[string]serviceAction {
	return map[string]serviceAction{"move": move, "start": start, "stop": stop, "clear": clearFailures}
}

func (s *Server) postService(w http.ResponseWriter, r *http.Request) (any, error) {
	action, ok := serviceActions()[r.PathValue("action")]
	if !ok {
		return nil, refusal(CodeNotFound, "action %.40q: allowed are move, start, stop and clear", r.PathValue("action"))
	}
	var order ServiceOrder
	if err := readJSON(w, r, bodyLimitBytes, &order); err != nil {
		return nil, err
	}
	if err := checkBy(order.By); err != nil {
		return nil, err
	}
	name := cluster.ServiceName(r.PathValue("name"))
	done, err := change(r.Context(), s.Mirror, s.Store, func(state *cluster.State) (store.Tx, string, error) {
		def, err := configured(state, name)
		if err != nil {
			return store.Tx{}, "", err
		}
		return action(s, state, def, order)
	})
	s.note(done, "service order", "service", name, "action", r.PathValue("action"), "to", order.To, "by", order.By)
	return done, err
}

// note logs an operator's order that changed something.
func (s *Server) note(done Done, msg string, args ...any) {
	if done.Changed {
		s.log.Info(msg, args...)
	}
}

func configured(state *cluster.State, name cluster.ServiceName) (cluster.ServiceConfig, error) {
	def, ok := state.Config.Value.Service(name)
	if ok {
		return def, nil
	}
	var names []string
	for _, one := range state.Config.Value.Services {
		names = append(names, string(one.Name))
	}
	return def, refusal(CodeNotFound, "there is no service %.70q; %s", name, known("services", names))
}

// known lists what could have been meant.
func known(what string, names []string) string {
	if len(names) == 0 {
		return "there are no " + what + " yet"
	}
	return what + " are " + strings.Join(names, ", ")
}

func move(s *Server, state *cluster.State, def cluster.ServiceConfig, order ServiceOrder) (store.Tx, string, error) {
	wish, owner := state.Wishes[def.Name], state.Owners[def.Name].Value
	if state.Nodes[order.To].Value.Witness {
		return store.Tx{}, "", refusal(CodeConflict, "%s cannot move to %s: it is a witness, which runs no services", def.Name, order.To)
	}
	if !slices.Contains(state.Config.Value.Candidates(def), order.To) {
		return store.Tx{}, "", refusal(CodeBadRequest, "%s does not run on node %.70q; its %s", def.Name, order.To,
			known("nodes", words(state.Config.Value.Candidates(def))))
	}
	if wish.Value.Stopped {
		return store.Tx{}, "", refusal(CodeConflict, "%s is stopped, by %s: run `ringfence service start %s` first", def.Name, wish.Value.By, def.Name)
	}
	here := owner.Boot != "" && owner.Node == order.To && owner.Want == cluster.WantRun
	if here && (wish.Value.MoveTo == "" || wish.Value.MoveTo == order.To) {
		return store.Tx{}, fmt.Sprintf("%s is on %s already", def.Name, order.To), nil
	}
	if bar := s.bar(state, s.judge(state), def, order.To); bar != "" && !here {
		return store.Tx{}, "", refusal(CodeConflict, "%s cannot move to %s: it %s", def.Name, order.To, bar)
	}
	tx := put(cluster.KeyWish(def.Name), wish.Rev, cluster.Wish{Service: def.Name, MoveTo: order.To, By: order.By})
	tx.Guards = append(tx.Guards, cluster.Guard{Key: cluster.KeyConfig, Rev: state.Config.Rev})
	if owner.Boot == "" {
		return tx, fmt.Sprintf("%s starts on %s", def.Name, order.To), nil
	}
	return tx, fmt.Sprintf("%s stops on %s, and starts on %s once %s has verified that nothing of it is left", def.Name, owner.Node, order.To, owner.Node), nil
}

func start(_ *Server, state *cluster.State, def cluster.ServiceConfig, _ ServiceOrder) (store.Tx, string, error) {
	wish := state.Wishes[def.Name]
	if !wish.Value.Stopped {
		return store.Tx{}, fmt.Sprintf("%s is not stopped; `ringfence explain %s` tells where it is and why", def.Name, def.Name), nil
	}
	return drop(cluster.KeyWish(def.Name), wish.Rev), fmt.Sprintf("%s starts on the first of its nodes that may take it", def.Name), nil
}

func stop(_ *Server, state *cluster.State, def cluster.ServiceConfig, order ServiceOrder) (store.Tx, string, error) {
	wish, owner := state.Wishes[def.Name], state.Owners[def.Name].Value
	if wish.Value.Stopped {
		return store.Tx{}, fmt.Sprintf("%s is stopped already, by %s", def.Name, wish.Value.By), nil
	}
	tx := put(cluster.KeyWish(def.Name), wish.Rev, cluster.Wish{Service: def.Name, Stopped: true, By: order.By})
	if owner.Boot == "" {
		return tx, fmt.Sprintf("%s runs nowhere, and will not be started until `ringfence service start %s`", def.Name, def.Name), nil
	}
	return tx, fmt.Sprintf("%s stops on %s and stays stopped until `ringfence service start %s`", def.Name, owner.Node, def.Name), nil
}

// clearFailures forgets that nodes failed to run a service, so that they may
// take it again.
func clearFailures(_ *Server, state *cluster.State, def cluster.ServiceConfig, _ ServiceOrder) (store.Tx, string, error) {
	var tx store.Tx
	var nodes []string
	for _, failure := range state.Failed {
		if failure.Value.Service != def.Name {
			continue
		}
		one := drop(cluster.KeyFailure(def.Name, failure.Value.Node), failure.Rev)
		tx.Guards, tx.Writes = append(tx.Guards, one.Guards...), append(tx.Writes, one.Writes...)
		nodes = append(nodes, string(failure.Value.Node))
	}
	if len(nodes) == 0 {
		return tx, fmt.Sprintf("%s has no failures on record", def.Name), nil
	}
	slices.Sort(nodes)
	return tx, fmt.Sprintf("%s may run again on %s", def.Name, strings.Join(nodes, ", ")), nil
}

// bar says why a node could not take a service now; "" when it could. It is
// for people: the planner has the last word.
func (s *Server) bar(state *cluster.State, result plan.Result, def cluster.ServiceConfig, node cluster.NodeName) string {
	if state.Nodes[node].Value.Witness {
		return "is a witness, which runs no services"
	}
	at := slices.IndexFunc(result.Nodes, func(n plan.NodeStatus) bool { return n.Name == node })
	if at < 0 || result.Nodes[at].State == cluster.NodeAbsent {
		return "has not booted"
	}
	if is := result.Nodes[at].State; is != cluster.NodeMember {
		return "is " + string(is)
	}
	if _, standby := state.Standby[node]; standby {
		return fmt.Sprintf("is on standby: run `ringfence node unstandby %s` first", node)
	}
	if probe := state.Probes[node].Value; probe.Boot == result.Nodes[at].Boot && probe.Autostart[def.Name] != "" {
		return "would start it by itself: " + probe.Autostart[def.Name]
	}
	failure, failed := state.FailureOf(def.Name, node)
	banned := failure.Value.Ban != cluster.BanNone && failure.Value.Config == state.Config.Rev
	if failed && (banned || s.Now() < failure.Since+def.FailureExpiry) {
		return fmt.Sprintf("failed to run it (%s): run `ringfence service clear %s` once that is repaired", failure.Value.Detail, def.Name)
	}
	return ""
}

func words[T ~string](in []T) []string {
	out := make([]string, 0, len(in))
	for _, one := range in {
		out = append(out, string(one))
	}
	return out
}

package nodeapi

import (
	"fmt"
	"net/http"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// postArm disarms the cluster or arms it again (rule P18).
func (s *Server) postArm(w http.ResponseWriter, r *http.Request) (any, error) {
	build := map[string]func(*cluster.State, ArmOrder) (store.Tx, string, error){"disarm": disarm, "arm": arm}[r.PathValue("action")]
	if build == nil {
		return nil, refusal(CodeNotFound, "action %.40q: allowed are disarm and arm", r.PathValue("action"))
	}
	var order ArmOrder
	if err := readJSON(w, r, bodyLimitBytes, &order); err != nil {
		return nil, err
	}
	if err := checkBy(order.By); err != nil {
		return nil, err
	}
	done, err := change(r.Context(), s.Mirror, s.Store, func(state *cluster.State) (store.Tx, string, error) { return build(state, order) })
	s.note(done, "cluster order", "action", r.PathValue("action"), "by", order.By, "reason", order.Reason)
	return done, err
}

func disarm(state *cluster.State, order ArmOrder) (store.Tx, string, error) {
	if order.Reason == "" || len(order.Reason) > byLimitBytes {
		return store.Tx{}, "", refusal(CodeBadRequest, "reason: say in at most %d bytes why nobody shall be fenced; `ringfence status` shows it as a reminder", byLimitBytes)
	}
	if is := state.Disarm; is.Rev != 0 {
		return store.Tx{}, fmt.Sprintf("the cluster is disarmed already, by %s: %s", is.Value.By, is.Value.Reason), nil
	}
	return put(cluster.KeyDisarm, 0, cluster.Disarm{By: order.By, Reason: order.Reason}),
		"the cluster is disarmed: nobody is fenced and nothing is recovered until `ringfence cluster arm`; services run on", nil
}

func arm(state *cluster.State, _ ArmOrder) (store.Tx, string, error) {
	if state.Disarm.Rev == 0 {
		return store.Tx{}, "the cluster is armed", nil
	}
	return drop(cluster.KeyDisarm, state.Disarm.Rev), "the cluster is armed: whoever is silent is fenced, and what was lost is recovered now", nil
}

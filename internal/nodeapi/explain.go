package nodeapi

import (
	"fmt"
	"net/http"
	"slices"

	"ringfence/internal/cluster"
	"ringfence/internal/plan"
)

// explainEvents is how many events an explanation shows.
const explainEvents = 10

func (s *Server) getExplain(_ http.ResponseWriter, r *http.Request) (any, error) {
	state, _ := s.Mirror.Snapshot()
	name := cluster.ServiceName(r.PathValue("service"))
	result := s.judge(&state)
	at := slices.IndexFunc(result.Services, func(one plan.ServiceStatus) bool { return one.Name == name })
	if at < 0 {
		_, err := configured(&state, name)
		return nil, err
	}
	out := Explanation{ServiceStatus: serviceStatus(result.Services[at]), Hosts: []cluster.HostName{}, Nodes: []Candidate{}}
	if owner := state.Owners[name].Value; owner.Boot != "" {
		out.Boot, out.Hosts = owner.Boot, list(state.Boots[owner.Boot].Value.Places)
		for _, why := range s.whyStretched(&state, owner.Boot) {
			out.Why = append(out.Why, fmt.Sprintf("%s is %s", owner.Node, why))
		}
	}
	out.Wish = wishText(state.Wishes[name].Value)
	if def, ok := state.Config.Value.Service(name); ok {
		for _, node := range state.Config.Value.Candidates(def) {
			out.Nodes = append(out.Nodes, Candidate{Name: node, Bar: s.bar(&state, result, def, node)})
		}
	}
	out.Events = s.Events.about(string(name), explainEvents)
	return out, nil
}

func wishText(wish cluster.Wish) string {
	switch {
	case wish.Stopped:
		return "stopped, by " + wish.By
	case wish.MoveTo != "":
		return fmt.Sprintf("to move to %s, by %s", wish.MoveTo, wish.By)
	}
	return ""
}

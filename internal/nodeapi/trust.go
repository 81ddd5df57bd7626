package nodeapi

import (
	"fmt"
	"maps"
	"net/http"
	"slices"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

func (s *Server) postTrust(w http.ResponseWriter, r *http.Request) (any, error) {
	var order TrustOrder
	if err := readJSON(w, r, bodyLimitBytes, &order); err != nil {
		return nil, err
	}
	if err := checkBy(order.By); err != nil {
		return nil, err
	}
	name := cluster.HostName(r.PathValue("name"))
	done, err := change(r.Context(), s.Mirror, s.Store, func(state *cluster.State) (store.Tx, string, error) {
		return trustTx(state, name)
	})
	s.note(done, "host order", "host", name, "action", "trust", "by", order.By)
	return done, err
}

// trustTx takes a host out of every contradiction that it stands in (rule P11).
// What its word was false about stays as it is: that needs other proof.
func trustTx(state *cluster.State, name cluster.HostName) (store.Tx, string, error) {
	boots := doubtedBy(state, name)
	if len(boots) == 0 {
		if _, enrolled := state.Hosts[name]; !enrolled {
			return store.Tx{}, "", refusal(CodeNotFound, "there is no host %.70q; %s", name, known("hosts", words(slices.Sorted(maps.Keys(state.Hosts)))))
		}
		return store.Tx{}, fmt.Sprintf("host %s is trusted already", name), nil
	}
	var tx store.Tx
	for _, boot := range boots {
		rec := state.Contras[boot]
		next := rec.Value
		next.Hosts = slices.DeleteFunc(slices.Clone(next.Hosts), func(h cluster.HostName) bool { return h == name })
		tx.Guards = append(tx.Guards, cluster.Guard{Key: cluster.KeyContradiction(boot), Rev: rec.Rev})
		tx.Writes = append(tx.Writes, cluster.Put(cluster.KeyContradiction(boot), next))
	}
	return tx, fmt.Sprintf("the word of host %s on lives counts again, except on those that it was wrong about", name), nil
}

// doubtedBy returns the boots that answered after evidence by a host, sorted.
func doubtedBy(state *cluster.State, name cluster.HostName) []cluster.BootID {
	var out []cluster.BootID
	for _, boot := range slices.Sorted(maps.Keys(state.Contras)) {
		if slices.Contains(state.Contras[boot].Value.Hosts, name) {
			out = append(out, boot)
		}
	}
	return out
}

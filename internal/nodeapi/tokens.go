package nodeapi

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

const (
	// tokenLimit bounds the tokens that are good at one time.
	tokenLimit = 32
	// keepUsed is how many used tokens stay on record, to say "used already".
	keepUsed = 16
)

func (s *Server) getTokens(http.ResponseWriter, *http.Request) (any, error) {
	state, _ := s.Mirror.Snapshot()
	out := []TokenStatus{}
	for _, id := range slices.Sorted(maps.Keys(state.Tokens)) {
		out = append(out, TokenStatus{ID: id, UsedBy: state.Tokens[id].Value.Node})
	}
	return out, nil
}

// postToken draws a token. The store keeps the hash of its secret only.
func (s *Server) postToken(_ http.ResponseWriter, r *http.Request) (any, error) {
	token, err := s.NewToken()
	if err != nil {
		return nil, err
	}
	_, err = change(r.Context(), s.Mirror, s.Store, func(state *cluster.State) (store.Tx, string, error) {
		have, exists := state.Tokens[token.ID]
		if exists && have.Value.SecretHash == token.Hash() {
			return store.Tx{}, "", nil // an attempt whose answer was lost
		}
		tx := put(cluster.KeyToken(token.ID), 0, cluster.Token{ID: token.ID, SecretHash: token.Hash()})
		var used []cluster.Rec[cluster.Token]
		for _, one := range state.Tokens {
			if one.Value.Node != "" {
				used = append(used, one)
			}
		}
		if good := len(state.Tokens) - len(used); good >= tokenLimit {
			return tx, "", refusal(CodeConflict, "there are %d unused join tokens, more are not allowed; see `ringfence token list` and `ringfence token remove`", good)
		}
		slices.SortFunc(used, func(a, b cluster.Rec[cluster.Token]) int { return cmp.Compare(b.Rev, a.Rev) })
		for _, old := range used[min(keepUsed, len(used)):] {
			tx.Writes = append(tx.Writes, cluster.Remove(cluster.KeyToken(old.Value.ID)))
		}
		return tx, "", nil
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("join token made", "token", token)
	return NewToken{ID: token.ID, Text: token.Text()}, nil
}

func (s *Server) deleteToken(_ http.ResponseWriter, r *http.Request) (any, error) {
	id := r.PathValue("id")
	return change(r.Context(), s.Mirror, s.Store, func(state *cluster.State) (store.Tx, string, error) {
		have, ok := state.Tokens[id]
		if !ok {
			return store.Tx{}, "", refusal(CodeNotFound, "there is no join token %.20q; %s", id, known("tokens", slices.Sorted(maps.Keys(state.Tokens))))
		}
		return drop(cluster.KeyToken(id), have.Rev), fmt.Sprintf("token %s admits nobody any more", id), nil
	})
}

func (s *Server) getCluster(http.ResponseWriter, *http.Request) (any, error) {
	state, _ := s.Mirror.Snapshot()
	return Public{Cluster: state.Meta.Value.ID, Name: state.Meta.Value.Name, CA: string(s.CACert)}, nil
}

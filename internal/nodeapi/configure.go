package nodeapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/config"
	"ringfence/internal/store"
)

// freshTimeout bounds waiting for the store's word on the configuration: several
// elections.
const freshTimeout = 3 * time.Second

// getConfig answers what stands: people copy it, change it and apply it. Where
// the store is out of reach it is still worth to be seen.
func (s *Server) getConfig(_ http.ResponseWriter, r *http.Request) (any, error) {
	err := s.fresh(r.Context())
	state, _ := s.Mirror.Snapshot()
	return Configuration{Revision: state.Config.Rev, Config: state.Config.Value, Stale: err != nil}, nil
}

// fresh returns when the mirror shows the configuration that stood in the store
// when it was called, or a later one.
func (s *Server) fresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, freshTimeout)
	defer cancel()
	found, _, err := s.Store.Load(ctx, cluster.KeyConfig)
	if err != nil {
		return err
	}
	for _, kv := range found {
		if err := s.Mirror.WaitFor(ctx, kv.Rev); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) putConfig(w http.ResponseWriter, r *http.Request) (any, error) {
	var order ConfigOrder
	if err := readJSON(w, r, bodyLimitBytes, &order); err != nil {
		return nil, err
	}
	if err := checkBy(order.By); err != nil {
		return nil, err
	}
	if err := s.validate(order.Config); err != nil {
		return nil, err
	}
	// Else "nothing to change" could be said of what has been replaced since.
	if err := s.fresh(r.Context()); err != nil {
		return nil, err
	}
	done, err := change(r.Context(), s.Mirror, s.Store, func(state *cluster.State) (store.Tx, string, error) {
		return configTx(state, order)
	})
	s.note(done, "configuration order", "by", order.By, "revision", done.Revision)
	return done, err
}

// validate applies every rule of the file's parser to what came over the API,
// by writing it as a file and reading that.
func (s *Server) validate(c cluster.Config) error {
	if len(c.Nodes) == 0 {
		return refusal(CodeBadRequest, "the configuration is refused: it has no [[node]]")
	}
	text, err := config.Marshal(c)
	if err != nil {
		return refusal(CodeBadRequest, "%v", err)
	}
	_, err = config.Parse("configuration", text, s.CheckResource)
	var faults config.Errors
	if errors.As(err, &faults) {
		return refusal(CodeBadRequest, "the configuration is refused: %s", faults[0].Message)
	}
	return err
}

func configTx(state *cluster.State, order ConfigOrder) (store.Tx, string, error) {
	have := state.Config
	for _, n := range order.Config.Nodes {
		if state.Nodes[n.Name].Value.Witness {
			return store.Tx{}, "", refusal(CodeConflict, "node %s is a witness, which runs no services and is not fenced: take it out of the configuration", n.Name)
		}
	}
	switch {
	case order.Config.Name != state.Meta.Value.Name:
		return store.Tx{}, "", refusal(CodeConflict, "this is cluster %q, the configuration is for cluster %q", state.Meta.Value.Name, order.Config.Name)
	case have.Rev != 0 && sameConfig(have.Value, order.Config):
		return store.Tx{}, fmt.Sprintf("nothing to change: this configuration stands since revision %d", have.Rev), nil
	case order.Expect != nil && *order.Expect != have.Rev:
		return store.Tx{}, "", refusal(CodeConflict, "somebody else changed the configuration at revision %d; look at the difference again", have.Rev)
	}
	return put(cluster.KeyConfig, have.Rev, order.Config), "the configuration is applied", nil
}

// sameConfig compares what is stored, so that nil and empty are the same.
func sameConfig(a, b cluster.Config) bool {
	wa, wb := cluster.Put("", a), cluster.Put("", b)
	return bytes.Equal(wa.Value, wb.Value)
}

package nodeapi

import (
	"context"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
)

// hookedStore lets a test come in between.
type hookedStore struct {
	store.Store
	loaded func()
	commit func(context.Context, store.Tx) (cluster.Revision, error)
}

func (h *hookedStore) Load(ctx context.Context, prefix string) ([]cluster.KV, cluster.Revision, error) {
	kvs, rev, err := h.Store.Load(ctx, prefix)
	if h.loaded != nil {
		h.loaded()
	}
	return kvs, rev, err
}

func (h *hookedStore) Commit(ctx context.Context, tx store.Tx) (cluster.Revision, error) {
	if h.commit != nil {
		return h.commit(ctx, tx)
	}
	return h.Store.Commit(ctx, tx)
}

// hooked puts hooks between the API and the store.
func hooked(t *testing.T) (*bench, *hookedStore) {
	b := newBench(t)
	h := &hookedStore{Store: b.mem}
	b.deps.Store = h
	b.serve()
	return b, h
}

// expiring is the test's configuration with another value in it.
func expiring(d time.Duration) cluster.Config {
	c := testConfig()
	c.Services[0].FailureExpiry = d
	return c
}

// behind makes the mirror late by one configuration, until the store is asked
// what stands.
func behind(t *testing.T, b *bench, h *hookedStore) cluster.Revision {
	b.mem.SetFault(mem.Fault{StallWatches: true})
	rev, err := b.mem.Commit(t.Context(), store.Tx{Writes: []cluster.Write{cluster.Put(cluster.KeyConfig, expiring(time.Hour))}})
	must(t, err)
	h.loaded = func() { b.mem.SetFault(mem.Fault{}) }
	return rev
}

func TestTheConfigurationIsWhatStandsInTheStore(t *testing.T) {
	b, h := hooked(t)
	rev := behind(t, b, h)
	got, err := b.api.Config(t.Context())
	must(t, err)
	if got.Revision != rev || got.Stale || got.Config.Services[0].FailureExpiry != time.Hour {
		t.Errorf("read %+v, want what stands since revision %d", got, rev)
	}
	h.loaded = nil
	b.mem.SetFault(mem.Cut())
	if got, err = b.api.Config(t.Context()); err != nil || !got.Stale || got.Revision != rev {
		t.Errorf("without the store: %+v, %v; want the last that was seen, marked", got, err)
	}
}

func TestNothingToChangeIsSaidOfWhatStands(t *testing.T) {
	b, h := hooked(t)
	rev := behind(t, b, h)
	done, err := b.api.Apply(t.Context(), ConfigOrder{By: "test", Config: testConfig()})
	must(t, err)
	if !done.Changed || done.Revision <= rev {
		t.Errorf("%+v, want the configuration back that was replaced at revision %d", done, rev)
	}
}

// TestAChangeHappensOnce: an order whose first try was carried out without an
// answer is not carried out again over what somebody else wrote since, and its
// failure is not told as certain.
func TestAChangeHappensOnce(t *testing.T) {
	b, h := hooked(t)
	tries := 0
	h.commit = func(ctx context.Context, tx store.Tx) (cluster.Revision, error) {
		if tries++; tries > 1 {
			return b.mem.Commit(ctx, tx)
		}
		_, err := b.mem.Commit(ctx, tx)
		must(t, err)
		b.put(cluster.KeyConfig, expiring(time.Hour)) // somebody else, before the answer gets lost
		return 0, store.ErrUnknown
	}
	stands := func() cluster.Revision { return b.state().Config.Rev }
	for name, expect := range map[string]func() *cluster.Revision{
		"without a comparison": func() *cluster.Revision { return nil },
		"with a comparison":    func() *cluster.Revision { rev := stands(); return &rev },
	} {
		tries = 0
		_, err := b.api.Apply(t.Context(), ConfigOrder{By: "test", Config: expiring(2 * time.Hour), Expect: expect()})
		refused(t, err, CodeUnknown, "may")
		if got := b.state().Config.Value.Services[0].FailureExpiry; got != time.Hour {
			t.Errorf("%s: %v stands, want what was written last", name, got)
		}
	}
	tries = 0
	h.commit = func(ctx context.Context, tx store.Tx) (cluster.Revision, error) {
		if tries++; tries > 1 {
			return 0, store.ErrUnavailable
		}
		return 0, store.ErrUnknown
	}
	_, err := b.api.Apply(t.Context(), ConfigOrder{By: "test", Config: expiring(3 * time.Hour)})
	refused(t, err, CodeUnknown, "may or may not")
}

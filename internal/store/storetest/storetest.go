// Package storetest is the conformance suite of store.Store: each case states
// a sentence of the contract. The tests of every implementation run it. It
// relies on nothing that the contract does not promise.
package storetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// hang is how long a case waits for what the contract promises before it
// gives up. It bounds a broken implementation and measures nothing.
const hang = 20 * time.Second

// Compactor is implemented by stores whose history can be cut by a test.
type Compactor interface {
	// Compact forgets the history below rev.
	Compact(ctx context.Context, rev cluster.Revision) error
}

// Run runs every case. open is called for each; it may return the same store
// again, with whatever earlier cases left in it, since each case keeps to a
// prefix of its own. The case that closes the store is the last. Nobody else
// may write to the store meanwhile.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	cases := []struct {
		rule string
		test func(*fixture)
	}{
		{"guard 0 means absent and a guard revision means the last change", guards},
		{"a conflict writes nothing", conflictWritesNothing},
		{"all writes happen at the one revision returned", oneRevision},
		{"a transaction without writes only checks its guards", guardsOnly},
		{"a deleted and recreated record does not pass for the old one", recreated},
		{"deleting an absent key is no change", deleteAbsent},
		{"a malformed transaction is refused and writes nothing", malformed},
		{"values up to the limit are kept and above it refused", valueLimit},
		{"transactions up to the limits are kept and above them refused", txLimits},
		{"the store shares no memory with its callers", noAliases},
		{"a call with an ended context does nothing", endedContext},
		{"of many commits on one revision exactly one wins", oneWinner},
		{"no update is lost between concurrent writers", noLostUpdate},
		{"load returns exactly the prefix sorted by key", loadPrefix},
		{"load is not older than any commit that ended before", loadLinearizable},
		{"load sees all of a transaction or nothing", loadAtomic},
		{"watch delivers past and live changes in order", watchHistory},
		{"watch delivers one batch for each revision", watchBatches},
		{"watch over deletions gives key and revision only", watchDeletes},
		{"watch passes over other prefixes", watchOtherPrefix},
		{"watch from a revision to come begins there", watchFuture},
		{"watches opened amid writes have no gap", watchNoGap},
		{"load and watch after it rebuild the store", watchReplica},
		{"a slow watcher delays nobody", watchSlow},
		{"the end of its context closes a watch", watchContext},
		{"a watch into forgotten history ends with ErrCompacted", watchCompacted},
		{"close ends watches and later calls", closed},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.rule, " ", "_"), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), hang)
			defer cancel()
			c.test(&fixture{T: t, ctx: ctx, store: open(t), dir: t.Name() + "/"})
		})
	}
}

// fixture is what one case works with.
type fixture struct {
	*testing.T
	ctx   context.Context
	store store.Store
	dir   string // prefix of this case's keys
}

func (f *fixture) key(name string) string { return f.dir + name }

func (f *fixture) put(name, value string) cluster.Write {
	return cluster.Write{Key: f.key(name), Value: []byte(value)}
}

func (f *fixture) remove(name string) cluster.Write {
	return cluster.Write{Key: f.key(name), Delete: true}
}

func (f *fixture) guard(name string, rev cluster.Revision) cluster.Guard {
	return cluster.Guard{Key: f.key(name), Rev: rev}
}

// write commits writes without guards.
func (f *fixture) write(writes ...cluster.Write) cluster.Revision {
	f.Helper()
	rev, err := f.store.Commit(f.ctx, store.Tx{Writes: writes})
	if err != nil {
		f.Fatalf("commit of %d writes: %v", len(writes), err)
	}
	return rev
}

// load returns the records of this case and the revision of the store.
func (f *fixture) load() ([]cluster.KV, cluster.Revision) {
	f.Helper()
	kvs, rev, err := f.store.Load(f.ctx, f.dir)
	if err != nil {
		f.Fatalf("load: %v", err)
	}
	return kvs, rev
}

// show prints records as "name=value@revision-base ...".
func (f *fixture) show(kvs []cluster.KV, base cluster.Revision) string {
	var parts []string
	for _, kv := range kvs {
		parts = append(parts, fmt.Sprintf("%s=%s@%+d", strings.TrimPrefix(kv.Key, f.dir), kv.Value, kv.Rev-base))
	}
	return strings.Join(parts, " ")
}

// want compares what the store holds for this case with show's notation.
func (f *fixture) want(base cluster.Revision, want string) {
	f.Helper()
	kvs, _ := f.load()
	if got := f.show(kvs, base); got != want {
		f.Errorf("store holds %q, want %q", got, want)
	}
}

// Package mem is the deterministic model of the decision store: one history in
// memory, seen through named clients whose link to it can be broken. It is
// what the simulator and unit tests use in place of etcd; storetest proves that
// both keep the same contract.
//
// Invariant: everything a call causes has happened when it returns. A commit
// has put its batch into the channel of every watch that has room and is not
// stalled, in the order in which the watches were opened; no goroutine is
// involved unless a reader lets more than watchRoom batches pile up.
package mem

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// firstRevision is the revision of an empty store, as in etcd: the first
// write happens at the one after it.
const firstRevision cluster.Revision = 1

// commit is all changes of one revision.
type commit struct {
	rev     cluster.Revision
	changes []store.Change
}

// Server holds the history. It is safe for concurrent use.
type Server struct {
	mu        sync.Mutex // guards everything below and all state of clients and watches
	rev       cluster.Revision
	compacted cluster.Revision // history below it is gone
	records   map[string]cluster.KV
	history   []commit // ascending; none below compacted
	clients   map[string]*Client
	watches   []*watch // in the order of opening
}

// New returns an empty store.
func New() *Server {
	return &Server{
		rev:     firstRevision,
		records: map[string]cluster.KV{},
		clients: map[string]*Client{},
	}
}

// Client returns the open client of that name, or opens one. A client opened
// after its predecessor was closed inherits the fault set there: faults belong
// to the link, not to the process at its end.
func (s *Server) Client(name string) *Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.clients[name]
	if old != nil && !old.closed {
		return old
	}
	c := &Client{server: s, name: name}
	if old != nil {
		c.fault, c.late = old.fault, old.late
	}
	s.clients[name] = c
	return c
}

// Compact forgets all history below rev. A watch that still needs some of it
// ends with ErrCompacted once its reader has taken what is already buffered.
func (s *Server) Compact(rev cluster.Revision) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev <= s.compacted || rev > s.rev {
		return fmt.Errorf("compact at revision %d: must be above %d and at most %d", rev, s.compacted, s.rev)
	}
	s.compacted = rev
	s.history = slices.Clone(s.history[s.historyFrom(rev):])
	s.deliverAll()
	return nil
}

// Revision returns the revision of the last commit.
func (s *Server) Revision() cluster.Revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev
}

// historyFrom returns the index of the first commit of rev or later.
func (s *Server) historyFrom(rev cluster.Revision) int {
	return sort.Search(len(s.history), func(i int) bool { return s.history[i].rev >= rev })
}

// load returns copies of the records under prefix, sorted by key.
func (s *Server) load(prefix string) []cluster.KV {
	var kvs []cluster.KV
	for _, key := range slices.Sorted(maps.Keys(s.records)) {
		if strings.HasPrefix(key, prefix) {
			kv := s.records[key]
			kv.Value = bytes.Clone(kv.Value)
			kvs = append(kvs, kv)
		}
	}
	return kvs
}

// commit carries out tx, which CheckTx has passed.
func (s *Server) commit(tx store.Tx) (cluster.Revision, error) {
	for _, g := range tx.Guards {
		if have := s.records[g.Key].Rev; have != g.Rev {
			return 0, fmt.Errorf("commit: %q is at revision %d, not %d: %w", g.Key, have, g.Rev, store.ErrConflict)
		}
	}
	rev := s.rev + 1
	var changes []store.Change
	for _, w := range tx.Writes {
		if change, ok := s.write(w, rev); ok {
			changes = append(changes, change)
		}
	}
	if len(changes) > 0 {
		s.rev = rev
		s.history = append(s.history, commit{rev, changes})
		s.deliverAll()
	}
	return s.rev, nil
}

// write carries out one write. Deleting what is absent changes nothing.
func (s *Server) write(w cluster.Write, rev cluster.Revision) (store.Change, bool) {
	if !w.Delete {
		kv := cluster.KV{Key: w.Key, Value: bytes.Clone(w.Value), Rev: rev}
		s.records[w.Key] = kv
		return store.Change{KV: kv}, true
	}
	if _, ok := s.records[w.Key]; !ok {
		return store.Change{}, false
	}
	delete(s.records, w.Key)
	return store.Change{KV: cluster.KV{Key: w.Key, Rev: rev}, Deleted: true}, true
}

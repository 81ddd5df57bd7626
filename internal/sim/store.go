package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
)

// Timings of the model of raft.
const (
	electionLeast = 500 * time.Millisecond
	electionMost  = time.Second
	storePoll     = 20 * time.Millisecond // of a call that waits for a leader
)

// raft is the model of the voters: one history (mem.Server), which a machine
// reaches while it is joined with a majority of the voters and one of these
// leads. A leader that is gone is followed by another after an election.
type raft struct {
	w      *World
	server *mem.Server
	voters []string

	mu     sync.Mutex // guards everything below
	random *rand.Rand
	leads  string
	lostAt time.Duration // since when there is no leader
	takes  time.Duration // how long this election takes
}

func newRaft(w *World, voters []string) *raft {
	return &raft{w: w, server: mem.New(), voters: voters, random: w.random("raft")}
}

// majority reports whether a machine is joined with a majority of the voters
// that run, itself included.
func (r *raft) majority(name string) bool {
	n := 0
	for _, v := range r.voters {
		if r.w.runs(v) && r.w.net.both(name, v) {
			n++
		}
	}
	return 2*n > len(r.voters)
}

// leader returns who leads now; "" while nobody does.
func (r *raft) leader() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.w.now()
	if r.leads != "" && r.w.runs(r.leads) && r.majority(r.leads) {
		r.lostAt = 0
		return r.leads
	}
	if r.lostAt == 0 {
		r.lostAt, r.takes = now, electionLeast+time.Duration(r.random.Int64N(int64(electionMost-electionLeast)))
		if r.leads == "" {
			r.takes = 0 // the first one
		}
	}
	if now-r.lostAt < r.takes {
		return ""
	}
	var able []string
	for _, v := range r.voters {
		if r.w.runs(v) && r.majority(v) {
			able = append(able, v)
		}
	}
	if len(able) == 0 {
		return ""
	}
	r.leads, r.lostAt = able[r.random.IntN(len(able))], 0
	return r.leads
}

// reaches reports whether a machine can use the store now.
func (r *raft) reaches(name string) bool {
	leader := r.leader()
	return leader != "" && r.w.net.both(name, leader)
}

// moveLeader hands the lead to another voter.
func (r *raft) moveLeader(from, to string) error {
	if r.leader() != from {
		return errors.New("sim: only the leader can hand over")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.w.runs(to) && r.majority(to) {
		r.leads = to
	}
	return nil
}

// link is the store as one run of a daemon sees it.
type link struct {
	p      *program
	client *mem.Client
	raft   *raft
	*conditions
}

// conditions are what is wrong with a guest's way to the store, and its own
// voter. A restart of the daemon changes nothing about it.
type conditions struct {
	mu    sync.Mutex // guards everything below
	lag   time.Duration
	stale []cluster.KV // what Load shows while set
	at    cluster.Revision
	lost  float64       // chance that a commit or its answer is lost
	slow  time.Duration // how much longer each answer takes
}

// whole reports whether nothing is wrong.
func (c *conditions) whole() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lag == 0 && c.at == 0 && c.lost == 0 && c.slow == 0
}

// mend ends all that is wrong.
func (c *conditions) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lag, c.stale, c.at, c.lost, c.slow = 0, nil, 0, 0, 0
}

var _ store.Store = (*link)(nil)

// reach waits until the store can be reached, at most until ctx ends. What a
// machine that stands still had not sent before it sends when it goes on.
func (l *link) reach(ctx context.Context) error {
	if l.p.gate() != nil || ctx.Err() != nil {
		return store.ErrUnavailable
	}
	time.Sleep(l.p.w.net.latency())
	for !l.raft.reaches(l.p.name) || !l.p.w.runs(l.p.name) {
		select {
		case <-ctx.Done():
			return store.ErrUnavailable
		case <-l.p.ctx.Done():
			return store.ErrUnavailable
		case <-time.After(storePoll):
		}
	}
	return nil
}

// answered is the way back: an answer that comes after ctx has ended is none.
func (l *link) answered(ctx context.Context) bool {
	l.mu.Lock()
	slow := l.slow
	l.mu.Unlock()
	select {
	case <-time.After(l.p.w.net.latency() + slow):
	case <-ctx.Done():
		return false
	}
	return l.p.gate() == nil && ctx.Err() == nil && l.p.w.net.both(l.p.name, l.raft.lead())
}

func (r *raft) lead() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leads
}

// Load implements store.Store.
func (l *link) Load(ctx context.Context, prefix string) ([]cluster.KV, cluster.Revision, error) {
	l.mu.Lock()
	stale, at := l.stale, l.at
	l.mu.Unlock()
	if at != 0 && prefix == cluster.Prefix && l.p.gate() == nil && ctx.Err() == nil {
		return stale, at, nil
	}
	if err := l.reach(ctx); err != nil {
		return nil, 0, fmt.Errorf("load by %s: %w", l.p.name, err)
	}
	kvs, rev, err := l.client.Load(ctx, prefix)
	if !l.answered(ctx) {
		return nil, 0, store.ErrUnavailable
	}
	return kvs, rev, err
}

// Commit implements store.Store.
func (l *link) Commit(ctx context.Context, tx store.Tx) (cluster.Revision, error) {
	if err := store.CheckTx(tx); err != nil {
		return 0, err
	}
	if err := l.reach(ctx); err != nil {
		return 0, fmt.Errorf("commit by %s: %w", l.p.name, err)
	}
	l.mu.Lock()
	lost := l.lost
	l.mu.Unlock()
	w := l.p.w
	if w.chance("store", lost) {
		if w.chance("store", 0.5) { // it arrives late, or never
			w.later(time.Duration(w.intn("store", 3000))*time.Millisecond, func() { _, _ = l.client.Commit(context.Background(), tx) })
		}
		return 0, fmt.Errorf("commit by %s: %w", l.p.name, store.ErrUnknown)
	}
	rev, err := l.client.Commit(context.WithoutCancel(ctx), tx)
	if !l.answered(ctx) || w.chance("store", lost) {
		return 0, fmt.Errorf("answer to a commit by %s: %w", l.p.name, store.ErrUnknown)
	}
	return rev, err
}

// Watch implements store.Store. Its batches come with the lag of the machine's
// own voter, and not while that is cut off from the others.
func (l *link) Watch(ctx context.Context, prefix string, from cluster.Revision) <-chan store.Batch {
	out := make(chan store.Batch)
	in := l.client.Watch(ctx, prefix, from)
	go func() {
		defer close(out)
		for batch := range in {
			l.mu.Lock()
			lag := l.lag
			l.mu.Unlock()
			if !l.delay(ctx, lag) {
				return
			}
			select {
			case out <- batch:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// delay holds a batch back; false: the watch has ended.
func (l *link) delay(ctx context.Context, lag time.Duration) bool {
	wait := l.p.w.net.latency() + lag
	for {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
		if l.raft.reaches(l.p.name) {
			return l.p.gate() == nil
		}
		wait = storePoll
	}
}

// Close implements store.Store.
func (l *link) Close() error { return nil }

// freeze makes Load show the present state until it is called with false.
func (l *link) freeze(on bool) {
	kvs, rev, err := l.client.Load(context.Background(), cluster.Prefix)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stale, l.at = nil, 0
	if on && err == nil {
		l.stale, l.at = kvs, rev
	}
}

func (c *conditions) setLag(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lag = d
}

func (c *conditions) setLost(p float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = p
}

func (c *conditions) setSlow(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow = d
}

// raftPort is node.Raft for one daemon.
type raftPort struct{ l *link }

// Leader implements node.Raft.
func (r raftPort) Leader() (name string, isMe, ok bool) {
	if r.l.p.gate() != nil {
		return "", false, false
	}
	leader := r.l.raft.leader()
	if leader == "" || !r.l.p.w.net.both(r.l.p.name, leader) {
		return "", false, false
	}
	return leader, leader == r.l.p.name, true
}

// MoveLeader implements node.Raft.
func (r raftPort) MoveLeader(_ context.Context, name string) error {
	if r.l.p.gate() != nil {
		return errGone
	}
	return r.l.raft.moveLeader(r.l.p.name, name)
}

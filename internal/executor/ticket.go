package executor

import (
	"context"
	"errors"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// Timings towards the store.
const (
	// commitTimeout bounds one try. It is short because a try that was handed
	// to a store leader which has just died is lost without a word; guards make
	// trying again safe.
	commitTimeout = 500 * time.Millisecond
	commitRetry   = 50 * time.Millisecond
)

// ticket commits the start ticket of the order's generation. It returns false
// when the order is not to be carried out (any more). adopted says that the
// ticket stood already, from an earlier run of the daemon on this boot: then
// something may be running and nothing may be started blindly.
func (w *worker) ticket(ctx context.Context, o order) (adopted, ok bool) {
	for ctx.Err() == nil {
		tx, adopted, stale := w.ticketTx(o)
		if stale {
			wait(ctx, o.news)
			return false, false
		}
		if adopted {
			return true, true
		}
		commitCtx, cancel := context.WithTimeout(ctx, commitTimeout)
		rev, err := w.Store.Commit(commitCtx, tx)
		cancel()
		if err == nil {
			w.log.Debug("start ticket committed", "generation", o.owner.Value.Generation, "revision", rev)
			return false, true
		}
		w.log.Debug("start ticket not committed", "generation", o.owner.Value.Generation, "err", err)
		if errors.Is(err, store.ErrUnknown) && w.ours(ctx, o) {
			return false, true
		}
		if w.order().owner.Rev != o.owner.Rev {
			return false, false
		}
		sleep(ctx, commitRetry)
	}
	return false, false
}

// ticketTx builds the transaction of rule P15 from the newest state: owner and
// generation unchanged, boot neither ended nor doomed, epoch as known.
func (w *worker) ticketTx(o order) (tx store.Tx, adopted, stale bool) {
	owner := o.owner.Value
	w.Mirror.Read(func(s *cluster.State) {
		_, ended := s.Ended[w.Boot]
		_, doomed := s.Fences[w.Boot]
		stale = ended || doomed || s.Owners[w.service].Rev != o.owner.Rev
		t := s.Tickets[w.service].Value
		adopted = t.Boot == w.Boot && t.Generation == owner.Generation
		tx = store.Tx{
			Guards: []cluster.Guard{
				{Key: cluster.KeyOwner(w.service), Rev: o.owner.Rev},
				{Key: cluster.KeyEnded(w.Boot)},
				{Key: cluster.KeyFence(w.Boot)},
				{Key: cluster.KeyLeader, Rev: s.Leader.Rev},
			},
			Writes: []cluster.Write{cluster.Put(cluster.KeyTicket(w.service), cluster.Ticket{
				Service: w.service, Generation: owner.Generation, Node: w.Node, Boot: w.Boot, Epoch: s.Leader.Value.Epoch,
			})},
		}
	})
	return tx, adopted, stale
}

// ours finds out, by a read that is not older than the commit, whether a commit
// of unknown outcome has happened. Only this goroutine writes tickets of this
// generation, so a ticket of ours that stands is the one just committed.
func (w *worker) ours(ctx context.Context, o order) bool {
	loadCtx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	kvs, rev, err := w.Store.Load(loadCtx, cluster.KeyTicket(w.service))
	if err != nil || w.Mirror.WaitFor(loadCtx, rev) != nil {
		return false
	}
	var s cluster.State
	for _, kv := range kvs {
		if kv.Key != cluster.KeyTicket(w.service) || s.Apply(kv, false, 0) != nil {
			continue
		}
	}
	t := s.Tickets[w.service].Value
	return t.Boot == w.Boot && t.Generation == o.owner.Value.Generation
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

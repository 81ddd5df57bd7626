package executor

import (
	"context"
	"time"

	"ringfence/internal/clock"
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
//
// A commit of unknown outcome is simply tried again: the guards allow the ticket
// once, and one that arrives late is found standing.
func (w *worker) ticket(ctx context.Context, o order) (adopted, ok bool) {
	for ctx.Err() == nil {
		if now := w.order(); !now.run || now.owner.Rev != o.owner.Rev {
			return false, false
		}
		if _, done := w.finished(o.owner.Value); done {
			return false, false // an earlier run's last word arrived meanwhile
		}
		tx, adopted, stale := w.ticketTx(o)
		if stale {
			wait(ctx, o.news)
			return false, false
		}
		if len(tx.Writes) == 0 {
			return false, true
		}
		if !adopted {
			w.tried = o.owner.Value.Generation
		}
		commitCtx, cancel := w.Clock.WithTimeout(ctx, commitTimeout)
		rev, err := w.Store.Commit(commitCtx, tx)
		cancel()
		if err == nil {
			w.log.Debug("start ticket committed", "generation", o.owner.Value.Generation, "revision", rev, "adopted", adopted)
			if adopted {
				w.reports.stands(rev)
			}
			return adopted, true
		}
		w.log.Debug("start ticket not committed", "generation", o.owner.Value.Generation, "err", err)
		clock.Sleep(ctx, w.Clock, commitRetry)
	}
	return false, false
}

// ticketTx builds the transaction of rule P15 from the newest state: owner and
// generation unchanged, boot neither ended nor doomed, epoch as known. Where the
// ticket stands from an earlier run of the daemon, it reports the take-over
// instead: a last word of that run which is still under way can then not arrive
// any more. It has no writes where the ticket is this run's own, come late.
func (w *worker) ticketTx(o order) (tx store.Tx, adopted, stale bool) {
	owner := o.owner.Value
	w.Mirror.Read(func(s *cluster.State) {
		_, ended := s.Ended[w.Boot]
		_, doomed := s.Fences[w.Boot]
		stale = ended || doomed || s.Owners[w.service].Rev != o.owner.Rev
		stands := w.stands(s, owner)
		adopted = stands && w.tried != owner.Generation
		tx.Guards = []cluster.Guard{
			{Key: cluster.KeyOwner(w.service), Rev: o.owner.Rev},
			{Key: cluster.KeyEnded(w.Boot)},
			{Key: cluster.KeyFence(w.Boot)},
			{Key: cluster.KeyLeader, Rev: s.Leader.Rev},
		}
		switch {
		case adopted:
			tx.Guards = append(tx.Guards, w.reports.guard(s))
			tx.Writes = []cluster.Write{cluster.Put(cluster.KeyReport(w.service), w.reports.report(
				cluster.ReportStarting, owner.Generation, "the daemon was restarted", 0))}
		case !stands:
			// Once: a try that arrives late must not stand behind the last word on
			// the start, which would prove nothing then (I2).
			tx.Guards = append(tx.Guards, cluster.Guard{Key: cluster.KeyTicket(w.service), Rev: s.Tickets[w.service].Rev})
			tx.Writes = []cluster.Write{cluster.Put(cluster.KeyTicket(w.service), cluster.Ticket{
				Service: w.service, Generation: owner.Generation, Node: w.Node, Boot: w.Boot, Epoch: s.Leader.Value.Epoch,
			})}
		}
	})
	return tx, adopted, stale
}

// stands reports whether the start ticket of owner's generation is in s.
func (w *worker) stands(s *cluster.State, owner cluster.Owner) bool {
	t := s.Tickets[w.service].Value
	return t.Boot == w.Boot && t.Generation == owner.Generation
}

// ticketed reports whether the start ticket of owner's generation stands.
func (w *worker) ticketed(owner cluster.Owner) (yes bool) {
	w.Mirror.Read(func(s *cluster.State) { yes = w.stands(s, owner) })
	return yes
}

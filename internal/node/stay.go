package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// appealLoop answers every view that accuses this boot: the answer names the
// view's revision, so it can only have been given after it (rule P17).
func (n *Node) appealLoop(ctx context.Context) error {
	return n.each(ctx, func(ctx context.Context, _ time.Duration) (time.Duration, error) {
		s, _ := n.Mirror.Snapshot()
		appeal := cluster.Appeal{Node: n.Self.Node, Boot: n.Self.ID, Answers: map[cluster.NodeName]cluster.Revision{}}
		news := false
		if _, ended := s.Ended[n.Self.ID]; ended {
			return 0, nil // nobody takes its answer any more
		}
		for name, view := range s.Views {
			_, ended := s.Ended[view.Value.Boot]
			if ended || view.Value.Silent[n.Self.ID] == "" {
				continue
			}
			appeal.Answers[name] = view.Rev
			news = news || s.Appeals[n.Self.ID].Value.Answers[name] != view.Rev
		}
		if !news {
			return 0, nil
		}
		_, err := n.commit(ctx, store.Tx{
			Guards: []cluster.Guard{{Key: cluster.KeyEnded(n.Self.ID)}},
			Writes: []cluster.Write{cluster.Put(cluster.KeyAppeal(n.Self.ID), appeal)},
		})
		if err != nil {
			return commitRetry, nil
		}
		n.Log.Warn("peers do not hear this node; answered through the store", "component", "appeal", "peers", len(appeal.Answers))
		return 0, nil
	})
}

// doomStop bounds how long a doomed boot tries to stop what it runs.
const doomStop = 30 * time.Second

// doomLoop ends the run when this boot is to be fenced or has a tombstone: it
// stops everything, which is hygiene and no evidence, and never goes on.
func (n *Node) doomLoop(ctx context.Context) error {
	return n.each(ctx, func(ctx context.Context, _ time.Duration) (time.Duration, error) {
		why := ""
		n.Mirror.Read(func(s *cluster.State) {
			if fence, ok := s.Fences[n.Self.ID]; ok {
				why = fmt.Sprintf("fence decision of epoch %d: %s, %s", fence.Value.Epoch, fence.Value.Reason, fence.Value.Detail)
			}
			if ended, ok := s.Ended[n.Self.ID]; ok && ended.Value.Evidence != cluster.EvidenceLeave {
				why = fmt.Sprintf("tombstone: %s, %s", ended.Value.Evidence, ended.Value.Detail)
			}
		})
		if why == "" {
			return 0, nil
		}
		n.Log.Error("this boot is doomed: it stops everything and ends", "component", "doom", "reason", why)
		for err := n.stopDoomed(ctx); err != nil && ctx.Err() == nil; err = n.stopDoomed(ctx) {
			n.Log.Error("not everything could be stopped", "component", "doom", "err", err)
			if !n.mayReset(ctx, fmt.Sprintf("this boot is doomed (%s) and could not stop everything: %v", why, err)) {
				break
			}
		}
		return 0, fmt.Errorf("%w (%s)", ErrDoomed, why)
	})
}

// stopDoomed stops all that this boot runs, of this run of the daemon and of
// earlier ones, and waits until the store has the reports. An error names what
// is not verified stopped after doomStop.
func (n *Node) stopDoomed(ctx context.Context) error {
	ctx, cancel := n.Clock.WithTimeout(ctx, doomStop)
	defer cancel()
	err := n.Executor.StopAll(ctx, "this boot is doomed")
	s, _ := n.Mirror.Snapshot()
	err = errors.Join(err, n.stopLeftovers(ctx, &s))
	n.awaitReports(ctx)
	return err
}

// awaitReports returns when a last word on everything that this boot owns
// stands in the store, or with ctx: a verified stop that is not reported would
// keep a service that could move (P15).
func (n *Node) awaitReports(ctx context.Context) {
	for ctx.Err() == nil {
		var waits []string
		changed := n.Mirror.Read(func(s *cluster.State) {
			_, waits = n.accountFor(s)
		})
		if len(waits) == 0 {
			return
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// Timings of the store budget (DESIGN section 6, I5).
const (
	// storeBudget is how long this node runs on without the store. Shorter
	// losses (elections, stalls) are no order to stop.
	storeBudget = 15 * time.Second
	// budgetPoll is how often the store is asked while it does not answer, and
	// budgetRest while it does.
	budgetPoll = time.Second
	budgetRest = 3 * time.Second
	// budgetMargin is what a node without store gets to stop everything, besides
	// the time-outs of the stops themselves; then it resets itself.
	budgetMargin = 10 * time.Second
)

// budgetLoop holds all services while the store is out of reach for longer than
// the budget: a minority ends with nothing active, or resets itself (rule P20).
func (n *Node) budgetLoop(ctx context.Context) error {
	last := n.Clock.Now()
	held, due := false, time.Duration(0)
	for ctx.Err() == nil {
		checkCtx, cancel := n.Clock.WithTimeout(ctx, commitTimeout)
		_, _, err := n.Store.Load(checkCtx, cluster.KeyLeader)
		cancel()
		now := n.Clock.Now()
		switch {
		case err == nil:
			last = now
			if held {
				n.Log.Info("store is back: services may run again", "component", "budget")
				n.Executor.Hold("")
				held = false
			}
		case !held && now-last > storeBudget:
			n.Log.Error("store lost for longer than the budget: services are stopped", "component", "budget", "budget", storeBudget, "err", err)
			n.Executor.Hold(fmt.Sprintf("the store was out of reach for more than %v", storeBudget))
			held, due = true, now+n.Executor.StopBound()+budgetMargin
		case held && now > due && len(n.Executor.Active()) > 0:
			n.reset(ctx, fmt.Sprintf("the store is lost, and %v could not be stopped within their time", n.Executor.Active()))
			due = n.Clock.Now() + resetRetry
		}
		pause := budgetPoll
		if err == nil {
			pause = budgetRest
		}
		n.sleep(ctx, pause)
	}
	return ctx.Err()
}

// leaveRecord is how long a node that has stopped everything tries to write its
// tombstone before it ends without: the last nodes of a cluster that is shut
// down have no quorum any more.
const leaveRecord = 5 * time.Second

// leaveAnnounce is how long a node tries to say that it is leaving before it
// stops its services all the same.
const leaveAnnounce = 3 * time.Second

// leaveLoop carries out a clean leave when asked to (rule O-5): phase leaving
// first, since assignments compare the boot record and none can commit from then
// on; the latch, so that none that came before starts; then all stopped, verified
// and reported; then the tombstone, while nothing that this boot owns is
// unaccounted for.
func (n *Node) leaveLoop(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-n.leave:
	}
	log := n.Log.With("component", "leave")
	log.Info("leaving: services stop here and move")
	n.setLeaving(ctx)
	n.Executor.Latch("this node is leaving")
	stopped := time.Duration(0) // since when nothing runs here
	return n.each(ctx, func(ctx context.Context, now time.Duration) (time.Duration, error) {
		s, _ := n.Mirror.Snapshot()
		switch {
		case len(n.Executor.Active()) > 0:
			stopped = 0
		case stopped == 0:
			stopped = now
		case now-stopped > leaveRecord:
			return 0, errors.New("stopped everything, but could not record the leave: the store has no quorum. Whatever starts first needs evidence that this boot has ended")
		}
		if _, ended := s.Ended[n.Self.ID]; ended {
			return 0, ErrLeft // our own word, of unknown outcome then; doomLoop has any other
		}
		guards, waits := n.accountFor(&s)
		if len(waits) > 0 || s.Boots[n.Self.ID].Value.Phase != cluster.PhaseLeaving {
			log.Debug("not stopped yet", "services", strings.Join(waits, " "))
			return commitRetry, nil
		}
		_, err := n.commit(ctx, store.Tx{Guards: guards, Writes: []cluster.Write{cluster.Put(cluster.KeyEnded(n.Self.ID), cluster.Ended{
			Boot: n.Self.ID, Node: n.Self.Node, Evidence: cluster.EvidenceLeave, Detail: "all services verified stopped",
		})}})
		if err != nil {
			return commitRetry, nil
		}
		log.Info("left the cluster")
		return 0, ErrLeft
	})
}

// accountFor returns the guards of the tombstone of a clean leave, and the
// services that are not accounted for yet. A service is, when this boot reported
// it stopped, or when there is no ticket of its: the latch is closed, so it was
// not started, and the tombstone bars a ticket that is still under way.
func (n *Node) accountFor(s *cluster.State) (guards []cluster.Guard, waits []string) {
	guards = []cluster.Guard{
		{Key: cluster.KeyBoot(n.Self.ID), Rev: s.Boots[n.Self.ID].Rev},
		{Key: cluster.KeyEnded(n.Self.ID)},
	}
	for name, owner := range s.Owners {
		if owner.Value.Boot != n.Self.ID {
			continue
		}
		ticket, report := s.Tickets[name], s.Reports[name]
		started := ticket.Value.Boot == n.Self.ID && ticket.Value.Generation == owner.Value.Generation
		ours := report.Value.Boot == n.Self.ID && report.Value.Generation == owner.Value.Generation
		stopped := ours && (report.Value.State == cluster.ReportStopped || report.Value.State == cluster.ReportFailed)
		if started && !stopped {
			waits = append(waits, string(name))
			continue
		}
		guards = append(guards, cluster.Guard{Key: cluster.KeyOwner(name), Rev: owner.Rev},
			cluster.Guard{Key: cluster.KeyTicket(name), Rev: ticket.Rev}, cluster.Guard{Key: cluster.KeyReport(name), Rev: report.Rev})
	}
	slices.Sort(waits)
	return guards, waits
}

// setLeaving closes the door for assignments: they compare the boot record.
// Without a quorum it gives up, since no assignment can commit then either.
func (n *Node) setLeaving(ctx context.Context) {
	for began := n.Clock.Now(); ctx.Err() == nil && n.Clock.Now()-began < leaveAnnounce; {
		s, _ := n.Mirror.Snapshot()
		boot := s.Boots[n.Self.ID]
		if boot.Value.Phase == cluster.PhaseLeaving {
			return
		}
		next := boot.Value
		next.Phase = cluster.PhaseLeaving
		_, err := n.commit(ctx, store.Tx{
			Guards: []cluster.Guard{{Key: cluster.KeyBoot(next.ID), Rev: boot.Rev}, {Key: cluster.KeyEnded(next.ID)}},
			Writes: []cluster.Write{cluster.Put(cluster.KeyBoot(next.ID), next)},
		})
		if err != nil {
			n.sleep(ctx, commitRetry)
		}
	}
}

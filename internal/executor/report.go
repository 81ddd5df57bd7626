package executor

import (
	"context"
	"strings"
	"sync"

	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// reporter writes the newest report of a service, and keeps trying: a report
// that is late costs time, a report that is lost would cost the service.
type reporter struct {
	w *worker

	mu      sync.Mutex // guards the three fields below
	pending *cluster.Report
	said    cluster.Report   // the newest one put, committed or not
	rev     cluster.Revision // of the last report committed here; 0 when in doubt
	news    chan struct{}    // capacity 1
}

func newReporter(w *worker) *reporter { return &reporter{w: w, news: make(chan struct{}, 1)} }

// put replaces what is to be reported. It does not block.
func (r *reporter) put(state cluster.ReportState, generation cluster.Generation, detail string, restarts int) {
	r.say(r.report(state, generation, detail, restarts))
}

// say is put with a whole report.
func (r *reporter) say(report cluster.Report) {
	r.mu.Lock()
	known := report == r.said
	if !known {
		r.pending, r.said = &report, report
	}
	r.mu.Unlock()
	if known {
		return
	}
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *reporter) report(state cluster.ReportState, generation cluster.Generation, detail string, restarts int) cluster.Report {
	return cluster.Report{
		Service: r.w.service, Node: r.w.Node, Boot: r.w.Boot, Generation: generation,
		State: state, Detail: clip(detail), Restarts: restarts,
	}
}

// detailLimitBytes bounds what an agent's words may take in the store.
const detailLimitBytes = 500

func clip(s string) string {
	if len(s) > detailLimitBytes {
		return strings.ToValidUTF8(s[:detailLimitBytes], "") + "…"
	}
	return s
}

func (r *reporter) pendingReport() (cluster.Report, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == nil {
		return cluster.Report{}, false
	}
	return *r.pending, true
}

// last returns the newest report put by this run of the daemon, whether the
// store and the mirror have it yet or not.
func (r *reporter) last() cluster.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said
}

// stands notes the revision at which a report was committed; 0 when in doubt.
func (r *reporter) stands(rev cluster.Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rev = rev
}

// guard compares the report that stands: one that was overtaken while its
// outcome was unknown must never arrive after its successor.
func (r *reporter) guard(s *cluster.State) cluster.Guard {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cluster.Guard{Key: cluster.KeyReport(r.w.service), Rev: max(r.rev, s.Reports[r.w.service].Rev)}
}

func (r *reporter) run(ctx context.Context) {
	for ctx.Err() == nil {
		report, ok := r.pendingReport()
		if !ok {
			wait(ctx, r.news)
			continue
		}
		if !r.commit(ctx, report) {
			clock.Sleep(ctx, r.w.Clock, commitRetry)
			continue
		}
		r.mu.Lock()
		if r.pending != nil && *r.pending == report {
			r.pending = nil
		}
		r.mu.Unlock()
	}
}

// commit writes a report while its boot and generation own the service; it
// returns true when there is nothing left to do. The start ticket is not
// compared: a report that the owner record allows is true whatever the epoch.
func (r *reporter) commit(ctx context.Context, report cluster.Report) bool {
	var owner cluster.Rec[cluster.Owner]
	var known bool
	var guard cluster.Guard
	r.w.Mirror.Read(func(s *cluster.State) {
		owner, known = s.Owners[report.Service]
		guard = r.guard(s)
	})
	if !known || owner.Value.Boot != report.Boot || owner.Value.Generation != report.Generation {
		return true // somebody else's by now
	}
	commitCtx, cancel := r.w.Clock.WithTimeout(ctx, commitTimeout)
	defer cancel()
	rev, err := r.w.Store.Commit(commitCtx, store.Tx{
		Guards: []cluster.Guard{{Key: cluster.KeyOwner(report.Service), Rev: owner.Rev}, guard},
		Writes: []cluster.Write{cluster.Put(cluster.KeyReport(report.Service), report)},
	})
	r.stands(rev)
	if err == nil {
		return true
	}
	r.w.log.Debug("report not committed", "state", report.State, "err", err)
	return false
}

package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/plan"
	"ringfence/internal/store"
	"ringfence/internal/wire/hostapi"
)

// fenceTimeout bounds one order to a host. What it cuts short is unknown.
const fenceTimeout = 10 * time.Second

// fenceLoop carries out the fence attempts that are assigned to this node.
func (n *Node) fenceLoop(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	return n.each(ctx, func(ctx context.Context, _ time.Duration) (time.Duration, error) {
		s, _ := n.Mirror.Snapshot()
		for id, fence := range s.Fences {
			_, ended := s.Ended[id]
			ended = ended && s.Contras[id].Rev == 0 // what answers is fenced once more
			if ended || fence.Value.Executor != n.Self.Node || n.tried[id] >= fence.Value.Attempt {
				continue
			}
			if report := s.FenceRp[id].Value; report.Attempt >= fence.Value.Attempt {
				continue // an earlier run of the daemon has reported it
			}
			n.tried[id] = fence.Value.Attempt
			wg.Go(func() { n.attempt(ctx, s, fence) })
		}
		return 0, nil
	})
}

// attempt makes one attempt and reports it. The record's revision is compared
// by the report, so that a late report never counts for a later attempt.
func (n *Node) attempt(ctx context.Context, s cluster.State, fence cluster.Rec[cluster.Fence]) {
	log := n.Log.With("component", "fencer", "victim", fence.Value.Node, "victim_boot", fence.Value.Boot, "attempt", fence.Value.Attempt)
	log.Info("fence attempt", "reason", string(fence.Value.Reason), "detail", fence.Value.Detail)
	began := n.Clock.Now()
	report := n.fenceLevel(ctx, &s, fence.Value)
	log.Info("fence attempt ended", "outcome", string(report.Outcome), "detail", report.Detail, "took", n.Clock.Now()-began)
	report.Boot, report.Attempt, report.Executor = fence.Value.Boot, fence.Value.Attempt, n.Self.Node
	n.reportAttempt(ctx, fence, report)
}

// reportAttempt writes the outcome of an attempt down, and keeps trying while
// it counts.
func (n *Node) reportAttempt(ctx context.Context, fence cluster.Rec[cluster.Fence], report cluster.FenceReport) {
	for ctx.Err() == nil {
		var standing cluster.Rec[cluster.FenceReport]
		var boot cluster.Boot
		n.Mirror.Read(func(s *cluster.State) { standing, boot = s.FenceRp[report.Boot], s.Boots[report.Boot].Value })
		if standing.Value.Outcome == cluster.OutcomeDone && standing.Value.Covers(boot) {
			return // off is off: no later word of another attempt may hide it
		}
		_, err := n.commit(ctx, store.Tx{
			Guards: []cluster.Guard{
				{Key: cluster.KeyFence(report.Boot), Rev: fence.Rev},
				{Key: cluster.KeyFenceReport(report.Boot), Rev: standing.Rev},
			},
			Writes: []cluster.Write{cluster.Put(cluster.KeyFenceReport(report.Boot), report)},
		})
		if err == nil {
			return
		}
		if errors.Is(err, store.ErrConflict) && !n.stillCounts(&fence, report.Outcome) {
			return
		}
		n.sleep(ctx, commitRetry)
	}
}

// stillCounts reports whether a report is still worth committing after a
// conflict: while its attempt is the present one, and, with the outcome done,
// also behind a newer attempt, since off is off. Other late outcomes are dropped.
func (n *Node) stillCounts(fence *cluster.Rec[cluster.Fence], outcome cluster.Outcome) bool {
	var newest cluster.Rec[cluster.Fence]
	stands := false
	n.Mirror.Read(func(s *cluster.State) { newest, stands = s.Fences[fence.Value.Boot] })
	if !stands || newest.Rev != fence.Rev && outcome != cluster.OutcomeDone {
		return false
	}
	fence.Rev = newest.Rev
	return true
}

// fenceLevel carries out all methods of the decision's level: done only if
// each is done, not done only if none may have happened.
func (n *Node) fenceLevel(ctx context.Context, s *cluster.State, fence cluster.Fence) cluster.FenceReport {
	if _, ok := s.Boots[fence.Boot]; !ok {
		return cluster.FenceReport{Outcome: cluster.OutcomeUnknown, Detail: "no record of the boot"}
	}
	levels := cluster.DefaultFence()
	if config, ok := s.Config.Value.Node(fence.Node); ok && len(config.Fence) > 0 {
		levels = config.Fence
	}
	var all cluster.FenceReport
	for _, method := range levels[fence.Level%len(levels)] {
		report := cluster.FenceReport{Outcome: cluster.OutcomeNotDone, Detail: fmt.Sprintf("fence method %s is not known to this version", method)}
		if method == cluster.FenceHostd {
			report = n.fenceByHosts(ctx, s.Boots[fence.Boot].Value, fence)
		}
		all.Detail += method + ": " + report.Detail
		if all.Outcome == cluster.OutcomePending { // of the first method
			all.Outcome, all.Places = report.Outcome, report.Places
		}
		all.Outcome = worse(all.Outcome, report.Outcome)
		maps.DeleteFunc(all.Places, func(h cluster.HostName, a cluster.Arrival) bool {
			verified, also := report.Places[h]
			return !also || verified != a
		})
	}
	if all.Outcome == cluster.OutcomePending {
		return cluster.FenceReport{Outcome: cluster.OutcomeUnknown, Detail: "the level names no method"}
	}
	return all
}

// worse combines the outcomes of methods, or of places, that must all be done.
func worse(a, b cluster.Outcome) cluster.Outcome {
	if a == cluster.OutcomeUnknown || b == cluster.OutcomeUnknown || a != b {
		return cluster.OutcomeUnknown
	}
	return a
}

// fenceRounds bounds how often one attempt asks again because the life has got
// another place meanwhile; then the next attempt goes on.
const fenceRounds = 3

// fenceByHosts asks the hosts at all places of the life for off(life), as the
// newest record has them. Their certificates and absences are committed first,
// so that the evidence stands whoever reads it. Done needs the word of every
// place, and one that saw the life end (rule P5, C-3).
func (n *Node) fenceByHosts(ctx context.Context, boot cluster.Boot, fence cluster.Fence) cluster.FenceReport {
	if boot.Life == "" || len(boot.Places) == 0 {
		return cluster.FenceReport{Outcome: cluster.OutcomeNotDone, Detail: "no host is known for this boot; confirm its end with `ringfence node confirm-dead " + string(fence.Node) + "`"}
	}
	report := cluster.FenceReport{Places: map[cluster.HostName]cluster.Arrival{}}
	proved := false
	for round := 0; round < fenceRounds && !(round > 0 && report.Covers(boot)); round++ {
		n.Mirror.Read(func(s *cluster.State) { boot = s.Boots[fence.Boot].Value })
		report.Outcome, report.Detail = n.offEverywhere(ctx, fence, boot, report.Places)
		if report.Outcome != cluster.OutcomeDone {
			return report
		}
		n.Mirror.Read(func(s *cluster.State) {
			boot = s.Boots[fence.Boot].Value
			proved = plan.Certified(s, boot)
		})
	}
	if !proved {
		report.Outcome = cluster.OutcomeUnknown
		report.Detail += "; but none of them saw it end"
	}
	return report
}

// offEverywhere asks all places that are not verified yet at the same time: one
// that does not answer delays no other.
func (n *Node) offEverywhere(ctx context.Context, fence cluster.Fence, boot cluster.Boot, verified map[cluster.HostName]cluster.Arrival) (cluster.Outcome, string) {
	type answer struct {
		outcome cluster.Outcome
		detail  string
	}
	if len(boot.Places) == 0 {
		return cluster.OutcomeUnknown, "the record of the boot is gone"
	}
	answers := make([]answer, len(boot.Places))
	var wg sync.WaitGroup
	for i, place := range boot.Places {
		wg.Go(func() { answers[i].outcome, answers[i].detail = n.offAt(ctx, fence, boot, place) })
	}
	wg.Wait()
	all, details := answers[0].outcome, []string{}
	for i, place := range boot.Places {
		all = worse(all, answers[i].outcome)
		details = append(details, fmt.Sprintf("host %s: %s", place, answers[i].detail))
		if answers[i].outcome == cluster.OutcomeDone {
			verified[place] = boot.Arrivals[place]
		}
	}
	return all, strings.Join(details, "; ")
}

// offAt asks one host.
func (n *Node) offAt(ctx context.Context, fence cluster.Fence, boot cluster.Boot, place cluster.HostName) (cluster.Outcome, string) {
	reply, err := n.hosts.order(ctx, place, func(ctx context.Context, host Host) (hostapi.Reply, error) {
		return host.Off(ctx, boot.Guest, hostapi.Order{
			Cluster: n.Cluster, Incarnation: n.Incarnation, Epoch: fence.Epoch,
			Decision: fmt.Sprintf("fence/%s", fence.Boot), Life: boot.Life,
		})
	})
	switch {
	case err != nil:
		return cluster.OutcomeUnknown, err.Error()
	case reply.Outcome != cluster.OutcomeDone:
		return reply.Outcome, reply.Detail
	case reply.Certificate != nil && n.hosts.commitCertificate(ctx, place, *reply.Certificate):
		return cluster.OutcomeDone, "off, verified"
	case reply.Absence != nil && reply.Absence.Covers(boot.Arrivals[place]) && n.hosts.commitAbsence(ctx, place, *reply.Absence):
		return cluster.OutcomeDone, "not there, and refused from now on"
	}
	return cluster.OutcomeUnknown, "it says done, but its certificate could not be verified and stored"
}

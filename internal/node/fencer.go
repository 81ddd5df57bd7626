package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ringfence/internal/cluster"
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
	outcome, detail := n.fenceLevel(ctx, &s, fence.Value)
	log.Info("fence attempt ended", "outcome", string(outcome), "detail", detail, "took", n.Clock.Now()-began)
	n.reportAttempt(ctx, fence, outcome, detail)
}

// reportAttempt writes the outcome of an attempt down, and keeps trying while
// it counts.
func (n *Node) reportAttempt(ctx context.Context, fence cluster.Rec[cluster.Fence], outcome cluster.Outcome, detail string) {
	report := cluster.FenceReport{
		Boot: fence.Value.Boot, Attempt: fence.Value.Attempt, Executor: n.Self.Node, Outcome: outcome, Detail: detail,
	}
	for ctx.Err() == nil {
		var standing cluster.Rec[cluster.FenceReport]
		n.Mirror.Read(func(s *cluster.State) { standing = s.FenceRp[report.Boot] })
		if standing.Value.Outcome == cluster.OutcomeDone {
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
		if errors.Is(err, store.ErrConflict) && !n.stillCounts(&fence, outcome) {
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
func (n *Node) fenceLevel(ctx context.Context, s *cluster.State, fence cluster.Fence) (cluster.Outcome, string) {
	boot, ok := s.Boots[fence.Boot]
	if !ok {
		return cluster.OutcomeUnknown, "no record of the boot"
	}
	levels := cluster.DefaultFence()
	if config, ok := s.Config.Value.Node(fence.Node); ok && len(config.Fence) > 0 {
		levels = config.Fence
	}
	all, detail := cluster.OutcomePending, ""
	for _, method := range levels[fence.Level%len(levels)] {
		outcome, said := cluster.OutcomeNotDone, fmt.Sprintf("fence method %s is not known to this version", method)
		if method == cluster.FenceHostd {
			outcome, said = n.fenceByHost(ctx, s, fence, boot.Value)
		}
		detail += method + ": " + said
		if all == cluster.OutcomePending {
			all = outcome // of the first method
		}
		all = worse(all, outcome)
	}
	if all == cluster.OutcomePending {
		return cluster.OutcomeUnknown, "the level names no method"
	}
	return all, detail
}

// worse combines the outcomes of methods that must all be done.
func worse(a, b cluster.Outcome) cluster.Outcome {
	if a == cluster.OutcomeUnknown || b == cluster.OutcomeUnknown || a != b {
		return cluster.OutcomeUnknown
	}
	return a
}

// fenceByHost asks the host at the life's place for off(life). Its certificate
// is committed first, so that the evidence stands whoever reads it.
func (n *Node) fenceByHost(ctx context.Context, s *cluster.State, fence cluster.Fence, boot cluster.Boot) (cluster.Outcome, string) {
	if boot.Life == "" || len(boot.Places) == 0 {
		return cluster.OutcomeNotDone, "no host is known for this boot; confirm its end with `ringfence node confirm-dead " + string(fence.Node) + "`"
	}
	detail := ""
	for _, place := range boot.Places {
		reply, err := n.hosts.order(ctx, place, func(ctx context.Context, host Host) (hostapi.Reply, error) {
			return host.Off(ctx, boot.Guest, hostapi.Order{
				Cluster: n.Cluster, Incarnation: n.Incarnation, Epoch: fence.Epoch,
				Decision: fmt.Sprintf("fence/%s", fence.Boot), Life: boot.Life,
			})
		})
		switch {
		case err != nil:
			return cluster.OutcomeUnknown, fmt.Sprintf("host %s: %v", place, err)
		case reply.Outcome != cluster.OutcomeDone:
			return reply.Outcome, fmt.Sprintf("host %s: %s", place, reply.Detail)
		case reply.Certificate == nil || !n.hosts.commitCertificate(ctx, place, *reply.Certificate):
			return cluster.OutcomeUnknown, fmt.Sprintf("host %s says done, but its certificate could not be verified and stored", place)
		}
		detail += fmt.Sprintf("host %s: off, verified", place)
	}
	return cluster.OutcomeDone, detail
}

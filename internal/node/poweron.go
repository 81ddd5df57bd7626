package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/wire/hostapi"
)

// powerLoop starts the fenced guests that this node is told to start.
func (n *Node) powerLoop(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	tried := map[cluster.BootID]int{}
	return n.each(ctx, func(ctx context.Context, _ time.Duration) (time.Duration, error) {
		s, _ := n.Mirror.Snapshot()
		for id, on := range s.PowerOn {
			done := s.PowerRp[id].Value.Attempt >= on.Value.Attempt // by an earlier run of the daemon
			if on.Value.Executor != n.Self.Node || done || tried[id] >= on.Value.Attempt {
				continue
			}
			tried[id] = on.Value.Attempt
			wg.Go(func() { n.powerOn(ctx, &s, on) })
		}
		return 0, nil
	})
}

// powerOn makes one attempt and reports it.
func (n *Node) powerOn(ctx context.Context, s *cluster.State, on cluster.Rec[cluster.PowerOn]) {
	outcome, detail := n.startGuest(ctx, s, on.Value)
	n.Log.Info("guest started anew", "component", "power", "guest_of", on.Value.Node, "attempt", on.Value.Attempt, "outcome", string(outcome), "detail", detail)
	report := cluster.PowerOnReport{
		Boot: on.Value.Boot, Attempt: on.Value.Attempt, Executor: n.Self.Node, Outcome: outcome, Detail: detail,
	}
	for ctx.Err() == nil {
		var present cluster.Rec[cluster.PowerOn]
		var standing cluster.Revision
		n.Mirror.Read(func(s *cluster.State) { present, standing = s.PowerOn[report.Boot], s.PowerRp[report.Boot].Rev })
		if present.Rev != on.Rev {
			return // the attempt counts no more
		}
		_, err := n.commit(ctx, store.Tx{
			Guards: []cluster.Guard{{Key: cluster.KeyPowerOn(report.Boot), Rev: on.Rev}, {Key: cluster.KeyPowerOnReport(report.Boot), Rev: standing}},
			Writes: []cluster.Write{cluster.Put(cluster.KeyPowerOnReport(report.Boot), report)},
		})
		if err == nil {
			return
		}
		n.sleep(ctx, commitRetry)
	}
}

// startGuest asks the host for on, unless the guest runs already wherever it is:
// a person may have started it meanwhile, perhaps on another host. Each attempt
// has a decision id of its own, for a host never carries one out twice.
func (n *Node) startGuest(ctx context.Context, s *cluster.State, on cluster.PowerOn) (cluster.Outcome, string) {
	seen, told := n.GuestSeen(on.Guest)
	switch former := s.Boots[on.Boot].Value.Life; {
	case told && seen.Life != "" && seen.Life == former:
		return cluster.OutcomeNotDone, "a host still shows it in the life that was fenced"
	case told && seen.Life != "":
		return cluster.OutcomeDone, fmt.Sprintf("a host shows it %s already, in life %s", seen.State, seen.Life)
	}
	reply, err := n.hosts.order(ctx, on.Host, func(ctx context.Context, host Host) (hostapi.Reply, error) {
		return host.On(ctx, on.Guest, hostapi.Order{
			Cluster: n.Cluster, Incarnation: n.Incarnation, Epoch: on.Epoch,
			Decision: fmt.Sprintf("power-on/%s/%d", on.Boot, on.Attempt),
		})
	})
	switch {
	case err != nil && reply.Outcome == "":
		return cluster.OutcomeUnknown, fmt.Sprintf("host %s: %v", on.Host, err)
	case err != nil:
		return reply.Outcome, fmt.Sprintf("host %s: %v", on.Host, err)
	case reply.Outcome == cluster.OutcomeDone:
		return cluster.OutcomeDone, fmt.Sprintf("host %s: life %s", on.Host, reply.Life)
	}
	return reply.Outcome, fmt.Sprintf("host %s: %s", on.Host, reply.Detail)
}

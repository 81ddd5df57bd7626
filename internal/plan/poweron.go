package plan

import (
	"fmt"
	"time"

	"ringfence/internal/cluster"
)

// Back-off between attempts to start a fenced guest anew. They never end: a host
// that comes back after a day finds its guest still wanted.
const (
	PowerOnFirst = time.Second
	PowerOnMost  = 30 * time.Second
)

// powerOn starts what was fenced, where the policy says so. Off and on are
// decisions of their own (P19): this one comes behind the tombstone, so that
// nothing that goes wrong here can touch the evidence.
func (p *planner) powerOn() {
	for i := range p.boots {
		b := &p.boots[i]
		on, decided := p.s.PowerOn[b.id()]
		switch {
		case !b.latest || !decided && !p.weFenced(b) || p.staysOff(b) != "":
		case !decided:
			p.decidePowerOn(b)
		default:
			p.retryPowerOn(b, on)
		}
	}
}

// weFenced reports whether a fence decision of ours ended the boot. What left,
// was shut down, crashed or was confirmed dead by a person is theirs to start.
func (p *planner) weFenced(b *standing) bool {
	return b.ended && b.doomed && p.s.Ended[b.id()].Value.Evidence == cluster.EvidenceFenced &&
		b.Value.Guest != "" && len(b.Value.Places) > 0
}

// staysOff says what keeps a fenced node off; "" is nothing. Who puts a node on
// standby is about to work on it, and is not surprised by a guest that starts.
func (p *planner) staysOff(b *standing) string {
	_, configured := p.s.Config.Value.Node(b.node())
	_, standby := p.s.Standby[b.node()]
	switch {
	case b.answers:
		return "stays as it is: it answers though it was fenced"
	case !configured || p.s.Nodes[b.node()].Rev == 0:
		return "stays off: it is not in the configuration"
	case p.s.Config.Value.AfterFenceOf(b.node()) != cluster.AfterFenceStart:
		return "stays off by after_fence: start it through its host"
	case standby:
		return "stays off while it is on standby"
	case p.disarmed() != "":
		return "stays off while the cluster is disarmed"
	}
	return ""
}

// wanted are the guards under which a fenced node may be started.
func (p *planner) wanted(b *standing) []cluster.Guard {
	return []cluster.Guard{
		guardOf(cluster.KeyConfig, p.s.Config.Rev), guardOf(cluster.KeyNode(b.node()), p.s.Nodes[b.node()].Rev),
		absent(cluster.KeyStandby(b.node())), absent(cluster.KeyDisarm),
	}
}

// decidePowerOn creates the one decision to start the guest of a fenced boot.
func (p *planner) decidePowerOn(b *standing) {
	executor := p.executor(b, "")
	if executor == "" {
		return
	}
	on := cluster.PowerOn{
		Boot: b.id(), Node: b.node(), Guest: b.Value.Guest, Host: p.lastPlace(b),
		Epoch: p.s.Leader.Value.Epoch, Attempt: 1, Executor: executor,
	}
	p.order(OrderPowerOn, string(b.id()), fmt.Sprintf("start %s anew on host %s, since its boot %s was fenced; attempt 1 by %s", b.node(), on.Host, b.id(), executor),
		append(p.wanted(b), absent(cluster.KeyPowerOn(b.id())),
			guardOf(cluster.KeyEnded(b.id()), b.endedRev), guardOf(cluster.KeyBoot(b.id()), b.Rev)),
		cluster.Put(cluster.KeyPowerOn(b.id()), on))
}

// lastPlace is the host that ended the life, by its certificate; else the place
// that was added last.
func (p *planner) lastPlace(b *standing) cluster.HostName {
	for _, place := range b.Value.Places {
		if cert, ok := p.s.CertificateOf(b.Value.Life, place); ok && cert.Value.Cause == cluster.CauseFenced {
			return place
		}
	}
	return b.Value.Places[len(b.Value.Places)-1]
}

// retryPowerOn assigns the next attempt when the last one was not done.
func (p *planner) retryPowerOn(b *standing, on cluster.Rec[cluster.PowerOn]) {
	report := p.s.PowerRp[b.id()]
	if report.Value.Outcome == cluster.OutcomeDone {
		return // it starts: its new boot registers, or a person looks why not
	}
	due, why := p.attemptDue(attempt{
		number: on.Value.Attempt, executor: on.Value.Executor, since: on.Since,
		report: cluster.FenceReport(report.Value), reported: report.Since, delay: backOff(on.Value.Attempt, PowerOnFirst, PowerOnMost),
	})
	if due > p.Now {
		p.wakeAt(due)
		return
	}
	next := on.Value
	next.Attempt++
	next.Executor = p.executor(b, on.Value.Executor)
	next.Epoch = p.s.Leader.Value.Epoch
	if next.Executor == "" {
		return
	}
	p.order(OrderPowerOn, string(b.id()), fmt.Sprintf("start %s anew on host %s, attempt %d by %s (%s)", b.node(), next.Host, next.Attempt, next.Executor, why),
		append(p.wanted(b), guardOf(cluster.KeyPowerOn(b.id()), on.Rev)),
		cluster.Put(cluster.KeyPowerOn(b.id()), next))
}

// whyOff says what becomes of a fenced node.
func (p *planner) whyOff(b *standing) []string {
	on, decided := p.s.PowerOn[b.id()]
	report := p.s.PowerRp[b.id()].Value
	switch bar := p.staysOff(b); {
	case !b.latest || !decided && !p.weFenced(b):
		return nil
	case report.Outcome == cluster.OutcomeDone:
		return []string{fmt.Sprintf("was started anew on host %s and has not joined yet (%s)", on.Value.Host, report.Detail)}
	case bar != "":
		return []string{bar}
	case !decided:
		return []string{"is to be started anew"}
	case report.Attempt == 0:
		return []string{fmt.Sprintf("is being started anew on host %s, attempt %d by %s", on.Value.Host, on.Value.Attempt, on.Value.Executor)}
	}
	return []string{fmt.Sprintf("is being started anew on host %s, attempt %d by %s; last report, of attempt %d: %s, %s; attempts go on",
		on.Value.Host, on.Value.Attempt, on.Value.Executor, report.Attempt, report.Outcome, report.Detail)}
}

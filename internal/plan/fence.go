package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ringfence/internal/cluster"
)

// Back-off between attempts of one fence decision; attempts never end (P19).
const (
	RetryFirst = 250 * time.Millisecond
	RetryMost  = 2 * time.Second
	// AttemptTimeout is how long the leader waits for an executor's report
	// before the next executor tries. It says nothing about the outcome.
	AttemptTimeout = 15 * time.Second
)

// endBoots writes a tombstone for every boot whose end is proved.
func (p *planner) endBoots() {
	for i := range p.boots {
		b := &p.boots[i]
		if b.ended {
			continue
		}
		kind, detail, guards := p.evidenceFor(b)
		if kind == "" {
			continue
		}
		p.ending = true
		guards = append(guards, absent(cluster.KeyEnded(b.id())), guardOf(cluster.KeyBoot(b.id()), b.Rev))
		p.order(OrderEnd, string(b.id()), fmt.Sprintf("boot %s of %s has ended: %s (%s)", b.id(), b.node(), kind, detail),
			guards, cluster.Put(cluster.KeyEnded(b.id()), cluster.Ended{
				Boot: b.id(), Node: b.node(), Evidence: kind, Detail: detail,
			}))
	}
}

// evidenceFor looks for the proof that a boot has ended; kind "" is none.
func (p *planner) evidenceFor(b *standing) (cluster.EvidenceKind, string, []cluster.Guard) {
	if kind, detail, guards := certified(p.s, b.Value); kind != "" {
		return kind, detail, guards
	}
	if report, ok := p.s.FenceRp[b.id()]; ok && b.doomed && fenced(report.Value, b.Value) && p.believes(b) {
		return cluster.EvidenceFenced, fmt.Sprintf("attempt %d by %s: %s", report.Value.Attempt, report.Value.Executor, report.Value.Detail),
			[]cluster.Guard{guardOf(cluster.KeyFenceReport(b.id()), report.Rev)}
	}
	for i := range p.boots {
		newer := &p.boots[i]
		if succeeds(newer.Value, b.Value) && sameMachine(newer.Value, b.Value) {
			return cluster.EvidenceSuperseded, fmt.Sprintf("boot %s runs there now", newer.id()),
				[]cluster.Guard{guardOf(cluster.KeyBoot(newer.id()), newer.Rev)}
		}
	}
	return "", "", nil
}

// fenced reports whether an attempt verified off wherever the life is by now.
func fenced(report cluster.FenceReport, boot cluster.Boot) bool {
	return report.Outcome == cluster.OutcomeDone && report.Covers(boot)
}

// notCovered says why a done is none.
func notCovered(b cluster.Boot) string {
	return ", but by now it is or may be on host " + joinHosts(b.Places)
}

// Certified reports whether every place of a boot's life has signed its end, or
// that it is not there: evidence that awaits its tombstone.
func Certified(s *cluster.State, b cluster.Boot) bool {
	kind, _, _ := certified(s, b)
	return kind != ""
}

// certified collects the word of every place of a boot's life (rules P5, P11).
// A certificate by a host where the life is not counts nothing, and so do
// absences alone: the life may have gone to a host of which nobody told us. It has
// not where one of them has booted anew while it had the life (rule P6).
func certified(s *cluster.State, b cluster.Boot) (cluster.EvidenceKind, string, []cluster.Guard) {
	if b.Life == "" {
		return "", "", nil
	}
	var kind cluster.EvidenceKind
	var details []string
	var guards []cluster.Guard
	for _, place := range b.Places {
		cert, signed := s.CertificateOf(b.Life, place)
		signed = signed && !void(s, b.Life, cert.Rev) && cert.Value.Guest == b.Guest && cert.Value.Cluster == s.Meta.Value.ID
		absence, absent := s.AbsenceOf(b, place)
		absent = absent && !(absence.Value.Restarted && void(s, b.Life, absence.Rev))
		switch {
		case doubtedBy(s, place) != "":
			return "", "", nil
		case signed:
			kind = strongest(kind, cert.Value.Cause)
			details = append(details, fmt.Sprintf("host %s, its no. %d: life %s, %s", place, cert.Value.Seq, cert.Value.Life, cert.Value.Cause))
			guards = append(guards, guardOf(cluster.KeyCertificate(b.Life, place), cert.Rev))
		case absent:
			if absence.Value.Restarted {
				kind = strongest(kind, cluster.CauseHostRestarted)
			}
			details = append(details, fmt.Sprintf("host %s, its no. %d: not there, %s", place, absence.Value.Seq, absence.Value.Why))
			guards = append(guards, guardOf(cluster.KeyAbsence(b.Life, place), absence.Rev))
		default:
			return "", "", nil
		}
	}
	return kind, strings.Join(details, "; "), guards
}

// strongest names the evidence after one more certificate: fenced and host
// restarted say more than that the life has ended.
func strongest(kind cluster.EvidenceKind, cause cluster.Cause) cluster.EvidenceKind {
	switch {
	case cause == cluster.CauseFenced:
		return cluster.EvidenceFenced
	case cause == cluster.CauseHostRestarted && kind != cluster.EvidenceFenced:
		return cluster.EvidenceHostRestarted
	case kind == "":
		return cluster.EvidenceCertificate
	}
	return kind
}

// succeeds reports whether a boot is a newer one of the same node.
func succeeds(newer, former cluster.Boot) bool {
	return newer.Node == former.Node && slices.Contains(newer.Predecessors, former.ID)
}

// sameMachine reports whether a newer boot proves that the former has ended:
// both in one life, or both on the same bare machine (rule P6).
func sameMachine(newer, former cluster.Boot) bool {
	if newer.Life != "" || former.Life != "" {
		return newer.Life == former.Life
	}
	return newer.Machine != "" && newer.Machine == former.Machine
}

// fenceLost decides to fence what the observers agree is lost. While the brake
// holds, only what its host shows standing still. A silent witness is left
// alone: it owns nothing that could be recovered. A planner that was away a
// moment ago decides nothing on silence, nor does a plan that ends boots: they
// observe nothing any more, and the next plan knows.
func (p *planner) fenceLost() {
	p.brake()
	if p.Abstain || p.ending {
		return
	}
	for i := range p.boots {
		b := &p.boots[i]
		if b.ended || b.doomed || !b.silent() || p.witness(b.node()) || p.plans(b) || p.dooms(b.lostBy) {
			continue
		}
		detail := fmt.Sprintf("lost by %s, %d of %d observers", joinNames(b.lostBy), len(b.lostBy), b.observers)
		guards := p.heardFrom()
		if p.braked != "" {
			word, views := p.stillness(b)
			if word == cluster.WordUnknown {
				continue
			}
			detail += fmt.Sprintf("; its host says %s", word)
			guards = views
		}
		p.decideFence(b, cluster.FenceSilent, detail, guards...)
	}
}

// dooms reports whether this plan dooms one of the accusers, who then accuses nobody
// (P17): the next plan knows.
func (p *planner) dooms(accusers []cluster.NodeName) bool {
	return slices.ContainsFunc(p.boots, func(b standing) bool {
		return b.latest && b.doomed && slices.Contains(accusers, b.node())
	})
}

// heardFrom guards that nobody says anything else by now, and that who has spoken
// still may: a view that this plan has not seen yet may pull the brake (rule P18),
// and who has ended meanwhile accuses nobody (P17). A leader that sees the store
// late would fence as if neither had been written.
func (p *planner) heardFrom() (guards []cluster.Guard) {
	for i := range p.boots {
		if b := &p.boots[i]; !b.ended && b.latest {
			guards = append(guards, guardOf(cluster.KeyView(b.node()), p.s.Views[b.node()].Rev), absent(cluster.KeyEnded(b.id())))
		}
	}
	return guards
}

// plans reports whether a boot is the one that makes this plan: whatever others
// hear of it, it lives. They claim the lead, and then may fence it.
func (p *planner) plans(b *standing) bool { return b.latest && b.node() == p.Self }

// stillness returns the word of a host that the guest of a silent boot does not
// run, with guards on what was said (rule P18). A host that shows it running to
// any of the accusers outweighs that: then the network between them is broken.
func (p *planner) stillness(b *standing) (word cluster.HostWord, said []cluster.Guard) {
	for _, accuser := range b.suspectBy {
		view := p.s.Views[accuser]
		said = append(said, guardOf(cluster.KeyView(accuser), view.Rev), absent(cluster.KeyEnded(view.Value.Boot)))
		switch one := view.Value.Words[b.id()]; one {
		case cluster.WordRunning:
			return cluster.WordUnknown, nil
		case cluster.WordPaused, cluster.WordOff:
			word = one
		}
	}
	return word, said
}

// brake looks whether half or more of the members are silent at once. That is a
// broken network far more often than so many deaths, so that nobody is fenced
// for silence then (rule P18): evidence still counts, and a person may give it.
// A witness that is heard speaks for the network as any member does. One that is
// not heard counts on neither side: it is not fenced for that, so that its silence
// may last, and must not keep a guest from being fenced.
func (p *planner) brake() {
	members, silent := 0, 0
	for i := range p.boots {
		b := &p.boots[i]
		if b.ended || !b.latest || b.Value.Phase == cluster.PhaseJoining || b.mute() && p.witness(b.node()) {
			continue
		}
		members++
		if b.mute() {
			silent++
		}
	}
	if silent > 1 && 2*silent >= members {
		p.braked = fmt.Sprintf("%d of %d members are silent at once: nobody is fenced for silence now but whom its host shows paused or off; restore the network, or say who is dead with `ringfence node confirm-dead`", silent, members)
	}
}

// disarmed says who keeps the cluster from fencing and recovering; "" is nobody.
func (p *planner) disarmed() string {
	if p.s.Disarm.Rev == 0 {
		return ""
	}
	return fmt.Sprintf("the cluster is disarmed by %s (%s): nobody is fenced and nothing is recovered until `ringfence cluster arm`", p.s.Disarm.Value.By, p.s.Disarm.Value.Reason)
}

// decideFence creates the one fence record of a boot, with its first attempt.
// The caller's guards are of what it was derived from besides.
func (p *planner) decideFence(b *standing, reason cluster.FenceReason, detail string, guards ...cluster.Guard) {
	executor := p.executor(b, "")
	if executor == "" || p.disarmed() != "" {
		return
	}
	b.doomed = true // for the rest of this plan
	p.order(OrderFence, string(b.id()), fmt.Sprintf("fence boot %s of %s, %s: %s; attempt 1 by %s", b.id(), b.node(), reason, detail, executor),
		append(guards,
			absent(cluster.KeyFence(b.id())), guardOf(cluster.KeyEnded(b.id()), b.endedRev), absent(cluster.KeyDisarm),
			guardOf(cluster.KeyBoot(b.id()), b.Rev),
			guardOf(cluster.KeyAppeal(b.id()), p.s.Appeals[b.id()].Rev), // an answer that came meanwhile counts (I6)
		),
		cluster.Put(cluster.KeyFence(b.id()), cluster.Fence{
			Boot: b.id(), Node: b.node(), Reason: reason, Detail: detail,
			Epoch: p.s.Leader.Value.Epoch, Attempt: 1, Executor: executor,
		}))
}

// retryFences assigns the next attempt of every decision that is not fulfilled.
func (p *planner) retryFences() {
	if p.disarmed() != "" {
		return // what is under way goes on: it was sent (P19)
	}
	for _, boot := range sortedKeys(p.s.Fences) {
		b, fence := p.byBoot[boot], p.s.Fences[boot]
		if b == nil || b.ended && !b.answers {
			continue
		}
		report := p.s.FenceRp[boot]
		if report.Value.Attempt == fence.Value.Attempt && report.Value.Outcome == cluster.OutcomeDone && !p.onceMore(b, fence) {
			if report.Value.Covers(b.Value) {
				p.wakeAt(p.Now + RetryMost)
				continue // endBoots of this plan takes it up
			}
			p.retry(b, fence, fmt.Sprintf("attempt %d by %s: done, %s%s", report.Value.Attempt, report.Value.Executor, report.Value.Detail, notCovered(b.Value)))
			continue
		}
		due, why := p.attemptDue(attempt{
			number: fence.Value.Attempt, executor: fence.Value.Executor, since: fence.Since,
			report: report.Value, reported: report.Since, delay: backOff(fence.Value.Attempt, RetryFirst, RetryMost),
		})
		if b.answers && fence.Rev <= p.s.Contras[boot].Value.Seen {
			due, why = p.Now, "it answers after its tombstone"
		}
		if due > p.Now {
			p.wakeAt(due)
			continue
		}
		p.retry(b, fence, why)
	}
}

// attempt is one attempt of a decision and what became of it.
type attempt struct {
	number   int
	executor cluster.NodeName
	since    time.Duration
	report   cluster.FenceReport // the last one; it may be of an earlier attempt
	reported time.Duration
	delay    time.Duration // behind a report that it was not done
}

// attemptDue says when the next attempt may go out, and what became of the last.
func (p *planner) attemptDue(a attempt) (time.Duration, string) {
	if a.report.Attempt == a.number {
		return a.reported + a.delay, fmt.Sprintf("attempt %d by %s: %s, %s", a.number, a.executor, a.report.Outcome, a.report.Detail)
	}
	if b := p.bootOf(a.executor); b == nil || b.ended || b.doomed || b.suspect() {
		return p.Now, fmt.Sprintf("attempt %d: executor %s is gone", a.number, a.executor)
	}
	return a.since + AttemptTimeout, fmt.Sprintf("attempt %d: no report by %s for %v", a.number, a.executor, AttemptTimeout)
}

// backOff doubles from first up to most.
func backOff(attempt int, first, most time.Duration) time.Duration {
	delay := first
	for i := 1; i < attempt && delay < most; i++ {
		delay *= 2
	}
	return min(delay, most)
}

func (p *planner) retry(b *standing, fence cluster.Rec[cluster.Fence], why string) {
	next := fence.Value
	next.Attempt++
	next.Executor = p.executor(b, fence.Value.Executor)
	if next.Executor == "" {
		return
	}
	next.Level = (next.Attempt - 1) % len(p.fenceLevels(b.node()))
	next.Epoch = p.s.Leader.Value.Epoch
	p.order(OrderRetry, string(b.id()), fmt.Sprintf("fence boot %s of %s again, attempt %d by %s (%s)", b.id(), b.node(), next.Attempt, next.Executor, why),
		[]cluster.Guard{
			guardOf(cluster.KeyFence(b.id()), fence.Rev), guardOf(cluster.KeyEnded(b.id()), b.endedRev), absent(cluster.KeyDisarm),
		},
		cluster.Put(cluster.KeyFence(b.id()), next))
}

// fenceLevels returns how a node is fenced.
func (p *planner) fenceLevels(node cluster.NodeName) [][]string {
	if n, ok := p.s.Config.Value.Node(node); ok && len(n.Fence) > 0 {
		return n.Fence
	}
	return cluster.DefaultFence()
}

// executor picks who carries out an attempt: first the planning node, then always
// the next healthy member behind the last executor, since a device may be
// reachable from some only.
func (p *planner) executor(victim *standing, last cluster.NodeName) cluster.NodeName {
	var able []cluster.NodeName // in the order of names, as boots are
	for i := range p.boots {
		b := &p.boots[i]
		healthy := b.state == cluster.NodeMember || b.state == cluster.NodeLeaving || b.state == cluster.NodeJoining
		if healthy && b.latest && !b.doomed && b.node() != victim.node() {
			able = append(able, b.node())
		}
	}
	switch {
	case len(able) == 0:
		return ""
	case last == "" && slices.Contains(able, p.Self):
		return p.Self
	}
	for _, name := range able {
		if name > last {
			return name
		}
	}
	return able[0]
}

func (p *planner) whyFence(b *standing) string {
	fence, ok := p.s.Fences[b.id()]
	if !ok {
		return "is being fenced now"
	}
	text := fmt.Sprintf("to be fenced (%s: %s); attempt %d by %s", fence.Value.Reason, fence.Value.Detail, fence.Value.Attempt, fence.Value.Executor)
	report, ok := p.s.FenceRp[b.id()]
	if !ok {
		return text + " is under way"
	}
	text = fmt.Sprintf("%s; last report, of attempt %d: %s, %s", text, report.Value.Attempt, report.Value.Outcome, report.Value.Detail)
	switch {
	case fenced(report.Value, b.Value):
		return text
	case report.Value.Outcome == cluster.OutcomeDone:
		text += notCovered(b.Value)
	}
	return fmt.Sprintf("%s; attempts go on; where no host can answer, turn it off by hand and say so with `ringfence node confirm-dead %s`", text, b.node())
}

package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"ringfence/internal/cluster"
)

// AppealAge is how long an answer of the accused counts: two refreshes of the
// accusing view. Older answers are no longer "at hand" (I6).
const AppealAge = 2 * time.Second

// standing is what the records say of one boot.
type standing struct {
	cluster.Rec[cluster.Boot]
	ended     bool
	endedRev  cluster.Revision
	doomed    bool           // a fence decision stands
	answers   bool           // it ran after its tombstone, and nothing else has ended it since
	latest    bool           // no newer boot of the node is registered
	probe     *cluster.Probe // what it has looked for itself; nil: nothing yet
	suspectBy []cluster.NodeName
	lostBy    []cluster.NodeName // subset of suspectBy
	observers int                // who may accuse it
	appealed  []cluster.NodeName // whose fresh nonce it answered
	current   bool               // among them the newest one of an accuser
	state     cluster.NodeState
}

func (b *standing) id() cluster.BootID { return b.Value.ID }

func (b *standing) node() cluster.NodeName { return b.Value.Node }

// judgeBoots computes the standing of every boot.
func (p *planner) judgeBoots() {
	p.byBoot = map[cluster.BootID]*standing{}
	for _, rec := range p.s.Boots {
		b := standing{Rec: rec, latest: true}
		if ended, ok := p.s.Ended[rec.Value.ID]; ok {
			b.ended, b.endedRev = true, ended.Rev
		}
		_, b.doomed = p.s.Fences[rec.Value.ID]
		b.answers = p.contradicted(rec.Value)
		if probe, ok := p.s.Probes[rec.Value.Node]; ok && probe.Value.Boot == rec.Value.ID {
			b.probe = &probe.Value
		}
		p.boots = append(p.boots, b)
	}
	slices.SortFunc(p.boots, func(a, b standing) int {
		return cmp.Or(cmp.Compare(a.node(), b.node()), cmp.Compare(a.id(), b.id()))
	})
	for i := range p.boots {
		p.byBoot[p.boots[i].id()] = &p.boots[i]
	}
	for i := range p.boots {
		for _, before := range p.boots[i].Value.Predecessors {
			if b := p.byBoot[before]; b != nil {
				b.latest = false
			}
		}
	}
	p.index = indexOf(p.s, p.boots)
	for i := range p.boots {
		p.hear(&p.boots[i])
		p.boots[i].state = p.bootState(&p.boots[i])
	}
}

// hear collects who accuses a boot. Observers are the members that have not
// ended, have no successor, are not doomed, do not abstain and are not the
// accused (rule P17). A boot with a successor observes nothing any more.
func (p *planner) hear(accused *standing) {
	if accused.ended {
		return
	}
	for i := range p.boots {
		observer := &p.boots[i]
		if observer.ended || observer.doomed || !observer.latest || observer.node() == accused.node() ||
			observer.Value.Phase == cluster.PhaseJoining {
			continue
		}
		view, ok := p.s.Views[observer.node()]
		if ok && view.Value.Boot == observer.id() && view.Value.Abstain {
			continue
		}
		accused.observers++
		if !ok || view.Value.Boot != observer.id() {
			continue
		}
		p.accuse(accused, view)
	}
	p.answers(accused)
}

func (p *planner) accuse(accused *standing, view cluster.Rec[cluster.View]) {
	silence := view.Value.Silent[accused.id()]
	if silence == "" || p.Now >= view.Since+AppealAge {
		return // who cannot refresh its view accuses nobody: its nonce is stale
	}
	p.wakeAt(view.Since + AppealAge)
	accused.suspectBy = append(accused.suspectBy, view.Value.Node)
	if silence == cluster.SilenceLost {
		accused.lostBy = append(accused.lostBy, view.Value.Node)
	}
}

// answers collects whose views the accused has answered a moment ago. An answer
// proves that it lives, also when its accuser counts for nothing itself (I6).
func (p *planner) answers(accused *standing) {
	appeal := p.s.Appeals[accused.id()]
	good := appeal.Since + AppealAge
	if len(accused.suspectBy) == 0 || len(appeal.Value.Answers) == 0 || p.Now >= good {
		return
	}
	accused.appealed = sortedKeys(appeal.Value.Answers)
	accused.current = slices.ContainsFunc(accused.suspectBy, func(accuser cluster.NodeName) bool {
		return appeal.Value.Answers[accuser] == p.s.Views[accuser].Rev
	})
	p.wakeAt(good)
}

// majority reports whether so many of the observers agree.
func (b *standing) majority(accusers []cluster.NodeName) bool {
	return len(accusers) > 0 && 2*len(accusers) > b.observers
}

// silent reports whether the observers agree that the boot is lost and no
// answer of its to a fresh nonce is at hand.
func (b *standing) silent() bool { return b.majority(b.lostBy) && len(b.appealed) == 0 }

// mute reports whether the boot counts as silent for the brake (rule P18): the
// observers agree, and it has answered the newest view of none of them. How old an
// answer is cannot be told here, since the reader's clock stamps what it reads
// late, or for the first time, as if it were new: that keeps a boot from being
// fenced, but must not keep the brake from being pulled.
func (b *standing) mute() bool { return b.majority(b.lostBy) && !b.current }

func (b *standing) suspect() bool { return b.majority(b.suspectBy) && len(b.appealed) == 0 }

func (p *planner) bootState(b *standing) cluster.NodeState {
	switch {
	case b.ended:
		switch p.s.Ended[b.id()].Value.Evidence {
		case cluster.EvidenceLeave:
			return cluster.NodeLeft
		case cluster.EvidenceFenced:
			return cluster.NodeFenced
		}
		return cluster.NodeEnded
	case b.doomed:
		return cluster.NodeLost
	case b.suspect():
		return cluster.NodeSuspect
	case b.Value.Phase == cluster.PhaseLeaving:
		return cluster.NodeLeaving
	case b.Value.Phase == cluster.PhaseMember:
		return cluster.NodeMember
	}
	return cluster.NodeJoining
}

// witness reports whether a node votes without services.
func (p *planner) witness(node cluster.NodeName) bool { return p.s.Nodes[node].Value.Witness }

// nodeStatus fills in the nodes of the result, in the order of their names.
func (p *planner) nodeStatus() {
	names := map[cluster.NodeName]bool{}
	for name := range p.s.Nodes {
		names[name] = true
	}
	for _, n := range p.s.Config.Value.Nodes {
		names[n.Name] = true
	}
	for _, name := range sortedKeys(names) {
		p.result.Nodes = append(p.result.Nodes, p.statusOf(name))
	}
}

func (p *planner) statusOf(name cluster.NodeName) NodeStatus {
	status := NodeStatus{Name: name}
	b := p.bootOf(name)
	switch {
	case b == nil && p.s.Nodes[name].Rev == 0:
		status.Why = append(status.Why, "is in the configuration but never joined: run `ringfence join` there")
	case b == nil:
		status.Why = append(status.Why, "has not booted since it joined")
	default:
		status.State, status.Boot, status.Places = b.state, b.id(), b.Value.Places
		status.Why = p.whyBoot(b)
	}
	for _, old := range p.unproved[name] {
		status.Unproved = append(status.Unproved, old.id())
		status.Why = append(status.Why, fmt.Sprintf("its earlier boot %s is not proved ended: if you know that it is, say so with `ringfence node confirm-dead %s --boot %s`", old.id(), name, old.id()))
	}
	if p.s.Nodes[name].Value.Removing {
		status.Why = append(status.Why, fmt.Sprintf("is being removed: `ringfence node remove %s` again completes it", name))
	}
	if probe := p.s.Probes[name].Value; b != nil && !b.ended && probe.Boot == b.id() {
		for _, service := range sortedKeys(probe.Autostart) {
			status.Why = append(status.Why, fmt.Sprintf("would start %s by itself: %s", service, probe.Autostart[service]))
		}
	}
	if _, standby := p.s.Standby[name]; standby {
		status.Why = append(status.Why, "is on standby")
	}
	return status
}

func (p *planner) whyBoot(b *standing) []string {
	var why []string
	if b.ended {
		ended := p.s.Ended[b.id()].Value
		why = append(append(why, fmt.Sprintf("%s: %s", ended.Evidence, ended.Detail)), p.whyOff(b)...)
		if b.answers {
			why = append(why, p.whyAnswers(b))
		}
		return why
	}
	if len(b.suspectBy) > 0 {
		why = append(why, fmt.Sprintf("not heard by %s (%d of %d observers, %d of them say lost)",
			joinNames(b.suspectBy), len(b.suspectBy), b.observers, len(b.lostBy)))
	}
	for _, word := range []cluster.HostWord{cluster.WordRunning, cluster.WordPaused, cluster.WordOff} {
		heard := slices.DeleteFunc(slices.Clone(b.suspectBy), func(accuser cluster.NodeName) bool {
			return p.s.Views[accuser].Value.Words[b.id()] != word
		})
		if len(heard) > 0 {
			why = append(why, fmt.Sprintf("its host says to %s that the guest is %s", joinNames(heard), word))
		}
	}
	if len(b.appealed) > 0 {
		why = append(why, "answers through the store, so it is not silent: check the heartbeat network")
	}
	if b.silent() && p.witness(b.node()) {
		why = append(why, fmt.Sprintf("is a silent witness: it owns nothing, so nobody is fenced for it; if it is gone for good: `ringfence node confirm-dead %s`, then `ringfence node remove %s`", b.node(), b.node()))
	}
	if b.doomed {
		why = append(why, p.whyFence(b))
	}
	why = append(why, p.whyPlaces(b.Value)...)
	return why
}

func joinNames(names []cluster.NodeName) string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		out = append(out, string(n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

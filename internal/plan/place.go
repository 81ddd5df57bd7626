package plan

import (
	"fmt"
	"time"

	"ringfence/internal/cluster"
)

// choose picks the boot that takes a service: the target of a move, else the
// first node of the service's own list, else the least loaded of all. With
// failedHere the present owner has just failed and is passed over.
func (r *serviceRun) choose(failedHere bool) *standing {
	if target := r.wish.Value.MoveTo; target != "" && !(failedHere && target == r.owner.Value.Node) {
		if bar := r.bar(target); bar == "" {
			return r.bootOf(target)
		}
	}
	var best *standing
	for _, name := range r.candidates(r.def) {
		if failedHere && name == r.owner.Value.Node {
			continue
		}
		if bar := r.bar(name); bar != "" {
			r.why("not on %s: it %s", name, bar)
			continue
		}
		b := r.bootOf(name)
		if best == nil || len(r.def.Nodes) == 0 && r.load[name] < r.load[best.node()] {
			best = b
		}
	}
	return best
}

// bar says why a node may not take the service now; "" when it may.
func (r *serviceRun) bar(name cluster.NodeName) string {
	if !r.allowed(name) {
		return "is not among its nodes"
	}
	if r.witness(name) {
		return "is a witness, which runs no services"
	}
	b := r.bootOf(name)
	if b == nil {
		return "has not booted"
	}
	if b.state != cluster.NodeMember {
		return "is " + string(b.state)
	}
	if b.doomed {
		return "is to be fenced"
	}
	if _, standby := r.s.Standby[name]; standby {
		return "is on standby"
	}
	if why := r.autostart(b); why != "" {
		return "would start it by itself: " + why
	}
	if old := r.unproved[name]; len(old) > 0 {
		return fmt.Sprintf("has an earlier boot (%s) that is not proved ended", old[0].id())
	}
	if why := r.banned(); why != "" {
		return why
	}
	return r.barFailure(name)
}

// banned says why the service can run nowhere: a node's agent called its
// parameters wrong, and the configuration is the same.
func (r *serviceRun) banned() string {
	f := r.bans[r.name]
	if f == nil {
		return ""
	}
	return fmt.Sprintf("cannot run it, as no node can with this configuration (%s, said on %s): correct it, or run `ringfence service clear %s`", f.Detail, f.Node, r.name)
}

// autostart says what would start the service at the next boot of a node.
func (r *serviceRun) autostart(b *standing) string {
	if b.probe == nil {
		return ""
	}
	return b.probe.Autostart[r.name]
}

// barFailure avoids a node that failed to run the service lately.
func (r *serviceRun) barFailure(name cluster.NodeName) string {
	failure, failed := r.s.FailureOf(r.name, name)
	if !failed {
		return ""
	}
	if failure.Value.Ban == cluster.BanNode && failure.Value.Config == r.s.Config.Rev {
		return fmt.Sprintf("cannot run it (%s), until that is repaired: run `ringfence service clear %s` then", failure.Value.Detail, r.name)
	}
	until := failure.Since + r.def.FailureExpiry
	if until <= r.Now {
		return ""
	}
	r.wakeAt(until)
	return fmt.Sprintf("failed to run it (%s), tried again in %v or after `ringfence service clear %s`",
		failure.Value.Detail, (until - r.Now + time.Second - 1).Truncate(time.Second), r.name)
}

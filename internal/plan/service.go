package plan

import (
	"fmt"
	"slices"

	"ringfence/internal/cluster"
)

// serviceRun is the planning of one service.
type serviceRun struct {
	*planner
	name   cluster.ServiceName
	def    *cluster.ServiceConfig // the zero value where it is not configured
	wanted bool                   // configured, and no operator wishes it stopped
	wish   cluster.Rec[cluster.Wish]
	owner  cluster.Rec[cluster.Owner]
	report cluster.Rec[cluster.Report] // zero unless of this owner and generation
	status ServiceStatus
}

// planService takes the next step of one service and says why.
func (p *planner) planService(name cluster.ServiceName) {
	def := p.services[name]
	configured := def != nil
	if !configured {
		def = &cluster.ServiceConfig{}
	}
	r := &serviceRun{planner: p, name: name, def: def, owner: p.s.Owners[name], wish: p.s.Wishes[name]}
	r.wanted = configured && !r.wish.Value.Stopped
	r.status = ServiceStatus{Name: name, Generation: r.owner.Value.Generation, Node: r.owner.Value.Node}
	if report, ok := p.s.Reports[name]; ok && report.Value.Boot == r.owner.Value.Boot &&
		report.Value.Generation == r.owner.Value.Generation {
		r.report = report
	}
	if r.owner.Value.Boot == "" {
		r.status.Node = ""
		r.unowned()
	} else {
		r.owned()
	}
	r.clearMove()
	p.result.Services = append(p.result.Services, r.status)
}

func (r *serviceRun) why(format string, args ...any) {
	r.status.Why = append(r.status.Why, fmt.Sprintf(format, args...))
}

// unowned looks for a node that may take the service.
func (r *serviceRun) unowned() {
	switch {
	case !r.wanted && r.wish.Value.Stopped:
		r.status.State = cluster.ServiceStopped
		r.why("stopped by %s; `ringfence service start %s` ends that", r.wish.Value.By, r.name)
	case !r.wanted:
		r.status.State = cluster.ServiceUnknown
	default:
		r.status.State = cluster.ServiceWaiting
		if !r.probed() {
			return
		}
		r.assign("nobody owns it", nil)
	}
}

// probed reports whether every boot that has not ended has looked for the
// service under this configuration, and found nothing (probe before start, P24):
// neither that it is active, nor that its machine would start it by itself. The
// latter bars a first start everywhere, since that machine's next boot would run
// it besides its owner; a recovery it bars there only, since it adds no danger
// that was not there before.
// A witness has no agents to look with, and nothing was ever started there.
func (r *serviceRun) probed() bool {
	ok := true
	for _, b := range r.present {
		switch {
		case r.witness(b.node()):
		case b.probe == nil || b.probe.Config < r.s.Config.Rev:
			ok = false
			r.why("waits until %s has looked whether it is active there", b.node())
		case b.probe.Autostart[r.name] != "":
			ok = false
			r.why("%s would start it by itself: %s", b.node(), b.probe.Autostart[r.name])
		}
	}
	if found := r.activeElsewhere(); found != "" {
		ok = false
		r.why("%s", found)
	}
	return ok
}

// activeElsewhere says which boot, not the owner, may have the service active by
// its own probe (rules P16, P24); "" when none has. A probe that is missing says
// nothing here: every boot was probed before it could own anything.
func (r *serviceRun) activeElsewhere() string {
	for _, b := range r.present {
		if b.probe != nil && b.probe.Active[r.name] != "" {
			return fmt.Sprintf("may be active on %s, which does not own it: %s", b.node(), b.probe.Active[r.name])
		}
	}
	return ""
}

// owned looks what became of the owner, in the order of certainty.
func (r *serviceRun) owned() {
	b := r.byBoot[r.owner.Value.Boot]
	if ended, ok := r.s.Ended[r.owner.Value.Boot]; ok && (b == nil || !b.answers) {
		r.afterEnd(ended)
		return
	}
	if b == nil { // cannot happen: boots are forgotten only when nothing refers to them
		r.status.State = cluster.ServiceRecovering
		r.why("owned by boot %s, of which there is no record: confirm its end with `ringfence node confirm-dead %s`", r.owner.Value.Boot, r.owner.Value.Node)
		return
	}
	if r.report.Value.State == cluster.ReportStopFailed && !b.doomed && !b.ended {
		r.decideFence(b, cluster.FenceStopFailed, fmt.Sprintf("service %s: %s", r.name, r.report.Value.Detail))
	}
	switch { // a verified stop is a last word, whatever becomes of the boot (P15)
	case r.report.Value.State == cluster.ReportFailed:
		r.status.State = cluster.ServiceFailed
		r.afterFailure(b)
	case r.report.Value.State == cluster.ReportStopped:
		r.status.State = cluster.ServiceStopping
		r.afterStop(b)
	case b.answers:
		r.status.State = cluster.ServiceRecovering
		r.why("owned by boot %s of %s: %s", b.id(), b.node(), r.whyAnswers(b))
	case b.doomed || b.suspect():
		r.status.State = cluster.ServiceRecovering
		r.why("owned by boot %s of %s, which is %s: waits for evidence of its end", b.id(), b.node(), b.state)
		r.status.Why = append(r.status.Why, r.whyBoot(b)...)
	default:
		r.running(b)
	}
}

// running keeps the order to the owner in step with what is wanted.
func (r *serviceRun) running(b *standing) {
	r.status.State = r.reported()
	if r.report.Value.Detail != "" {
		r.why("%s says: %s", b.node(), r.report.Value.Detail)
	}
	if r.owner.Value.Want == cluster.WantStop {
		r.status.State = cluster.ServiceStopping
		r.why("%s; waits until %s has stopped it, verified", r.owner.Value.Reason, b.node())
		return
	}
	r.why("on %s, generation %d: %s", b.node(), r.owner.Value.Generation, r.owner.Value.Reason)
	if reason := r.mustLeave(b); reason != "" {
		r.stop(reason)
	}
}

func (r *serviceRun) reported() cluster.ServiceState {
	switch r.report.Value.State {
	case cluster.ReportRunning:
		return cluster.ServiceRunning
	case cluster.ReportRestarting:
		return cluster.ServiceRestarting
	case cluster.ReportStopping:
		return cluster.ServiceStopping
	case cluster.ReportStopFailed:
		return cluster.ServiceRecovering
	}
	return cluster.ServiceStarting
}

// mustLeave says why the service shall stop where it is; "" when it may stay.
func (r *serviceRun) mustLeave(b *standing) string {
	target := r.wish.Value.MoveTo
	switch {
	case r.wish.Value.Stopped:
		return "stopped by " + r.wish.Value.By
	case !r.wanted:
		return "removed from the configuration"
	case b.Value.Phase == cluster.PhaseLeaving:
		return fmt.Sprintf("%s is leaving", b.node())
	case target != "" && target != b.node():
		if bar := r.bar(target); bar != "" {
			r.why("asked to move to %s, but that %s", target, bar)
			return ""
		}
		return fmt.Sprintf("moved to %s by %s", target, r.wish.Value.By)
	case !r.allowed(b.node()):
		return fmt.Sprintf("%s is not among its nodes any more", b.node())
	case r.changed():
		return "its definition has changed"
	}
	if _, standby := r.s.Standby[b.node()]; standby {
		return fmt.Sprintf("%s is on standby", b.node())
	}
	return ""
}

func (r *serviceRun) allowed(node cluster.NodeName) bool {
	return r.allows(r.def, node)
}

// changed reports whether what runs is not what is configured now. Only what
// reaches the agents counts: a new list of nodes or restart policy does not.
func (r *serviceRun) changed() bool {
	return !slices.EqualFunc(r.owner.Value.Definition.Resources, r.def.Resources, cluster.Resource.Equal)
}

// stop orders the owner to stop the service, verified.
func (r *serviceRun) stop(reason string) {
	next := r.owner.Value
	next.Want, next.Reason, next.Epoch = cluster.WantStop, reason, r.s.Leader.Value.Epoch
	r.status.State = cluster.ServiceStopping
	r.order(OrderStop, string(r.name), fmt.Sprintf("stop %s on %s: %s", r.name, next.Node, reason),
		[]cluster.Guard{guardOf(cluster.KeyOwner(r.name), r.owner.Rev)},
		cluster.Put(cluster.KeyOwner(r.name), next))
}

// afterEnd moves or releases a service whose owner has ended.
func (r *serviceRun) afterEnd(ended cluster.Rec[cluster.Ended]) {
	r.status.State = cluster.ServiceRecovering
	if why := r.disarmed(); why != "" {
		r.why("boot %s of %s has ended (%s); %s", ended.Value.Boot, ended.Value.Node, ended.Value.Evidence, why)
		return
	}
	evidence := []cluster.Guard{
		guardOf(cluster.KeyEnded(ended.Value.Boot), ended.Rev), absent(cluster.KeyDisarm),
		guardOf(cluster.KeyContradiction(ended.Value.Boot), r.s.Contras[ended.Value.Boot].Rev), // a sign of life that came meanwhile counts
	}
	r.moveOn(fmt.Sprintf("boot %s of %s has ended (%s)", ended.Value.Boot, ended.Value.Node, ended.Value.Evidence), evidence)
}

// afterStop moves or releases a service that its owner has verified stopped.
func (r *serviceRun) afterStop(b *standing) {
	r.moveOn(fmt.Sprintf("%s has stopped it, verified (%s)", b.node(), r.owner.Value.Reason),
		[]cluster.Guard{guardOf(cluster.KeyReport(r.name), r.report.Rev)})
}

// afterFailure remembers that the node could not run the service, then moves on.
func (r *serviceRun) afterFailure(b *standing) {
	if why := r.disarmed(); why != "" {
		r.why("%s could not run it: %s; %s", b.node(), r.report.Value.Detail, why)
		return
	}
	key := cluster.KeyFailure(r.name, b.node())
	failure, _ := r.s.FailureOf(r.name, b.node())
	next := cluster.Failure{Service: r.name, Node: b.node(), Count: failure.Value.Count + 1, Detail: r.report.Value.Detail, Ban: r.report.Value.Ban, Config: r.s.Config.Rev}
	guards := []cluster.Guard{guardOf(key, failure.Rev), guardOf(cluster.KeyReport(r.name), r.report.Rev), absent(cluster.KeyDisarm)}
	if r.changed() {
		next.Ban = cluster.BanNone // what failed is not what is configured now
	}
	reason := fmt.Sprintf("%s could not run it: %s", b.node(), r.report.Value.Detail)
	if next.Ban == cluster.BanCluster {
		r.release(reason, guards, cluster.Put(key, next)) // no other node could
		return
	}
	r.moveOn(reason, guards, cluster.Put(key, next))
}

// moveOn gives the service to another node in one transaction with what proves
// that the former owner may not run it any more, or releases it.
func (r *serviceRun) moveOn(reason string, proof []cluster.Guard, also ...cluster.Write) {
	if found := r.activeElsewhere(); r.wanted && found != "" {
		r.why("%s; but it %s", reason, found)
		return
	}
	if r.wanted && r.assign(reason, proof, also...) {
		return
	}
	if len(also) == 0 && r.wanted {
		r.why("%s", reason) // stays with the ended boot until a node can take it
		return
	}
	r.release(reason, proof, also...)
}

func (r *serviceRun) release(reason string, proof []cluster.Guard, also ...cluster.Write) {
	next := cluster.Owner{Service: r.name, Generation: r.owner.Value.Generation, Epoch: r.s.Leader.Value.Epoch, Reason: reason}
	r.load[r.owner.Value.Node]--
	r.order(OrderRelease, string(r.name), fmt.Sprintf("release %s: %s", r.name, reason),
		append(proof, guardOf(cluster.KeyOwner(r.name), r.owner.Rev)),
		append(also, cluster.Put(cluster.KeyOwner(r.name), next))...)
}

// assign makes a new owner, if any node may take the service.
func (r *serviceRun) assign(reason string, proof []cluster.Guard, also ...cluster.Write) bool {
	b := r.choose(len(also) > 0)
	if b == nil {
		return false
	}
	next := cluster.Owner{
		Service: r.name, Generation: r.owner.Value.Generation + 1, Node: b.node(), Boot: b.id(),
		Want: cluster.WantRun, Epoch: r.s.Leader.Value.Epoch, Definition: *r.def, Reason: reason,
	}
	if r.owner.Value.Boot != "" {
		r.load[r.owner.Value.Node]--
	}
	r.load[b.node()]++
	guards := append(proof,
		guardOf(cluster.KeyOwner(r.name), r.owner.Rev), guardOf(cluster.KeyBoot(b.id()), b.Rev),
		absent(cluster.KeyEnded(b.id())), absent(cluster.KeyFence(b.id())),
		guardOf(cluster.KeyConfig, r.s.Config.Rev), guardOf(cluster.KeyWish(r.name), r.wish.Rev))
	r.order(OrderAssign, string(r.name), fmt.Sprintf("start %s on %s, generation %d: %s", r.name, b.node(), next.Generation, reason),
		guards, append(also, cluster.Put(cluster.KeyOwner(r.name), next))...)
	return true
}

// clearMove ends a wish to move once it is fulfilled, so that it does not bind
// the next failover.
func (r *serviceRun) clearMove() {
	if r.wish.Value.MoveTo == "" || r.status.State != cluster.ServiceRunning || r.owner.Value.Node != r.wish.Value.MoveTo {
		return
	}
	guards := []cluster.Guard{guardOf(cluster.KeyWish(r.name), r.wish.Rev)}
	r.order(OrderTidy, string(r.name), fmt.Sprintf("%s has arrived on %s: the move is over", r.name, r.wish.Value.MoveTo),
		guards, cluster.Remove(cluster.KeyWish(r.name)))
}

package hostd

import (
	"errors"
	"fmt"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

// Refusal says that nothing was done, and why; it becomes a hostapi.Error.
type Refusal struct {
	Code    string // a hostapi.Code…
	Message string
}

func (r *Refusal) Error() string { return r.Message }

// Order is one call that changes a guest, with what the path said.
type Order struct {
	hostapi.Order
	Action string // a hostapi.Action…
	Guest  cluster.GuestID
}

// Lengths of what an order may bring, in bytes.
const (
	decisionLimitBytes = 256
	lifeLimitBytes     = 256
)

// Check reports what is wrong with an order by itself.
func (o Order) Check() error {
	bad := func(format string, args ...any) error {
		return &Refusal{hostapi.CodeBadRequest, fmt.Sprintf(format, args...)}
	}
	switch o.Action {
	case hostapi.ActionOff, hostapi.ActionPause, hostapi.ActionUnpause:
		if o.Life == "" {
			return bad("life: %s must name the life that it may touch", o.Action)
		}
	case hostapi.ActionOn:
		if o.Life != "" {
			return bad("life: on starts a new life and names none")
		}
	default:
		return bad("action %.20q: want off, on, pause or unpause", o.Action)
	}
	switch {
	case len(o.Life) > lifeLimitBytes:
		return bad("life: at most %d bytes", lifeLimitBytes)
	case o.Decision == "" || len(o.Decision) > decisionLimitBytes:
		return bad("decision: want 1 to %d bytes that name the decision", decisionLimitBytes)
	case o.Epoch == 0:
		return bad("epoch: want the epoch of the leader that decided, above 0")
	}
	return nil
}

// Result is what the hypervisor did with an order.
type Result struct {
	Err  error
	Life cluster.LifeID // the new life, after on
}

// Admit decides whether an order may be carried out, and makes its epoch
// durable first (rule P8). A *Refusal: no, and nothing was done. A reply: it
// is answered without the hypervisor. Neither: carry it out and call Settle.
func (l *Lives) Admit(o Order) (*hostapi.Reply, []Effect, error) {
	if err := o.Check(); err != nil {
		return nil, nil, err
	}
	if err := l.mayAct(o); err != nil {
		return nil, nil, err
	}
	entries, err := l.lead(o)
	if err != nil {
		return nil, nil, err
	}
	earlier, repeated := l.state().Decision(o.Cluster, o.Incarnation, o.Decision)
	if repeated && (earlier.Action != o.Action || earlier.Guest != o.Guest || earlier.Life != o.Life) {
		return nil, nil, &Refusal{hostapi.CodeBadRequest, fmt.Sprintf("decision %q was %s of guest %s before; a new decision needs a new name", o.Decision, earlier.Action, earlier.Guest)}
	}
	if o.Action != hostapi.ActionOff && !repeated {
		entries = append(entries, journal.Entry{Decision: o.entry(hostapi.Reply{})})
	}
	refuses, effects := l.refuse(o)
	entries = append(entries, refuses...)
	if len(entries) > 0 {
		if err := l.cfg.Journal.Append(entries...); err != nil {
			return &hostapi.Reply{Outcome: cluster.OutcomeNotDone, Detail: err.Error()}, nil, nil
		}
	}
	if repeated && o.Action != hostapi.ActionOff {
		return repeat(earlier), nil, nil
	}
	if asked := l.asked[o.Life]; asked != nil && len(effects) > 0 {
		delete(l.asked, o.Life)
	}
	return l.known(o), effects, nil
}

// refuse closes this host for a life that an order is to end, for good: what
// waits to arrive is refused, and nothing that comes later may begin (C-3).
func (l *Lives) refuse(o Order) ([]journal.Entry, []Effect) {
	life, known := l.state().Lives[o.Life]
	if o.Action != hostapi.ActionOff || !known || life.Refused || life.Status == journal.Ended {
		return nil, nil
	}
	life.Refused = true
	var effects []Effect
	if asked := l.asked[o.Life]; asked != nil {
		effects = append(effects, Effect{Answered: &Answered{Life: o.Life, Refused: "its cluster is ending the life"}})
	}
	return []journal.Entry{{Life: &life}}, effects
}

// mayAct checks permission, owner and subject of an order.
func (l *Lives) mayAct(o Order) error {
	if !l.cfg.Permissions.Allows(o.Cluster, o.Guest) {
		return forbidden(o.Cluster)
	}
	if owner := l.owner(o.Guest); owner != "" && owner != o.Cluster {
		return &Refusal{hostapi.CodeForbidden, fmt.Sprintf("guest %s belongs to cluster %s", o.Guest, owner)}
	}
	if life, ok := l.state().Lives[o.Life]; ok && life.Guest != o.Guest {
		return &Refusal{hostapi.CodeOtherLife, fmt.Sprintf("life %s belongs to guest %s", o.Life, life.Guest)}
	}
	return nil
}

func forbidden(c cluster.ClusterID) error {
	return &Refusal{hostapi.CodeForbidden, fmt.Sprintf("cluster %s may ask about no such guest; the host's administrator can allow it in the cluster's grant", c)}
}

// owner returns the cluster that claimed a guest. A claim ends when the
// administrator takes the guest out of that cluster's grant.
func (l *Lives) owner(g cluster.GuestID) cluster.ClusterID {
	owner := l.state().Claims[g]
	if owner == "" || !l.cfg.Permissions.Allows(owner, g) {
		return ""
	}
	return owner
}

// lead refuses orders of an older leadership and returns the entry that makes
// a newer one known.
func (l *Lives) lead(o Order) ([]journal.Entry, error) {
	highest := l.state().Leaderships[o.Cluster]
	caller := journal.Leadership{Cluster: o.Cluster, Incarnation: o.Incarnation, Epoch: o.Epoch}
	if newest := l.state().Incarnation(o.Cluster); o.Incarnation < newest {
		return nil, &Refusal{hostapi.CodeStaleEpoch, fmt.Sprintf("incarnation %d is older than incarnation %d, in which the cluster was recovered", o.Incarnation, newest)}
	}
	if caller.Less(highest) {
		return nil, &Refusal{hostapi.CodeStaleEpoch, fmt.Sprintf("incarnation %d epoch %d is older than incarnation %d epoch %d, which has spoken already", o.Incarnation, o.Epoch, highest.Incarnation, highest.Epoch)}
	}
	if highest.Less(caller) {
		return []journal.Entry{{Leadership: &caller}}, nil
	}
	return nil, nil
}

func (o Order) entry(r hostapi.Reply) *journal.Decision {
	return &journal.Decision{
		Cluster: o.Cluster, Incarnation: o.Incarnation, ID: o.Decision, Action: o.Action,
		Guest: o.Guest, Life: o.Life, Outcome: r.Outcome, Detail: r.Detail, NewLife: r.Life,
	}
}

// repeat answers a call that was made before. It is never carried out again:
// in between, a later decision may have undone it. One that was begun and has
// no result, for hostd died or the hypervisor did not answer, stays unknown.
func repeat(d journal.Decision) *hostapi.Reply {
	if d.Outcome == cluster.OutcomePending || d.Outcome == cluster.OutcomeUnknown {
		return &hostapi.Reply{Outcome: cluster.OutcomeUnknown, Detail: "an earlier call of this decision may have been carried out; decide anew"}
	}
	return &hostapi.Reply{Outcome: d.Outcome, Detail: d.Detail, Life: d.NewLife}
}

// known answers orders about a life that has ended. An ended life that the
// hypervisor shows again is not answered from memory: it must go.
func (l *Lives) known(o Order) *hostapi.Reply {
	if o.Action == hostapi.ActionOn || l.state().Lives[o.Life].Status != journal.Ended || l.runs(o.Guest, o.Life) {
		if o.Action == hostapi.ActionOff {
			l.fencing[o.Life] = o.Cluster
		}
		return nil
	}
	l.certifyLate(o)
	r := l.endedReply(o)
	if o.Action != hostapi.ActionOff {
		r.Outcome, r.Detail = cluster.OutcomeNotDone, "the life has ended"
	}
	return &r
}

// certifyLate signs an end that was seen here while no cluster was known to
// have claimed the guest: the claim was lost with an earlier journal. mayAct
// has checked that the cluster may act on the guest and nobody else owns it.
func (l *Lives) certifyLate(o Order) {
	if _, has := l.state().Certificates[o.Life]; has || o.Action != hostapi.ActionOff {
		return
	}
	cert := l.certify(l.state().Lives[o.Life], o.Cluster)
	if cert == nil {
		return
	}
	if err := l.cfg.Journal.Append(journal.Entry{Certificate: cert}); err != nil {
		l.log.Error("certificate not journalled; off will be asked for again", "life", o.Life, "err", err)
	}
}

// endedReply says that the life has ended, with the certificate if the cluster
// that asks has one.
func (l *Lives) endedReply(o Order) hostapi.Reply {
	r := hostapi.Reply{Outcome: cluster.OutcomeDone}
	if cert, ok := l.state().Certificates[o.Life]; ok && cert.Cluster == o.Cluster {
		r.Certificate = &cert.DeathCertificate
	}
	return r
}

// Settle takes what the hypervisor did with an admitted order and returns the
// answer, durable before it is given.
func (l *Lives) Settle(o Order, res Result) (hostapi.Reply, []Effect, error) {
	l.touch(o.Guest)
	if o.Action == hostapi.ActionOff {
		return l.settleOff(o, res.Err)
	}
	reply, effects, err := l.settleOther(o, res)
	if journalErr := l.cfg.Journal.Append(journal.Entry{Decision: o.entry(reply)}); journalErr != nil {
		return unknown(journalErr), effects, nil
	}
	return reply, effects, err
}

// settleOff: done means that this very life is verified gone.
//
//	the hypervisor ended it                              done
//	it had ended here before, by the journal             done
//	no life or another one runs, and the life was seen
//	here on a host that guests cannot leave              done
//	not running, and it has migrated away or was to
//	arrive: refused from now on                          done, with an absence
//	another life runs                                    refused: nothing was done
//	not running, no such guest, a timeout, anything      unknown
func (l *Lives) settleOff(o Order, err error) (hostapi.Reply, []Effect, error) {
	defer delete(l.fencing, o.Life)
	effects := l.Flush()
	if l.state().Lives[o.Life].Status == journal.Ended {
		if err == nil {
			effects = append(effects, l.gone(o)...)
		}
		if !l.runs(o.Guest, o.Life) || errors.Is(err, hypervisor.ErrNotRunning) || errors.Is(err, hypervisor.ErrOtherLife) {
			return l.endedReply(o), effects, nil
		}
		return unknown(err), effects, nil
	}
	switch {
	case err == nil, l.impliesEnd(o.Life, err):
		effects = append(effects, l.gone(o)...)
		effects = append(effects, l.record(fact{life: o.Life, guest: o.Guest, status: journal.Ended, cause: cluster.CauseFenced, on: o.Cluster})...)
		if l.state().Lives[o.Life].Status == journal.Ended {
			return l.endedReply(o), effects, nil
		}
		return hostapi.Reply{Outcome: cluster.OutcomeUnknown, Detail: "the life is gone, but the journal of the host takes no entry"}, effects, nil
	case notThere(err) && l.elsewhere(o.Life):
		effects = append(effects, l.record(fact{life: o.Life, guest: o.Guest, status: journal.Left, reason: hypervisor.ReasonMigrated, absent: "refused here, and not running", on: o.Cluster})...)
		return l.absentReply(o, err), append(effects, l.tell(o.Guest)...), nil
	case errors.Is(err, hypervisor.ErrOtherLife):
		return hostapi.Reply{}, effects, &Refusal{hostapi.CodeOtherLife, fmt.Sprintf("guest %s runs in another life than %s; nothing was done", o.Guest, o.Life)}
	}
	return unknown(err), effects, nil
}

// notThere: the hypervisor answered, and the named life is not on this host.
func notThere(err error) bool {
	return errors.Is(err, hypervisor.ErrNotRunning) || errors.Is(err, hypervisor.ErrOtherLife) || errors.Is(err, hypervisor.ErrNoGuest)
}

// elsewhere: the life is refused here since the order was admitted, and it was
// to arrive and cannot any more, or is known to have migrated away.
func (l *Lives) elsewhere(life cluster.LifeID) bool {
	known := l.state().Lives[life]
	_, waits := l.waiting(life)
	return !waits && known.Refused && (known.Status == journal.Arriving || hasMigrated(known))
}

// absentReply says that the life is not here and is refused from now on. It is
// no end: only the word of another place can be one.
func (l *Lives) absentReply(o Order, err error) hostapi.Reply {
	absence, ok := l.state().Absences[o.Life]
	if !ok || absence.Cluster != o.Cluster {
		return unknown(err)
	}
	return hostapi.Reply{Outcome: cluster.OutcomeDone, Absence: &absence.Absence, Detail: "not on this host: " + absence.Why}
}

// impliesEnd: the hypervisor has the guest without that life, the life was
// here, and there is no way by which it could have left.
func (l *Lives) impliesEnd(life cluster.LifeID, err error) bool {
	here := l.state().Lives[life].Status == journal.Here
	if f, waits := l.waiting(life); waits {
		here = f.status == journal.Here
	}
	return l.cfg.Immobile && here && (errors.Is(err, hypervisor.ErrNotRunning) || errors.Is(err, hypervisor.ErrOtherLife))
}

// gone updates the view after the life was verified off.
func (l *Lives) gone(o Order) []Effect {
	delete(l.confirmed, o.Life)
	if !l.runs(o.Guest, o.Life) {
		return nil
	}
	return l.view(hypervisor.Guest{ID: o.Guest, Name: l.views[o.Guest].Name, State: hypervisor.StateOff})
}

func unknown(err error) hostapi.Reply {
	r := hostapi.Reply{Outcome: cluster.OutcomeUnknown}
	if err != nil {
		r.Detail = err.Error()
	}
	return r
}

func (l *Lives) settleOther(o Order, res Result) (hostapi.Reply, []Effect, error) {
	notDone := hostapi.Reply{Outcome: cluster.OutcomeNotDone}
	switch {
	case res.Err == nil:
		return l.carriedOut(o, res)
	case errors.Is(res.Err, hypervisor.ErrOtherLife):
		return notDone, nil, &Refusal{hostapi.CodeOtherLife, fmt.Sprintf("guest %s runs in another life than %s; nothing was done", o.Guest, o.Life)}
	case errors.Is(res.Err, hypervisor.ErrRunning), errors.Is(res.Err, hypervisor.ErrNotRunning):
		notDone.Detail = res.Err.Error()
		return notDone, nil, nil
	}
	return unknown(res.Err), nil, nil
}

// carriedOut notes the life that on, pause or unpause leaves behind.
func (l *Lives) carriedOut(o Order, res Result) (hostapi.Reply, []Effect, error) {
	life, state := o.Life, hypervisor.StateRunning
	switch o.Action {
	case hostapi.ActionOn:
		life = res.Life
	case hostapi.ActionPause:
		state = hypervisor.StatePaused
	}
	if life == "" || len(life) > lifeLimitBytes {
		return unknown(errors.New("the hypervisor named no life")), nil, nil
	}
	reply := hostapi.Reply{Outcome: cluster.OutcomeDone}
	if o.Action == hostapi.ActionOn {
		reply.Life = life
	}
	if l.state().Lives[life].Status == journal.Ended {
		return reply, nil, nil // it has ended since, and its event was faster
	}
	return reply, l.sighted(o.Guest, life, state), nil
}

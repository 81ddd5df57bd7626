package hostd

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

// whyLimitBytes bounds the reason that a guest gives for its reset.
const whyLimitBytes = 512

// AdmitReset decides whether a guest that asks to be destroyed (rule P20) is the
// life that it says it is. guest is the fresh word of the hypervisor on the guest
// that owns the channel: a request that a former life left behind must not reach
// its successor. An error means that nothing was done.
func (l *Lives) AdmitReset(guest hypervisor.Guest, r hostapi.ResetRequest) error {
	switch {
	case r.Life == "" || len(r.Life) > lifeLimitBytes:
		return &Refusal{hostapi.CodeBadRequest, fmt.Sprintf("life: want 1 to %d bytes, as GET /v1/self names it", lifeLimitBytes)}
	case r.Why == "" || len(r.Why) > whyLimitBytes:
		return &Refusal{hostapi.CodeBadRequest, fmt.Sprintf("why: want 1 to %d bytes that say why this guest must go", whyLimitBytes)}
	case guest.Life != r.Life:
		return &Refusal{hostapi.CodeOtherLife, fmt.Sprintf("the hypervisor does not show guest %s in life %s; nothing was done", guest.ID, r.Life)}
	}
	if life, known := l.state().Lives[r.Life]; known && life.Guest != guest.ID {
		return &Refusal{hostapi.CodeOtherLife, fmt.Sprintf("life %s belongs to guest %s; nothing was done", r.Life, life.Guest)}
	}
	return nil
}

// SettleReset takes what the hypervisor did with an admitted reset. The end is
// durable, and its certificate signed, before the answer: the guest has none of
// it, but its cluster waits for it.
func (l *Lives) SettleReset(t Target, err error) (hostapi.Reply, []Effect) {
	l.touch(t.Guest)
	if err != nil {
		return unknown(err), nil // a later event or listing says what became of it
	}
	o := Order{Guest: t.Guest, Order: hostapi.Order{Life: t.Life}}
	effects := append(l.Flush(), l.gone(o)...)
	effects = append(effects, l.end(t.Guest, t.Life, cluster.CauseDestroyed)...)
	if l.state().Lives[t.Life].Status != journal.Ended {
		return unknown(errors.New("the life is gone, but the journal of the host takes no entry")), effects
	}
	return l.endedReply(o), effects
}

// reset destroys a life that asked for it over its own channel. It goes on when
// the caller is gone, as it soon will be: ctx is hostd's own.
func (a *actor) reset(ctx context.Context, t Target) hostapi.Reply {
	callCtx, cancel := context.WithTimeout(ctx, offTimeout)
	defer cancel()
	done, err := a.turns.take(callCtx, t.Guest)
	if err != nil {
		return unknown(errors.New("an earlier call for this guest is still under way"))
	}
	defer done()
	err = a.off(callCtx, t)
	a.relist()
	settleCtx, settled := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer settled()
	var reply hostapi.Reply
	keepErr := a.keeper.do(settleCtx, func(l *Lives) (effects []Effect) {
		reply, effects = l.SettleReset(t, err)
		return effects
	})
	if keepErr != nil {
		return unknown(keepErr)
	}
	return reply
}

// postReset is POST /v1/reset on the channel of one guest.
func (d *Daemon) postReset(r *http.Request, id cluster.GuestID) (hostapi.Reply, error) {
	var req hostapi.ResetRequest
	err := readBody(r, &req)
	var guest hypervisor.Guest
	if err == nil {
		guest, _, err = d.fresh(r.Context(), id)
	}
	if err == nil {
		err = d.admitReset(r.Context(), guest, req)
	}
	entry := AuditEntry{Remote: "channel", Action: "reset", Guest: id, Life: req.Life, Detail: req.Why}
	if err != nil {
		entry.Outcome, entry.Detail = "refused", err.Error()
		d.cfg.Audit.Note(entry)
		d.log.Warn("reset refused", "guest", id, "life", req.Life, "err", err)
		return hostapi.Reply{}, err
	}
	d.log.Error("guest asks to be destroyed: it could not stop what it runs", "guest", id, "life", req.Life, "why", req.Why)
	reply := d.actor.reset(d.ctx, Target{Guest: id, Life: req.Life})
	entry.Outcome = string(reply.Outcome)
	d.cfg.Audit.Note(entry)
	d.log.Info("reset", "guest", id, "life", req.Life, "outcome", reply.Outcome, "detail", reply.Detail)
	return reply, nil
}

func (d *Daemon) admitReset(ctx context.Context, guest hypervisor.Guest, req hostapi.ResetRequest) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	var refused error
	if err := d.keeper.do(ctx, func(l *Lives) []Effect { refused = l.AdmitReset(guest, req); return nil }); err != nil {
		return err
	}
	return refused
}

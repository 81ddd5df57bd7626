package hostd

import (
	"context"
	"fmt"
	"net/http"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
	"ringfence/internal/wire/voter"
)

// Voter confirms that the disk of the guest that asks is not older than what
// this host remembers of it (rule P22). What is remembered is durable before the
// answer. guest is the fresh word of the hypervisor. A memory from before the
// guest was at another host may refuse, but confirms nothing: the voter may have
// started there too. It confirms again once others have vouched for a start here.
func (l *Lives) Voter(guest hypervisor.Guest, c voter.Claim) (voter.Answer, error) {
	if err := c.Check(); err != nil {
		return voter.Answer{}, &Refusal{hostapi.CodeBadRequest, err.Error()}
	}
	if err := l.mayUse(guest, c.Cluster); err != nil {
		return voter.Answer{}, err
	}
	was, known := l.state().Voter(c.Cluster, c.Node)
	next, answer, err := was.Judge(c, l.state().Incarnation(c.Cluster))
	if err != nil {
		return answer, &Refusal{hostapi.CodeStaleVoter, fmt.Sprintf("host %s: %v", l.cfg.Host, err)}
	}
	if was.Elsewhere && !c.Vouched {
		return voter.Answer{}, nil
	}
	if !answer.Known || known && !was.Elsewhere && next.Count == was.Count && next.Identity == was.Identity && next.Incarnation == was.Incarnation {
		return answer, nil
	}
	if !known && l.state().VotersFull(c.Cluster) {
		return voter.Answer{}, &Refusal{hostapi.CodeForbidden, fmt.Sprintf("host %s remembers as many voters of cluster %s as it may", l.cfg.Host, c.Cluster)}
	}
	if err := l.cfg.Journal.Append(journal.Entry{Voter: &journal.Voter{Cluster: c.Cluster, Node: c.Node, Guest: guest.ID, Memory: next}}); err != nil {
		return voter.Answer{}, fmt.Errorf("remember the start of voter %s: %w", c.Node, err)
	}
	return answer, nil
}

// postVoter answers the claim of the guest at whose channel it came.
func (d *Daemon) postVoter(w http.ResponseWriter, r *http.Request, id cluster.GuestID) {
	var c voter.Claim
	err := readBody(r, &c)
	var answer voter.Answer
	if err == nil {
		answer, err = d.voter(r.Context(), id, c)
	}
	if err != nil {
		d.cfg.Audit.Note(AuditEntry{Cluster: c.Cluster, Name: string(c.Node), Remote: "channel", Action: "voter", Guest: id, Outcome: "refused", Detail: err.Error()})
		d.log.Warn("voter not confirmed", "guest", id, "cluster", c.Cluster, "node", c.Node, "err", err)
	}
	d.reply(w, answer, err)
}

func (d *Daemon) voter(ctx context.Context, id cluster.GuestID, c voter.Claim) (answer voter.Answer, err error) {
	guest, _, err := d.fresh(ctx, id)
	if err != nil {
		return answer, err
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	var refused error
	err = d.keeper.do(ctx, func(l *Lives) []Effect {
		answer, refused = l.Voter(guest, c)
		return nil
	})
	if err != nil {
		return voter.Answer{}, err
	}
	return answer, refused
}

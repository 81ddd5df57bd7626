package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/heartbeat"
	"ringfence/internal/store"
)

// life is the newest proof that a boot runs.
type life struct {
	asked    time.Duration    // when the nonce that it answered was drawn here; 0: none was
	revision cluster.Revision // that it had read
}

// proves notes what a beat proves of its sender. Beats that are late in the
// network prove no more than that: the nonce that they answer is as old as they.
func (p *pulse) proves(beat heartbeat.Received) {
	one := p.lives[beat.Boot]
	if beat.EchoOK {
		one.asked = max(one.asked, beat.EchoSent)
	}
	one.revision = max(one.revision, beat.Revision)
	p.lives[beat.Boot] = one
}

// alarming returns the boots that are proved to have run after their tombstone
// was written, with the proof (rule P11): they answered a nonce that was drawn
// after this node had read the tombstone, or had read it themselves.
func (p *pulse) alarming(s *cluster.State) map[cluster.BootID]string {
	var found map[cluster.BootID]string
	for id, one := range p.lives {
		if _, known := s.Boots[id]; !known {
			delete(p.lives, id)
			continue
		}
		ended, isEnded := s.Ended[id]
		how := ""
		switch {
		case !isEnded || s.Contras[id].Rev != 0 || !s.Contradicts(id):
		case one.asked > ended.Since:
			how = "its beats answer a nonce that was drawn after the tombstone"
		case one.revision >= ended.Rev:
			how = fmt.Sprintf("its beats say that it has read revision %d, the tombstone is of %d", one.revision, ended.Rev)
		}
		if how == "" {
			continue
		}
		if found == nil {
			found = map[cluster.BootID]string{}
		}
		found[id] = how
	}
	return found
}

// mute reports whether this boot has a tombstone and nothing more to prove by
// beats: a boot that has ended does not take part (rule P7).
func (n *Node) mute(s *cluster.State) bool {
	_, ended := s.Ended[n.Self.ID]
	return ended && (s.Contras[n.Self.ID].Rev != 0 || !s.Contradicts(n.Self.ID))
}

// alarmed returns the proofs of the last round.
func (p *pulse) alarmed() map[cluster.BootID]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.alarms)
}

// alarmLoop writes down that a boot ran after its tombstone, this one included:
// who reads its own tombstone lives.
func (n *Node) alarmLoop(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-n.Mirror.Ready():
	}
	return n.eachOr(ctx, n.pulse.alarm, func(ctx context.Context, _ time.Duration) (time.Duration, error) {
		s, _ := n.Mirror.Snapshot()
		proofs := n.pulse.alarmed()
		if s.Contradicts(n.Self.ID) {
			proofs = map[cluster.BootID]string{n.Self.ID: "it has read its own tombstone"}
		}
		for _, boot := range slices.Sorted(maps.Keys(proofs)) {
			if s.Contras[boot].Rev == 0 && s.Contradicts(boot) && !n.contradict(ctx, &s, boot, proofs[boot]) {
				return commitRetry, nil
			}
		}
		return 0, nil
	})
}

// contradict writes one contradiction, unless another node was first.
func (n *Node) contradict(ctx context.Context, s *cluster.State, boot cluster.BootID, how string) bool {
	c := cluster.NewContradiction(s, boot, n.Self.Node, how)
	_, err := n.commit(ctx, store.Tx{
		Guards: []cluster.Guard{
			{Key: cluster.KeyContradiction(boot)}, {Key: cluster.KeyEnded(boot), Rev: s.Ended[boot].Rev}, {Key: cluster.KeyBoot(boot), Rev: s.Boots[boot].Rev},
		},
		Writes: []cluster.Write{cluster.Put(cluster.KeyContradiction(boot), c)},
	})
	if err != nil {
		n.Log.Debug("contradiction not written", "component", "alarm", "of_boot", boot, "err", err)
		return false
	}
	n.Log.Error("a boot ran after its end was proved: that proof was false", "component", "alarm",
		"of_node", c.Node, "of_boot", boot, "evidence", string(c.Evidence), "hosts", c.Hosts, "proof", how)
	return true
}

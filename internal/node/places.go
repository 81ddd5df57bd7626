package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/wire/hostapi"
)

const (
	// placeTimeout bounds writing one place down; the host waits as long.
	placeTimeout = 5 * time.Second
	// placingLimit bounds the arrivals that are written down at the same time;
	// another node takes what is over.
	placingLimit = 64
)

// begin does one thing at a time for an arrival, apart from the stream that
// told of it.
func (h *hosts) begin(wg *sync.WaitGroup, a hostapi.Arriving, do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.placing[a] || len(h.placing) >= placingLimit {
		return
	}
	h.placing[a] = true
	wg.Go(func() {
		defer func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.placing, a)
		}()
		do()
	})
}

// arriving writes down that a life may be at a host from now on, and tells the
// host, which lets it come only then (rule P5).
func (h *hosts) arriving(ctx context.Context, link *hostLink, a hostapi.Arriving, may func(*cluster.State, cluster.HostName, hostapi.Arriving) string) {
	ctx, cancel := h.n.Clock.WithTimeout(ctx, placeTimeout)
	defer cancel()
	host := link.rec.Value.Name
	log := h.n.Log.With("component", "hosts", "host", host, "guest", a.Guest, "life", a.Life)
	placed := h.place(ctx, host, a, may)
	if placed.Revision == 0 && placed.Refused == "" {
		return // no quorum in time: the host refuses by itself
	}
	reply, err := link.client.Placed(ctx, placed)
	log.Info("host asks for a guest", "arrival", a.Arrival.Number, "member", placed.Member, "revision", placed.Revision, "refused", placed.Refused, "err", err)
	if err == nil && reply.Absence != nil {
		h.unsay(link, *reply.Absence)
		h.commitAbsence(ctx, host, *reply.Absence)
	}
}

// place makes host a place of every boot of the life that has not ended, and
// returns what to tell the host; the zero revision without refusal is: nothing.
func (h *hosts) place(ctx context.Context, host cluster.HostName, a hostapi.Arriving, may func(*cluster.State, cluster.HostName, hostapi.Arriving) string) hostapi.Placed {
	placed := hostapi.Placed{Arriving: a}
	for ctx.Err() == nil {
		s, err := h.n.current(ctx)
		if err == nil {
			if placed.Refused = may(&s, host, a); placed.Refused != "" {
				return placed
			}
			tx := placeTx(&s, host, a)
			if len(tx.Writes) == 0 {
				placed.Revision = s.Rev
				placed.Member = len(tx.Guards) > 0
				return placed
			}
			_, err = h.n.commit(ctx, tx)
		}
		if err != nil && !errors.Is(err, store.ErrConflict) {
			h.n.sleep(ctx, commitRetry)
		}
	}
	return placed
}

// current returns a snapshot that is not older than the call: that a life has
// no boot may not be concluded from an old one.
func (n *Node) current(ctx context.Context) (cluster.State, error) {
	ctx, cancel := n.Clock.WithTimeout(ctx, commitTimeout)
	defer cancel()
	_, rev, err := n.Store.Load(ctx, cluster.KeyMeta)
	if err == nil {
		err = n.Mirror.WaitFor(ctx, rev)
	}
	s, _ := n.Mirror.Snapshot()
	return s, err
}

// placeTx adds a place to the boots of a life. It guards every boot that has not
// ended and writes those that lack the place.
func placeTx(s *cluster.State, host cluster.HostName, a hostapi.Arriving) (tx store.Tx) {
	for _, id := range lifeBoots(s, a.Life) {
		boot := s.Boots[id]
		tx.Guards = append(tx.Guards, cluster.Guard{Key: cluster.KeyBoot(id), Rev: boot.Rev},
			cluster.Guard{Key: cluster.KeyEnded(id)}, cluster.Guard{Key: cluster.KeyFence(id), Rev: s.Fences[id].Rev})
		if !isPlace(boot.Value, host, a.Arrival) {
			tx.Writes = append(tx.Writes, cluster.Put(cluster.KeyBoot(id), boot.Value.Arrive(host, a.Arrival)))
		}
	}
	key := cluster.KeyAbsence(a.Life, host)
	if said, stands := s.Absence[string(a.Life)+"/"+string(host)]; stands && len(tx.Writes) > 0 {
		tx.Guards = append(tx.Guards, cluster.Guard{Key: key, Rev: said.Rev})
		tx.Writes = append(tx.Writes, cluster.Remove(key))
	}
	return tx
}

// isPlace reports whether the record has a host as a place by that arrival. A
// saved guest comes back to such a place: nothing is to be written down.
func isPlace(boot cluster.Boot, host cluster.HostName, arrival cluster.Arrival) bool {
	return slices.Contains(boot.Places, host) && boot.Arrivals[host] == arrival
}

// anyway lets a life be where it is seen already.
func anyway(*cluster.State, cluster.HostName, hostapi.Arriving) string { return "" }

// barred says why a life may not come to a host; "" is it may. A life of which
// the cluster has a tombstone is an old memory image (C-6), and so is one of a
// guest that has registered in another life.
func barred(s *cluster.State, host cluster.HostName, a hostapi.Arriving) string {
	if _, signed := s.CertificateOf(a.Life, host); signed {
		return fmt.Sprintf("host %s has certified the end of life %s", host, a.Life)
	}
	known, other := false, cluster.NodeName("")
	for id, boot := range s.Boots {
		ended, over := s.Ended[id]
		left := over && ended.Value.Evidence == cluster.EvidenceLeave
		switch {
		case boot.Value.Life == a.Life && boot.Value.Guest != a.Guest:
			return fmt.Sprintf("life %s is of guest %s", a.Life, boot.Value.Guest)
		case boot.Value.Life == a.Life && over && !left && ended.Value.Evidence != cluster.EvidenceSuperseded:
			return fmt.Sprintf("boot %s of %s in this life has ended (%s)", id, boot.Value.Node, ended.Value.Evidence)
		case boot.Value.Life == a.Life && !over && s.Fences[id].Rev != 0 && !isPlace(boot.Value, host, a.Arrival):
			return fmt.Sprintf("boot %s of %s is being fenced", id, boot.Value.Node)
		case boot.Value.Life == a.Life:
			known = true
		case boot.Value.Guest == a.Guest && !left:
			other = cmp.Or(other, boot.Value.Node)
		}
	}
	if !known && other != "" {
		return fmt.Sprintf("the guest is node %s, which has not registered in this life: start ringfence in it first, or start the guest anew", other)
	}
	return ""
}

// lifeBoots returns the boots of a life that have not ended, in order.
func lifeBoots(s *cluster.State, life cluster.LifeID) []cluster.BootID {
	var ids []cluster.BootID
	for id, boot := range s.Boots {
		if _, ended := s.Ended[id]; !ended && boot.Value.Life == life {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// commitAbsence verifies an absence that came from a host and makes it a record,
// where a boot has that host as a place by an arrival that it covers. It
// returns whether the host has spoken for every boot of the life.
func (h *hosts) commitAbsence(ctx context.Context, from cluster.HostName, a cluster.Absence) bool {
	s, _ := h.n.Mirror.Snapshot()
	log := h.n.Log.With("component", "hosts", "host", from, "life", a.Life)
	host, enrolled := s.Hosts[from]
	if !enrolled || a.Host != from || a.Cluster != h.n.Cluster {
		log.Error("absence refused: it is not this host's, or not for this cluster", "claims_host", a.Host, "claims_cluster", a.Cluster)
		return false
	}
	if err := hostapi.VerifyAbsence(host.Value.SigningKey, a); err != nil {
		log.Error("absence refused", "err", err)
		return false
	}
	tx, need, newest := absenceTx(&s, a)
	if !need {
		if newest > 0 {
			h.ack(ctx, from, a.Seq, newest)
		} else {
			h.keepAbsence(a) // the record of its boot may be on the way
		}
		return newest > 0
	}
	rev, err := h.n.commit(ctx, tx)
	if err != nil {
		log.Debug("absence not stored yet", "err", err)
		h.keepAbsence(a)
		return false
	}
	log.Info("a life is not at a host any more", "why", a.Why, "seq", a.Seq, "final", a.Final, "revision", rev)
	h.ack(ctx, from, a.Seq, rev)
	return true
}

// absenceTx stores an absence. need is false when no boot needs it, or it
// stands; newest is the revision that says so, 0 when no boot is known.
func absenceTx(s *cluster.State, a cluster.Absence) (tx store.Tx, need bool, newest cluster.Revision) {
	standing := s.Absence[string(a.Life)+"/"+string(a.Host)]
	key := cluster.KeyAbsence(a.Life, a.Host)
	tx.Guards = []cluster.Guard{{Key: key, Rev: standing.Rev}}
	for _, id := range lifeBoots(s, a.Life) {
		boot := s.Boots[id]
		newest = max(newest, boot.Rev, standing.Rev)
		if _, spoken := s.AbsenceOf(boot.Value, a.Host); spoken || !slices.Contains(boot.Value.Places, a.Host) || !a.Covers(boot.Value.Arrivals[a.Host]) {
			continue
		}
		need = true
		tx.Guards = append(tx.Guards, cluster.Guard{Key: cluster.KeyBoot(id), Rev: boot.Rev})
	}
	tx.Writes = []cluster.Write{cluster.Put(key, a)}
	return tx, need, newest
}

func (h *hosts) keepAbsence(a cluster.Absence) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := cluster.KeyAbsence(a.Life, a.Host)
	if h.absent[key].Seq <= a.Seq && (len(h.absent) < pendingLimit || h.absent[key].Seq > 0) {
		h.absent[key] = a
	}
}

// knownAbsences takes out the kept absences whose life has a boot by now.
func (h *hosts) knownAbsences(s *cluster.State) []cluster.Absence {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []cluster.Absence
	for key, a := range h.absent {
		if len(lifeBoots(s, a.Life)) > 0 {
			delete(h.absent, key)
			found = append(found, a)
		}
	}
	return found
}

// unsay drops what a host said of a guest before it signed that its life is not
// there: else the same place would be written down again and again.
func (h *hosts) unsay(link *hostLink, a cluster.Absence) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g := link.guests[a.Guest]; g.Life == a.Life && a.Covers(g.Arrival) {
		delete(link.guests, a.Guest)
	}
}

// placeStrays writes down where a host shows a life of this cluster that has no
// place there: it came past the guard, or its first boot registered while it
// migrated, with the binding of the host that it has left. To ask one place more can
// do no harm.
func (h *hosts) placeStrays(ctx context.Context, wg *sync.WaitGroup, s *cluster.State) {
	for link, strays := range h.strays(s) {
		for _, a := range strays {
			h.begin(wg, a, func() { h.arriving(ctx, link, a, anyway) })
		}
	}
}

// strays returns the arrivals to write down, by the host that shows them.
func (h *hosts) strays(s *cluster.State) map[*hostLink][]hostapi.Arriving {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found map[*hostLink][]hostapi.Arriving
	for id, boot := range s.Boots {
		if _, ended := s.Ended[id]; ended || boot.Value.Life == "" {
			continue
		}
		for host, link := range h.links {
			g, shown := link.guests[boot.Value.Guest]
			if !shown || g.Life != boot.Value.Life || g.State == "" || slices.Contains(boot.Value.Places, host) {
				continue
			}
			if found == nil {
				found = map[*hostLink][]hostapi.Arriving{}
			}
			found[link] = append(found[link], hostapi.Arriving{Guest: g.ID, Life: g.Life, Arrival: g.Arrival})
		}
	}
	return found
}

package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostclient"
	"ringfence/internal/hypervisor"
	"ringfence/internal/store"
	"ringfence/internal/wire/hostapi"
)

// Timings and bounds towards hosts.
const (
	redialFirst = 100 * time.Millisecond
	redialMost  = time.Second
	// pendingLimit bounds certificates kept for lives that no boot is known of yet.
	pendingLimit = 1024
)

// hosts keeps one event stream to every enrolled host and turns certificates
// into records.
type hosts struct {
	n *Node

	mu      sync.Mutex // guards the fields below
	links   map[cluster.HostName]*hostLink
	pending map[string]cluster.DeathCertificate // by key of the record: of lives without a known boot
	absent  map[string]cluster.Absence          // by key of the record: not stored yet
	placing map[hostapi.Arriving]bool           // arrivals that are being written down
}

// hostLink is the connection to one host as it was enrolled at one revision.
type hostLink struct {
	rec    cluster.Rec[cluster.Host]
	client Host
	cancel context.CancelFunc
	alive  bool                              // the event stream is up
	guests map[cluster.GuestID]hostapi.Guest // its last word on each, on this stream
}

func (h *hosts) init(n *Node) {
	h.n = n
	h.links = map[cluster.HostName]*hostLink{}
	h.pending = map[string]cluster.DeathCertificate{}
	h.absent = map[string]cluster.Absence{}
	h.placing = map[hostapi.Arriving]bool{}
}

// run follows the host records and the pending certificates.
func (h *hosts) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	return h.n.each(ctx, func(ctx context.Context, _ time.Duration) (time.Duration, error) {
		s, _ := h.n.Mirror.Snapshot()
		h.dialNew(ctx, &wg, &s)
		h.ackNeedless(ctx, &s)
		h.placeStrays(ctx, &wg, &s)
		known := h.known(&s)
		for _, cert := range known {
			h.commitCertificate(ctx, cert.Host, cert)
		}
		absences := h.knownAbsences(&s)
		for _, absence := range absences {
			h.commitAbsence(ctx, absence.Host, absence)
		}
		if len(known)+len(absences) > 0 {
			return commitRetry, nil // what could not be stored is tried again
		}
		return 0, nil
	})
}

// dialNew connects to hosts that are new or enrolled anew, and drops the others.
func (h *hosts) dialNew(ctx context.Context, wg *sync.WaitGroup, s *cluster.State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, link := range h.links {
		if rec, still := s.Hosts[name]; !still || rec.Rev != link.rec.Rev {
			link.cancel()
			delete(h.links, name)
		}
	}
	for name, rec := range s.Hosts {
		if h.links[name] != nil {
			continue
		}
		client, err := h.n.DialHost(rec.Value)
		if err != nil {
			h.n.Log.Error("host record cannot be used; enrol the host again", "component", "hosts", "host", name, "err", err)
			continue
		}
		linkCtx, cancel := context.WithCancel(ctx)
		link := &hostLink{rec: rec, client: client, cancel: cancel}
		h.links[name] = link
		wg.Go(func() { h.follow(linkCtx, link) })
	}
}

// follow keeps the event stream of one host up.
func (h *hosts) follow(ctx context.Context, link *hostLink) {
	defer link.client.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	log := h.n.Log.With("component", "hosts", "host", link.rec.Value.Name)
	delay := redialFirst
	for ctx.Err() == nil {
		err := link.client.Stream(ctx, 0, func(e hostclient.Event) error {
			delay = redialFirst
			h.setAlive(link, true)
			h.take(ctx, &wg, link, e)
			return nil
		})
		if h.setAlive(link, false) && ctx.Err() == nil {
			log.Warn("host cannot be asked", "err", err)
		}
		h.n.sleep(ctx, delay)
		delay = min(2*delay, redialMost)
	}
}

// setAlive notes whether the stream is up and returns whether it was. With the
// stream go the words that came on it: they may be wrong by now.
func (h *hosts) setAlive(link *hostLink, alive bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := link.alive
	link.alive = alive
	if !alive {
		link.guests = nil
	}
	return was
}

// reachable reports whether the event stream of a host is up.
func (h *hosts) reachable(name cluster.HostName) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.links[name] != nil && h.links[name].alive
}

// HostReachable reports whether a host's event stream is up.
func (n *Node) HostReachable(name cluster.HostName) bool { return n.hosts.reachable(name) }

// GuestSeen returns the last word on a guest of a host whose stream is up; of
// several hosts, one that has it in a life.
func (n *Node) GuestSeen(id cluster.GuestID) (hostapi.Guest, bool) {
	n.hosts.mu.Lock()
	defer n.hosts.mu.Unlock()
	var seen hostapi.Guest
	found := false
	for _, link := range n.hosts.links {
		guest, known := link.guests[id]
		if known && (!found || seen.Life == "") {
			seen, found = guest, true
		}
	}
	return seen, found
}

// word is what the hosts at the places of a boot's life say of it now, and
// whether one of them says that it is moving. A place that does not tell may let
// it act, so unknown outweighs the word of the others.
func (h *hosts) word(places []cluster.HostName, boot cluster.Boot) (word cluster.HostWord, moving bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	said := map[cluster.HostWord]bool{}
	for _, place := range places {
		one, moves := h.links[place].word(boot)
		said[one] = true
		moving = moving || moves
	}
	for _, word := range []cluster.HostWord{cluster.WordUnknown, cluster.WordRunning, cluster.WordPaused, cluster.WordOff} {
		if said[word] {
			return word, moving
		}
	}
	return cluster.WordUnknown, false // it has no place
}

// word is what one host says of a boot's life, with the mutex held.
func (l *hostLink) word(boot cluster.Boot) (word cluster.HostWord, moving bool) {
	if l == nil || boot.Life == "" {
		return cluster.WordUnknown, false
	}
	guest, known := l.guests[boot.Guest]
	state := hypervisor.GuestState(guest.State)
	switch {
	case !known || state == hypervisor.StateUnknown:
		return cluster.WordUnknown, false
	case guest.Life != boot.Life:
		return cluster.WordOff, false
	case state == hypervisor.StatePaused:
		return cluster.WordPaused, guest.Moving
	case state == hypervisor.StateRunning:
		return cluster.WordRunning, guest.Moving
	}
	return cluster.WordUnknown, guest.Moving
}

func (h *hosts) take(ctx context.Context, wg *sync.WaitGroup, link *hostLink, e hostclient.Event) {
	switch {
	case e.Certificate != nil:
		h.commitCertificate(ctx, link.rec.Value.Name, *e.Certificate)
	case e.Absence != nil:
		h.unsay(link, *e.Absence)
		h.commitAbsence(ctx, link.rec.Value.Name, *e.Absence)
	case e.Arriving != nil:
		h.begin(wg, *e.Arriving, func() { h.arriving(ctx, link, *e.Arriving, barred) })
	case e.Guest != nil:
		h.n.Log.Debug("host tells of a guest", "component", "hosts", "host", link.rec.Value.Name, "guest", e.Guest.ID, "state", e.Guest.State)
		h.mu.Lock()
		if link.guests == nil {
			link.guests = map[cluster.GuestID]hostapi.Guest{}
		}
		link.guests[e.Guest.ID] = *e.Guest
		h.mu.Unlock()
		s, _ := h.n.Mirror.Snapshot()
		h.placeStrays(ctx, wg, &s)
	}
}

// order gives an order to one host.
func (h *hosts) order(ctx context.Context, name cluster.HostName, give func(context.Context, Host) (hostapi.Reply, error)) (hostapi.Reply, error) {
	h.mu.Lock()
	link := h.links[name]
	h.mu.Unlock()
	if link == nil {
		return hostapi.Reply{}, fmt.Errorf("not enrolled in this cluster: run `ringfence host add`")
	}
	ctx, cancel := h.n.Clock.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	return give(ctx, link.client)
}

// commitCertificate verifies a certificate that came from a host and makes it a
// record, if it speaks of a boot of this cluster. It returns whether the
// certificate stands in the store.
func (h *hosts) commitCertificate(ctx context.Context, from cluster.HostName, cert cluster.DeathCertificate) bool {
	s, _ := h.n.Mirror.Snapshot()
	host, enrolled := s.Hosts[from]
	log := h.n.Log.With("component", "hosts", "host", from, "life", cert.Life)
	if !enrolled || cert.Host != from || cert.Cluster != h.n.Cluster {
		log.Error("certificate refused: it is not this host's, or not for this cluster", "claims_host", cert.Host, "claims_cluster", cert.Cluster)
		return false
	}
	if err := hostapi.VerifyCertificate(host.Value.SigningKey, cert); err != nil {
		log.Error("certificate refused", "err", err)
		return false
	}
	if standing, ok := s.CertificateOf(cert.Life, cert.Host); ok {
		h.ack(ctx, cert.Host, cert.Seq, standing.Rev)
		return true
	}
	if !h.concerns(&s, cert) {
		h.ackNeedless(ctx, &s)
		return false
	}
	rev, err := h.n.commit(ctx, store.Tx{
		Guards: []cluster.Guard{{Key: cluster.KeyCertificate(cert.Life, cert.Host)}},
		Writes: []cluster.Write{cluster.Put(cluster.KeyCertificate(cert.Life, cert.Host), cert)},
	})
	if err != nil {
		if h.standsNow(cert) {
			return true // another node was first
		}
		log.Debug("certificate not stored yet", "err", err)
		h.keep(cert)
		return false
	}
	log.Info("death certificate stored", "cause", string(cert.Cause), "seq", cert.Seq, "revision", rev)
	h.ack(ctx, cert.Host, cert.Seq, rev)
	return true
}

// concerns reports whether a boot of the certified life is known; if not the
// certificate is kept, since the record of its boot may be on the way.
func (h *hosts) concerns(s *cluster.State, cert cluster.DeathCertificate) bool {
	for id, boot := range s.Boots {
		_, ended := s.Ended[id]
		if boot.Value.Life == cert.Life && (!ended || s.Contras[id].Rev != 0) {
			return true
		}
	}
	h.keep(cert)
	return false
}

func (h *hosts) keep(cert cluster.DeathCertificate) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending[cluster.KeyCertificate(cert.Life, cert.Host)] = cert
	if len(h.pending) <= pendingLimit {
		return
	}
	drop := cert
	for _, old := range h.pending { // the oldest of that host: its life is long over
		if old.Host == cert.Host && old.Seq < drop.Seq {
			drop = old
		}
	}
	delete(h.pending, cluster.KeyCertificate(drop.Life, drop.Host))
}

// standsNow looks again after a commit that failed: another node may have
// stored the same certificate.
func (h *hosts) standsNow(cert cluster.DeathCertificate) (stands bool) {
	h.n.Mirror.Read(func(s *cluster.State) { _, stands = s.CertificateOf(cert.Life, cert.Host) })
	return stands
}

// known takes out the kept certificates whose life belongs to a boot by now.
func (h *hosts) known(s *cluster.State) []cluster.DeathCertificate {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []cluster.DeathCertificate
	for id, boot := range s.Boots {
		if _, ended := s.Ended[id]; ended {
			continue
		}
		for _, place := range boot.Value.Places {
			key := cluster.KeyCertificate(boot.Value.Life, place)
			if cert, ok := h.pending[key]; ok {
				delete(h.pending, key)
				found = append(found, cert)
			}
		}
	}
	return found
}

// ack tells the host, in passing: it repeats what was not acknowledged.
func (h *hosts) ack(ctx context.Context, host cluster.HostName, seq uint64, rev cluster.Revision) {
	h.mu.Lock()
	link := h.links[host]
	h.mu.Unlock()
	if link == nil {
		return
	}
	ctx, cancel := h.n.Clock.WithTimeout(ctx, commitTimeout)
	defer cancel()
	if err := link.client.Ack(ctx, hostapi.Ack{Seq: seq, Revision: rev}); err != nil {
		h.n.Log.Debug("certificate or absence not acknowledged", "component", "hosts", "host", host, "err", err)
	}
}

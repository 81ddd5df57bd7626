package node

import (
	"context"
	"maps"
	"slices"

	"ringfence/internal/cluster"
)

// needless reports whether no record will ever need a certificate (rule P9):
// every boot of that life that was registered has ended by other evidence, or
// none was and the guest has registered one in a life that began later. A boot
// record of that life that is still under way can then only be of a run that is
// over: should it land, fencing ends it, since the host remembers the life.
func needless(s *cluster.State, cert cluster.DeathCertificate) bool {
	registered, later := false, false
	for id, boot := range s.Boots {
		_, ended := s.Ended[id]
		switch {
		case boot.Value.Life == cert.Life && (!ended || s.Contras[id].Rev != 0):
			return false
		case boot.Value.Life == cert.Life:
			registered = true
		case boot.Value.Guest == cert.Guest:
			later = later || cert.Life.Before(boot.Value.Life)
		}
	}
	return registered || later
}

// ackNeedless acknowledges the kept certificates that nobody needs any more, so
// that the journals of the hosts do not grow for ever.
func (h *hosts) ackNeedless(ctx context.Context, s *cluster.State) {
	var found []cluster.DeathCertificate
	h.mu.Lock()
	for _, key := range slices.Sorted(maps.Keys(h.pending)) {
		if cert := h.pending[key]; needless(s, cert) && h.links[cert.Host] != nil {
			found = append(found, cert)
			delete(h.pending, key)
		}
	}
	h.mu.Unlock()
	for _, cert := range found {
		h.n.Log.Debug("certificate is not needed", "component", "hosts", "host", cert.Host, "life", cert.Life)
		h.ack(ctx, cert.Host, cert.Seq, s.Rev)
	}
}

package nodeapi

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/pki"
	"ringfence/internal/store"
)

// hostLimit bounds the enrolled hosts: each node keeps a stream to each.
const hostLimit = 256

func (s *Server) getHosts(http.ResponseWriter, *http.Request) (any, error) {
	state, _ := s.Mirror.Snapshot()
	return s.hosts(&state), nil
}

func (s *Server) postHost(w http.ResponseWriter, r *http.Request) (any, error) {
	var order HostOrder
	if err := readJSON(w, r, bodyLimitBytes, &order); err != nil {
		return nil, err
	}
	if err := checkBy(order.By); err != nil {
		return nil, err
	}
	if err := checkHost(order.Host); err != nil {
		return nil, err
	}
	done, err := change(r.Context(), s.Mirror, s.Store, func(state *cluster.State) (store.Tx, string, error) {
		return hostTx(state, order)
	})
	s.note(done, "host order", "host", order.Host.Name, "action", "add", "by", order.By)
	return done, err
}

func checkHost(h cluster.Host) error {
	if err := cluster.CheckName(string(h.Name)); err != nil {
		return refusal(CodeBadRequest, "host record: %v", err)
	}
	if host, port, err := net.SplitHostPort(h.Address); err != nil || host == "" || port == "" || len(h.Address) > byLimitBytes {
		return refusal(CodeBadRequest, "host record: address %.80q: want host:port, such as 192.0.2.7:7411", h.Address)
	}
	if _, err := pki.ParseCertificate([]byte(h.Certificate)); err != nil {
		return refusal(CodeBadRequest, "host record: certificate: %v; `ringfence hostd export` on the host writes the record", err)
	}
	if len(h.SigningKey) != ed25519.PublicKeySize {
		return refusal(CodeBadRequest, "host record: signing_key has %d bytes, want %d; `ringfence hostd export` on the host writes the record",
			len(h.SigningKey), ed25519.PublicKeySize)
	}
	return nil
}

func hostTx(state *cluster.State, order HostOrder) (store.Tx, string, error) {
	h, have := order.Host, state.Hosts[order.Host.Name]
	same := have.Value.Address == h.Address && have.Value.Certificate == h.Certificate && bytes.Equal(have.Value.SigningKey, h.SigningKey)
	switch {
	case have.Rev != 0 && same:
		return store.Tx{}, fmt.Sprintf("host %s is enrolled already, with these keys", h.Name), nil
	case have.Rev != 0 && !bytes.Equal(have.Value.SigningKey, h.SigningKey) && !order.Replace:
		return store.Tx{}, "", refusal(CodeRefused, "host %s is enrolled with another signing key; if it was set up anew, say so with --replace: what the old one told stays valid, what it knew is lost", h.Name)
	case have.Rev == 0 && len(state.Hosts) >= hostLimit:
		return store.Tx{}, "", refusal(CodeConflict, "%d hosts are enrolled, more are not allowed", hostLimit)
	}
	for _, name := range slices.Sorted(maps.Keys(state.Hosts)) {
		if name != h.Name && bytes.Equal(state.Hosts[name].Value.SigningKey, h.SigningKey) {
			return store.Tx{}, "", refusal(CodeRefused, "host %s has the same signing key: a certificate must tell whose word it is; make a host directory of its own for %s", name, h.Name)
		}
	}
	return put(cluster.KeyHost(h.Name), have.Rev, h), fmt.Sprintf("host %s is enrolled: its word on guests counts now", h.Name), nil
}

func (s *Server) deleteHost(_ http.ResponseWriter, r *http.Request) (any, error) {
	name := cluster.HostName(r.PathValue("name"))
	done, err := change(r.Context(), s.Mirror, s.Store, func(state *cluster.State) (store.Tx, string, error) {
		return unenrolTx(state, name)
	})
	s.note(done, "host order", "host", name, "action", "remove")
	return done, err
}

// unenrolTx refuses while a boot that has not ended lives there: without the
// host's word its end could only be proved by a person.
func unenrolTx(state *cluster.State, name cluster.HostName) (store.Tx, string, error) {
	have, enrolled := state.Hosts[name]
	if !enrolled {
		return store.Tx{}, "", refusal(CodeNotFound, "there is no host %.70q; %s", name, known("hosts", words(slices.Sorted(maps.Keys(state.Hosts)))))
	}
	var there []string
	for id, boot := range state.Boots {
		if _, ended := state.Ended[id]; !ended && boot.Value.Life != "" && slices.Contains(boot.Value.Places, name) {
			there = append(there, string(boot.Value.Node))
		}
	}
	if len(there) > 0 {
		slices.Sort(there)
		return store.Tx{}, "", refusal(CodeRefused, "%s run on host %s: without its record they could not be fenced; move them or let them leave first", strings.Join(slices.Compact(there), ", "), name)
	}
	return drop(cluster.KeyHost(name), have.Rev), fmt.Sprintf("host %s is not part of the cluster any more", name), nil
}

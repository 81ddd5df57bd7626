package fencevirt

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"ringfence/internal/fencevirt/snoop"
	"ringfence/internal/wire/xvm"
	"ringfence/internal/wire/xvmdiag"
)

// probe is a datagram whose sender asks what becomes of it; see package xvmdiag. Of
// any other datagram it is nil, and then its methods do nothing.
type probe struct {
	e     *datagram
	l     *settings
	nonce xvmdiag.Nonce
	from  arrival
	fits  int // number of the key that fits, from 1
}

// probe returns nil unless the datagram is a probe to a listener that answers them.
func (e *datagram) probe(l *settings, packet []byte, from arrival) *probe {
	nonce, ok := xvmdiag.ParseProbe(packet)
	if !ok || l.NoDiagnosis || !from.source.IsValid() || from.source.Port() == 0 {
		return nil
	}
	return &probe{e: e, l: l, nonce: nonce, from: from}
}

// verified notes which key fits, by its place among those of the listener.
func (p *probe) verified(key Key) {
	if p == nil {
		return
	}
	p.fits = 1 + slices.IndexFunc(p.l.Keys, func(k Key) bool { return k.Name == key.Name && string(k.Secret) == string(key.Secret) })
}

func (p *probe) refused(err error) { p.arrived(refusalOf(err)) }

// refusalOf is the outcome of a request that was not taken.
func refusalOf(err error) xvmdiag.Outcome {
	switch {
	case errors.Is(err, xvm.ErrWeakHash):
		return xvmdiag.OutcomeWeakHash
	case errors.Is(err, xvm.ErrHash):
		return xvmdiag.OutcomeNoHash
	case errors.Is(err, xvm.ErrNoKey):
		return xvmdiag.OutcomeNoKey
	case errors.Is(err, xvm.ErrDigest):
		return xvmdiag.OutcomeDigest
	}
	return xvmdiag.OutcomeSenseless
}

func (p *probe) arrived(outcome xvmdiag.Outcome) {
	p.report(xvmdiag.Report{Stage: xvmdiag.StageArrived, Outcome: outcome})
}

// ended tells what the call back came to.
func (p *probe) ended(out answer, err error) {
	report := xvmdiag.Report{Stage: xvmdiag.StageEnded, Outcome: outcomeOf(err)}
	if err == nil {
		if report.Result = out.result; out.noGuest {
			report.Outcome = xvmdiag.OutcomeNoGuest
		}
	}
	p.report(report)
}

func outcomeOf(err error) xvmdiag.Outcome {
	var op *net.OpError
	dialed := errors.As(err, &op) && op.Op == "dial"
	switch {
	case err == nil:
		return xvmdiag.OutcomeServed
	case errors.Is(err, errRepeated):
		return xvmdiag.OutcomeRepeated
	case dialed && errors.Is(err, syscall.ECONNREFUSED):
		return xvmdiag.OutcomeRefused
	case dialed && op.Timeout():
		return xvmdiag.OutcomeTimeout
	case dialed:
		return xvmdiag.OutcomeUnreachable
	case errors.Is(err, errNotOurs), errors.Is(err, errReflected):
		return xvmdiag.OutcomeChallenge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return xvmdiag.OutcomeSlow
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return xvmdiag.OutcomeHungUp
	}
	return xvmdiag.OutcomeFailed
}

// report sends one report, unless there were too many. It is lost without a trace
// if it cannot be sent: the one who asked asks again.
func (p *probe) report(r xvmdiag.Report) {
	if p == nil || !p.e.daemon.reports.allow(p.from.source.Addr()) {
		return
	}
	r.Nonce, r.Fits, r.ToGroup, r.Source = p.nonce, p.fits, p.from.toGroup, unmapped(p.from.source)
	p.l.facts(&r)
	r.Interfaces = describe(p.e.socket.joinedOn(), p.from, p.l.Address)
	_ = p.e.socket.reply(r.Append(nil), p.from.source)
}

// facts tells of the listener.
func (s *settings) facts(r *xvmdiag.Report) {
	r.Kind = map[Kind]xvmdiag.ListenerKind{KindMulticast: xvmdiag.KindMulticast, KindUDP: xvmdiag.KindUDP, KindTCP: xvmdiag.KindTCP}[s.Kind]
	r.Address, r.Port, r.Version = s.Address, s.Port, s.cfg.Version
	for _, k := range s.Keys {
		r.Keys = append(r.Keys, xvmdiag.Key{Fingerprint: xvmdiag.FingerprintOf(k.Secret), Hash: k.Hash, Auth: k.Auth})
	}
}

// explain tells a client by TCP why its request was not taken, if its challenge asks
// for that. It takes no longer than the request may have taken.
func (e *stream) explain(conn net.Conn, l *settings, why error) {
	if l.Kind != KindTCP || l.NoDiagnosis {
		return
	}
	var challenge [xvm.ChallengeSize]byte
	if _, err := io.ReadFull(conn, challenge[:]); err != nil {
		return
	}
	nonce, ok := xvmdiag.ParseChallenge(challenge)
	source := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	if !ok || !e.daemon.reports.allow(source.Addr()) {
		return
	}
	r := xvmdiag.Report{Nonce: nonce, Stage: xvmdiag.StageArrived, Outcome: refusalOf(why), Source: unmapped(source)}
	l.facts(&r)
	_, _ = conn.Write(r.Append(nil)) // who asked asks again
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// describe tells of the interface by which a probe came, and then of those on which
// the group is joined.
func describe(joined map[int]string, from arrival, group netip.Addr) []xvmdiag.Interface {
	bridges, _ := snoop.Bridges() // what is not known is not told
	var out []xvmdiag.Interface
	add := func(index int, name string) {
		b := bridges[index]
		out = append(out, xvmdiag.Interface{
			Name: name, Prefix: prefixOf(index, from.source.Addr().Unmap()),
			Joined: joined[index] != "", Arrived: index == from.index, Snoops: b.Snoops, Querier: b.Asked(group),
		})
	}
	if from.index != 0 {
		add(from.index, interfaceName(from.index))
	}
	rest := []int{}
	for index := range joined {
		if index != from.index {
			rest = append(rest, index)
		}
	}
	slices.SortFunc(rest, func(a, b int) int { return strings.Compare(joined[a], joined[b]) })
	for _, index := range rest[:min(len(rest), xvmdiag.InterfaceLimit)] {
		add(index, joined[index])
	}
	return out
}

// prefixOf returns the address of the interface whose network has the peer, or else
// any one of the peer's family.
func prefixOf(index int, peer netip.Addr) netip.Prefix {
	var found netip.Prefix
	ifi, err := net.InterfaceByIndex(index)
	if err != nil {
		return found
	}
	addrs, _ := ifi.Addrs() // what is not known is not told
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		switch {
		case err != nil || p.Addr().Is4() != peer.Is4():
		case p.Contains(peer):
			return p
		case !found.IsValid():
			found = p
		}
	}
	return found
}

// Reports that one source, and all together, can have: so many at once, and so many
// more in each second. A diagnosis takes fewer than ten.
const (
	reportBurst       = 32
	reportRate        = 4
	reportTotalBurst  = 256
	reportTotalRate   = 64
	reportSourceLimit = 1024
)

// bucket holds what may still be sent.
type bucket struct {
	left float64
	at   time.Time
}

func (b *bucket) take(now time.Time, burst, rate float64) bool {
	b.left = min(burst, b.left+rate*now.Sub(b.at).Seconds())
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// reportLimit bounds reports for each source and in total: sources can be forged.
// It is safe for concurrent use.
type reportLimit struct {
	now func() time.Time

	mu      sync.Mutex // guards what follows
	total   bucket
	sources map[netip.Addr]*bucket
}

func newReportLimit(now func() time.Time) *reportLimit {
	return &reportLimit{now: now, total: bucket{reportTotalBurst, now()}, sources: map[netip.Addr]*bucket{}}
}

func (r *reportLimit) allow(source netip.Addr) bool {
	source = source.Unmap()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	b := r.sources[source]
	if b == nil {
		if len(r.sources) >= reportSourceLimit {
			r.forget(now)
		}
		if len(r.sources) >= reportSourceLimit {
			return false
		}
		b = &bucket{reportBurst, now}
		r.sources[source] = b
	}
	return b.take(now, reportBurst, reportRate) && r.total.take(now, reportTotalBurst, reportTotalRate)
}

// forget drops the sources that may have a full burst again.
func (r *reportLimit) forget(now time.Time) {
	for source, b := range r.sources {
		if b.left+reportRate*now.Sub(b.at).Seconds() >= reportBurst {
			delete(r.sources, source)
		}
	}
}

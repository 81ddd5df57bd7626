// Package xvmdiag is the byte form of the diagnosis extension of the fence_virt
// protocols: a probe that a guest sends, and the reports that Ringfence's daemon
// sends back to where the probe came from. The server (internal/fencevirt) and
// `ringfence doctor` use it; it knows no socket. No C program knows it:
// fence_virtd cuts a datagram to its first 176 bytes, which are an ordinary request,
// and serves that.
//
// A probe, exactly 1024 bytes:
//
//	0    176  a request, as of package xvm
//	176    8  "RFPROBE1"
//	184   16  nonce, drawn anew for each request
//	200  824  zeros
//
// Two reports of at most 448 bytes each may answer it, so that whoever forges the
// source of a probe cannot have more bytes sent to somebody than it sent itself.
// A report:
//
//	0     8  "RFREPLY1"
//	8    16  the nonce of the probe
//	24    1  stage: 1 when the probe arrived, 2 when its request has ended
//	25    1  outcome
//	26    1  result of the request, as of package xvm; 0 unless it was served
//	27    1  kind of the listener: 1 multicast, 2 udp, 3 tcp
//	28   16  group or local address of the listener; IPv4 as ::ffff:a.b.c.d
//	44    2  port of the listener, little-endian as everything
//	46   18  address (16) and port (2) that the probe came from
//	64    1  flags; bit 0: it was sent to the group, not to an address of the host
//	65    1  number of the key that fits, from 1; 0: none does
//	66    *  keys: a count of at most 8, and for each fingerprint (4), hash (1), auth (1)
//	 *    *  interfaces: a count of at most 6, and for each flags (1; bit 0: the group
//	         is joined there, bit 1: the probe came by it, bit 2: it is a bridge that
//	         snoops, bit 3: that bridge knows of a querier), address (16), length of
//	         its prefix (1), name (length 1, at most 15)
//	 *    *  version (length 1, at most 40)
//
// Over TCP a probe is the challenge of 64 bytes that follows a request, with magic,
// nonce and 40 random bytes; to fence_virtd it is a challenge as any other. There one
// report comes, in place of an answer, when the request was not taken.
//
// Nothing may follow a report. Names and versions are printable ASCII, since a person sees
// them on a terminal. A report is not authenticated: whoever reads it acts on
// nothing but its own screen.
package xvmdiag

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"

	"ringfence/internal/wire/xvm"
)

// Sizes, in bytes.
const (
	ProbeSize       = 1024
	ReportLimit     = 448
	NonceSize       = 16
	FingerprintSize = 4
)

// Limits of what a report tells.
const (
	KeyLimit       = 8
	InterfaceLimit = 6
	NameLimit      = 15
	VersionLimit   = 40
)

const (
	probeMagic  = "RFPROBE1"
	reportMagic = "RFREPLY1"
	nonceAt     = xvm.RequestSize + len(probeMagic)
)

// Nonce tells the probes of one request from others, and a report to them from a
// forged one.
type Nonce [NonceSize]byte

// AppendProbe makes a probe of a signed request of xvm.RequestSize bytes, and
// appends it to b.
func AppendProbe(b, request []byte, nonce Nonce) ([]byte, error) {
	if len(request) != xvm.RequestSize {
		return nil, fmt.Errorf("a request of %d bytes, want %d", len(request), xvm.RequestSize)
	}
	var p [ProbeSize]byte
	copy(p[:], request)
	copy(p[xvm.RequestSize:], probeMagic)
	copy(p[nonceAt:], nonce[:])
	return append(b, p[:]...), nil
}

// ParseProbe returns the nonce of a probe; false: the datagram is none.
func ParseProbe(datagram []byte) (Nonce, bool) {
	if len(datagram) != ProbeSize || !bytes.HasPrefix(datagram[xvm.RequestSize:], []byte(probeMagic)) {
		return Nonce{}, false
	}
	return Nonce(datagram[nonceAt : nonceAt+NonceSize]), true
}

// ChallengeProbe makes a probe of 64 random bytes, which become a challenge.
func ChallengeProbe(random [xvm.ChallengeSize]byte, nonce Nonce) [xvm.ChallengeSize]byte {
	copy(random[:], probeMagic)
	copy(random[len(probeMagic):], nonce[:])
	return random
}

// ParseChallenge returns the nonce of a challenge that is a probe; false: it is none.
func ParseChallenge(challenge [xvm.ChallengeSize]byte) (Nonce, bool) {
	if string(challenge[:len(probeMagic)]) != probeMagic {
		return Nonce{}, false
	}
	return Nonce(challenge[len(probeMagic) : len(probeMagic)+NonceSize]), true
}

// IsReport reports whether the bytes begin as a report does.
func IsReport(b []byte) bool { return bytes.HasPrefix(b, []byte(reportMagic)) }

// Fingerprint lets two people see whether they have the same key, without showing
// it.
type Fingerprint [FingerprintSize]byte

// String returns eight hexadecimal digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// FingerprintOf returns the beginning of SHA-256 over a text of its own and the
// key. That of no key is zero.
func FingerprintOf(key []byte) Fingerprint {
	if len(key) == 0 {
		return Fingerprint{}
	}
	h := sha256.New()
	h.Write([]byte("ringfence fence_virt key fingerprint 1\x00"))
	h.Write(key)
	return Fingerprint(h.Sum(nil)[:FingerprintSize])
}

// Stage says when a report was made.
type Stage byte

// The stages.
const (
	StageArrived Stage = 1
	StageEnded   Stage = 2
)

// Outcome is what became of a probe.
type Outcome byte

// The outcomes: the first ones of StageArrived, the others of StageEnded.
const (
	OutcomeAccepted Outcome = iota
	OutcomeWeakHash
	OutcomeNoHash // a hash that does not exist
	OutcomeNoKey
	OutcomeDigest
	OutcomeSenseless
	OutcomeReplay
	OutcomeRepeated // a request of the same run is being carried out, or was just now
	OutcomeBusy
	OutcomeInterface // it came by an interface that the listener does not use

	OutcomeServed
	OutcomeNoGuest // served, and the guest is unknown or not on this host
	OutcomeRefused // nobody accepts the call back
	OutcomeTimeout // the call back gets no answer at all
	OutcomeUnreachable
	OutcomeChallenge // the client's answer to the challenge does not fit
	OutcomeHungUp    // the client ended the connection in the handshake
	OutcomeSlow      // the client stopped in the handshake
	OutcomeFailed

	outcomeEnd
)

// ListenerKind is the kind of the listener that reports.
type ListenerKind byte

// The kinds.
const (
	KindMulticast ListenerKind = 1
	KindUDP       ListenerKind = 2
	KindTCP       ListenerKind = 3
)

// Key is a key of the listener.
type Key struct {
	Fingerprint Fingerprint
	Hash, Auth  xvm.Hash
}

// Interface is an interface on which the group is joined, or by which the probe
// came.
type Interface struct {
	Name   string
	Prefix netip.Prefix // one of its addresses with its network; invalid: it has none
	// Joined: the group is joined there. Arrived: the probe came by it. Snoops: it is
	// a bridge that watches joins. Querier: that bridge knows of a querier.
	Joined, Arrived, Snoops, Querier bool
}

// Report is what the daemon says about a probe.
type Report struct {
	Nonce      Nonce
	Stage      Stage
	Outcome    Outcome
	Result     xvm.Result
	Kind       ListenerKind
	Address    netip.Addr
	Port       uint16
	Source     netip.AddrPort
	ToGroup    bool
	Fits       int // number of the key in Keys that fits, from 1; 0: none, or unknown
	Keys       []Key
	Interfaces []Interface
	Version    string
}

const (
	flagToGroup = 1

	flagJoined  = 1
	flagArrived = 2
	flagSnoops  = 4
	flagQuerier = 8
)

var le = binary.LittleEndian

// Append appends the report to b. Keys, interfaces, names and the version are cut to
// their limits; what is not printable in them becomes a question mark.
func (r Report) Append(b []byte) []byte {
	b = append(b, reportMagic...)
	b = append(b, r.Nonce[:]...)
	b = append(b, byte(r.Stage), byte(r.Outcome), byte(r.Result), byte(r.Kind))
	b = appendAddr(b, r.Address)
	b = le.AppendUint16(b, r.Port)
	b = appendAddr(b, r.Source.Addr())
	b = le.AppendUint16(b, r.Source.Port())
	keys := r.Keys[:min(len(r.Keys), KeyLimit)]
	fits := r.Fits
	if fits < 0 || fits > len(keys) {
		fits = 0
	}
	b = append(b, flag(r.ToGroup, flagToGroup), byte(fits), byte(len(keys)))
	for _, k := range keys {
		b = append(append(b, k.Fingerprint[:]...), byte(k.Hash), byte(k.Auth))
	}
	interfaces := r.Interfaces[:min(len(r.Interfaces), InterfaceLimit)]
	b = append(b, byte(len(interfaces)))
	for _, i := range interfaces {
		b = append(b, flag(i.Joined, flagJoined)|flag(i.Arrived, flagArrived)|flag(i.Snoops, flagSnoops)|flag(i.Querier, flagQuerier))
		b = appendAddr(b, i.Prefix.Addr())
		b = append(b, byte(max(i.Prefix.Bits(), 0)))
		b = appendText(b, i.Name, NameLimit)
	}
	return appendText(b, r.Version, VersionLimit)
}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

// appendAddr appends an address of 16 bytes; zero for none.
func appendAddr(b []byte, a netip.Addr) []byte {
	var p [16]byte
	if a.IsValid() {
		p = a.As16()
	}
	return append(b, p[:]...)
}

func appendText(b []byte, s string, limit int) []byte {
	s = s[:min(len(s), limit)]
	b = append(b, byte(len(s)))
	for _, c := range []byte(s) {
		if !printable(c) {
			c = '?'
		}
		b = append(b, c)
	}
	return b
}

func printable(c byte) bool { return c >= ' ' && c <= '~' }

var errReport = errors.New("no report of Ringfence's daemon")

// ParseReport reads a datagram. It refuses whatever Append does not make.
func ParseReport(datagram []byte) (Report, error) {
	if len(datagram) > ReportLimit || !bytes.HasPrefix(datagram, []byte(reportMagic)) {
		return Report{}, errReport
	}
	d := decoder{rest: datagram[len(reportMagic):]}
	r := Report{
		Nonce: Nonce(d.take(NonceSize)),
		Stage: Stage(d.byte()), Outcome: Outcome(d.byte()), Result: xvm.Result(d.byte()), Kind: ListenerKind(d.byte()),
		Address: d.addr(), Port: d.uint16(),
	}
	source := d.addr()
	r.Source = netip.AddrPortFrom(source, d.uint16())
	flags := d.byte()
	r.ToGroup, r.Fits = flags&flagToGroup != 0, int(d.byte())
	for range d.count(KeyLimit) {
		k := Key{Fingerprint: Fingerprint(d.take(FingerprintSize))}
		k.Hash, k.Auth = xvm.Hash(d.byte()), xvm.Hash(d.byte())
		r.Keys = append(r.Keys, k)
	}
	for range d.count(InterfaceLimit) {
		r.Interfaces = append(r.Interfaces, d.iface())
	}
	r.Version = d.text(VersionLimit)
	switch {
	case d.failed, len(d.rest) > 0, flags&^flagToGroup != 0, r.Fits > len(r.Keys),
		r.Stage != StageArrived && r.Stage != StageEnded, r.Outcome >= outcomeEnd,
		r.Kind < KindMulticast || r.Kind > KindTCP:
		return Report{}, errReport
	}
	return r, nil
}

// decoder takes fields off a datagram; with one that is too short it goes on with
// zeros, and failed says so.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) take(n int) []byte {
	if d.failed || len(d.rest) < n {
		d.failed = true
		return make([]byte, n)
	}
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out
}

func (d *decoder) byte() byte { return d.take(1)[0] }

func (d *decoder) uint16() uint16 { return le.Uint16(d.take(2)) }

// count reads a count; one above the limit fails.
func (d *decoder) count(limit int) int {
	n := int(d.byte())
	if n > limit {
		d.failed = true
		return 0
	}
	return n
}

func (d *decoder) addr() netip.Addr {
	a := netip.AddrFrom16([16]byte(d.take(16))).Unmap()
	if a == netip.IPv6Unspecified() {
		return netip.Addr{}
	}
	return a
}

func (d *decoder) text(limit int) string {
	b := d.take(d.count(limit))
	for _, c := range b {
		if !printable(c) {
			d.failed = true
		}
	}
	return string(b)
}

func (d *decoder) iface() Interface {
	flags := d.byte()
	addr := d.addr()
	bits := int(d.byte())
	i := Interface{
		Joined: flags&flagJoined != 0, Arrived: flags&flagArrived != 0, Snoops: flags&flagSnoops != 0, Querier: flags&flagQuerier != 0,
		Name: d.text(NameLimit),
	}
	switch {
	case addr.IsValid() && bits <= addr.BitLen():
		i.Prefix = netip.PrefixFrom(addr, bits)
	case addr.IsValid(), bits != 0:
		d.failed = true
	}
	if flags >= 2*flagQuerier {
		d.failed = true
	}
	return i
}

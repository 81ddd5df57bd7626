package cluster

import (
	"encoding/binary"
	"strconv"
)

// EvidenceKind says what proved that a boot has ended. Silence and timeouts
// are missing on purpose: they are no evidence.
type EvidenceKind string

// The kinds of evidence; DESIGN section 5 has the table.
const (
	// EvidenceLeave: the node stopped everything, verified, and left.
	EvidenceLeave EvidenceKind = "clean leave"
	// EvidenceCertificate: the host at the life's place saw the life end.
	EvidenceCertificate EvidenceKind = "death certificate"
	// EvidenceFenced: a fence method verified off for that life.
	EvidenceFenced EvidenceKind = "fenced"
	// EvidenceSuperseded: a newer boot of the node registered in the same life.
	EvidenceSuperseded EvidenceKind = "superseded"
	// EvidenceHostRestarted: the life's only place came back with a new host
	// boot id, so everything that ran there has ended.
	EvidenceHostRestarted EvidenceKind = "host restarted"
	// EvidenceOperator: a person gave their word, with name and reason.
	EvidenceOperator EvidenceKind = "operator"
)

// Cause is why a life ended, as far as the host knows. It never weakens the
// certificate: ended is ended.
type Cause string

// The causes that hostd puts into certificates.
const (
	CauseDestroyed     Cause = "destroyed"      // killed at the hypervisor, by whomever
	CauseFenced        Cause = "fenced"         // off(life) was asked for through hostd
	CauseShutdown      Cause = "shutdown"       // the guest powered itself off
	CauseCrashed       Cause = "crashed"        // the hypervisor process failed
	CauseHostRestarted Cause = "host restarted" // the host came back with a new boot id
)

// DeathCertificate is a host's signed statement that one life has ended at
// that host. It ends lives, never boots (rule P4), and is monotone: replaying
// it can do no harm. It counts only from the life's current place (P11).
type DeathCertificate struct {
	Cluster  ClusterID `json:"cluster"`
	Guest    GuestID   `json:"guest"`
	Life     LifeID    `json:"life"`
	Host     HostName  `json:"host"`
	HostBoot string    `json:"host_boot"` // boot id of the host when it signed
	Seq      uint64    `json:"seq"`       // position in that host's journal
	Cause    Cause     `json:"cause"`
	// Signature is Ed25519 over SigningBytes with the host's signing key.
	Signature []byte `json:"signature"`
}

// certificateDomain separates these signatures from all others of the key.
const certificateDomain = "ringfence death certificate v1"

// SigningBytes returns the bytes that the signature covers: the domain string
// and every field, each behind its length as 4 bytes big-endian, and the
// sequence number as 8 bytes. No two certificates share them.
func (c DeathCertificate) SigningBytes() []byte {
	return signingBytes(certificateDomain, c.Seq, string(c.Cluster), string(c.Guest),
		string(c.Life), string(c.Host), c.HostBoot, string(c.Cause))
}

// Arrival is one coming of a life to a host that is not its cold start. The host
// draws a number for it before a migration towards it begins. The zero Arrival
// is the cold start.
type Arrival struct {
	// Run identifies the run of hostd that has drawn the number: whatever became
	// of its journal, no two arrivals are ever equal.
	Run    string `json:"run,omitempty"`
	Number uint64 `json:"number,omitempty"`
}

// Absence is a host's signed statement that a life is not there, and that the
// host refuses it until another arrival has been written down (rule P5). It
// says nothing about other hosts, so that no number of absences ends a life by
// itself: some place must have seen it end, or have lost it with all its memory
// (Restarted). It speaks of the arrivals before it and of none behind it, so that
// a replay counts nothing once the guest is back.
type Absence struct {
	Cluster  ClusterID `json:"cluster"`
	Guest    GuestID   `json:"guest"`
	Life     LifeID    `json:"life"`
	Host     HostName  `json:"host"`
	HostBoot string    `json:"host_boot"`        // boot id of the host when it signed
	Run      string    `json:"run"`              // of hostd; see Arrival
	Seq      uint64    `json:"seq"`              // position in that host's journal
	Arrival  Arrival   `json:"arrival,omitzero"` // the last one of the life there
	// Final: an order of the cluster is ending the life, so that this host never
	// takes it again.
	Final bool `json:"final,omitempty"`
	// Restarted: by its last word the life ran there, and the host has booted anew
	// since. What memory it had there is gone (rule P6).
	Restarted bool   `json:"restarted,omitempty"`
	Why       string `json:"why"` // for people: migrated away, did not arrive
	// Signature is Ed25519 over SigningBytes with the host's signing key.
	Signature []byte `json:"signature"`
}

// Covers reports whether the host speaks of a life that came by this arrival:
// the last one that it knows of, and those that this run of hostd has drawn
// before.
func (a Absence) Covers(arrival Arrival) bool {
	return a.Final || arrival == Arrival{} || arrival == a.Arrival || arrival.Run == a.Run && arrival.Number < a.Seq
}

// absenceDomain separates these signatures from all others of the key.
const absenceDomain = "ringfence absence v2"

// SigningBytes returns the bytes that the signature covers, in the form of
// DeathCertificate.SigningBytes.
func (a Absence) SigningBytes() []byte {
	return signingBytes(absenceDomain, a.Seq, string(a.Cluster), string(a.Guest),
		string(a.Life), string(a.Host), a.HostBoot, a.Run, a.Arrival.Run,
		strconv.FormatUint(a.Arrival.Number, 10), strconv.FormatBool(a.Final), strconv.FormatBool(a.Restarted), a.Why)
}

// Binding is a host's signed statement about its own guest, given over that
// guest's own channel: "the one who sent this nonce is this life, here, now"
// (rule P11). A node registers its boot with it.
type Binding struct {
	Cluster  ClusterID `json:"cluster"`
	Node     NodeName  `json:"node"`
	Boot     BootID    `json:"boot"`
	Guest    GuestID   `json:"guest"`
	Life     LifeID    `json:"life"`
	Host     HostName  `json:"host"`
	HostBoot string    `json:"host_boot"`
	Arrival  Arrival   `json:"arrival,omitzero"` // by which the life is there
	Nonce    string    `json:"nonce"`
	// Signature is Ed25519 over SigningBytes with the host's signing key.
	Signature []byte `json:"signature"`
}

// bindingDomain separates these signatures from all others of the key.
const bindingDomain = "ringfence life binding v1"

// SigningBytes returns the bytes that the signature covers, in the form of
// DeathCertificate.SigningBytes.
func (b Binding) SigningBytes() []byte {
	return signingBytes(bindingDomain, b.Arrival.Number, string(b.Cluster), string(b.Node), string(b.Boot),
		string(b.Guest), string(b.Life), string(b.Host), b.HostBoot, b.Arrival.Run, b.Nonce)
}

func signingBytes(domain string, number uint64, fields ...string) []byte {
	var out []byte
	for _, field := range append([]string{domain}, fields...) {
		out = binary.BigEndian.AppendUint32(out, uint32(len(field)))
		out = append(out, field...)
	}
	return binary.BigEndian.AppendUint64(out, number)
}

// Outcome is how a power or fence call ended. A timeout, a missing guest, a
// suspended guest and a host that does not answer are all unknown, and unknown
// never unblocks anything (DESIGN principle 5).
type Outcome string

// The outcomes. The zero value is not an outcome: the call has not ended.
const (
	OutcomePending Outcome = ""
	OutcomeDone    Outcome = "done"     // verified off
	OutcomeNotDone Outcome = "not done" // certainly not carried out, e.g. refused
	OutcomeUnknown Outcome = "unknown"  // may or may not have happened
)

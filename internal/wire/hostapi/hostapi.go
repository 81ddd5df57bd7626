// Package hostapi is the vocabulary of hostd's native API: HTTP with JSON
// bodies over mutual TLS for clusters, and the same over a guest's own channel
// for that guest. It is pure: paths, messages, limits, signature checks.
//
//	GET  /v1/host                    Host
//	GET  /v1/guests                  []Guest    those the caller's cluster may ask about
//	GET  /v1/guests/{id}             Guest
//	POST /v1/guests/{id}/{action}    Order -> Reply    action: off on pause unpause
//	GET  /v1/events?since=N          server-sent events, see EventHello
//	POST /v1/ack                     Ack -> {}
//	POST /v1/places                  Placed -> PlacedReply
//
// On a guest's own channel, for that guest only:
//
//	GET  /v1/self                    Self
//	POST /v1/bind                    BindRequest -> cluster.Binding
//	POST /v1/reset                   ResetRequest -> Reply    destroys the asking life
//	POST /v1/voter                   voter.Claim -> voter.Answer
//
// A request that is refused gets an Error body and a 4xx status: nothing was
// done. A guest that the caller may not ask about and a guest that does not
// exist get the same answer.
package hostapi

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"

	"ringfence/internal/cluster"
)

// Limits of both sides.
const (
	// BodyLimitBytes bounds every request and reply body but the event stream.
	BodyLimitBytes = 64 << 10
	// EventLimitBytes bounds one event of the stream.
	EventLimitBytes = 16 << 10
)

// Actions of POST /v1/guests/{id}/{action}.
const (
	ActionOff     = "off"
	ActionOn      = "on"
	ActionPause   = "pause"
	ActionUnpause = "unpause"
)

// Order is the body of every call that changes something (rule P8). hostd
// persists the highest epoch of each cluster and incarnation before it acts
// and refuses lower ones.
type Order struct {
	Cluster     cluster.ClusterID   `json:"cluster"`
	Incarnation cluster.Incarnation `json:"incarnation"`
	Epoch       cluster.Epoch       `json:"epoch"`
	// Decision names the decision that the call carries out, for the audit log
	// and so that a repeated call is recognised.
	Decision string `json:"decision"`
	// Life is the only life that the call may touch. Empty for on.
	Life cluster.LifeID `json:"life,omitempty"`
}

// Reply is the answer to an Order. Done for off means: verified gone from this
// host, for good. With a certificate it ended here; with an absence it did not,
// and only the word of another place can tell whether it has ended at all.
type Reply struct {
	Outcome cluster.Outcome `json:"outcome"`
	Detail  string          `json:"detail,omitempty"`
	// Absence comes instead of a certificate with the outcome done of off: the
	// life is not here and is refused from now on.
	Absence *cluster.Absence `json:"absence,omitempty"`
	// Certificate comes with the outcome done of off, and whenever the named
	// life is known to have ended under this hostd's eyes.
	Certificate *cluster.DeathCertificate `json:"certificate,omitempty"`
	// Life is the new life after on.
	Life cluster.LifeID `json:"life,omitempty"`
}

// Host is the answer to GET /v1/host.
type Host struct {
	Name     cluster.HostName `json:"name"`
	HostBoot string           `json:"host_boot"`
	Version  string           `json:"version"`
}

// Guest is one guest as hostd tells it to a cluster that may ask.
type Guest struct {
	ID    cluster.GuestID `json:"id"`
	Name  string          `json:"name"`
	State string          `json:"state"` // a hypervisor.GuestState; "" is unknown
	Life  cluster.LifeID  `json:"life,omitempty"`
	// Moving: a migration of this life is under way, from this host or to it.
	// Both hosts tell it. It may stretch detection; it is evidence of nothing.
	Moving bool `json:"moving,omitempty"`
	// Arrival is by which arrival the life is here, or is about to be.
	Arrival cluster.Arrival `json:"arrival,omitzero"`
}

// Arriving asks the cluster to write a place down: a migration of this life
// towards this host is about to begin, and does not before Placed says that the
// life's records name this host with this arrival (rule P5).
type Arriving struct {
	Guest   cluster.GuestID `json:"guest"`
	Life    cluster.LifeID  `json:"life"`
	Arrival cluster.Arrival `json:"arrival"`
}

// Placed answers an Arriving.
type Placed struct {
	Arriving
	// Revision is of the store, at which every boot of the life that has not
	// ended names this host with this arrival.
	Revision cluster.Revision `json:"revision,omitempty"`
	// Member: the cluster has such a boot. The guest belongs to it then.
	Member bool `json:"member,omitempty"`
	// Refused says why the place cannot be written down; "" is written down.
	Refused string `json:"refused,omitempty"`
}

// PlacedReply tells what became of that arrival meanwhile.
type PlacedReply struct {
	// Absence: the arrival is over, and the life is not here.
	Absence *cluster.Absence `json:"absence,omitempty"`
}

// Ack tells hostd that a certificate or an absence stands in the store (rule P9).
type Ack struct {
	Seq      uint64           `json:"seq"`
	Revision cluster.Revision `json:"revision"`
}

// Names of the server-sent events on /v1/events. Certificates and absences carry
// their sequence number as the event id; `since=N` (or Last-Event-ID) repeats
// every kept one behind N. A comment line every KeepAliveSeconds shows life.
const (
	EventHello       = "hello"       // data: Hello; always first
	EventCertificate = "certificate" // data: cluster.DeathCertificate
	EventAbsence     = "absence"     // data: cluster.Absence
	EventArriving    = "arriving"    // data: Arriving; repeated while it waits
	EventGuest       = "guest"       // data: Guest; at first every one, then each whose state changed
)

// KeepAliveSeconds is the longest silence of a healthy event stream.
const KeepAliveSeconds = 1

// Hello opens the event stream.
type Hello struct {
	Host     cluster.HostName `json:"host"`
	HostBoot string           `json:"host_boot"`
	LastSeq  uint64           `json:"last_seq"`
}

// Self is what a guest may know about itself.
type Self struct {
	Host     cluster.HostName `json:"host"`
	HostBoot string           `json:"host_boot"`
	Guest    cluster.GuestID  `json:"guest"`
	Name     string           `json:"name"`
	Life     cluster.LifeID   `json:"life"`
	// Boot is set where the hypervisor knows the guest's boots (proc: one per
	// life); elsewhere the guest takes its kernel's boot id.
	Boot cluster.BootID `json:"boot,omitempty"`
}

// BindRequest asks for a signed statement of who is asking (rule P11). The
// first cluster to bind a guest owns it; another cluster id is refused.
type BindRequest struct {
	Cluster cluster.ClusterID `json:"cluster"`
	Node    cluster.NodeName  `json:"node"`
	Boot    cluster.BootID    `json:"boot"`
	Nonce   string            `json:"nonce"` // fresh, at most 64 bytes
}

// ResetRequest asks the host to destroy the guest that asks (rule P20): it must
// stop what it runs, and cannot. Only over the guest's own channel.
type ResetRequest struct {
	// Life is the only life that may be destroyed: the one that asks.
	Life cluster.LifeID `json:"life"`
	Why  string         `json:"why"` // for the host's log and audit; 1 to 512 bytes
}

// Error is the body of every refusal.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"` // says what is allowed, for a person
}

// Codes of Error.
const (
	CodeBadRequest = "bad_request"
	CodeForbidden  = "forbidden"   // also: no such guest
	CodeStaleEpoch = "stale_epoch" // a newer leader has spoken
	CodeOtherLife  = "other_life"
	CodeStaleVoter = "stale_voter" // the memory of that voter is not the newest
	CodeInternal   = "internal"
)

// ErrSignature: the signature does not belong to the statement and key.
var ErrSignature = errors.New("signature does not match the enrolled key of the host")

// VerifyCertificate checks the signature of a death certificate.
func VerifyCertificate(key ed25519.PublicKey, c cluster.DeathCertificate) error {
	return verify(key, c.SigningBytes(), c.Signature)
}

// VerifyAbsence checks the signature of an absence.
func VerifyAbsence(key ed25519.PublicKey, a cluster.Absence) error {
	return verify(key, a.SigningBytes(), a.Signature)
}

// VerifyBinding checks the signature of a binding.
func VerifyBinding(key ed25519.PublicKey, b cluster.Binding) error {
	return verify(key, b.SigningBytes(), b.Signature)
}

func verify(key ed25519.PublicKey, message, signature []byte) error {
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, message, signature) {
		return ErrSignature
	}
	return nil
}

// Decode reads exactly one JSON value without unknown fields. The caller bounds
// the reader.
func Decode(r io.Reader, to any) error {
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}

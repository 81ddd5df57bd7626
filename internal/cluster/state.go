package cluster

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Rec is a record with its place in the store's history.
type Rec[T any] struct {
	Value T        `json:"value"`
	Rev   Revision `json:"rev"`
	// Since is when the reader of the store first saw this revision, on the
	// reader's own monotonic clock. It is a lower bound of the record's age,
	// fit for back-off and liveness, never for safety.
	Since time.Duration `json:"since"`
}

// State is all records of the store at one revision, decoded. One goroutine
// owns it; Clone before sharing. The zero State is empty and ready for Apply.
type State struct {
	Rev     Revision
	Meta    Rec[Meta]
	Config  Rec[Config]
	Leader  Rec[Leader]
	Disarm  Rec[Disarm]
	Nodes   map[NodeName]Rec[Node]
	Hosts   map[HostName]Rec[Host]
	Boots   map[BootID]Rec[Boot]
	Ended   map[BootID]Rec[Ended]
	Certs   map[string]Rec[DeathCertificate] // by life/host, as in KeyCertificate
	Contras map[BootID]Rec[Contradiction]
	Absence map[string]Rec[Absence] // by life/host, as in KeyAbsence
	Views   map[NodeName]Rec[View]
	Appeals map[BootID]Rec[Appeal]
	Fences  map[BootID]Rec[Fence]
	FenceRp map[BootID]Rec[FenceReport]
	PowerOn map[BootID]Rec[PowerOn]
	PowerRp map[BootID]Rec[PowerOnReport]
	Owners  map[ServiceName]Rec[Owner]
	Tickets map[ServiceName]Rec[Ticket]
	Reports map[ServiceName]Rec[Report]
	Probes  map[NodeName]Rec[Probe]
	Failed  map[string]Rec[Failure] // by service/node, as in KeyFailure
	Standby map[NodeName]Rec[Standby]
	Wishes  map[ServiceName]Rec[Wish]
	Tokens  map[string]Rec[Token]
}

// Apply takes over one change of the store, seen at now; a KV without value is
// a deletion. Keys outside Prefix and kinds that this version does not know
// are passed over. A value that does not decode is an error and leaves the
// former record.
func (s *State) Apply(kv KV, deleted bool, now time.Duration) error {
	if kv.Rev > s.Rev {
		s.Rev = kv.Rev
	}
	rest, ok := strings.CutPrefix(kv.Key, Prefix)
	if !ok {
		return nil
	}
	kind, name, _ := strings.Cut(rest, "/")
	var err error
	switch kind {
	case "meta":
		err = applyOne(&s.Meta, kv, deleted, now)
	case "config":
		err = applyOne(&s.Config, kv, deleted, now)
	case "leader":
		err = applyOne(&s.Leader, kv, deleted, now)
	case "disarm":
		err = applyOne(&s.Disarm, kv, deleted, now)
	case "node":
		err = apply(&s.Nodes, NodeName(name), kv, deleted, now)
	case "host":
		err = apply(&s.Hosts, HostName(name), kv, deleted, now)
	case "boot":
		err = apply(&s.Boots, BootID(name), kv, deleted, now)
	case "ended":
		err = apply(&s.Ended, BootID(name), kv, deleted, now)
	case "certificate":
		err = apply(&s.Certs, name, kv, deleted, now)
	case "contradiction":
		err = apply(&s.Contras, BootID(name), kv, deleted, now)
	case "absence":
		err = apply(&s.Absence, name, kv, deleted, now)
	case "view":
		err = apply(&s.Views, NodeName(name), kv, deleted, now)
	case "appeal":
		err = apply(&s.Appeals, BootID(name), kv, deleted, now)
	case "fence":
		err = apply(&s.Fences, BootID(name), kv, deleted, now)
	case "fence-report":
		err = apply(&s.FenceRp, BootID(name), kv, deleted, now)
	case "power-on":
		err = apply(&s.PowerOn, BootID(name), kv, deleted, now)
	case "power-on-report":
		err = apply(&s.PowerRp, BootID(name), kv, deleted, now)
	case "owner":
		err = apply(&s.Owners, ServiceName(name), kv, deleted, now)
	case "ticket":
		err = apply(&s.Tickets, ServiceName(name), kv, deleted, now)
	case "report":
		err = apply(&s.Reports, ServiceName(name), kv, deleted, now)
	case "probe":
		err = apply(&s.Probes, NodeName(name), kv, deleted, now)
	case "failure":
		err = apply(&s.Failed, name, kv, deleted, now)
	case "standby":
		err = apply(&s.Standby, NodeName(name), kv, deleted, now)
	case "wish":
		err = apply(&s.Wishes, ServiceName(name), kv, deleted, now)
	case "token":
		err = apply(&s.Tokens, name, kv, deleted, now)
	}
	if err != nil {
		return fmt.Errorf("record %s at revision %d: %w", short(kv.Key), kv.Rev, err)
	}
	return nil
}

func applyOne[T any](to *Rec[T], kv KV, deleted bool, now time.Duration) error {
	if deleted {
		*to = Rec[T]{}
		return nil
	}
	rec, err := decode[T](kv, now)
	if err == nil {
		*to = rec
	}
	return err
}

func apply[K comparable, T any](to *map[K]Rec[T], name K, kv KV, deleted bool, now time.Duration) error {
	if deleted {
		delete(*to, name)
		return nil
	}
	rec, err := decode[T](kv, now)
	if err != nil {
		return err
	}
	if *to == nil {
		*to = map[K]Rec[T]{}
	}
	(*to)[name] = rec
	return nil
}

func decode[T any](kv KV, now time.Duration) (Rec[T], error) {
	rec := Rec[T]{Rev: kv.Rev, Since: now}
	err := json.Unmarshal(kv.Value, &rec.Value)
	return rec, err
}

// Clone returns a copy that later Apply calls on s do not change. Records are
// replaced whole, never changed in place, so copying the maps is enough.
func (s *State) Clone() State {
	c := *s
	c.Nodes, c.Hosts = cloneMap(s.Nodes), cloneMap(s.Hosts)
	c.Boots, c.Ended = cloneMap(s.Boots), cloneMap(s.Ended)
	c.Certs, c.Views = cloneMap(s.Certs), cloneMap(s.Views)
	c.Appeals, c.Fences = cloneMap(s.Appeals), cloneMap(s.Fences)
	c.FenceRp, c.Owners = cloneMap(s.FenceRp), cloneMap(s.Owners)
	c.PowerOn, c.PowerRp = cloneMap(s.PowerOn), cloneMap(s.PowerRp)
	c.Tickets, c.Reports = cloneMap(s.Tickets), cloneMap(s.Reports)
	c.Probes, c.Failed = cloneMap(s.Probes), cloneMap(s.Failed)
	c.Standby, c.Wishes = cloneMap(s.Standby), cloneMap(s.Wishes)
	c.Tokens, c.Contras = cloneMap(s.Tokens), cloneMap(s.Contras)
	c.Absence = cloneMap(s.Absence)
	return c
}

func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return nil
	}
	c := make(map[K]V, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

// FailureOf returns the failure record of a service on a node.
func (s *State) FailureOf(service ServiceName, node NodeName) (Rec[Failure], bool) {
	rec, ok := s.Failed[string(service)+"/"+string(node)]
	return rec, ok
}

// CertificateOf returns the death certificate of a life by one host.
func (s *State) CertificateOf(life LifeID, host HostName) (Rec[DeathCertificate], bool) {
	rec, ok := s.Certs[string(life)+"/"+string(host)]
	return rec, ok
}

// AbsenceOf returns the absence that a host gave for the life of a boot, if it
// speaks of the arrival by which the boot's record has that host as a place.
func (s *State) AbsenceOf(b Boot, host HostName) (Rec[Absence], bool) {
	rec, ok := s.Absence[string(b.Life)+"/"+string(host)]
	if !ok || rec.Value.Guest != b.Guest || rec.Value.Cluster != s.Meta.Value.ID || !rec.Value.Covers(b.Arrivals[host]) {
		return Rec[Absence]{}, false
	}
	return rec, true
}

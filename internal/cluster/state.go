package cluster

import (
	"encoding/json"
	"fmt"
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
	if err := s.slot(kv.Key).apply(kv, deleted, now); err != nil {
		return fmt.Errorf("record %s at revision %d: %w", short(kv.Key), kv.Rev, err)
	}
	return nil
}

// Only returns a State that holds the record of one key as s has it, and no
// other. It shares nothing with s that Apply changes.
func (s *State) Only(key string) State {
	only := State{Rev: s.Rev}
	s.slot(key).copyTo(only.slot(key))
	return only
}

// Detach copies the map that Apply would change for a key, so that plain copies
// of s made before keep what they have. It is Clone for the one map that needs it.
func (s *State) Detach(key string) { s.slot(key).detach() }

// slot returns the place of a key's record.
func (s *State) slot(key string) slot {
	kind, name := splitKey(key)
	switch kind {
	case "meta":
		return one[Meta]{&s.Meta}
	case "config":
		return one[Config]{&s.Config}
	case "leader":
		return one[Leader]{&s.Leader}
	case "disarm":
		return one[Disarm]{&s.Disarm}
	case "node":
		return tableOf(&s.Nodes, NodeName(name))
	case "host":
		return tableOf(&s.Hosts, HostName(name))
	case "boot":
		return tableOf(&s.Boots, BootID(name))
	case "ended":
		return tableOf(&s.Ended, BootID(name))
	case "certificate":
		return tableOf(&s.Certs, name)
	case "contradiction":
		return tableOf(&s.Contras, BootID(name))
	case "absence":
		return tableOf(&s.Absence, name)
	case "view":
		return tableOf(&s.Views, NodeName(name))
	case "appeal":
		return tableOf(&s.Appeals, BootID(name))
	case "fence":
		return tableOf(&s.Fences, BootID(name))
	case "fence-report":
		return tableOf(&s.FenceRp, BootID(name))
	case "power-on":
		return tableOf(&s.PowerOn, BootID(name))
	case "power-on-report":
		return tableOf(&s.PowerRp, BootID(name))
	case "owner":
		return tableOf(&s.Owners, ServiceName(name))
	case "ticket":
		return tableOf(&s.Tickets, ServiceName(name))
	case "report":
		return tableOf(&s.Reports, ServiceName(name))
	case "probe":
		return tableOf(&s.Probes, NodeName(name))
	case "failure":
		return tableOf(&s.Failed, name)
	case "standby":
		return tableOf(&s.Standby, NodeName(name))
	case "wish":
		return tableOf(&s.Wishes, ServiceName(name))
	case "token":
		return tableOf(&s.Tokens, name)
	}
	return nowhere{}
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

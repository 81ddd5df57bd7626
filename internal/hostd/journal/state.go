package journal

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"ringfence/internal/cluster"
)

// formatVersion is the version of the file, in its first entry.
const formatVersion = 1

// Bounds of what is remembered.
const (
	// closedLimit bounds lives that ended or left. The oldest without an
	// unacknowledged certificate go first; unacknowledged ones all stay.
	closedLimit = 4096
	// decisionLimit bounds the decisions remembered for each cluster.
	decisionLimit = 512
)

// Status is what hostd knows of a life.
type Status string

// The states of a life. A guest may migrate away and come back; nothing follows
// Ended.
const (
	Here Status = "here" // was seen running on this host
	// Leaving: a migration away from here has begun. Until the life is seen
	// running here after it failed, no end that is seen here is its end.
	Leaving Status = "leaving"
	// Arriving: a migration to here was asked for; it may have begun.
	Arriving Status = "arriving"
	Left     Status = "left"  // is not here any more, and may live elsewhere: unknown
	Ended    Status = "ended" // its end was seen here: a tombstone
)

// Open reports whether the life is or may be on this host.
func (s Status) Open() bool { return s == Here || s == Leaving || s == Arriving }

// Life is what hostd knows of one life. Set by hostd's Lives alone.
type Life struct {
	ID     cluster.LifeID  `json:"id"`
	Guest  cluster.GuestID `json:"guest"`
	Status Status          `json:"status"`
	// HostBoot is the boot of this host in which the life was seen here last.
	HostBoot string `json:"host_boot"`
	// Reason says why a life left, in the hypervisor's words; "" is unknown.
	Reason string        `json:"reason,omitempty"`
	Cause  cluster.Cause `json:"cause,omitempty"` // of the end
	// Claimed is the cluster whose claim the hypervisor keeps with the life, so that
	// no host under hostd takes it without that cluster's word.
	Claimed cluster.ClusterID `json:"claimed,omitempty"`
	// Arrival is by which arrival the life is here, or was here last.
	Arrival cluster.Arrival `json:"arrival,omitzero"`
	// Refused: an order was to end the life. It may never arrive here again.
	Refused bool `json:"refused,omitempty"`
	// Reverted: the guest was given an old memory image. It is to be destroyed
	// wherever it is shown.
	Reverted bool `json:"reverted,omitempty"`
}

// Absence is a signed absence and whether a store has it.
type Absence struct {
	cluster.Absence
	Acked bool
}

// Certificate is a death certificate and whether a store has it.
type Certificate struct {
	cluster.DeathCertificate
	Acked    bool
	Revision cluster.Revision // of the store, when acknowledged
}

// Ack says that a certificate stands in its cluster's store.
type Ack struct {
	Seq      uint64           `json:"seq"`
	Revision cluster.Revision `json:"revision"`
}

// Leadership is the highest leadership that spoke for a cluster: first by
// incarnation, then by epoch.
type Leadership struct {
	Cluster     cluster.ClusterID   `json:"cluster"`
	Incarnation cluster.Incarnation `json:"incarnation"`
	Epoch       cluster.Epoch       `json:"epoch"`
}

// Less reports whether l is older than other.
func (l Leadership) Less(other Leadership) bool {
	if l.Incarnation != other.Incarnation {
		return l.Incarnation < other.Incarnation
	}
	return l.Epoch < other.Epoch
}

// Claim says which cluster a guest belongs to.
type Claim struct {
	Guest   cluster.GuestID   `json:"guest"`
	Cluster cluster.ClusterID `json:"cluster"`
}

// Decision is a call that was carried out, or begun: then Outcome is pending.
type Decision struct {
	Cluster     cluster.ClusterID   `json:"cluster"`
	Incarnation cluster.Incarnation `json:"incarnation"`
	ID          string              `json:"id"`
	Action      string              `json:"action"`
	Guest       cluster.GuestID     `json:"guest"`
	Life        cluster.LifeID      `json:"life,omitempty"`
	Outcome     cluster.Outcome     `json:"outcome"`
	Detail      string              `json:"detail,omitempty"`
	NewLife     cluster.LifeID      `json:"new_life,omitempty"`
}

// Watch says whether hostd looks at the guests.
type Watch string

// The words. A hostd that dies says nothing: it watched until then.
const (
	WatchBegan   Watch = "began"   // the guests were listed, and every change is seen from here on
	WatchStopped Watch = "stopped" // hostd was stopped, and its guests go on unseen
)

// Entry is one fact; exactly one field is set.
type Entry struct {
	Format      int                       `json:"format,omitempty"`
	HostBoot    string                    `json:"host_boot,omitempty"`
	Life        *Life                     `json:"life,omitempty"`
	Certificate *cluster.DeathCertificate `json:"certificate,omitempty"`
	Absence     *cluster.Absence          `json:"absence,omitempty"`
	Ack         *Ack                      `json:"ack,omitempty"`
	Leadership  *Leadership               `json:"leadership,omitempty"`
	Claim       *Claim                    `json:"claim,omitempty"`
	Decision    *Decision                 `json:"decision,omitempty"`
	Voter       *Voter                    `json:"voter,omitempty"`
	Watch       Watch                     `json:"watch,omitempty"`
	// LastSeq keeps the counter over a rewrite.
	LastSeq uint64 `json:"last_seq,omitempty"`
}

func (e Entry) check() error {
	n := 0
	for _, set := range []bool{
		e.Format != 0, e.HostBoot != "", e.Life != nil, e.Certificate != nil,
		e.Ack != nil, e.Leadership != nil, e.Claim != nil, e.Decision != nil, e.Voter != nil, e.LastSeq != 0,
		e.Absence != nil, e.Watch != "",
	} {
		if set {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("entry with %d facts, want 1", n)
	}
	if e.Life != nil && e.Life.ID == "" {
		return errors.New("life without id")
	}
	return nil
}

// State is what the entries add up to.
type State struct {
	// HostBoot is the boot id of the host in the last run of hostd.
	HostBoot string
	// Stopped: the last run of hostd was stopped while the host went on, and none
	// has listed the guests since.
	Stopped bool
	// LastSeq is the highest number of a certificate, absence or arrival so far.
	LastSeq uint64
	// Lives holds all that are here, and the latest that ended or left.
	Lives map[cluster.LifeID]Life
	// Certificates by life; a life has at most one.
	Certificates map[cluster.LifeID]Certificate
	// Absences by life: the newest one, while the life is not here.
	Absences    map[cluster.LifeID]Absence
	Leaderships map[cluster.ClusterID]Leadership
	Claims      map[cluster.GuestID]cluster.ClusterID
	decisions   map[cluster.ClusterID][]Decision // oldest first
	voters      map[voterKey]Voter
	bySeq       map[uint64]cluster.LifeID
	closed      []cluster.LifeID // that ended or left, oldest first
}

func newState() State {
	return State{
		Lives:        map[cluster.LifeID]Life{},
		Certificates: map[cluster.LifeID]Certificate{},
		Absences:     map[cluster.LifeID]Absence{},
		Leaderships:  map[cluster.ClusterID]Leadership{},
		Claims:       map[cluster.GuestID]cluster.ClusterID{},
		decisions:    map[cluster.ClusterID][]Decision{},
		voters:       map[voterKey]Voter{},
		bySeq:        map[uint64]cluster.LifeID{},
	}
}

// Decision returns what was noted of a decision of a cluster's incarnation.
func (s *State) Decision(c cluster.ClusterID, i cluster.Incarnation, id string) (Decision, bool) {
	for _, d := range s.decisions[c] {
		if d.ID == id && d.Incarnation == i {
			return d, true
		}
	}
	return Decision{}, false
}

// BySeq returns the certificate with a sequence number.
func (s *State) BySeq(seq uint64) (Certificate, bool) {
	life, ok := s.bySeq[seq]
	if !ok {
		return Certificate{}, false
	}
	c, ok := s.Certificates[life]
	return c, ok
}

// Since returns the certificates of one cluster that are behind seq or not
// acknowledged, in the order of their numbers. The unacknowledged ones are
// never left out: a caller whose seq comes from a journal that was lost since
// would miss them.
func (s *State) Since(c cluster.ClusterID, seq uint64) []cluster.DeathCertificate {
	var out []cluster.DeathCertificate
	for _, cert := range s.Certificates {
		if cert.Cluster == c && (cert.Seq > seq || !cert.Acked) {
			out = append(out, cert.DeathCertificate)
		}
	}
	slices.SortFunc(out, func(a, b cluster.DeathCertificate) int { return cmp.Compare(a.Seq, b.Seq) })
	return out
}

// AbsencesSince returns the absences of one cluster that are behind seq or not
// acknowledged, in the order of their numbers.
func (s *State) AbsencesSince(c cluster.ClusterID, seq uint64) []cluster.Absence {
	var out []cluster.Absence
	for _, a := range s.Absences {
		if a.Cluster == c && (a.Seq > seq || !a.Acked) {
			out = append(out, a.Absence)
		}
	}
	slices.SortFunc(out, func(a, b cluster.Absence) int { return cmp.Compare(a.Seq, b.Seq) })
	return out
}

// AbsenceBySeq returns the absence with a sequence number.
func (s *State) AbsenceBySeq(seq uint64) (Absence, bool) {
	for _, a := range s.Absences {
		if a.Seq == seq {
			return a, true
		}
	}
	return Absence{}, false
}

func (s *State) apply(e Entry) {
	switch {
	case e.HostBoot != "":
		s.HostBoot = e.HostBoot
	case e.Life != nil:
		s.applyLife(*e.Life)
	case e.Certificate != nil:
		s.applyCertificate(*e.Certificate)
	case e.Absence != nil:
		s.Absences[e.Absence.Life] = Absence{Absence: *e.Absence}
		s.LastSeq = max(s.LastSeq, e.Absence.Seq)
	case e.Ack != nil:
		s.applyAck(*e.Ack)
	case e.Leadership != nil:
		if s.Leaderships[e.Leadership.Cluster].Less(*e.Leadership) {
			s.Leaderships[e.Leadership.Cluster] = *e.Leadership
		}
	case e.Claim != nil:
		s.Claims[e.Claim.Guest] = e.Claim.Cluster
	case e.Decision != nil:
		s.applyDecision(*e.Decision)
	case e.Voter != nil:
		s.voters[voterKey{e.Voter.Cluster, e.Voter.Node}] = *e.Voter
	case e.Watch != "":
		s.Stopped = e.Watch == WatchStopped
	case e.LastSeq != 0:
		s.LastSeq = max(s.LastSeq, e.LastSeq)
	}
}

func (s *State) applyLife(l Life) {
	old, known := s.Lives[l.ID]
	if known && old.Status == Ended {
		return
	}
	s.Lives[l.ID] = l
	s.LastSeq = max(s.LastSeq, l.Arrival.Number)
	if l.Status != Here && l.Status != Ended {
		s.wentElsewhere(l.Guest)
	}
	if known && old.Status == Left {
		s.closed = slices.DeleteFunc(s.closed, func(id cluster.LifeID) bool { return id == l.ID })
	}
	if l.Status != Left {
		delete(s.Absences, l.ID)
	}
	if !l.Status.Open() {
		s.closed = append(s.closed, l.ID)
		s.prune()
	}
}

// prune forgets the oldest closed life that nobody waits for.
func (s *State) prune() {
	if len(s.closed) <= closedLimit {
		return
	}
	for i, id := range s.closed[:len(s.closed)-1] {
		cert, has := s.Certificates[id]
		if has && !cert.Acked {
			continue
		}
		delete(s.Lives, id)
		delete(s.Certificates, id)
		delete(s.Absences, id)
		delete(s.bySeq, cert.Seq)
		s.closed = slices.Delete(s.closed, i, i+1)
		return
	}
}

func (s *State) applyCertificate(c cluster.DeathCertificate) {
	if _, has := s.Certificates[c.Life]; has {
		return
	}
	s.Certificates[c.Life] = Certificate{DeathCertificate: c}
	s.bySeq[c.Seq] = c.Life
	s.LastSeq = max(s.LastSeq, c.Seq)
}

func (s *State) applyAck(a Ack) {
	if c, ok := s.BySeq(a.Seq); ok {
		c.Acked, c.Revision = true, a.Revision
		s.Certificates[c.Life] = c
	}
	if absence, ok := s.AbsenceBySeq(a.Seq); ok {
		absence.Acked = true
		s.Absences[absence.Life] = absence
	}
}

func (s *State) applyDecision(d Decision) {
	list := s.decisions[d.Cluster]
	for i := range list {
		if list[i].ID == d.ID && list[i].Incarnation == d.Incarnation {
			list[i] = d
			return
		}
	}
	list = append(list, d)
	if len(list) > decisionLimit {
		list = slices.Delete(list, 0, 1)
	}
	s.decisions[d.Cluster] = list
}

// entries returns the shortest journal with this state. Closed lives come in
// their order, so that the bound goes on dropping the oldest first.
func (s *State) entries() []Entry {
	out := []Entry{{Format: formatVersion}}
	if s.HostBoot != "" {
		out = append(out, Entry{HostBoot: s.HostBoot})
	}
	if s.LastSeq != 0 {
		out = append(out, Entry{LastSeq: s.LastSeq})
	}
	if s.Stopped {
		out = append(out, Entry{Watch: WatchStopped})
	}
	for _, id := range slices.Sorted(maps.Keys(s.Lives)) {
		if l := s.Lives[id]; l.Status.Open() {
			out = append(out, Entry{Life: &l})
		}
	}
	for _, id := range s.closed {
		l := s.Lives[id]
		out = append(out, Entry{Life: &l})
		if c, ok := s.Certificates[id]; ok {
			out = append(out, Entry{Certificate: &c.DeathCertificate})
			if c.Acked {
				out = append(out, Entry{Ack: &Ack{Seq: c.Seq, Revision: c.Revision}})
			}
		}
		out = append(out, s.absenceEntries(id)...)
	}
	for _, id := range slices.Sorted(maps.Keys(s.Leaderships)) {
		l := s.Leaderships[id]
		out = append(out, Entry{Leadership: &l})
	}
	for _, id := range slices.Sorted(maps.Keys(s.Claims)) {
		out = append(out, Entry{Claim: &Claim{Guest: id, Cluster: s.Claims[id]}})
	}
	for _, id := range slices.Sorted(maps.Keys(s.decisions)) {
		for _, d := range s.decisions[id] {
			out = append(out, Entry{Decision: &d})
		}
	}
	return append(out, s.voterEntries()...)
}

func (s *State) absenceEntries(id cluster.LifeID) []Entry {
	a, ok := s.Absences[id]
	if !ok {
		return nil
	}
	out := []Entry{{Absence: &a.Absence}}
	if a.Acked {
		out = append(out, Entry{Ack: &Ack{Seq: a.Seq}})
	}
	return out
}

package hostd

import (
	"cmp"
	"crypto/ed25519"
	"log/slog"
	"maps"
	"slices"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

// pendingLimit bounds the facts that wait for a journal that takes no more.
const pendingLimit = 4096

// LivesConfig is what Lives needs to know.
type LivesConfig struct {
	Journal  *journal.Journal
	Host     cluster.HostName
	HostBoot string
	// Run is this run of hostd and no other: arrivals are counted in it.
	Run string
	// Key signs certificates and bindings.
	Key         ed25519.PrivateKey
	Permissions Permissions
	// Immobile: guests of this hypervisor can never migrate or be saved, so a
	// life that was seen here and is off now has ended.
	Immobile bool
	Log      *slog.Logger
}

// Lives is what hostd knows of the lives on its host, and every decision about
// them: which ends are ends (rule P4), what is a tombstone (P7), whose order
// counts (P8). It makes each fact durable before it tells anybody (P9). It has
// no socket, clock or goroutine; one goroutine owns it (the keeper, or the
// simulator).
//
// What is an end, when nobody reported one:
//
//	the listing says off or another life, on an Immobile hypervisor   ended
//	the same anywhere else                                            unknown
//	the guest is missing from the listing, or its state is unknown    nothing changes
//	the host has a new boot id, on an Immobile hypervisor             ended
//	the same anywhere else, hostd was not stopped before, the life
//	carries the claim of its guest's cluster, and the first listing
//	does not show it                                                  absent, restarted
//	the same, hostd was stopped before, or the life carries no claim  unknown
//
// Unknown, because the life may have moved or been saved while hostd was not
// looking: libvirt-guests saves or migrates guests after hostd was stopped and
// before the host goes down (interleavings C-10, H-5). Where hostd went down with
// the host its word is that what ran here is here no more: an end, unless the life
// has another place, for no migration begins before its target is one (P5), and no
// image of an ended life is taken back (P7). Both is so for a life that carries the
// claim of its cluster: a host that does not know that cluster refuses it.
type Lives struct {
	cfg LivesConfig
	log *slog.Logger
	// views is the last word of the hypervisor on each guest.
	views map[cluster.GuestID]hypervisor.Guest
	// touched says at which observation a guest was last heard of otherwise
	// than by a listing; a listing that began before it is stale for the guest.
	touched map[cluster.GuestID]uint64
	count   uint64
	// confirmed are the lives seen running since the watch began.
	confirmed map[cluster.LifeID]bool
	// fencing are lives that an order is ending, by the cluster that ordered.
	fencing map[cluster.LifeID]cluster.ClusterID
	// pending are facts that the journal did not take yet, oldest first.
	pending []fact
	// asked are arrivals that wait for their cluster.
	asked map[cluster.LifeID]*ask
	// stayed are lives whose migration away is known to have failed.
	stayed map[cluster.LifeID]bool
	// lost are lives of an earlier boot of the host that went down with it, unless
	// the first listing shows them.
	lost map[cluster.LifeID]bool
	// unshown counts the listings in a row that do not show an arriving life.
	unshown map[cluster.LifeID]int
}

// Effect is what follows from what Lives was told; exactly one field is set.
// The keeper carries effects out in their order.
type Effect struct {
	// Certificate is durable and goes to the streams of its cluster.
	Certificate *cluster.DeathCertificate
	// Absence is durable and goes to the streams of its cluster.
	Absence *cluster.Absence
	// Guest has changed its state; it goes to the streams that may know.
	Guest *hostapi.Guest
	// Asked is an arrival that its cluster must write down before it may begin.
	Asked *Asked
	// Answered is what became of an arrival that was asked for.
	Answered *Answered
	// Resolve is an arrival that has come to nothing, or may have: see Resolved.
	Resolve *Resolve
	// Kill is an ended life that runs again: it is destroyed at once.
	Kill *Target
}

// Target is one life of one guest.
type Target struct {
	Guest cluster.GuestID
	Life  cluster.LifeID
}

// fact is a change of one life that is to be journalled.
type fact struct {
	life   cluster.LifeID
	guest  cluster.GuestID
	status journal.Status
	reason hypervisor.Reason
	cause  cluster.Cause
	// on is the cluster that gets the certificate if nobody claimed the guest.
	on cluster.ClusterID
	// arrival is another one than the life had; zero keeps that.
	arrival cluster.Arrival
	// absent asks for a signed absence and says why the life is not here.
	absent string
	// restarted: its memory is gone with an earlier boot of this host. What shows
	// up here as that life is an image, and is refused for good.
	restarted bool
	// reverted: the life runs from an old memory image.
	reverted bool
	// claimed is the cluster whose claim the life carries; "" keeps what it had.
	claimed cluster.ClusterID
}

// NewLives takes over a journal. Begin comes next.
func NewLives(cfg LivesConfig) *Lives {
	return &Lives{
		cfg: cfg, log: cfg.Log.With("component", "lives"),
		views:     map[cluster.GuestID]hypervisor.Guest{},
		touched:   map[cluster.GuestID]uint64{},
		confirmed: map[cluster.LifeID]bool{},
		fencing:   map[cluster.LifeID]cluster.ClusterID{},
		asked:     map[cluster.LifeID]*ask{},
		stayed:    map[cluster.LifeID]bool{},
		lost:      map[cluster.LifeID]bool{},
		unshown:   map[cluster.LifeID]int{},
	}
}

func (l *Lives) state() *journal.State { return l.cfg.Journal.State() }

// Begin settles the lives of earlier boots of the host: on an Immobile
// hypervisor they have ended with the host, elsewhere the first listing settles
// them, or they are unknown. What was moving is not here any more, wherever it is.
func (l *Lives) Begin() ([]Effect, error) {
	var effects []Effect
	for _, life := range l.here() {
		if life.HostBoot == l.cfg.HostBoot {
			continue
		}
		f := fact{life: life.ID, guest: life.Guest, status: journal.Left}
		switch {
		case life.Status != journal.Here:
			f.reason, f.absent = hypervisor.ReasonMigrated, "the host restarted while it moved"
		case l.cfg.Immobile:
			f.status, f.cause = journal.Ended, cluster.CauseHostRestarted
		case !l.state().Stopped && life.Claimed != "" && life.Claimed == l.owner(life.Guest):
			l.lost[life.ID] = true
			continue
		}
		more, err := l.write(f)
		if err != nil {
			return nil, err
		}
		effects = append(effects, more...)
	}
	if l.state().HostBoot == l.cfg.HostBoot {
		return effects, nil
	}
	return effects, l.cfg.Journal.Append(journal.Entry{HostBoot: l.cfg.HostBoot})
}

// Flush tries again to journal what the journal did not take.
func (l *Lives) Flush() []Effect {
	var effects []Effect
	for len(l.pending) > 0 {
		more, err := l.write(l.pending[0])
		if err != nil {
			l.log.Error("journal takes no facts; free some space", "waiting", len(l.pending), "err", err)
			return effects
		}
		l.pending = l.pending[1:]
		effects = append(effects, more...)
	}
	return effects
}

// record journals a fact behind all that wait. What cannot be written now is
// kept and written by a later Flush; nothing is told before.
func (l *Lives) record(f fact) []Effect {
	last, waits := l.waiting(f.life)
	if waits && last == f {
		return nil
	}
	if !waits {
		if entries, _ := l.entries(f); len(entries) == 0 {
			return nil
		}
	}
	if len(l.pending) >= pendingLimit {
		l.log.Error("fact about a life is lost: the journal has taken nothing for long", "guest", f.guest, "life", f.life, "status", f.status)
		return nil
	}
	l.pending = append(l.pending, f)
	return l.Flush()
}

// waiting returns the newest fact about a life that is not journalled yet.
func (l *Lives) waiting(life cluster.LifeID) (fact, bool) {
	for i := len(l.pending) - 1; i >= 0; i-- {
		if l.pending[i].life == life {
			return l.pending[i], true
		}
	}
	return fact{}, false
}

// write journals one fact, with the certificate or absence that follows.
func (l *Lives) write(f fact) ([]Effect, error) {
	entries, effects := l.entries(f)
	if len(entries) == 0 {
		return nil, nil
	}
	if err := l.cfg.Journal.Append(entries...); err != nil {
		return nil, err
	}
	l.log.Info("life", "guest", f.guest, "life", f.life, "status", f.status, "reason", f.reason, "cause", f.cause, "absent", f.absent)
	return effects, nil
}

// entries turns a fact into journal entries and what is told then; none when it
// changes nothing.
func (l *Lives) entries(f fact) (entries []journal.Entry, effects []Effect) {
	old, known := l.state().Lives[f.life]
	switch {
	case known && old.Guest != f.guest:
		l.log.Error("the hypervisor gave one life to two guests; ignored", "life", f.life, "guest", f.guest, "other_guest", old.Guest)
		return nil, nil
	case known && old.Status == journal.Ended:
		return nil, nil
	}
	life := l.after(old, f)
	if !known || old != life {
		entries = append(entries, journal.Entry{Life: &life})
	}
	if f.status == journal.Ended {
		if cert := l.certify(life, f.on); cert != nil {
			entries, effects = append(entries, journal.Entry{Certificate: cert}), append(effects, Effect{Certificate: cert})
		}
	}
	if said, denied := l.state().Absences[f.life]; f.absent != "" && !(denied && old == life && said.Final == life.Refused) {
		if absence := l.deny(life, f); absence != nil {
			entries, effects = append(entries, journal.Entry{Absence: absence}), append(effects, Effect{Absence: absence})
		}
	}
	return entries, effects
}

// after is what the journal says of a life behind a fact.
func (l *Lives) after(old journal.Life, f fact) journal.Life {
	life := journal.Life{
		ID: f.life, Guest: f.guest, HostBoot: l.cfg.HostBoot, Status: f.status, Arrival: old.Arrival, Refused: old.Refused || f.restarted,
		Reverted: old.Reverted || f.reverted, Claimed: cmp.Or(f.claimed, old.Claimed),
	}
	if f.arrival != (cluster.Arrival{}) {
		life.Arrival = f.arrival
	}
	switch f.status {
	case journal.Left:
		life.Reason = string(f.reason)
	case journal.Ended:
		life.Cause = f.cause
	}
	return life
}

// certify signs the end of a life for the cluster that claimed its guest, or
// for an unclaimed guest the cluster whose order ended it. A life of a guest
// that nobody claimed needs no certificate: nobody has registered a boot in it.
func (l *Lives) certify(life journal.Life, on cluster.ClusterID) *cluster.DeathCertificate {
	owner, claimed := l.state().Claims[life.Guest]
	if !claimed {
		owner = on
	}
	if owner == "" {
		return nil
	}
	cert := cluster.DeathCertificate{
		Cluster: owner, Guest: life.Guest, Life: life.ID, Host: l.cfg.Host,
		HostBoot: l.cfg.HostBoot, Seq: l.state().LastSeq + 1, Cause: life.Cause,
	}
	cert.Signature = ed25519.Sign(l.cfg.Key, cert.SigningBytes())
	return &cert
}

// here returns the lives that are or may be on this host by the journal.
func (l *Lives) here() []journal.Life {
	var out []journal.Life
	for _, life := range l.state().Lives {
		if life.Status.Open() {
			out = append(out, life)
		}
	}
	sortLives(out)
	return out
}

// Past is what a stream of a cluster begins with.
type Past struct {
	Hello        hostapi.Hello
	Certificates []cluster.DeathCertificate
	Absences     []cluster.Absence
	Arriving     []hostapi.Arriving // that wait for an answer
	Guests       []hostapi.Guest    // the last word on every guest that it may see
}

// Since returns what a stream of a cluster begins with.
func (l *Lives) Since(c cluster.ClusterID, seq uint64) Past {
	past := Past{
		Hello:        hostapi.Hello{Host: l.cfg.Host, HostBoot: l.cfg.HostBoot, LastSeq: l.state().LastSeq},
		Certificates: l.state().Since(c, seq), Absences: l.state().AbsencesSince(c, seq), Arriving: l.waitingFor(c),
	}
	for _, id := range slices.Sorted(maps.Keys(l.views)) {
		if l.cfg.Permissions.Allows(c, id) {
			past.Guests = append(past.Guests, l.Told(l.views[id]))
		}
	}
	return past
}

// Ack notes that a certificate or an absence stands in its cluster's store.
func (l *Lives) Ack(c cluster.ClusterID, a hostapi.Ack) error {
	cert, certified := l.state().BySeq(a.Seq)
	absence, denied := l.state().AbsenceBySeq(a.Seq)
	if !(certified && cert.Cluster == c) && !(denied && absence.Cluster == c) {
		return &Refusal{hostapi.CodeForbidden, "no certificate or absence of this cluster has that sequence number"}
	}
	if a.Revision <= 0 {
		return &Refusal{hostapi.CodeBadRequest, "revision: want the store's revision of what is acknowledged, above 0"}
	}
	if cert.Acked || absence.Acked {
		return nil
	}
	return l.cfg.Journal.Append(journal.Entry{Ack: &journal.Ack{Seq: a.Seq, Revision: a.Revision}})
}

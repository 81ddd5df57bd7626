package cluster

import (
	"maps"
	"slices"
)

// Records are the values in the store. Each has one key (keys.go), one writer
// at a time, and is written only in transactions that compare the revisions it
// was derived from.

// FormatVersion is the version of the records in the store. A node refuses a
// store of a newer format.
const FormatVersion = 1

// Meta identifies the cluster; written once by init.
type Meta struct {
	ID          ClusterID   `json:"id"`
	Name        string      `json:"name"`
	Incarnation Incarnation `json:"incarnation"`
	Format      int         `json:"format"`
}

// Leader is who plans; moved by compare-and-set only.
type Leader struct {
	Node  NodeName `json:"node"`
	Boot  BootID   `json:"boot"`
	Epoch Epoch    `json:"epoch"`
}

// Node is a joined member; written by join, deleted by removal.
type Node struct {
	Name NodeName `json:"name"`
	// Address is the host part that peers use; beats, store and join listen there.
	Address  string `json:"address"`
	BeatPort int    `json:"beat_port"`
	PeerPort int    `json:"peer_port"` // raft traffic of the store
	JoinPort int    `json:"join_port"`
	// Member is the store's id of the node's voter.
	Member uint64 `json:"member"`
	// Witness: it votes, observes and may lead, and never owns a service.
	Witness bool `json:"witness,omitempty"`
	// Removing: no boot of its may register any more, and its voter goes.
	Removing bool `json:"removing,omitempty"`
}

// Host is an enrolled hypervisor host; written by `ringfence host add`.
type Host struct {
	Name    HostName `json:"name"`
	Address string   `json:"address"` // host:port of hostd's native API
	// Certificate is the PEM of the TLS certificate that hostd must show.
	Certificate string `json:"certificate"`
	// SigningKey is the Ed25519 public key of its death certificates.
	SigningKey []byte `json:"signing_key"`
}

// Phase is how far a boot has come by its own account.
type Phase string

// The phases of a boot, in order. Only the node itself writes them.
const (
	PhaseJoining Phase = "joining" // registered; probing what is active
	PhaseMember  Phase = "member"  // may own services
	PhaseLeaving Phase = "leaving" // latch closed: takes no order any more
)

// Boot is one run of a node's operating system, registered by that run.
type Boot struct {
	ID    BootID   `json:"id"`
	Node  NodeName `json:"node"`
	Phase Phase    `json:"phase"`
	// Life, Guest and Places come from the host's signed binding; empty on bare
	// metal, where no host can be asked.
	Life  LifeID  `json:"life,omitempty"`
	Guest GuestID `json:"guest,omitempty"`
	// Places is every host where the life is or may be (rule P5): the target of
	// a migration is added before the migration begins, and a host is taken out
	// when it has signed that the life is not there.
	Places []HostName `json:"places,omitempty"`
	// Arrivals says by which arrival the life came to a place, or may come. A
	// place without one is where it began. See Absence.
	Arrivals map[HostName]Arrival `json:"arrivals,omitempty"`
	Binding  *Binding             `json:"binding,omitempty"`
	// Machine identifies the hardware (DMI UUID or machine id): where no host
	// can be asked, a new boot of the same machine ends the former (rule P6).
	Machine string `json:"machine,omitempty"`
	// Predecessors are the boots of the same node that stood in the store when
	// this one registered: it is newer than each of them.
	Predecessors []BootID `json:"predecessors,omitempty"`
}

// Arrive returns the record with one more place: a migration of the life to
// host is about to begin, by that arrival (rule P5).
func (b Boot) Arrive(host HostName, arrival Arrival) Boot {
	if !slices.Contains(b.Places, host) {
		b.Places = append(slices.Clone(b.Places), host)
	}
	b.Arrivals = maps.Clone(b.Arrivals)
	if b.Arrivals == nil {
		b.Arrivals = map[HostName]Arrival{}
	}
	b.Arrivals[host] = arrival
	return b
}

// Leave returns the record without the places where the life is not.
func (b Boot) Leave(gone []HostName) Boot {
	is := func(h HostName) bool { return slices.Contains(gone, h) }
	b.Places = slices.DeleteFunc(slices.Clone(b.Places), is)
	b.Arrivals = maps.Clone(b.Arrivals)
	maps.DeleteFunc(b.Arrivals, func(h HostName, _ Arrival) bool { return is(h) })
	return b
}

// Ended is a tombstone: the boot will never act again. Written once, create-if-absent.
type Ended struct {
	Boot     BootID       `json:"boot"`
	Node     NodeName     `json:"node"`
	Evidence EvidenceKind `json:"evidence"`
	// Detail says which certificate, method or person, for people to read.
	Detail string `json:"detail"`
}

// Contradiction says that a boot ran after its tombstone was written, so that
// its evidence was false (rule P11). Created if absent, by whoever has the proof.
type Contradiction struct {
	Boot     BootID       `json:"boot"`
	Node     NodeName     `json:"node"`
	Evidence EvidenceKind `json:"evidence"` // what the tombstone says
	// Life is that of the boot: certificates of it that are older are void for good.
	Life LifeID `json:"life,omitempty"`
	// Seen is the revision that the writer had read: what is newer came after the
	// sign of life.
	Seen Revision `json:"seen"`
	// Hosts gave that evidence: their word on lives counts no more until an
	// operator trusts them again, which takes them out.
	Hosts []HostName `json:"hosts,omitempty"`
	By    NodeName   `json:"by"`  // who has the proof
	How   string     `json:"how"` // the proof, for people
	// Settled is an operator's word, given after the contradiction, that the boot
	// has ended all the same, with name and reason.
	Settled string `json:"settled,omitempty"`
}

// NewContradiction makes the record of a sign of life of a boot, seen by a node
// that has read s.
func NewContradiction(s *State, boot BootID, by NodeName, how string) Contradiction {
	b, ended := s.Boots[boot].Value, s.Ended[boot].Value
	c := Contradiction{Boot: boot, Node: ended.Node, Evidence: ended.Evidence, Life: b.Life, Seen: s.Rev, By: by, How: how}
	switch ended.Evidence {
	case EvidenceCertificate, EvidenceFenced, EvidenceHostRestarted:
		for _, place := range b.Places {
			_, signed := s.CertificateOf(b.Life, place)
			if absence, _ := s.AbsenceOf(b, place); signed || absence.Value.Restarted {
				c.Hosts = append(c.Hosts, place)
			}
		}
	}
	return c
}

// Contradicts reports whether a sign of life of a boot after its tombstone
// contradicts the evidence. It does not after a clean leave, whose daemon may
// still be on its way out, nor where a newer boot runs in the same life: what
// answers is of that life, and fencing it would hit the newer boot.
func (s *State) Contradicts(boot BootID) bool {
	ended, isEnded := s.Ended[boot]
	former, known := s.Boots[boot]
	if !isEnded || !known || ended.Value.Evidence == EvidenceLeave {
		return false
	}
	for _, newer := range s.Boots {
		sameLife := former.Value.Life != "" && newer.Value.Life == former.Value.Life
		if sameLife && newer.Value.Node == former.Value.Node && slices.Contains(newer.Value.Predecessors, boot) {
			return false
		}
	}
	return true
}

// Silence is how an observer hears a peer.
type Silence string

// The degrees of silence; DESIGN section 6 has the two defaults.
const (
	SilenceSuspect Silence = "suspect" // 0.6 s without a beat
	SilenceLost    Silence = "lost"    // 1.2 s where a host can be asked, else 3 s
)

// HostWord is what the hosts at the places of a life say of it now, taken
// together by one node; a word is never evidence.
type HostWord string

// The words of hosts. WordUnknown is the zero value: some place cannot be asked,
// or its host does not know.
const (
	WordUnknown HostWord = ""
	WordRunning HostWord = "running"
	WordPaused  HostWord = "paused" // makes no progress until somebody unpauses it
	WordOff     HostWord = "off"    // does not run in that life: off, saved, or in another life
)

// View is what one node hears of its peers; written by that node when it
// changes, and again at intervals while somebody is silent: the record's
// revision is the fresh nonce that the accused may answer (rule P17).
type View struct {
	Node NodeName `json:"node"`
	Boot BootID   `json:"boot"`
	// Silent lists the boots that are not heard.
	Silent map[BootID]Silence `json:"silent,omitempty"`
	// Words is what hosts say of the silent ones to that node, where they do.
	Words map[BootID]HostWord `json:"words,omitempty"`
	// Abstain: the observer had a gap in its own loop and accuses nobody.
	Abstain bool `json:"abstain,omitempty"`
}

// Appeal is the accused's answer: "I read the view with this revision".
type Appeal struct {
	Node NodeName `json:"node"`
	Boot BootID   `json:"boot"`
	// Answers maps each accusing node to the revision of its view.
	Answers map[NodeName]Revision `json:"answers"`
}

// FenceReason is why a boot is to be fenced.
type FenceReason string

// The reasons of a fence decision.
const (
	FenceSilent     FenceReason = "silent"      // lost by agreement of the observers
	FenceStopFailed FenceReason = "stop failed" // a stop there could not be verified
	FenceContradict FenceReason = "answers"     // it ran after its tombstone was written
)

// Fence is the one decision to end a boot: created if absent, never withdrawn
// (rules P17, P19). The leader assigns attempts to executors for ever.
type Fence struct {
	Boot     BootID      `json:"boot"`
	Node     NodeName    `json:"node"`
	Reason   FenceReason `json:"reason"`
	Detail   string      `json:"detail"`
	Epoch    Epoch       `json:"epoch"`
	Attempt  int         `json:"attempt"`  // 1 for the first
	Level    int         `json:"level"`    // index into the node's fence levels
	Executor NodeName    `json:"executor"` // who carries this attempt out
}

// FenceReport is the executor's account of one attempt.
type FenceReport struct {
	Boot     BootID   `json:"boot"`
	Attempt  int      `json:"attempt"`
	Executor NodeName `json:"executor"`
	Outcome  Outcome  `json:"outcome"`
	// Places are those that the attempt has verified, by their arrivals: a place
	// that was added behind it voids its done (rule P5).
	Places map[HostName]Arrival `json:"places,omitempty"`
	Detail string               `json:"detail"`
}

// Covers reports whether the attempt has verified every place that the life of
// the boot has by its record, in the arrival of that record.
func (r FenceReport) Covers(b Boot) bool {
	for _, place := range b.Places {
		if arrival, verified := r.Places[place]; !verified || arrival != b.Arrivals[place] {
			return false
		}
	}
	return true
}

// PowerOn is the one decision to start the guest of a fenced boot anew: created
// if absent, behind its tombstone and apart from the decision to end it (rule
// P19). The leader assigns attempts until one is done or a newer boot of the
// node is registered.
type PowerOn struct {
	Boot  BootID   `json:"boot"` // that has ended
	Node  NodeName `json:"node"`
	Guest GuestID  `json:"guest"`
	// Host is where the life was last.
	Host     HostName `json:"host"`
	Epoch    Epoch    `json:"epoch"`
	Attempt  int      `json:"attempt"`  // 1 for the first
	Executor NodeName `json:"executor"` // who carries this attempt out
}

// PowerOnReport is the executor's account of one attempt; done means that the
// guest runs in a new life.
type PowerOnReport FenceReport

// Want is what the leader orders the owner to do.
type Want string

// The orders to an owner.
const (
	WantRun  Want = "run"
	WantStop Want = "stop"
)

// Owner is the ownership record and the order in one: who may run a service,
// and what that boot shall do with it (rule P15). It is taken when the order
// commits. Boot is empty while nobody owns the service; Generation stays.
type Owner struct {
	Service    ServiceName `json:"service"`
	Generation Generation  `json:"generation"`
	Node       NodeName    `json:"node,omitempty"`
	Boot       BootID      `json:"boot,omitempty"`
	Want       Want        `json:"want,omitempty"`
	Epoch      Epoch       `json:"epoch"`
	// Definition is the service as ordered: the owner starts, restarts and stops
	// exactly this, whatever the configuration says by then.
	Definition ServiceConfig `json:"definition"`
	Reason     string        `json:"reason"`
}

// Ticket opens a start: the owner commits it before the first agent runs,
// comparing owner, generation, boot-not-ended and epoch (rule P15).
type Ticket struct {
	Service    ServiceName `json:"service"`
	Generation Generation  `json:"generation"`
	Node       NodeName    `json:"node"`
	Boot       BootID      `json:"boot"`
	Epoch      Epoch       `json:"epoch"`
}

// ReportState is what an owner says of a service.
type ReportState string

// The states that an owner reports. No report means unknown: still owner.
const (
	ReportStarting   ReportState = "starting"
	ReportRunning    ReportState = "running"
	ReportRestarting ReportState = "restarting"  // failed, being restarted in place under the same ticket
	ReportStopping   ReportState = "stopping"    // stop under way, not verified
	ReportStopped    ReportState = "stopped"     // every resource verified stopped, on order
	ReportFailed     ReportState = "failed"      // did not run; every resource verified stopped
	ReportStopFailed ReportState = "stop failed" // may be active; only fencing helps
)

// Report is the owner's account of one service.
type Report struct {
	Service    ServiceName `json:"service"`
	Node       NodeName    `json:"node"`
	Boot       BootID      `json:"boot"`
	Generation Generation  `json:"generation"`
	State      ReportState `json:"state"`
	Detail     string      `json:"detail,omitempty"`   // which resource, what it said
	Restarts   int         `json:"restarts,omitempty"` // in place, in this generation
	Ban        Ban         `json:"ban,omitempty"`      // how far a failure reaches
}

// Probe says what a node found active before it may own anything (rule P24).
type Probe struct {
	Node NodeName `json:"node"`
	Boot BootID   `json:"boot"`
	// Config is the revision of the configuration whose services were probed.
	Config Revision `json:"config"`
	// Active lists services found active though not owned and not stoppable,
	// or whose probe failed: an error counts as active (rule P16).
	Active map[ServiceName]string `json:"active,omitempty"`
	// Autostart lists services that this machine would start by itself at its
	// next boot, with what would start them and how to end that.
	Autostart map[ServiceName]string `json:"autostart,omitempty"`
}

// Failure remembers that a node could not run a service.
type Failure struct {
	Service ServiceName `json:"service"`
	Node    NodeName    `json:"node"`
	Count   int         `json:"count"`
	Detail  string      `json:"detail"`
	// Ban is how far it reaches beyond its expiry, while the configuration is the
	// one of revision Config.
	Ban    Ban      `json:"ban,omitempty"`
	Config Revision `json:"config,omitempty"`
}

// Ban is how far a failure reaches that another try cannot mend.
type Ban string

// The reaches of a failure, as the exit codes of OCF agents tell them.
const (
	BanNone    Ban = ""        // tried again once the failure has expired
	BanNode    Ban = "node"    // cannot run on that node: software or permission is missing
	BanCluster Ban = "cluster" // cannot run anywhere with these parameters
)

// Standby is an operator's wish that a node owns nothing.
type Standby struct {
	Node NodeName `json:"node"`
	By   string   `json:"by"`
}

// Disarm is an operator's wish that nobody is fenced and nothing is recovered,
// as for work on the network (rule P18). Absent: the cluster is armed.
type Disarm struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// Wish is an operator's word on one service; absent means: run it anywhere.
type Wish struct {
	Service ServiceName `json:"service"`
	Stopped bool        `json:"stopped,omitempty"`
	// MoveTo is cleared by the leader once the service runs there.
	MoveTo NodeName `json:"move_to,omitempty"`
	By     string   `json:"by"`
}

// Token admits one node, once.
type Token struct {
	ID string `json:"id"`
	// SecretHash is SHA-256 of the secret half, in hex.
	SecretHash string `json:"secret_hash"`
	// Node is who has used the token; empty while it is good. Used ones stay for
	// a while, so that a second use can be told from a wrong token.
	Node string `json:"node,omitempty"`
}

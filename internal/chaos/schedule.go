package chaos

import (
	"fmt"
	"math/rand/v2"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/lab"
)

// Kind is what goes wrong.
type Kind string

// The kinds of faults.
const (
	Kill         Kind = "kill guest, its host tells"
	KillQuiet    Kind = "kill guest, its host keeps quiet"
	CutGuest     Kind = "cut guest off the network"
	CutHost      Kind = "cut host off the network"
	Pause        Kind = "pause guest"
	Migrate      Kind = "migrate guest"
	MigrateFail  Kind = "migration that fails before switch-over"
	PostcopyFail Kind = "migration that fails after switch-over"
	Save         Kind = "save and restore guest"
	KillHostd    Kind = "kill hostd"
	KillDaemon   Kind = "kill node daemon"
	StallDaemon  Kind = "stop node daemon and its voter (SIGSTOP)"
	KillProgram  Kind = "kill the services' programs"
	PowerLoss    Kind = "power loss of host"
)

func kinds() []Kind {
	return []Kind{
		Kill, KillQuiet, CutGuest, CutHost, Pause, Migrate, MigrateFail, PostcopyFail,
		Save, KillHostd, KillDaemon, StallDaemon, KillProgram, PowerLoss,
	}
}

// Fault is one thing that goes wrong, and for how long.
type Fault struct {
	At   time.Duration // after the beginning
	Kind Kind
	Node cluster.NodeName // whom it hits, or
	Host cluster.HostName // which host, or where the guest migrates to
	// Hold is until it is undone. Migrations take Duration before that.
	Hold, Duration, Downtime time.Duration
}

// String says what happens, without when.
func (f Fault) String() string {
	at := string(f.Node)
	switch {
	case f.Node == "":
		at = string(f.Host)
	case f.Host != "":
		at = fmt.Sprintf("%s to %s", f.Node, f.Host)
	}
	return fmt.Sprintf("%s: %s", at, f.Kind)
}

const (
	// firstFault is when the first fault may come, and closing how long before
	// the end the last.
	firstFault = 500 * time.Millisecond
	closing    = time.Second
	// Faults are minGap to maxGap apart, so they overlap often.
	minGap = 500 * time.Millisecond
	maxGap = 5 * time.Second
)

// schedule draws the faults of a run. Kinds come from a shuffled deck, so that
// a short run has few of the same kind and a long one has all.
func schedule(seed uint64, duration time.Duration) []Fault {
	rng := rand.New(rand.NewPCG(seed, 0))
	var faults []Fault
	var deck []Kind
	for at := firstFault; at < duration-closing; at += between(rng, minGap, maxGap) {
		if len(deck) == 0 {
			deck = kinds()
			rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		faults = append(faults, draw(rng, at, deck[0]))
		deck = deck[1:]
	}
	return faults
}

// draw uses the same count of numbers for every kind.
func draw(rng *rand.Rand, at time.Duration, kind Kind) Fault {
	node := lab.Nodes()[rng.IntN(len(lab.Nodes()))]
	host := lab.Hosts()[rng.IntN(len(lab.Hosts()))]
	f := Fault{
		At: at, Kind: kind, Hold: between(rng, 200*time.Millisecond, 5*time.Second),
		Duration: between(rng, 100*time.Millisecond, 2*time.Second), Downtime: between(rng, 0, time.Second),
	}
	switch kind {
	case CutHost, KillHostd, PowerLoss:
		f.Host = host
	case Migrate, MigrateFail, PostcopyFail:
		f.Node, f.Host = node, host
	default:
		f.Node = node
	}
	return f
}

func between(rng *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(rng.Int64N(int64(high-low)))
}

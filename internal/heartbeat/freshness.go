package heartbeat

import (
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/beat"
)

// freshness decides whether an authentic beat is new or a replay, and which
// nonce to return to each peer. It has no clock, socket or lock.
//
// The rule. Every daemon run is a session with a random number. Within a
// session the counter must grow. A session is accepted once it has answered:
// one of its beats returns a nonce that this transport sent after it accepted
// the former session of that boot. So neither beats of an earlier run nor those
// of an earlier boot can be replayed, the receiver may forget everything in a
// restart, and neither clocks nor files are trusted. The cost: after a start
// two rounds pass before a node is heard, and a node that cannot hear us is not
// heard once it (or we) restarted; both sides are then silent to each other, as
// with any broken path.
//
// To let a peer's session be accepted there, this side returns nonces also to
// sessions that it has not accepted itself; else two starting nodes would wait
// for each other.
type freshness struct {
	peers map[cluster.NodeName]*peerState // exactly the peers of the last round
	sent  [nonceMemory]sentNonce          // ring of the last rounds' nonces
	round uint64                          // number of the current round; 0: none yet
}

const (
	nonceMemory = 64 // rounds: 6.4 s
	bootLimit   = 4  // boots of one node that are told apart
)

// sentNonce is the nonce of one round.
type sentNonce struct {
	nonce uint64
	round uint64
	at    time.Duration
}

// peerState is what is known of the node behind one name.
type peerState struct {
	boots map[cluster.BootID]*session
	// heard is the newest nonce of an accepted session, pending that of one not
	// accepted. Both are returned by turns, so that replayed beats of an old
	// session cannot keep the right nonce from being returned.
	heard, pending uint64
}

// session is the accepted daemon run of one boot.
type session struct {
	number   uint64
	counter  uint64
	accepted uint64 // round in which it was accepted
	last     time.Duration
}

// Reasons why an authentic beat is not delivered.
const (
	reasonStranger = "sender is not a peer"
	reasonOwnName  = "sender has this node's name"
	reasonReplay   = "counter did not grow"
	reasonUnproven = "session has not answered yet"
)

func newFreshness() *freshness {
	return &freshness{peers: map[cluster.NodeName]*peerState{}}
}

// begin opens a round: nonce goes out at now to exactly these peers.
func (f *freshness) begin(peers []Peer, nonce uint64, now time.Duration) {
	f.round++
	f.sent[f.round%nonceMemory] = sentNonce{nonce: nonce, round: f.round, at: now}
	known := make(map[cluster.NodeName]*peerState, len(peers))
	for _, p := range peers {
		if state := f.peers[p.Node]; state != nil {
			known[p.Node] = state
		} else {
			known[p.Node] = &peerState{boots: map[cluster.BootID]*session{}}
		}
	}
	f.peers = known
}

// echo returns the nonce to return to a peer in this round, or 0.
func (f *freshness) echo(node cluster.NodeName) uint64 {
	p := f.peers[node]
	if p == nil {
		return 0
	}
	if p.pending != 0 && (p.heard == 0 || f.round%2 == 0) {
		nonce := p.pending
		p.pending = 0
		return nonce
	}
	return p.heard
}

// admit decides on an authentic beat that arrived at now. It returns the round
// nonce that the beat answers, if any, and the reason of a refusal, or "".
func (f *freshness) admit(b beat.Beat, now time.Duration) (answered sentNonce, refusal string) {
	p := f.peers[b.Node]
	if p == nil {
		return sentNonce{}, reasonStranger
	}
	answered = f.find(b.Echo)
	s := p.boots[b.Boot]
	if s != nil && s.number == b.Session {
		if b.Counter <= s.counter {
			return sentNonce{}, reasonReplay
		}
	} else if answered.round == 0 || s != nil && answered.round <= s.accepted {
		p.pending = b.Nonce
		return sentNonce{}, reasonUnproven
	} else {
		s = &session{number: b.Session, accepted: f.round}
		p.keep(b.Boot, s)
	}
	s.counter, s.last = b.Counter, now
	p.heard = b.Nonce
	return answered, ""
}

// find returns the remembered round of a nonce, or the zero value.
func (f *freshness) find(nonce uint64) sentNonce {
	for _, s := range f.sent {
		if nonce != 0 && s.nonce == nonce {
			return s
		}
	}
	return sentNonce{}
}

// keep remembers a session; the boot that was silent for longest makes room.
func (p *peerState) keep(boot cluster.BootID, s *session) {
	if _, known := p.boots[boot]; !known && len(p.boots) >= bootLimit {
		var oldest cluster.BootID
		for id, other := range p.boots {
			if o := p.boots[oldest]; o == nil || other.last < o.last {
				oldest = id
			}
		}
		delete(p.boots, oldest)
	}
	p.boots[boot] = s
}

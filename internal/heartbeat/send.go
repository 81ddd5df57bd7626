package heartbeat

import (
	"crypto/rand"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/beat"
)

// Peer is a member to send to.
type Peer struct {
	Node cluster.NodeName
	// Address is host:port. A host name is resolved in the background; until
	// that is done nothing is sent to it.
	Address string
}

// Payload is what this node says of itself in a round of beats.
type Payload struct {
	Tick     uint64 // the planner's tick; 0 when not the leader
	Revision cluster.Revision
	Quorum   bool
}

// letter is one datagram on its way.
type letter struct {
	to   string
	data []byte
}

// Send sends one round of beats to exactly these peers, which are from then on
// those whose beats are delivered. Faults are logged and counted, since the
// next round follows in any case. Send returns within 50 ms. Peers behind the
// first PeerLimit are left out.
func (t *Transport) Send(peers []Peer, payload Payload) {
	if len(peers) > PeerLimit {
		t.fault(faultSend, peers[PeerLimit].Address, "more than 256 peers")
		peers = peers[:PeerLimit]
	}
	letters, err := t.write(peers, payload)
	if err != nil {
		t.fault(faultSend, "", err.Error())
		return
	}
	if err := t.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return // closed
	}
	for _, l := range letters {
		t.post(l)
	}
}

func (t *Transport) post(l letter) {
	to, err := t.resolver.address(l.to)
	if err == nil {
		_, err = t.conn.WriteToUDPAddrPort(l.data, to)
	}
	if err != nil && t.ctx.Err() == nil {
		t.fault(faultSend, l.to, err.Error())
	}
}

// write makes the datagrams of one round.
func (t *Transport) write(peers []Peer, payload Payload) ([]letter, error) {
	nonce, err := randomNumber(rand.Reader)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fresh.begin(peers, nonce, t.config.Now())
	letters := make([]letter, 0, len(peers))
	for _, p := range peers {
		t.counter++
		data, err := beat.Append(nil, &t.config.Key, t.config.Domain, beat.Beat{
			Node: t.config.Node, Boot: t.config.Boot, Session: t.session, Counter: t.counter,
			Tick: payload.Tick, Revision: payload.Revision, Quorum: payload.Quorum,
			Nonce: nonce, Echo: t.fresh.echo(p.Node),
		})
		if err != nil {
			return nil, err
		}
		letters = append(letters, letter{p.Address, data})
	}
	return letters, nil
}

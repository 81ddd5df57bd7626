package detect

import (
	"time"

	"ringfence/internal/cluster"
)

// Limits of what a host's word may stretch (rule P12). They count by the
// observer's clock, from when it first got the word.
const (
	// MovingCap is how long a guest that is moving is not suspected, however
	// often the notice is renewed before it is over.
	MovingCap = 30 * time.Second
	// MovingMargin is how much longer, after its host says that the move is
	// over: peers learn the new way to the guest in this time.
	MovingMargin = 2 * time.Second
)

// notice is what hosts said of one guest, as far as it still matters. The zero
// value is none.
type notice struct {
	move  moveNotice
	pause pauseNotice
}

// moveNotice is one announced migration. It stands, with its cap, until the
// guest is heard after its end: what comes before belongs to the same notice.
type moveNotice struct {
	stands bool
	live   bool // a host says so now
	void   bool // nobody says how it ended
	began  time.Duration
	ended  time.Duration // when it was last not live any more
}

// pauseNotice is a pause that its host said is over, until the guest is heard.
type pauseNotice struct {
	live   bool
	over   bool
	ended  time.Duration
	silent time.Duration // how long the guest had been silent by then
}

// take notes what is said at now of a guest that was last heard at heard.
func (n *notice) take(now, heard time.Duration, peer Peer) {
	n.move.take(now, heard, peer)
	n.pause.take(now, heard, peer.Word)
}

func (m *moveNotice) take(now, heard time.Duration, peer Peer) {
	if m.stands && !m.live && heard > m.ended && now >= m.ended+MovingMargin {
		*m = moveNotice{}
	}
	switch {
	case peer.Moving && !m.stands:
		*m = moveNotice{stands: true, live: true, began: now}
	case peer.Moving:
		m.live, m.void = true, false
	case m.live:
		m.live, m.ended = false, now
	}
	if !peer.Moving && peer.Word == cluster.WordUnknown {
		m.void = true // the host that said so cannot be asked any more
	}
}

func (p *pauseNotice) take(now, heard time.Duration, word cluster.HostWord) {
	if p.over && heard > p.ended {
		*p = pauseNotice{}
	}
	switch {
	case word == cluster.WordPaused:
		p.live = true
	case p.live && word == cluster.WordRunning:
		*p = pauseNotice{over: true, ended: now, silent: now - heard}
	case word != cluster.WordRunning:
		*p = pauseNotice{} // whose word ended the pause cannot say that it goes on
	}
}

// moving reports whether a notice keeps the guest from being suspected.
func (n *notice) moving(now time.Duration) bool {
	m := n.move
	return m.stands && !m.void && now < m.began+MovingCap && (m.live || now < m.ended+MovingMargin)
}

// stretch returns the limits that hold for a peer. A paused guest has its
// grace. One that goes on has the plain limits from then on, as if it had been
// heard when it paused; pauses that add up to more than the grace are one pause.
func (n *notice) stretch(peer Peer) Limits {
	l := peer.Limits
	switch {
	case peer.Word == cluster.WordPaused:
		return Limits{Suspect: max(l.Suspect, peer.PauseGrace), Lost: max(l.Lost, peer.PauseGrace)}
	case n.pause.over:
		more := min(n.pause.silent, peer.PauseGrace)
		return Limits{Suspect: l.Suspect + more, Lost: l.Lost + more}
	}
	return l
}

// Package detect is the arithmetic of heartbeats: which boots an observer does
// not hear, by one observer's own monotonic clock. It is pure; internal/node
// feeds it beats, the words of hosts, and ticks.
//
// Suspicion is only liveness (rule P17): nothing in here is evidence, so a
// wrong answer costs a needless question to a host, never a double run.
package detect

import (
	"time"

	"ringfence/internal/cluster"
)

// Interval is the time between two beats of a node (DESIGN section 6).
const Interval = 100 * time.Millisecond

// Limits are the thresholds of one observer for one peer.
type Limits struct {
	Suspect time.Duration // silence after which the peer is suspect
	Lost    time.Duration // silence after which it is lost; at least Suspect
}

// HostAware applies to a peer whose host the observer can ask: what the host
// says replaces waiting.
func HostAware() Limits {
	return Limits{Suspect: 600 * time.Millisecond, Lost: 1200 * time.Millisecond}
}

// HostBlind applies to every other peer; it outlasts the usual stalls of a
// guest (snapshot, backup, migration downtime).
func HostBlind() Limits { return Limits{Suspect: 1500 * time.Millisecond, Lost: 3 * time.Second} }

// GapLimit is the longest pause between two ticks of the observer's own loop.
// After a longer one the observer itself was not running, heard nobody, and
// therefore accuses nobody until a full fresh window has passed (O-9).
const GapLimit = 300 * time.Millisecond

// Peer is what the observer knows of a boot that should beat.
type Peer struct {
	Limits Limits
	// Word is what the hosts say now of its guest, each on a stream that is up;
	// a word without such a stream is no word (rule P12).
	Word cluster.HostWord
	// Moving: one of them says now that a migration of it is under way.
	Moving bool
	// PauseGrace is how long its guest may be silent while it is paused.
	PauseGrace time.Duration
}

// Detector is one observer. Its owner is one goroutine. The zero value is ready.
type Detector struct {
	ears      map[cluster.BootID]*ear
	lastTick  time.Duration
	ticked    bool
	abstainTo time.Duration
}

// Said is what hosts say of a guest that is paused or moving, and since when the
// observer knows it.
type Said struct {
	Paused, Moving bool
	Since          time.Duration
}

// ear is what one observer keeps of one peer.
type ear struct {
	heard  time.Duration // when the last beat came, or the window began
	said   Said
	notice notice
}

// Heard notes an authenticated beat of a boot that arrived at now.
func (d *Detector) Heard(boot cluster.BootID, now time.Duration) {
	if e := d.ears[boot]; e != nil && now > e.heard {
		e.heard = now
	}
}

// Verdict is what the observer says of its peers. Its maps are nil when empty.
type Verdict struct {
	Silent map[cluster.BootID]cluster.Silence
	// Words is what hosts say of the silent ones, where they say anything.
	Words map[cluster.BootID]cluster.HostWord
	// Moving holds the boots whose guest is moving, by a notice in force.
	Moving map[cluster.BootID]bool
	// Said is since when a guest is paused or moving.
	Said    map[cluster.BootID]Said
	Abstain bool
}

// Tick judges peers at now; a boot seen here for the first time gets a full
// window from now. Call it at least every GapLimit/2.
func (d *Detector) Tick(now time.Duration, peers map[cluster.BootID]Peer) Verdict {
	if d.ticked && now-d.lastTick > GapLimit {
		d.startOver(now, peers)
	}
	d.lastTick, d.ticked = now, true
	d.follow(now, peers)
	verdict := Verdict{Abstain: now < d.abstainTo}
	for boot, peer := range peers {
		e := d.ears[boot]
		e.notice.take(now, e.heard, peer)
		if said := (Said{Paused: peer.Word == cluster.WordPaused, Moving: peer.Moving, Since: e.said.Since}); said != e.said {
			said.Since = now
			e.said = said
		}
		if e.said.Paused || e.said.Moving {
			note(&verdict.Said, boot, e.said)
		}
		if e.notice.moving(now) {
			note(&verdict.Moving, boot, true)
			continue
		}
		silence := e.notice.stretch(peer).judge(now - e.heard)
		if silence == "" {
			continue
		}
		note(&verdict.Silent, boot, silence)
		if peer.Word != cluster.WordUnknown {
			note(&verdict.Words, boot, peer.Word)
		}
	}
	return verdict
}

func note[V any](to *map[cluster.BootID]V, boot cluster.BootID, value V) {
	if *to == nil {
		*to = map[cluster.BootID]V{}
	}
	(*to)[boot] = value
}

// startOver forgets what was heard before a gap, so that every peer gets a
// fresh window, and abstains until the longest of them has passed.
func (d *Detector) startOver(now time.Duration, peers map[cluster.BootID]Peer) {
	for boot, peer := range peers {
		if e := d.ears[boot]; e != nil {
			e.heard = now
		}
		d.abstainTo = max(d.abstainTo, now+peer.Limits.Suspect)
	}
}

// follow adds new peers and forgets the gone.
func (d *Detector) follow(now time.Duration, peers map[cluster.BootID]Peer) {
	if d.ears == nil {
		d.ears = map[cluster.BootID]*ear{}
	}
	for boot := range d.ears {
		if _, wanted := peers[boot]; !wanted {
			delete(d.ears, boot)
		}
	}
	for boot := range peers {
		if d.ears[boot] == nil {
			d.ears[boot] = &ear{heard: now}
		}
	}
}

func (l Limits) judge(silent time.Duration) cluster.Silence {
	switch {
	case silent >= l.Lost:
		return cluster.SilenceLost
	case silent >= l.Suspect:
		return cluster.SilenceSuspect
	}
	return ""
}

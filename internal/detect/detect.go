// Package detect is the arithmetic of heartbeats: which boots an observer does
// not hear, by one observer's own monotonic clock. It is pure; internal/node
// feeds it beats and ticks.
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

// Detector is one observer. Its owner is one goroutine. The zero value is ready.
type Detector struct {
	heard     map[cluster.BootID]time.Duration
	lastTick  time.Duration
	ticked    bool
	abstainTo time.Duration
}

// Heard notes an authenticated beat of a boot that arrived at now.
func (d *Detector) Heard(boot cluster.BootID, now time.Duration) {
	if last, known := d.heard[boot]; known && now > last {
		d.heard[boot] = now
	}
}

// Verdict is what the observer says of its peers.
type Verdict struct {
	Silent  map[cluster.BootID]cluster.Silence // nil when all are heard
	Abstain bool
}

// Tick judges peers at now. Peers maps the boots that should beat to their
// limits; a boot seen here for the first time gets a full window from now.
// Call it at least every GapLimit/2.
func (d *Detector) Tick(now time.Duration, peers map[cluster.BootID]Limits) Verdict {
	if d.ticked && now-d.lastTick > GapLimit {
		d.startOver(now, peers)
	}
	d.lastTick, d.ticked = now, true
	d.follow(now, peers)
	verdict := Verdict{Abstain: now < d.abstainTo}
	for boot, limits := range peers {
		silence := limits.judge(now - d.heard[boot])
		if silence == "" {
			continue
		}
		if verdict.Silent == nil {
			verdict.Silent = map[cluster.BootID]cluster.Silence{}
		}
		verdict.Silent[boot] = silence
	}
	return verdict
}

// startOver forgets what was heard before a gap, so that every peer gets a
// fresh window, and abstains until the longest of them has passed.
func (d *Detector) startOver(now time.Duration, peers map[cluster.BootID]Limits) {
	for boot, limits := range peers {
		d.heard[boot] = now
		d.abstainTo = max(d.abstainTo, now+limits.Suspect)
	}
}

// follow adds new peers and forgets the gone.
func (d *Detector) follow(now time.Duration, peers map[cluster.BootID]Limits) {
	if d.heard == nil {
		d.heard = map[cluster.BootID]time.Duration{}
	}
	for boot := range d.heard {
		if _, wanted := peers[boot]; !wanted {
			delete(d.heard, boot)
		}
	}
	for boot := range peers {
		if _, known := d.heard[boot]; !known {
			d.heard[boot] = now
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

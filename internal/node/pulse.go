package node

import (
	"context"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/detect"
	"ringfence/internal/heartbeat"
	"ringfence/internal/store"
)

// viewRefresh is how often a view that accuses somebody is written anew, so
// that the accused has a fresh nonce to answer (rule P17).
const viewRefresh = time.Second

// pulse sends and hears beats. It never waits for the store: writeViews does,
// in a loop of its own.
type pulse struct {
	n        *Node
	detector detect.Detector         // owned by run
	lives    map[cluster.BootID]life // owned by run; of the boots on record

	mu      sync.Mutex // guards the fields below
	verdict detect.Verdict
	tick    uint64 // of our planner, when it leads
	leader  sighting
	changed chan struct{}             // capacity 1: the verdict changed, for writeViews
	heard   chan struct{}             // capacity 1: the same, for the lead loop
	alarms  map[cluster.BootID]string // who answers after its tombstone, and the proof
	alarm   chan struct{}             // capacity 1: there are such
}

// sighting is the last planner tick heard from a leader.
type sighting struct {
	boot cluster.BootID
	tick uint64
	at   time.Duration // when the tick last moved
}

func (p *pulse) init(n *Node) {
	p.n = n
	p.changed, p.heard, p.alarm = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	p.lives = map[cluster.BootID]life{}
}

// run beats every Interval and takes in what was heard since: beats carry the
// time at which they arrived, so that reading them late loses nothing, and
// spares this process most of its wake-ups at rest.
func (p *pulse) run(ctx context.Context) error {
	next := p.n.Clock.Now()
	for {
		next += detect.Interval
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.n.Clock.After(next - p.n.Clock.Now()):
			now := p.n.Clock.Now()
			next = max(next, now-detect.Interval) // beats that were missed are not caught up on
			p.iterate(now)
		}
	}
}

// hear notes one beat. Beats that wait in the queue are older than the tick.
func (p *pulse) hear(beat heartbeat.Received) {
	p.detector.Heard(beat.Boot, beat.At)
	p.proves(beat)
	if beat.Tick == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if beat.Boot != p.leader.boot || beat.Tick != p.leader.tick {
		p.leader = sighting{boot: beat.Boot, tick: beat.Tick, at: beat.At}
	}
}

// iterate sends one round of beats and judges the peers.
func (p *pulse) iterate(now time.Duration) {
	for { // what has arrived counts before anybody is accused
		select {
		case beat, open := <-p.n.Beats.Beats():
			if open {
				p.hear(beat)
				continue
			}
		default:
		}
		break
	}
	var peers []heartbeat.Peer
	watched := map[cluster.BootID]detect.Peer{}
	var rev cluster.Revision
	var alarms map[cluster.BootID]string
	mute := false
	p.n.Mirror.Read(func(s *cluster.State) {
		rev, mute, alarms = s.Rev, p.n.mute(s), p.alarming(s)
		for _, node := range s.Nodes {
			if node.Value.Name != p.n.Self.Node {
				peers = append(peers, heartbeat.Peer{Node: node.Value.Name, Address: net.JoinHostPort(node.Value.Address, strconv.Itoa(node.Value.BeatPort))})
			}
		}
		for id, boot := range s.Boots {
			if p.listensFor(s, id) && (boot.Value.Node != p.n.Self.Node || id == p.n.Self.ID) {
				watched[id] = p.peerOf(s, boot.Value)
			}
		}
	})
	p.detector.Heard(p.n.Self.ID, now) // this node hears itself: of its own boot it learns the notices
	verdict := p.detector.Tick(now, watched)
	p.mu.Lock()
	tick, before := p.tick, p.verdict
	p.verdict, p.alarms = verdict, alarms
	p.mu.Unlock()
	if !mute {
		p.n.Beats.Send(peers, heartbeat.Payload{Tick: tick, Revision: rev, Quorum: p.hasQuorum()})
	}
	if len(alarms) > 0 {
		signal(p.alarm)
	}
	changed := !sameView(verdict, before)
	if changed {
		signal(p.changed)
	}
	if changed || !maps.Equal(verdict.Moving, before.Moving) {
		signal(p.heard)
	}
}

// listensFor reports whether the silence of a boot matters: while its end is not
// proved, or the proof was false.
func (p *pulse) listensFor(s *cluster.State, id cluster.BootID) bool {
	_, ended := s.Ended[id]
	c, contradicted := s.Contras[id]
	return !ended || contradicted && c.Value.Settled == ""
}

// signal wakes the reader of a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (p *pulse) peerOf(s *cluster.State, boot cluster.Boot) detect.Peer {
	places := mayBeAt(s, boot)
	word, moving := p.n.hosts.word(places, boot)
	return detect.Peer{Limits: p.limitsFor(places), Word: word, Moving: moving, PauseGrace: s.Config.Value.PauseGraceOf(boot.Node)}
}

// mayBeAt returns the places whose hosts can have a word on a life. One that has
// lost it with all its memory stays on record (rule P6) and has said all it can:
// what it does not tell from then on must not void the word of the others.
func mayBeAt(s *cluster.State, boot cluster.Boot) []cluster.HostName {
	places := slices.DeleteFunc(slices.Clone(boot.Places), func(place cluster.HostName) bool {
		_, absent := s.AbsenceOf(boot, place)
		return absent
	})
	if len(places) == 0 {
		return boot.Places
	}
	return places
}

// limitsFor is the shorter pair where the hosts of a boot can be asked now.
func (p *pulse) limitsFor(places []cluster.HostName) detect.Limits {
	for _, place := range places {
		if !p.n.hosts.reachable(place) {
			return detect.HostBlind()
		}
	}
	if len(places) == 0 {
		return detect.HostBlind()
	}
	return detect.HostAware()
}

func (p *pulse) hasQuorum() bool {
	if p.n.Raft == nil {
		return false
	}
	_, _, ok := p.n.Raft.Leader()
	return ok
}

// sameView reports whether two verdicts make the same view record.
func sameView(a, b detect.Verdict) bool {
	return a.Abstain == b.Abstain && maps.Equal(a.Silent, b.Silent) && maps.Equal(a.Words, b.Words)
}

// Silent returns which boots this node does not hear.
func (n *Node) Silent() map[cluster.BootID]cluster.Silence {
	n.pulse.mu.Lock()
	defer n.pulse.mu.Unlock()
	return maps.Clone(n.pulse.verdict.Silent)
}

// HostSays returns what the host of a boot says of its guest, when that is
// paused or moving, and since when this node knows it, on its clock.
func (n *Node) HostSays(boot cluster.BootID) detect.Said { return n.pulse.current().Said[boot] }

func (p *pulse) current() detect.Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.verdict
}

// setTick publishes that our planner is alive and leads; 0: does not lead.
func (p *pulse) setTick(tick uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tick = tick
}

func (p *pulse) leaderSeen() sighting {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leader
}

// writeViews keeps this node's view record in step with its verdict.
func (p *pulse) writeViews(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.n.Mirror.Ready():
	}
	var written, last detect.Verdict
	for ctx.Err() == nil {
		verdict := p.current()
		if p.n.OnDoubt != nil && (verdict.Abstain && !last.Abstain || len(verdict.Silent) < len(last.Silent)) {
			p.n.OnDoubt()
		}
		last = verdict
		if !sameView(verdict, written) || len(verdict.Silent) > 0 {
			if p.writeView(ctx, verdict) {
				written = verdict
			}
		}
		var refresh <-chan time.Time
		if len(verdict.Silent) > 0 || !sameView(verdict, written) {
			refresh = p.n.Clock.After(viewRefresh)
		}
		select {
		case <-ctx.Done():
		case <-p.changed:
		case <-refresh:
		}
	}
	return ctx.Err()
}

func (p *pulse) writeView(ctx context.Context, verdict detect.Verdict) bool {
	view := cluster.View{Node: p.n.Self.Node, Boot: p.n.Self.ID, Silent: verdict.Silent, Words: verdict.Words, Abstain: verdict.Abstain}
	ctx, cancel := p.n.Clock.WithTimeout(ctx, commitTimeout)
	defer cancel()
	_, err := p.n.Store.Commit(ctx, store.Tx{
		Guards: []cluster.Guard{{Key: cluster.KeyEnded(p.n.Self.ID)}},
		Writes: []cluster.Write{cluster.Put(cluster.KeyView(view.Node), view)},
	})
	if err != nil {
		p.n.Log.Debug("view not written", "component", "pulse", "err", err)
	}
	return err == nil
}

package sim

import (
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/heartbeat"
)

// Weather is what the network does to packets everywhere.
type Weather struct {
	Loss, Repeat, Late float64       // chances of one packet
	Delay              time.Duration // most that a late packet takes
}

// network joins machines by their names. A direction between two of them is
// open or cut.
type network struct {
	w *World

	mu      sync.Mutex // guards everything below
	random  *rand.Rand
	cut     map[[2]string]int // how many cuts lie on a direction
	cuts    int               // counts the times when all were mended
	weather Weather
	mute    bool // no heartbeat passes anywhere
	// unheard are machines whose heartbeats reach nobody, though all else does.
	unheard map[string]bool
}

func newNetwork(w *World) *network {
	return &network{w: w, random: w.random("network"), cut: map[[2]string]int{}, unheard: map[string]bool{}}
}

// open reports whether packets pass from a to b.
func (n *network) open(a, b string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return a == b || n.cut[[2]string{a, b}] == 0
}

// clear reports whether every path from and to a machine is whole.
func (n *network) clear(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for way, cuts := range n.cut {
		if cuts > 0 && (way[0] == name || way[1] == name) {
			return false
		}
	}
	return n.weather == Weather{} && !n.mute && !n.unheard[name]
}

// both reports whether packets pass in both directions.
func (n *network) both(a, b string) bool { return n.open(a, b) && n.open(b, a) }

// cutOff cuts the direction from a to b until the returned function is called.
func (n *network) cutOff(a, b string) (mend func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	way, era := [2]string{a, b}, n.cuts
	n.cut[way]++
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.cuts == era { // else mended with all others
			n.cut[way]--
		}
	}
}

// mend ends all cuts and bad weather.
func (n *network) mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
	clear(n.unheard)
	n.weather, n.mute, n.cuts = Weather{}, false, n.cuts+1
}

// setMute lets no heartbeat pass, or all again.
func (n *network) setMute(mute bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mute = mute
}

// setUnheard lets no heartbeat of one machine pass, or all of them again.
func (n *network) setUnheard(name string, unheard bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unheard[name] = unheard
}

// isMute reports whether no heartbeat of a machine passes.
func (n *network) isMute(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mute || n.unheard[name]
}

func (n *network) setWeather(weather Weather) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.weather = weather
}

// latency is how long one message takes on a healthy path.
func (n *network) latency() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return 200*time.Microsecond + time.Duration(n.random.Int64N(int64(2*time.Millisecond)))
}

// fates returns after which delays copies of one packet arrive; none: it is lost.
func (n *network) fates() []time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.weather == (Weather{}) {
		return []time.Duration{0}
	}
	if n.random.Float64() < n.weather.Loss {
		return nil
	}
	copies := 1
	if n.random.Float64() < n.weather.Repeat {
		copies = 2
	}
	var out []time.Duration
	for range copies {
		d := time.Duration(0)
		if n.random.Float64() < n.weather.Late {
			d = time.Duration(n.random.Int64N(int64(n.weather.Delay) + 1))
		}
		out = append(out, d)
	}
	return out
}

// beats is the heartbeat transport of one run of a daemon.
type beats struct {
	p       *program
	self    cluster.Boot
	session uint64 // of this run; later runs have higher ones
	inbox   chan heartbeat.Received
	sent    uint64                    // rounds
	times   [echoRounds]time.Duration // when the latest rounds were sent, by the own clock
	newest  map[cluster.BootID]round  // heard of each sender; what comes later than a newer one is dropped
}

// round is the number of one round of beats.
type round struct{ session, number uint64 }

// echoRounds is how many rounds of its own a daemon remembers.
const echoRounds = 64

// inboxRoom is how many beats a daemon lets wait.
const inboxRoom = 512

// packet is one beat under way.
type packet struct {
	from    cluster.Boot
	round   round
	payload heartbeat.Payload
	// heard is the newest round that the sender has of the receiver, which so
	// learns that the path works both ways.
	heard round
}

func newBeats(p *program, self cluster.Boot) *beats {
	return &beats{
		p: p, self: self, session: p.w.nextSession(), inbox: make(chan heartbeat.Received, inboxRoom),
		newest: map[cluster.BootID]round{},
	}
}

// Send implements node.Beats.
func (b *beats) Send(peers []heartbeat.Peer, payload heartbeat.Payload) {
	if b.p.gate() != nil || b.p.w.net.isMute(b.p.name) {
		return
	}
	w := b.p.w
	b.sent++
	b.p.mu.Lock()
	b.times[b.sent%echoRounds] = b.p.now()
	b.p.mu.Unlock()
	for _, peer := range peers {
		to := string(peer.Node)
		if !w.net.open(b.p.name, to) {
			continue
		}
		x := packet{from: b.self, round: round{b.session, b.sent}, payload: payload, heard: b.heardOf(peer.Node)}
		for _, delay := range w.net.fates() {
			if delay == 0 {
				w.deliver(to, x)
				continue
			}
			time.AfterFunc(delay, func() {
				if w.net.open(b.p.name, to) {
					w.deliver(to, x)
				}
			})
		}
	}
}

// heardOf returns the newest round heard of a node.
func (b *beats) heardOf(node cluster.NodeName) round {
	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	var newest round
	for id, r := range b.newest {
		if strings.HasPrefix(string(id), string(node)+"-") && newest.before(r) {
			newest = r
		}
	}
	return newest
}

func (r round) before(other round) bool {
	return r.session < other.session || r.session == other.session && r.number < other.number
}

// Beats implements node.Beats.
func (b *beats) Beats() <-chan heartbeat.Received { return b.inbox }

// deliver hands a beat to whatever daemon runs on a node now.
func (w *World) deliver(to string, x packet) {
	w.mu.Lock()
	g := w.guests[to]
	w.mu.Unlock()
	if g == nil {
		return
	}
	g.mu.Lock()
	d := g.daemon
	g.mu.Unlock()
	if d != nil && d.beats != nil {
		d.beats.p.receive(func() { d.beats.hear(x) })
	}
}

func (b *beats) hear(x packet) {
	b.p.mu.Lock()
	at := b.p.now()
	fresh := b.newest[x.from.ID].before(x.round)
	if fresh {
		b.newest[x.from.ID] = x.round
	}
	b.p.mu.Unlock()
	if !fresh {
		return
	}
	got := heartbeat.Received{
		Node: x.from.Node, Boot: x.from.ID, Tick: x.payload.Tick, Revision: x.payload.Revision, Quorum: x.payload.Quorum, At: at,
	}
	if x.heard.session == b.session && b.sent-x.heard.number < echoRounds {
		got.EchoOK, got.EchoSent = true, b.times[x.heard.number%echoRounds]
	}
	select {
	case b.inbox <- got:
		b.p.heard(x.from.ID)
	default:
	}
}

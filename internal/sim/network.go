package sim

import (
	"math/rand/v2"
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
}

func newNetwork(w *World) *network {
	return &network{w: w, random: w.random("network"), cut: map[[2]string]int{}}
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
	return n.weather == Weather{}
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
	n.weather, n.cuts = Weather{}, n.cuts+1
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
	p     *program
	self  cluster.Boot
	inbox chan heartbeat.Received
	sent  uint64                    // rounds
	last  map[cluster.BootID]uint64 // newest round heard of each sender; late ones are dropped
}

// inboxRoom is how many beats a daemon lets wait.
const inboxRoom = 512

// Send implements node.Beats.
func (b *beats) Send(peers []heartbeat.Peer, payload heartbeat.Payload) {
	if b.p.gate() != nil {
		return
	}
	w := b.p.w
	b.sent++
	round := b.sent
	for _, peer := range peers {
		to := string(peer.Node)
		if !w.net.open(b.p.name, to) {
			continue
		}
		for _, delay := range w.net.fates() {
			if delay == 0 {
				w.deliverBeat(to, b.self, round, payload)
				continue
			}
			time.AfterFunc(delay, func() {
				if w.net.open(b.p.name, to) {
					w.deliverBeat(to, b.self, round, payload)
				}
			})
		}
	}
}

// Beats implements node.Beats.
func (b *beats) Beats() <-chan heartbeat.Received { return b.inbox }

// deliverBeat hands a beat to whatever daemon runs on a node now.
func (w *World) deliverBeat(to string, from cluster.Boot, round uint64, payload heartbeat.Payload) {
	w.mu.Lock()
	g := w.guests[to]
	var b *beats
	if g != nil && g.daemon != nil {
		b = g.daemon.beats
	}
	w.mu.Unlock()
	if b != nil {
		b.p.receive(func() { b.hear(from, round, payload) })
	}
}

func (b *beats) hear(from cluster.Boot, round uint64, payload heartbeat.Payload) {
	b.p.mu.Lock()
	at := b.p.now()
	stale := round <= b.last[from.ID]
	b.last[from.ID] = max(round, b.last[from.ID])
	b.p.mu.Unlock()
	if stale {
		return
	}
	select {
	case b.inbox <- heartbeat.Received{
		Node: from.Node, Boot: from.ID, Tick: payload.Tick, Revision: payload.Revision, Quorum: payload.Quorum, At: at,
	}:
	default:
	}
}

package sim

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"ringfence/internal/cluster"
)

// errGone is what a call of a program gets once its machine or it has ended.
// Nobody is left to read it: it only lets goroutines of the dead unwind.
var errGone = errors.New("sim: the machine is gone")

// machine is one life of a guest, or one run of a host, as its programs see it:
// it can be paused, with its clock running on or standing still, and it ends.
// A pause holds programs at their next call of a port; what a program computes
// between two calls has no effect that anybody could see.
type machine struct {
	w    *World
	name string

	mu       sync.Mutex // guards everything below
	up       bool
	held     map[string]bool // why the machine stands still, and whether its clock does
	paused   bool            // held is not empty
	stopped  bool            // paused, and the clock stands still
	pausedAt time.Duration
	ahead    time.Duration // of the world's clock; less than 0: behind
	stepped  time.Duration // when the clock was last moved; 0: never
	resumed  chan struct{} // closed at the end of the pause
	timers   map[*timer]bool
	trip     int           // calls of ports until the machine is paused; 0: never
	tripped  func()        // what pauses it then
	backlog  []func()      // packets that wait for the end of the pause
	deaf     bool          // this pause keeps no packets
	from     time.Duration // when the pause began
	stood    time.Duration // in all pauses that are over
	ears     map[cluster.BootID]ear
	onEnd    []context.CancelFunc // of programs
}

// backlogLimit bounds the packets that a paused machine keeps.
const backlogLimit = 16

func newMachine(w *World, name string) *machine {
	return &machine{w: w, name: name, up: true, held: map[string]bool{}, resumed: make(chan struct{}), timers: map[*timer]bool{}, ears: map[cluster.BootID]ear{}}
}

// running reports whether programs make progress.
func (m *machine) running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up && !m.paused
}

// steppedLately reports whether the clock was moved a moment ago.
func (m *machine) steppedLately() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stepped != 0 && m.w.now()-m.stepped < watchPause
}

func (m *machine) isUp() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up
}

// Reasons for which a machine is held; several may hold it at once.
const (
	heldPaused = "paused" // by the hypervisor's word
	heldSaved  = "saved"
	heldMoved  = "switching over"
	heldImage  = "image"
	heldHung   = "hung"
)

// pause holds all programs for a reason. With stopClock their clock stands
// still too.
func (m *machine) pause(why string, stopClock bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.up {
		return
	}
	if !m.paused {
		m.from = m.w.now()
	}
	m.held[why] = m.held[why] || stopClock
	if stopClock && !m.stopped {
		m.stopped, m.pausedAt = true, m.w.now()
	}
	m.paused = true
}

// loses lets the present pause keep no packets, as a full queue or a link that is
// down does.
func (m *machine) loses() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deaf = m.paused
}

// ranLocked is how long the machine has run since the world began, without its
// pauses, with the lock held.
func (m *machine) ranLocked() time.Duration {
	ran := m.w.now() - m.stood
	if m.paused {
		ran -= m.w.now() - m.from
	}
	return ran
}

// unpause ends one reason; without any left the programs go on.
func (m *machine) unpause(why string) { m.release(func(held string) bool { return held == why }) }

// release ends the reasons that f names.
func (m *machine) release(f func(why string) bool) {
	m.mu.Lock()
	maps.DeleteFunc(m.held, func(why string, _ bool) bool { return f(why) })
	if !m.up || !m.paused || len(m.held) > 0 {
		m.mu.Unlock()
		return
	}
	if m.stopped {
		m.ahead -= m.w.now() - m.pausedAt
	}
	m.stood += m.w.now() - m.from
	m.paused, m.stopped, m.deaf = false, false, false
	close(m.resumed)
	m.resumed = make(chan struct{})
	for t := range m.timers {
		t.arm()
	}
	backlog := m.backlog
	m.backlog = nil
	m.mu.Unlock()
	for _, deliver := range backlog {
		deliver()
	}
}

// step moves the machine's clock forward, as after a stall of its hypervisor.
func (m *machine) step(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ahead += d
	m.stepped = m.w.now()
	for t := range m.timers {
		t.arm()
	}
}

// tripAfter pauses the machine within its n-th next call of a port.
func (m *machine) tripAfter(n int, pause func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trip, m.tripped = n, pause
}

// end ends the machine: no program on it makes another call.
func (m *machine) end() {
	m.mu.Lock()
	if !m.up {
		m.mu.Unlock()
		return
	}
	m.up = false
	ends := m.onEnd
	m.onEnd = nil
	for t := range m.timers {
		t.stop()
	}
	clear(m.timers)
	m.mu.Unlock()
	for _, end := range ends {
		end()
	}
}

// receive takes a packet: now, after the pause, or never.
func (m *machine) receive(deliver func()) {
	m.mu.Lock()
	if !m.up {
		m.mu.Unlock()
		return
	}
	if m.paused {
		if !m.deaf && len(m.backlog) < backlogLimit {
			m.backlog = append(m.backlog, deliver)
		}
		m.mu.Unlock()
		return
	}
	m.mu.Unlock()
	deliver()
}

// program is one run of a program on a machine.
type program struct {
	*machine
	ctx    context.Context // ends with the program
	cancel context.CancelFunc
}

func (m *machine) newProgram(parent context.Context) *program {
	p := &program{machine: m}
	p.ctx, p.cancel = context.WithCancel(parent)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onEnd = append(m.onEnd, p.cancel)
	if !m.up {
		p.cancel()
	}
	return p
}

// gate is where a program stands while its machine is paused. Every port calls
// it on the way in and on the way out.
func (p *program) gate() error {
	for {
		p.mu.Lock()
		if !p.up || p.ctx.Err() != nil {
			p.mu.Unlock()
			return errGone
		}
		if p.trip > 0 {
			if p.trip--; p.trip == 0 {
				trip := p.tripped
				p.mu.Unlock()
				trip()
				continue
			}
		}
		paused, resumed := p.paused, p.resumed
		p.mu.Unlock()
		if !paused {
			return nil
		}
		select {
		case <-resumed:
		case <-p.ctx.Done():
		}
	}
}

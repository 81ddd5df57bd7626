package fencevirt

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"strings"
	"sync"
	"time"

	"ringfence/internal/wire/xvm"
)

const (
	// replayWindow is how long an identical packet is a replay.
	replayWindow = 10 * time.Minute
	// repeatWindow is the C daemon's, from the completion of a request on.
	repeatWindow = 10 * time.Second
	// historyLimit bounds both memories; the oldest goes first.
	historyLimit = 16384
)

// run is what all packets of one run of a client have in common.
type run struct {
	op    xvm.Op
	seq   uint32
	guest string // in lower case
}

func runOf(op xvm.Op, seq uint32, guest string) run {
	return run{op, seq, strings.ToLower(guest)}
}

// call is a run and where it is to be called back.
type call struct {
	run
	to netip.AddrPort
}

// history knows which requests came before, at one listener or over one line; the
// package comment has the rules. It is safe for concurrent use.
type history struct {
	now   func() time.Time
	turns *turns[run]

	mu      sync.Mutex // guards what follows
	packets memory[[sha256.Size]byte]
	ended   memory[run] // since their completion
	calls   map[call]struct{}
}

func newHistory(now func() time.Time) *history {
	return &history{
		now: now, turns: newTurns[run](), packets: newMemory[[sha256.Size]byte](replayWindow), ended: newMemory[run](repeatWindow),
		calls: map[call]struct{}{},
	}
}

// replayed reports whether the identical packet came before, and remembers it.
func (h *history) replayed(packet []byte) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	digest, now := sha256.Sum256(packet), h.now()
	if h.packets.has(digest, now) {
		return true
	}
	h.packets.add(digest, now)
	return false
}

// begin reports whether no call of the same run to the same place is under way, and
// counts it as under way; then end must follow.
func (h *history) begin(c call) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.calls[c]; ok {
		return false
	}
	h.calls[c] = struct{}{}
	return true
}

func (h *history) end(c call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.calls, c)
}

// answered reports whether the run, or one that shares its number, was answered
// within the window.
func (h *history) answered(r run) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ended.has(r, h.now())
}

// complete remembers that the run was answered just now.
func (h *history) complete(r run) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended.add(r, h.now())
}

// shared reports whether the run, or one that shares its number, is called back at
// another place too.
func (h *history) shared(c call) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for other := range h.calls {
		if other.run == c.run && other != c {
			return true
		}
	}
	return false
}

// admit lets a request in where the handshake tells runs apart. Where it does not,
// admit waits until no other request of the same run is under way; errRepeated: one
// was answered within the window. The turn is the caller's until it calls done.
func (h *history) admit(ctx context.Context, guarded bool, r run) (done func(), err error) {
	if guarded {
		return func() {}, nil
	}
	done, err = h.turns.take(ctx, r)
	if err != nil {
		return nil, err
	}
	if h.answered(r) {
		done()
		return nil, errRepeated
	}
	return done, nil
}

// memory remembers keys for a time, at most historyLimit of them.
type memory[K comparable] struct {
	window time.Duration
	at     map[K]time.Time
	order  []remembered[K] // oldest first; those that were remembered anew since are stale
}

type remembered[K comparable] struct {
	key K
	at  time.Time
}

func newMemory[K comparable](window time.Duration) memory[K] {
	return memory[K]{window: window, at: map[K]time.Time{}}
}

func (m *memory[K]) has(key K, now time.Time) bool {
	at, ok := m.at[key]
	return ok && now.Sub(at) < m.window
}

func (m *memory[K]) add(key K, now time.Time) {
	m.at[key] = now
	m.order = append(m.order, remembered[K]{key, now})
	for len(m.order) > historyLimit || now.Sub(m.order[0].at) >= m.window {
		oldest := m.order[0]
		m.order = m.order[1:]
		if m.at[oldest.key].Equal(oldest.at) {
			delete(m.at, oldest.key)
		}
	}
}

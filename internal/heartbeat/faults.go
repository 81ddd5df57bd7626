package heartbeat

import (
	"log/slog"
	"maps"
	"time"
)

// Kinds of fault, which are also the log messages; each is logged at most once
// per logInterval.
const (
	faultSend     = "beat not sent"
	faultReceive  = "beat not received"
	faultRefused  = "beat refused"
	faultUnproven = "beat of a new session not accepted yet" // a few at every start
	faultResolve  = "peer address not found"
)

// faults counts what goes wrong and says when to log it, so that a flood of
// bad datagrams cannot become a flood of log lines.
type faults struct {
	accepted, overflow, unsent uint64
	refused                    map[string]uint64
	kinds                      map[string]*faultKind
}

// faultKind is the throttle of one kind of fault.
type faultKind struct {
	logged time.Duration
	since  uint64 // faults since the last line
}

func newFaults() *faults {
	return &faults{refused: map[string]uint64{}, kinds: map[string]*faultKind{}}
}

// note counts one fault. It returns how many came since the last line and
// whether a line is due.
func (f *faults) note(kind, reason string, now time.Duration) (since uint64, due bool) {
	switch kind {
	case faultRefused, faultUnproven:
		f.refused[reason]++
	case faultSend:
		f.unsent++
	}
	k, known := f.kinds[kind]
	if !known {
		k = &faultKind{}
		f.kinds[kind] = k
	}
	k.since++
	if known && now-k.logged < logInterval {
		return 0, false
	}
	since, k.since, k.logged = k.since, 0, now
	return since, true
}

func (f *faults) stats() Stats {
	return Stats{Accepted: f.accepted, Overflow: f.overflow, Unsent: f.unsent, Refused: maps.Clone(f.refused)}
}

// fault counts a fault and logs it when a line is due.
func (t *Transport) fault(kind, address, reason string) {
	since, due := t.note(kind, reason)
	if !due {
		return
	}
	level := slog.LevelWarn
	if kind == faultUnproven {
		level = slog.LevelDebug
	}
	t.log.Log(t.ctx, level, kind, "address", address, "reason", reason, "count", since)
}

func (t *Transport) note(kind, reason string) (since uint64, due bool) {
	now := t.config.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.faults.note(kind, reason, now)
}

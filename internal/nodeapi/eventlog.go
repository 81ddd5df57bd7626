package nodeapi

import (
	"slices"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/mirror"
)

// eventLimit is how many events a node remembers.
const eventLimit = 1000

// EventLog turns the changes of the store into events and remembers the last of
// them, since this run of the daemon began. Readers follow it at their own
// pace; one that falls behind by the whole log misses what was dropped.
type EventLog struct {
	now func() time.Time

	mu      sync.Mutex // guards the fields below
	events  []Event
	first   uint64 // number of events[0]
	changed chan struct{}
}

// NewEventLog returns an empty log; now is the wall clock that stamps events.
func NewEventLog(now func() time.Time) *EventLog {
	return &EventLog{now: now, changed: make(chan struct{})}
}

// OnChange takes one change of the store; it is a mirror's onChange, so that
// before holds the changed record only.
func (l *EventLog) OnChange(before, after *cluster.State, c mirror.Change) {
	found := derive(before, after, c)
	if len(found) == 0 {
		return
	}
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range found {
		e.Revision, e.Time = c.KV.Rev, now
		l.events = append(l.events, e)
	}
	if over := len(l.events) - eventLimit; over > 0 {
		l.events = slices.Clone(l.events[over:])
		l.first += uint64(over)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// from returns the events with number from or later, the number of the next,
// how many were dropped before they could be read, and a channel that is closed
// when there are more.
func (l *EventLog) from(from uint64) (events []Event, next, missed uint64, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from < l.first {
		missed = l.first - from
		from = l.first
	}
	at := min(from-l.first, uint64(len(l.events)))
	return slices.Clone(l.events[at:]), l.first + uint64(len(l.events)), missed, l.changed
}

// about returns the newest events of one subject, oldest first.
func (l *EventLog) about(subject string, most int) []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := []Event{}
	for i := len(l.events) - 1; i >= 0 && len(out) < most; i-- {
		if l.events[i].Subject == subject {
			out = append(out, l.events[i])
		}
	}
	slices.Reverse(out)
	return out
}

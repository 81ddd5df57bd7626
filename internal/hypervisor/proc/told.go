package proc

import (
	"ringfence/internal/hypervisor"
)

// eventsBetween returns what happened to a guest between two records of it, in
// order. Starts, ends, and begin and failure of migrations are always there,
// however much was skipped, save what came and went more than once in between;
// a pause that was undone is not.
func eventsBetween(before, now record) []hypervisor.Event {
	t := &tale{record: before}
	if before.Life != now.Life {
		switch {
		case before.here():
			t.end(hypervisor.ReasonDestroyed)
		case before.Arriving:
			t.stay()
		}
		t.record = record{Life: now.Life, Ended: true}
	}
	if now.Life != "" {
		t.goOn(now, before.Life != now.Life)
	}
	return t.events
}

// tale is the record that the events so far add up to.
type tale struct {
	record
	events []hypervisor.Event
}

func (t *tale) tell(kind hypervisor.EventKind, reason hypervisor.Reason) {
	t.events = append(t.events, hypervisor.Event{Life: t.Life, Kind: kind, Reason: reason})
}

// goOn tells how the life came from the tale's record to that of now.
func (t *tale) goOn(now record, fresh bool) {
	if t.here() {
		t.depart(now)
		if !now.here() || now.Arrivals > t.Arrivals || now.Saves > t.Saves {
			t.end(t.endOf(now))
		}
	}
	if now.Arrivals > t.Arrivals {
		if t.Arriving {
			t.stay()
		}
		t.Arriving, t.Ended, t.Saved = true, false, false
		t.Arrivals = now.Arrivals
		t.tell(hypervisor.EventArriving, "")
	}
	switch {
	case t.here():
	case now.here():
		t.start(now)
	case now.Saved && now.Saves > t.Saves:
		t.start(now)
		t.end(hypervisor.ReasonSaved)
	case now.Ended && now.Reason == "" && t.Arriving:
		t.stay()
	case now.Ended && now.Reason != "" && (t.Arriving || fresh): // it came and went
		t.start(now)
		t.end(now.Reason)
	}
	t.pause(now)
}

// endOf is why a life that was here is not, or was not in between.
func (t *tale) endOf(now record) hypervisor.Reason {
	switch {
	case now.Arrivals > t.Arrivals:
		return hypervisor.ReasonMigrated
	case now.Saves > t.Saves:
		t.Saves = now.Saves
		return hypervisor.ReasonSaved
	}
	return now.Reason
}

// depart tells of migrations out of here, up to the last one's failure.
func (t *tale) depart(now record) {
	again := now.Departures > t.Departures
	over := now.here() && !now.Leaving && now.Arrivals == t.Arrivals
	if t.Leaving && (again || over) {
		t.stay()
	}
	if again {
		t.Leaving, t.Departures = true, now.Departures
		t.tell(hypervisor.EventLeaving, "")
		if over {
			t.stay()
		}
	}
}

func (t *tale) start(now record) {
	t.Ended, t.Saved, t.Arriving, t.Leaving, t.Paused = false, false, false, false, false
	t.tell(hypervisor.EventStarted, now.Came)
	t.depart(now)
}

func (t *tale) end(reason hypervisor.Reason) {
	t.Ended, t.Leaving, t.Paused = true, false, false
	t.tell(hypervisor.EventEnded, reason)
}

// stay tells that the migration in progress came to nothing.
func (t *tale) stay() {
	t.Ended = t.Arriving
	t.Arriving, t.Leaving = false, false
	t.tell(hypervisor.EventStayed, "")
}

func (t *tale) pause(now record) {
	switch {
	case !t.here() || t.Paused == now.Paused:
	case now.Paused:
		t.tell(hypervisor.EventPaused, now.PausedFor)
	default:
		t.tell(hypervisor.EventUnpaused, hypervisor.ReasonUser)
	}
}

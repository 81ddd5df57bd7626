package fencevirt

import (
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// dropQuiet is how long a drop of one source for one reason is only counted
	// after it was logged.
	dropQuiet = 10 * time.Second
	// dropSubjectLimit bounds how many sources and reasons are told apart, and
	// dropLineLimit how many lines are logged in dropQuiet.
	dropSubjectLimit = 1024
	dropLineLimit    = 100
)

// dropped is what is logged and counted together.
type dropped struct {
	where, source, reason string
}

// drops logs every request that is dropped with its source and reason, without
// letting a flood of them fill the log. It is safe for concurrent use.
type drops struct {
	log *slog.Logger
	now func() time.Time

	mu       sync.Mutex // guards what follows
	subjects map[dropped]*dropCount
	began    time.Time // of the present span of dropQuiet
	lines    int       // logged in it
	silent   int       // not logged since the last line
	latest   []Drop    // at most dropMemory, the latest last
}

type dropCount struct {
	logged time.Time
	silent int
}

func newDrops(log *slog.Logger, now func() time.Time) *drops {
	return &drops{log: log, now: now, subjects: map[dropped]*dropCount{}}
}

// drop logs that something from source was dropped at the listener at where. The
// reason is one of few; what differs from drop to drop belongs into args.
func (d *drops) drop(where, source, reason string, args ...any) {
	suppressed, ok := d.turn(dropped{where, source, reason})
	d.remember(dropped{where, source, reason})
	if !ok {
		return
	}
	args = append([]any{"listener", where, "source", source, "reason", reason}, args...)
	if suppressed > 0 {
		args = append(args, "suppressed", suppressed)
	}
	d.log.Warn("request dropped", args...)
}

// turn reports whether a line may be logged, and how many were not since the last.
func (d *drops) turn(subject dropped) (suppressed int, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	if now.Sub(d.began) >= dropQuiet {
		d.began, d.lines = now, 0
		for s, c := range d.subjects {
			if now.Sub(c.logged) >= dropQuiet && c.silent == 0 {
				delete(d.subjects, s)
			}
		}
	}
	count := d.subjects[subject]
	switch {
	case count != nil && now.Sub(count.logged) < dropQuiet:
		count.silent++
		return 0, false
	case d.lines >= dropLineLimit, count == nil && len(d.subjects) >= dropSubjectLimit:
		d.silent++
		return 0, false
	case count == nil:
		count = &dropCount{}
		d.subjects[subject] = count
	}
	suppressed = count.silent + d.silent
	d.lines++
	count.silent, d.silent, count.logged = 0, 0, now
	return suppressed, true
}

// remember keeps a drop for who asks later.
func (d *drops) remember(s dropped) {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := Drop{Listener: s.where, Source: s.source, Reason: s.reason}
	for i, before := range d.latest {
		if before.Listener == s.where && before.Source == s.source && before.Reason == s.reason {
			one = before
			d.latest = slices.Delete(d.latest, i, i+1)
			break
		}
	}
	if len(d.latest) == dropMemory {
		d.latest = slices.Delete(d.latest, 0, 1)
	}
	one.Count++
	one.Last = d.now()
	d.latest = append(d.latest, one)
}

// recent returns what was dropped, oldest first.
func (d *drops) recent() []Drop {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.latest)
}

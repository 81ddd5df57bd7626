// Package judge decides from the demo's records alone whether a service was
// available and whether it ran twice: pure functions of what the journal, the
// outside client and the sniffer recorded. It knows nothing of the cluster, so
// it cannot believe what the cluster says of itself.
//
// It judges by the order of lines in the journal as well as by time: a process
// that was paused between taking its stamp and writing leaves a line with an
// innocent time in a guilty place.
package judge

import (
	"slices"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/trace"
)

// Resolution is how finely the journal shows an overlap: the service writes
// once in this time. Less than it cannot be told from nothing.
const Resolution = 10 * time.Millisecond

// stillAnswering is how long before the end of the window the last answer may
// be for the service to count as recovered.
const stillAnswering = time.Second

// Record is everything that was recorded. Journal is in file order.
type Record struct {
	Journal []trace.Entry
	Answers []trace.Answer
	Claims  []trace.Claim
	// Nodes says whose MAC address is whose.
	Nodes map[string]cluster.NodeName
}

// Window says what to judge.
type Window struct {
	// Fault is when the fault was injected; End is when observation ended.
	Fault, End time.Duration
	// Cold counts the gap from Fault on, though the service was silent before:
	// Fault is the moment at which power came back.
	Cold bool
}

// Verdict is what the records say.
type Verdict struct {
	// Gap is the longest time without a successful answer, and JournalGap the
	// longest without a line in the journal, from the last before the fault on.
	Gap        time.Duration
	JournalGap time.Duration
	// Recovered: after the fault another process of the service answered, and
	// the service still answered at the end.
	Recovered bool
	// Stayed: nobody but the process from before the fault answered or wrote,
	// and it still answered at the end.
	Stayed bool
	// Before answered the last question from before the fault, After the last
	// of all; zero if there was none.
	Before, After trace.Identity
	Overlaps      []Overlap
}

// Judge judges one fault.
func Judge(r Record, w Window) Verdict {
	v := Verdict{Overlaps: Overlaps(r)}
	var good []time.Duration
	for _, a := range r.Answers {
		switch {
		case a.From == nil || a.Done > w.End:
			continue
		case a.Sent <= w.Fault:
			v.Before = *a.From
		default:
			v.After = *a.From
		}
		good = append(good, a.Done)
	}
	var stamps []time.Duration
	for _, e := range r.Journal {
		if e.At <= w.End {
			stamps = append(stamps, e.At)
		}
	}
	v.Gap, v.JournalGap = w.gap(good), w.gap(stamps)
	answering := v.After.Run != "" && w.End-good[len(good)-1] < stillAnswering
	v.Recovered = answering && v.After != v.Before
	v.Stayed = answering && onlyBy(r, v.Before)
	return v
}

// onlyBy reports whether every answer and every line is of this process.
func onlyBy(r Record, id trace.Identity) bool {
	return !slices.ContainsFunc(r.Answers, func(a trace.Answer) bool { return a.From != nil && *a.From != id }) &&
		!slices.ContainsFunc(r.Journal, func(e trace.Entry) bool { return e.Identity != id })
}

// gap returns the longest silence that reaches beyond the fault. The times
// ascend but for late writes, which end no silence.
func (w Window) gap(times []time.Duration) time.Duration {
	last := w.Fault
	if !w.Cold {
		last = lastBefore(times, w.Fault)
	}
	var longest time.Duration
	for _, t := range times {
		if t > last {
			longest, last = max(longest, t-last), t
		}
	}
	return max(longest, w.End-last)
}

// lastBefore returns the latest time up to the fault, or the fault.
func lastBefore(times []time.Duration, fault time.Duration) time.Duration {
	found, last := false, fault
	for _, t := range times {
		if t <= fault && (!found || t > last) {
			found, last = true, t
		}
	}
	return last
}

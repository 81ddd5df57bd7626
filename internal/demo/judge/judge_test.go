package judge

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/trace"
)

const ms = time.Millisecond

var (
	first  = trace.Identity{Node: "n1", Boot: "b1", Generation: 1, Run: "r1"}
	second = trace.Identity{Node: "n2", Boot: "b2", Generation: 2, Run: "r2"}
	again  = trace.Identity{Node: "n1", Boot: "b1", Generation: 1, Run: "r9"} // restarted in place

	macs = map[string]cluster.NodeName{"m1": "n1", "m2": "n2"}
)

// lines are the entries of one process from one time to another, each 10 ms.
func lines(id trace.Identity, from, to time.Duration) (out []trace.Entry) {
	for at := from; at <= to; at += 10 * ms {
		out = append(out, trace.Entry{Identity: id, At: at})
	}
	return out
}

// answers are quick answers of one process, each 20 ms.
func answers(id trace.Identity, from, to time.Duration) (out []trace.Answer) {
	for at := from; at <= to; at += 20 * ms {
		out = append(out, trace.Answer{Sent: at, Done: at + ms, From: &id})
	}
	return out
}

func silence(from, to time.Duration) (out []trace.Answer) {
	for at := from; at <= to; at += 20 * ms {
		out = append(out, trace.Answer{Sent: at, Done: at + 200*ms, Failure: "timeout"})
	}
	return out
}

// takeover is a clean one: n1 until 1 s, n2 from 1.3 s.
func takeover() Record {
	return Record{
		Journal: slices.Concat(lines(first, 0, 1000*ms), lines(second, 1300*ms, 3000*ms)),
		Answers: slices.Concat(answers(first, 0, 1000*ms), silence(1020*ms, 1280*ms), answers(second, 1320*ms, 3000*ms)),
		Claims:  []trace.Claim{{At: 0, MAC: "m1"}, {At: 1290 * ms, MAC: "m2"}, {At: 1500 * ms, MAC: "m2"}},
		Nodes:   macs,
	}
}

func TestCleanTakeover(t *testing.T) {
	got := Judge(takeover(), Window{Fault: 1001 * ms, End: 3001 * ms})
	want := Verdict{
		Gap: 320 * ms, JournalGap: 300 * ms, Recovered: true, Before: first, After: second,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestJournalGapEndsWithTheWindow(t *testing.T) {
	r := Record{Journal: slices.Concat(lines(first, 0, 100*ms), lines(second, 3000*ms, 4000*ms))}
	if got := Judge(r, Window{Fault: 110 * ms, End: 2100 * ms}).JournalGap; got != 2000*ms {
		t.Errorf("gap %v, want 2s", got)
	}
}

func TestGap(t *testing.T) {
	for name, c := range map[string]struct {
		answers   []trace.Answer
		window    Window
		gap       time.Duration
		recovered bool
		stayed    bool
	}{
		"counts from the last answer before the fault": {
			slices.Concat(answers(first, 0, 100*ms), answers(second, 500*ms, 1000*ms)), Window{Fault: 300 * ms, End: 1001 * ms}, 400 * ms, true, false,
		},
		"after a power loss of all counts from the return of power": {
			slices.Concat(answers(first, 0, 100*ms), answers(second, 500*ms, 1000*ms)), Window{Fault: 300 * ms, End: 1001 * ms, Cold: true}, 201 * ms, true, false,
		},
		"the longest of several": {
			slices.Concat(answers(first, 0, 100*ms), answers(second, 200*ms, 300*ms), answers(second, 900*ms, 1000*ms)),
			Window{Fault: 110 * ms, End: 1001 * ms},
			600 * ms, true, false,
		},
		"one that lasts to the end is no recovery": {
			slices.Concat(answers(first, 0, 100*ms), answers(second, 200*ms, 300*ms)), Window{Fault: 110 * ms, End: 5001 * ms}, 4700 * ms, false, false,
		},
		"no answer at all": {silence(0, 1000*ms), Window{Fault: 100 * ms, End: 1000 * ms}, 900 * ms, false, false},
		"a service that nothing happened to did not recover": {
			answers(first, 0, 1000*ms), Window{Fault: 500 * ms, End: 1001 * ms}, 20 * ms, false, true,
		},
		"a service that was restarted in place did": {
			slices.Concat(answers(first, 0, 100*ms), answers(again, 200*ms, 1000*ms)), Window{Fault: 110 * ms, End: 1001 * ms}, 100 * ms, true, false,
		},
		"who was asked before the fault did not recover from it": {
			[]trace.Answer{{Sent: 90 * ms, Done: 120 * ms, From: &first}}, Window{Fault: 100 * ms, End: 200 * ms}, 80 * ms, false, false,
		},
		"what comes after the end does not count": {
			slices.Concat(answers(first, 0, 100*ms), answers(second, 3000*ms, 4000*ms)), Window{Fault: 110 * ms, End: 2101 * ms}, 2000 * ms, false, false,
		},
		"earlier gaps are not this fault's": {
			slices.Concat(answers(first, 0, 100*ms), answers(first, 900*ms, 1000*ms), answers(second, 1100*ms, 2000*ms)),
			Window{Fault: 1010 * ms, End: 2001 * ms},
			100 * ms, true, false,
		},
	} {
		got := Judge(Record{Answers: c.answers}, c.window)
		if got.Gap != c.gap || got.Recovered != c.recovered || got.Stayed != c.stayed {
			t.Errorf("%s: gap %v, recovered %v, stayed %v; want %v, %v, %v", name, got.Gap, got.Recovered, got.Stayed, c.gap, c.recovered, c.stayed)
		}
	}
}

// TestStayed spoils a service that goes on through a fault.
func TestStayed(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Record)
		want  bool
	}{
		"it went on":               {func(*Record) {}, true},
		"it was away for a while":  {func(r *Record) { r.Answers = slices.Concat(answers(first, 0, 400*ms), answers(first, 800*ms, 2000*ms)) }, true},
		"it does not answer again": {func(r *Record) { r.Answers = answers(first, 0, 400*ms); r.Journal = nil }, false},
		"another wrote a line": {func(r *Record) {
			r.Journal = slices.Insert(r.Journal, 60, lines(second, 600*ms, 610*ms)...)
		}, false},
		"another answered in between": {func(r *Record) {
			r.Answers = slices.Insert(r.Answers, 30, answers(again, 600*ms, 620*ms)...)
		}, false},
		"nobody was there before": {func(r *Record) { r.Answers = answers(first, 520*ms, 2000*ms) }, false},
	} {
		r := Record{Journal: lines(first, 0, 2000*ms), Answers: answers(first, 0, 2000*ms)}
		c.spoil(&r)
		if got := Judge(r, Window{Fault: 500 * ms, End: 2001 * ms}).Stayed; got != c.want {
			t.Errorf("%s: stayed %v, want %v", name, got, c.want)
		}
	}
}

// TestOverlaps spoils a clean takeover in every way there is.
func TestOverlaps(t *testing.T) {
	other := second
	other.Generation = 1
	old := trace.Identity{Node: "n3", Boot: "b3", Generation: 1, Run: "r3"}
	for name, c := range map[string]struct {
		spoil func(*Record)
		want  []Rule
	}{
		"nothing": {func(*Record) {}, nil},
		"a late write whose stamp is from before the pause": {func(r *Record) {
			r.Journal = slices.Insert(r.Journal, len(r.Journal)-5, trace.Entry{Identity: first, At: 1000*ms + 5*ms})
		}, []Rule{FileOrder}},
		"two processes write at the same time": {func(r *Record) {
			r.Journal = slices.Insert(r.Journal, len(r.Journal)-5, lines(first, 1310*ms, 1400*ms)...)
			r.Claims = nil
		}, []Rule{FileOrder, TimeOrder}},
		"stamps overlap though the lines are in order": {func(r *Record) {
			r.Journal = slices.Insert(r.Journal, 101, lines(first, 1010*ms, 1350*ms)...)
			r.Claims = nil
		}, []Rule{TimeOrder}},
		"generations go back": {func(r *Record) {
			r.Journal = append(r.Journal, lines(old, 3010*ms, 3100*ms)...)
		}, []Rule{Generations}},
		"a generation that was passed over comes late": {func(r *Record) {
			for i := range r.Journal {
				r.Journal[i].Generation *= 3
			}
			late := old
			late.Generation = 5
			r.Journal = append(r.Journal, lines(late, 3010*ms, 3100*ms)...)
			r.Answers = nil
		}, []Rule{Generations}},
		"two processes of one generation answer in turns": {func(r *Record) {
			*r = Record{Answers: slices.Concat(answers(first, 0, 100*ms), answers(again, 200*ms, 300*ms), answers(first, 400*ms, 500*ms))}
		}, []Rule{Answers}},
		"two boots share a generation": {func(r *Record) {
			r.Journal = slices.Concat(lines(first, 0, 1000*ms), lines(other, 1300*ms, 3000*ms))
			r.Answers, r.Claims = nil, nil
		}, []Rule{Generations}},
		"two processes of one generation in one boot": {func(r *Record) {
			r.Journal = slices.Concat(lines(first, 0, 500*ms), lines(again, 505*ms, 1000*ms), lines(first, 510*ms, 600*ms))
			r.Answers, r.Claims = nil, nil
		}, []Rule{FileOrder, TimeOrder}},
		"answers go back": {func(r *Record) {
			r.Answers = append(r.Answers, answers(first, 2000*ms, 2100*ms)...)
		}, []Rule{Answers}},
		"answers go back though there is no journal": {func(r *Record) {
			r.Journal = nil
			r.Claims = nil
			r.Answers = append(r.Answers, answers(first, 2000*ms, 2100*ms)...)
		}, []Rule{Answers}},
		"the old one answers while the new one writes already": {func(r *Record) {
			r.Answers = slices.Insert(r.Answers, 51, answers(first, 1305*ms, 1306*ms)...)
		}, []Rule{Answers}},
		"a question from before the takeover is answered after it": {func(r *Record) {
			r.Answers = append(r.Answers, trace.Answer{Sent: 1299 * ms, Done: 1450 * ms, From: &first})
		}, nil},
		"the old machine claims the address while the new one serves": {func(r *Record) {
			r.Claims = append(r.Claims, trace.Claim{At: 2000 * ms, MAC: "m1"})
		}, []Rule{Addresses, Addresses}},
		"claims of two machines in turns before the service runs": {func(r *Record) {
			r.Claims = []trace.Claim{{At: 1100 * ms, MAC: "m1"}, {At: 1110 * ms, MAC: "m2"}, {At: 1120 * ms, MAC: "m1"}, {At: 1130 * ms, MAC: "m2"}}
		}, []Rule{Addresses}},
		"claims of two strangers in turns": {func(r *Record) {
			r.Claims = []trace.Claim{{At: 1, MAC: "x"}, {At: 2, MAC: "y"}, {At: 3, MAC: "x"}}
		}, []Rule{Addresses}},
		"a generation between that never wrote may have claimed": {func(r *Record) {
			for i := range r.Journal {
				if r.Journal[i].Generation == 2 {
					r.Journal[i].Generation = 3
				}
			}
			r.Answers = nil
			r.Claims = []trace.Claim{{At: 0, MAC: "m1"}, {At: 1100 * ms, MAC: "m3"}, {At: 1290 * ms, MAC: "m2"}}
		}, nil},
	} {
		r := takeover()
		c.spoil(&r)
		var got []Rule
		for _, o := range Overlaps(r) {
			got = append(got, o.Rule)
			if o.Text == "" {
				t.Errorf("%s: %s without a text", name, o.Rule)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s%v", name, diff, Overlaps(r))
		}
	}
}

func TestRestartInPlaceIsNoOverlap(t *testing.T) {
	r := Record{
		Journal: slices.Concat(lines(first, 0, 500*ms), lines(again, 530*ms, 1000*ms)),
		Answers: slices.Concat(answers(first, 0, 500*ms), answers(again, 540*ms, 1000*ms)),
		Claims:  []trace.Claim{{At: 0, MAC: "m1"}, {At: 535 * ms, MAC: "m1"}},
		Nodes:   macs,
	}
	if got := Overlaps(r); len(got) > 0 {
		t.Error(got)
	}
}

func TestManyTakeoversInARow(t *testing.T) {
	third := trace.Identity{Node: "n1", Boot: "b4", Generation: 3, Run: "r4"}
	r := takeover()
	r.Journal = append(r.Journal, lines(third, 3500*ms, 4000*ms)...)
	r.Answers = append(r.Answers, answers(third, 3520*ms, 4000*ms)...)
	r.Claims = append(r.Claims, trace.Claim{At: 3490 * ms, MAC: "m1"})
	if got := Overlaps(r); len(got) > 0 {
		t.Error(got)
	}
}

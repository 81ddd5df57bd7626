package judge

import (
	"fmt"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/trace"
)

// Rule names what an overlap breaks.
type Rule string

// The rules.
const (
	// FileOrder: a line of an earlier process stands behind the first of a later.
	FileOrder Rule = "journal, by file order"
	// TimeOrder: the stamps of two processes overlap.
	TimeOrder Rule = "journal, by time"
	// Generations: they went back, or one was used by two boots.
	Generations Rule = "generations"
	// Answers: an earlier process answered though a later one had begun.
	Answers Rule = "answers to the client"
	// Addresses: two machines claimed the address in turns.
	Addresses Rule = "claims of the address"
)

// Overlap is one proof that the service, or its address, was active twice.
type Overlap struct {
	Rule Rule `json:"rule"`
	// Amount is for how long at least; 0 when the rule does not tell.
	Amount time.Duration `json:"amount_ns"`
	Text   string        `json:"text"`
}

// tenure is one process of the service as the journal shows it.
type tenure struct {
	trace.Identity
	first, last time.Duration // lowest and highest stamp
	strays      int           // lines behind the first line of a later process
}

// Overlaps returns every overlap in the records; none is what everybody hopes
// for. It may be given the records of many faults in a row.
func Overlaps(r Record) []Overlap {
	tenures, found := readTenures(r.Journal)
	found = append(found, strays(tenures)...)
	found = append(found, byTime(tenures)...)
	found = append(found, byAnswers(r.Answers, tenures)...)
	return append(found, byClaims(r, tenures)...)
}

// readTenures returns the processes in the order of their first lines.
func readTenures(journal []trace.Entry) (tenures []*tenure, found []Overlap) {
	known := map[trace.Identity]*tenure{}
	boots := map[cluster.Generation]trace.Identity{}
	var newest cluster.Generation
	for _, e := range journal {
		t := known[e.Identity]
		if t == nil {
			t = &tenure{Identity: e.Identity, first: e.At, last: e.At}
			found = append(found, checkGeneration(boots, newest, e.Identity)...)
			known[e.Identity], newest = t, max(newest, e.Generation)
			tenures = append(tenures, t)
		}
		t.first, t.last = min(t.first, e.At), max(t.last, e.At)
		if t != tenures[len(tenures)-1] {
			t.strays++
		}
	}
	return tenures, found
}

func checkGeneration(boots map[cluster.Generation]trace.Identity, newest cluster.Generation, id trace.Identity) []Overlap {
	other, used := boots[id.Generation]
	boots[id.Generation] = id
	switch {
	case id.Generation < newest:
		return []Overlap{{Rule: Generations, Text: fmt.Sprintf("%v began after generation %d had", id, newest)}}
	case used && (other.Node != id.Node || other.Boot != id.Boot):
		return []Overlap{{Rule: Generations, Text: fmt.Sprintf("%v and %v have the same generation", other, id)}}
	}
	return nil
}

func strays(tenures []*tenure) (found []Overlap) {
	for i, t := range tenures {
		if t.strays > 0 {
			found = append(found, Overlap{Rule: FileOrder, Text: fmt.Sprintf(
				"%d lines of %v stand behind the first line of %v", t.strays, t.Identity, tenures[i+1].Identity)})
		}
	}
	return found
}

func byTime(tenures []*tenure) (found []Overlap) {
	for i, a := range tenures {
		for _, b := range tenures[i+1:] {
			if amount := min(a.last, b.last) - max(a.first, b.first); amount >= 0 {
				found = append(found, Overlap{Rule: TimeOrder, Amount: max(amount, Resolution), Text: fmt.Sprintf(
					"%v wrote until %v after %v had begun", a.Identity, amount.Round(time.Millisecond), b.Identity)})
			}
		}
	}
	return found
}

// begin is the earliest proof that a process ran.
type begin struct {
	trace.Identity
	at     time.Duration
	late   int           // questions that it answered though a later process had begun
	amount time.Duration // for how long
	later  trace.Identity
}

// byAnswers finds answers to questions that were asked when a later process had
// begun already, by its own first answer or first line. Questions may overlap,
// so an answer counts from when its question was sent.
func byAnswers(answers []trace.Answer, tenures []*tenure) (found []Overlap) {
	begins := beginnings(answers, tenures)
	for _, a := range answers {
		for i, b := range begins {
			if a.From == nil || b.Identity != *a.From {
				continue
			}
			for j, later := range begins {
				if follows(begins, j, i) && a.Sent-later.at > b.amount {
					b.amount, b.later = a.Sent-later.at, later.Identity
				}
			}
			if b.amount > 0 {
				b.late++
			}
		}
	}
	for _, b := range begins {
		if b.late > 0 {
			found = append(found, Overlap{Rule: Answers, Amount: b.amount, Text: fmt.Sprintf(
				"%v answered %d times after %v had begun", b.Identity, b.late, b.later)})
		}
	}
	return found
}

// beginnings returns the processes in the order in which they began: those of
// the journal, then those that only answered.
func beginnings(answers []trace.Answer, tenures []*tenure) (begins []*begin) {
	at := map[trace.Identity]*begin{}
	add := func(id trace.Identity, t time.Duration) {
		if at[id] == nil {
			at[id] = &begin{Identity: id, at: t}
			begins = append(begins, at[id])
		}
		at[id].at = min(at[id].at, t)
	}
	for _, t := range tenures {
		add(t.Identity, t.first)
	}
	for _, a := range answers {
		if a.From != nil {
			add(*a.From, a.Done)
		}
	}
	return begins
}

// follows reports whether process j is a later one than process i.
func follows(begins []*begin, j, i int) bool {
	if begins[j].Generation != begins[i].Generation {
		return begins[j].Generation > begins[i].Generation
	}
	return j > i
}

// byClaims finds claims of the address by a machine while the service ran on
// another one, and machines that claim it in turns more often than the service
// changed its owner.
func byClaims(r Record, tenures []*tenure) (found []Overlap) {
	var intruders int
	var first string
	for _, c := range r.Claims {
		node, known := r.Nodes[c.MAC]
		for _, t := range tenures {
			if known && t.Node != node && c.At > t.first && c.At < t.last {
				if intruders++; intruders == 1 {
					first = fmt.Sprintf("%s (%s) claimed the address while %v had it", node, c.MAC, t.Identity)
				}
			}
		}
	}
	if intruders > 0 {
		found = append(found, Overlap{Rule: Addresses, Text: fmt.Sprintf("%s; %d such claims", first, intruders)})
	}
	if turns, allowed := takeovers(r.Claims), changes(tenures); turns > allowed {
		found = append(found, Overlap{Rule: Addresses, Text: fmt.Sprintf(
			"the address went from one machine to another %d times, the service %d times", turns, allowed)})
	}
	return found
}

func takeovers(claims []trace.Claim) (n int) {
	for i := 1; i < len(claims); i++ {
		if claims[i].MAC != claims[i-1].MAC {
			n++
		}
	}
	return n
}

// changes is how often the owner can have changed: generations without a line
// were owners that did not get as far as the journal.
func changes(tenures []*tenure) int {
	if len(tenures) == 0 {
		return 0
	}
	lowest, highest := tenures[0].Generation, tenures[0].Generation
	for _, t := range tenures {
		lowest, highest = min(lowest, t.Generation), max(highest, t.Generation)
	}
	return int(highest - lowest)
}

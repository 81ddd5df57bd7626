package chaos

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"ringfence/internal/cluster"
)

// checkTimeout bounds the search for an order of the history.
const checkTimeout = time.Minute

type opKind string

const (
	read    opKind = "read"
	put     opKind = "put"
	compare opKind = "put if it stands at a revision"
)

type outcome string

const (
	ok       outcome = "ok"
	conflict outcome = "conflict" // somebody else wrote: nothing was done
	nothing  outcome = "not done" // refused, or nobody there
	unknown  outcome = "unknown"
)

// op is one operation on the configuration, by trace's clock.
type op struct {
	Client       int
	Node         cluster.NodeName
	Kind         opKind
	Value        int64 // written or read
	Expect       int64 `json:",omitempty"`
	Call, Return time.Duration
	Outcome      outcome
	Changed      bool  `json:",omitempty"` // by a write; else that value stood already
	Stale        bool  `json:",omitempty"` // a read that says itself that it may be old
	Rev          int64 `json:",omitempty"`
	Err          string
}

// state is what stands in the register. A write whose outcome is unknown
// tells no revision: then rev is 0, and the true one is above.
type state struct {
	rev, above, value int64
}

func (s state) newest() int64 { return max(s.rev, s.above) }

// mayBe reports whether the register can be at this revision.
func (s state) mayBe(rev int64) bool { return s.rev == rev || s.rev == 0 && rev > s.above }

// written is the register after a write that told no revision.
func (s state) written(value int64) state { return state{above: s.newest(), value: value} }

// step is the register: whether the operation may come here, and what then
// stands.
func step(s state, o op) (bool, state) {
	held := o.Kind != compare || s.mayBe(o.Expect)
	switch {
	case o.Kind == read:
		return s.value == o.Value && s.mayBe(o.Rev), state{rev: o.Rev, value: o.Value}
	case o.Outcome == conflict:
		return o.Kind == put || s.rev != o.Expect, s // a put loses against others only for lack of luck
	case o.Outcome == unknown && !held:
		return true, s
	case o.Outcome == unknown:
		return true, s.written(o.Value)
	case o.Changed:
		return held && o.Rev > s.newest(), state{rev: o.Rev, value: o.Value}
	case s.value == o.Value:
		return true, s // "nothing to change", whatever it expected
	}
	// It says that the value stands already, so an earlier try of its own wrote it.
	return held, s.written(o.Value)
}

// model is step for porcupine.
func model(initial state) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return initial },
		Step: func(s, input, _ any) (bool, any) { return step(s.(state), input.(op)) },
	}
}

// checkHistory returns what is wrong with a history of the configuration, ""
// if one order of its operations explains all answers.
func checkHistory(initial state, history []op) string {
	if text := checkStale(initial, history); text != "" {
		return text
	}
	var ops []porcupine.Operation
	for _, o := range history {
		if o.Outcome == nothing || o.Kind == read && (o.Outcome != ok || o.Stale) {
			continue
		}
		one := porcupine.Operation{ClientId: o.Client, Input: o, Call: int64(o.Call), Return: int64(o.Return)}
		if o.Outcome == unknown {
			one.Return = math.MaxInt64 // it may still happen
		}
		ops = append(ops, one)
	}
	switch porcupine.CheckOperationsTimeout(model(initial), ops, checkTimeout) {
	case porcupine.Ok:
		return ""
	case porcupine.Unknown:
		return fmt.Sprintf("no order of the %d operations was found within %v: probably there is none", len(ops), checkTimeout)
	}
	return fmt.Sprintf("no order of the %d operations explains all answers", len(ops))
}

// checkStale checks what holds for all reads, also those that say that they may
// be old: one revision has one value, and no node goes back.
func checkStale(initial state, history []op) string {
	values := map[int64]int64{initial.rev: initial.value}
	var reads []op
	for _, o := range history {
		if o.Outcome != ok || o.Kind != read && !o.Changed {
			continue
		}
		if had, known := values[o.Rev]; known && had != o.Value {
			return fmt.Sprintf("revision %d has two values, %d and %d", o.Rev, had, o.Value)
		}
		values[o.Rev] = o.Value
		if o.Kind == read {
			reads = append(reads, o)
		}
	}
	slices.SortStableFunc(reads, func(a, b op) int { return int(a.Return - b.Return) })
	for i, later := range reads {
		for _, earlier := range reads[max(0, i-staleReach):i] {
			if earlier.Node == later.Node && earlier.Return < later.Call && earlier.Rev > later.Rev {
				return fmt.Sprintf("%s went back from revision %d to %d", later.Node, earlier.Rev, later.Rev)
			}
		}
	}
	return ""
}

// staleReach is how many earlier reads each read is compared with.
const staleReach = 100

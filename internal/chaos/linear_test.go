package chaos

import (
	"slices"
	"testing"
	"time"
)

// at makes an operation that lasts from one second to another.
func at(from, to int, o op) op {
	o.Call, o.Return = time.Duration(from)*time.Second, time.Duration(to)*time.Second
	if o.Outcome == "" {
		o.Outcome = ok
	}
	return o
}

// TestHistories spoils histories in every way there is: a checker that finds
// nothing must have been able to.
func TestHistories(t *testing.T) {
	initial := state{rev: 1}
	first := at(0, 1, op{Kind: put, Value: 1, Changed: true, Rev: 5})
	second := at(2, 3, op{Kind: compare, Expect: 5, Value: 2, Changed: true, Rev: 7})
	late := at(2, 3, op{Kind: put, Value: 2, Outcome: unknown})
	for name, c := range map[string]struct {
		history []op
		broken  bool
	}{
		"nothing":                                    {nil, false},
		"in turns":                                   {[]op{first, second, at(4, 5, op{Kind: read, Value: 2, Rev: 7})}, false},
		"the initial value":                          {[]op{at(0, 1, op{Kind: read, Rev: 1})}, false},
		"a read beside a write may see either":       {[]op{first, second, at(2, 3, op{Kind: read, Value: 1, Rev: 5}), at(2, 3, op{Kind: read, Value: 2, Rev: 7})}, false},
		"a read of what stood before":                {[]op{first, second, at(4, 5, op{Kind: read, Value: 1, Rev: 5})}, true},
		"the same, but it says so":                   {[]op{first, second, at(4, 5, op{Kind: read, Value: 1, Rev: 5, Stale: true})}, false},
		"a read of what nobody wrote":                {[]op{first, at(2, 3, op{Kind: read, Value: 9, Rev: 6})}, true},
		"a lost write":                               {[]op{first, at(2, 3, op{Kind: read, Rev: 1})}, true},
		"two writers expect the same":                {[]op{first, second, at(2, 3, op{Kind: compare, Expect: 5, Value: 3, Changed: true, Rev: 8})}, true},
		"a comparison that fails for nothing":        {[]op{first, at(2, 3, op{Kind: compare, Expect: 5, Outcome: conflict})}, true},
		"a comparison that fails as it must":         {[]op{first, second, at(4, 5, op{Kind: compare, Expect: 5, Outcome: conflict})}, false},
		"revisions that go back":                     {[]op{first, at(2, 3, op{Kind: put, Value: 2, Changed: true, Rev: 4})}, true},
		"one revision of two values":                 {[]op{first, at(0, 1, op{Kind: put, Value: 2, Changed: true, Rev: 5})}, true},
		"unknown, and it happened":                   {[]op{first, late, at(4, 5, op{Kind: read, Value: 2, Rev: 7})}, false},
		"unknown, and it did not happen":             {[]op{first, late, at(4, 5, op{Kind: read, Value: 1, Rev: 5})}, false},
		"unknown, and it happens late":               {[]op{first, late, at(4, 5, op{Kind: read, Value: 1, Rev: 5}), at(6, 7, op{Kind: read, Value: 2, Rev: 7})}, false},
		"unknown, and it happens and is undone":      {[]op{first, late, at(4, 5, op{Kind: read, Value: 2, Rev: 7}), at(6, 7, op{Kind: read, Value: 1, Rev: 5})}, true},
		"unknown, and it happens before it began":    {[]op{first, at(1, 1, op{Kind: read, Value: 2, Rev: 7}), late}, true},
		"a comparison that is unknown and fails":     {[]op{first, second, at(4, 5, op{Kind: compare, Expect: 5, Value: 3, Outcome: unknown}), at(6, 7, op{Kind: read, Value: 2, Rev: 7})}, false},
		"a comparison that is unknown and may not":   {[]op{first, second, at(4, 5, op{Kind: compare, Expect: 5, Value: 3, Outcome: unknown}), at(6, 7, op{Kind: read, Value: 3, Rev: 8})}, true},
		"a conflict though it was done":              {[]op{first, at(2, 3, op{Kind: compare, Expect: 5, Value: 3, Outcome: conflict}), at(2, 3, op{Kind: read, Value: 3, Rev: 6})}, true},
		"nothing to change":                          {[]op{first, at(2, 3, op{Kind: put, Value: 1, Rev: 9})}, false},
		"nothing to change, though another stands":   {[]op{first, second, at(4, 5, op{Kind: put, Value: 1, Rev: 6}), at(6, 7, op{Kind: read, Value: 2, Rev: 7})}, true},
		"done twice":                                 {[]op{at(0, 9, op{Kind: put, Value: 1, Changed: true, Rev: 8}), at(1, 2, op{Kind: read, Value: 1, Rev: 5}), at(3, 4, op{Kind: put, Value: 2, Changed: true, Rev: 6})}, true},
		"a node goes back in what it calls old":      {[]op{at(2, 3, op{Kind: read, Value: 1, Rev: 5, Stale: true}), first, at(4, 5, op{Kind: read, Rev: 1, Stale: true})}, true},
		"what was refused did not happen":            {[]op{first, at(2, 3, op{Kind: put, Value: 2, Outcome: nothing}), at(4, 5, op{Kind: read, Value: 2, Rev: 7})}, true},
		"a failed read says nothing":                 {[]op{first, at(2, 3, op{Kind: read, Outcome: unknown})}, false},
		"a write that an earlier try of its own did": {[]op{first, at(2, 3, op{Kind: put, Value: 2, Rev: 9}), at(4, 5, op{Kind: read, Value: 2, Rev: 7})}, false},
	} {
		text := checkHistory(initial, c.history)
		if (text != "") != c.broken {
			t.Errorf("%s: %q, want broken %v", name, text, c.broken)
		}
		backwards := slices.Clone(c.history)
		slices.Reverse(backwards)
		if again := checkHistory(initial, backwards); (again != "") != c.broken {
			t.Errorf("%s, in another order of notes: %q, want broken %v", name, again, c.broken)
		}
	}
}

package cluster_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
)

// stateRow is one line of a table in doc/states.md:
// | `state` | meaning | who sets it | `next`, `next` |
var stateRow = regexp.MustCompile("^\\| `([a-z]+)` \\| ([^|]+) \\| ([^|]+) \\| ([^|]*) \\|$")

// readTable reads the table below a heading of doc/states.md.
func readTable(t *testing.T, heading string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../doc/states.md")
	if err != nil {
		t.Fatal(err)
	}
	_, below, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("doc/states.md has no heading %q", heading)
	}
	section, _, _ := strings.Cut(below, "\n## ")
	table := map[string][]string{}
	for line := range strings.Lines(section) {
		m := stateRow.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			if strings.HasPrefix(line, "| `") {
				t.Errorf("%s: cannot read %q", heading, line)
			}
			continue
		}
		if _, twice := table[m[1]]; twice {
			t.Errorf("%s: state %s stands there twice", heading, m[1])
		}
		for _, sentence := range m[2:4] {
			if len(strings.Fields(sentence)) < 3 {
				t.Errorf("%s: state %s: %q explains nothing", heading, m[1], sentence)
			}
		}
		table[m[1]] = nil
		for next := range strings.SplitSeq(m[4], ",") {
			table[m[1]] = append(table[m[1]], strings.Trim(strings.TrimSpace(next), "`"))
		}
		slices.Sort(table[m[1]])
	}
	return table
}

// asTable turns transitions of the code into the form of readTable. The zero
// state is empty in the code and has a name in the document.
func asTable[S ~string](transitions map[S][]S, zero string) map[string][]string {
	name := func(s S) string {
		if s == "" {
			return zero
		}
		return string(s)
	}
	table := map[string][]string{}
	for from, next := range transitions {
		table[name(from)] = nil
		for _, to := range next {
			table[name(from)] = append(table[name(from)], name(to))
		}
		slices.Sort(table[name(from)])
	}
	return table
}

func TestNodeStatesInTheDocumentAreThoseOfTheCode(t *testing.T) {
	want := asTable(cluster.NodeTransitions(), "absent")
	if diff := cmp.Diff(want, readTable(t, "Nodes")); diff != "" {
		t.Errorf("doc/states.md (-code +document):\n%s", diff)
	}
}

func TestServiceStatesInTheDocumentAreThoseOfTheCode(t *testing.T) {
	want := asTable(cluster.ServiceTransitions(), "unknown")
	if diff := cmp.Diff(want, readTable(t, "Services")); diff != "" {
		t.Errorf("doc/states.md (-code +document):\n%s", diff)
	}
}

func TestTransitionsLeadOnlyToKnownStates(t *testing.T) {
	checkClosed(t, cluster.NodeTransitions())
	checkClosed(t, cluster.ServiceTransitions())
}

func checkClosed[S ~string](t *testing.T, transitions map[S][]S) {
	t.Helper()
	reached := map[S]bool{"": true}
	for from, next := range transitions {
		if slices.Contains(next, from) {
			t.Errorf("%q follows itself", from)
		}
		if sorted := slices.Compact(slices.Sorted(slices.Values(next))); len(sorted) != len(next) {
			t.Errorf("%q lists a successor twice: %v", from, next)
		}
		for _, to := range next {
			reached[to] = true
			if _, ok := transitions[to]; !ok {
				t.Errorf("%q may be followed by %q, of which nothing is said", from, to)
			}
		}
	}
	for s := range transitions {
		if !reached[s] {
			t.Errorf("%q follows nothing", s)
		}
	}
}

// A fence decision is never withdrawn and an end never taken back (rules P7, P19).
func TestNoWayLeadsBackFromLostOrEnded(t *testing.T) {
	ends := []cluster.NodeState{cluster.NodeLeft, cluster.NodeFenced, cluster.NodeEnded}
	transitions := cluster.NodeTransitions()
	for _, to := range transitions[cluster.NodeLost] {
		if !slices.Contains(ends, to) {
			t.Errorf("lost may be followed by %s", to)
		}
	}
	for _, end := range ends {
		if got := transitions[end]; !slices.Equal(got, []cluster.NodeState{cluster.NodeAbsent}) {
			t.Errorf("%s may be followed by %v", end, got)
		}
	}
}

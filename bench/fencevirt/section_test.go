package fencevirt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// The section stands in doc/performance.md between these lines, at its end when it is
// not there yet.
const (
	sectionBegin = "<!-- make bench-hostd: begin -->\n"
	sectionEnd   = "<!-- make bench-hostd: end -->\n"
)

// splice puts the section in the place of the former one.
func splice(document, section string) string {
	section = sectionBegin + section + sectionEnd
	begin, end := strings.Index(document, sectionBegin), strings.Index(document, sectionEnd)
	if begin < 0 || end < begin {
		return strings.TrimRight(document, "\n") + "\n\n" + section
	}
	return document[:begin] + section + document[end+len(sectionEnd):]
}

func TestTheSectionTakesItsPlaceAndLeavesTheOthers(t *testing.T) {
	first := splice("# Performance\n\n## Planning\n\nfast\n", "## hostd\n\nold\n")
	want := "# Performance\n\n## Planning\n\nfast\n\n" + sectionBegin + "## hostd\n\nold\n" + sectionEnd
	if first != want {
		t.Errorf("%q, want %q", first, want)
	}
	second := splice(first+"\n## More\n", "## hostd\n\nnew\n")
	if second != strings.Replace(want, "old", "new", 1)+"\n## More\n" {
		t.Errorf("%q", second)
	}
}

// rank returns the smallest of the values that at least that part of them does not
// exceed.
func rank(values []time.Duration, part float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := int(part*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(n, 0), len(sorted)-1)]
}

func TestRank(t *testing.T) {
	var values []time.Duration
	for i := 100; i > 0; i-- {
		values = append(values, time.Duration(i))
	}
	if rank(values, 0.5) != 50 || rank(values, 0.99) != 99 || rank(values, 1) != 100 || rank(values[:1], 0.99) != 100 || rank(nil, 1) != 0 {
		t.Errorf("%d %d %d", rank(values, 0.5), rank(values, 0.99), rank(values, 1))
	}
}

// ms is a time in milliseconds, with two digits that mean something.
func ms(d time.Duration) string {
	v := float64(d) / float64(time.Millisecond)
	switch {
	case v >= 10_000:
		return fmt.Sprintf("%.1f s", v/1000)
	case v >= 10:
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.1f ms", v)
}

// factor is how much better ours is; worse is told in bold.
func factor(theirs, ours float64) string {
	if ours == 0 || theirs == 0 {
		return "–"
	}
	f := theirs / ours
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0f×", f)
	case f < 0.95:
		return fmt.Sprintf("**%.2f×, slower**", f)
	}
	return fmt.Sprintf("%.1f×", f)
}

func TestFactor(t *testing.T) {
	for want, got := range map[string]string{
		"2.0×": factor(4, 2), "**0.50×, slower**": factor(2, 4), "1.0×": factor(0.96, 1), "150×": factor(300, 2), "–": factor(1, 0),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

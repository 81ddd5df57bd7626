package trace

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEntryRoundTrip(t *testing.T) {
	want := Entry{Identity: Identity{Node: "n1", Boot: "b-1", Generation: 7, Run: "cafe"}, At: 123456789}
	line := string(want.Append(nil))
	if len(line) > LineLimitBytes || !strings.HasSuffix(line, "\n") {
		t.Fatalf("line %q", line)
	}
	got, err := ParseEntry(strings.TrimSuffix(line, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLongestEntryFits(t *testing.T) {
	word := strings.Repeat("x", wordLimitBytes)
	e := Entry{Identity: Identity{Node: "n", Boot: "b", Generation: 1<<64 - 1, Run: word}, At: 1<<63 - 1}
	if err := e.Check(); err != nil {
		t.Fatal(err)
	}
	if n := len(e.Append(nil)) + 2*wordLimitBytes; n > LineLimitBytes {
		t.Errorf("the longest line has %d bytes, the limit is %d", n, LineLimitBytes)
	}
}

func TestParseJournalLeavesOutWhatIsBeingWritten(t *testing.T) {
	const whole = "n1 b 1 r 10\nn1 b 1 r 20\n"
	entries, read, err := ParseJournal(whole + "n1 b 1 r 3")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 || read != len(whole) {
		t.Errorf("%d entries from %d bytes, want 2 from %d", len(entries), read, len(whole))
	}
}

func TestDamagedLinesAreRefused(t *testing.T) {
	for name, line := range map[string]string{
		"empty":              "",
		"a word missing":     "n1 b 1 10",
		"a word too many":    "n1 b 1 r 10 11",
		"two lines in one":   "n1 b 1 r 1n1 b 1 r 20",
		"generation is text": "n1 b one r 10",
		"time is text":       "n1 b 1 r now",
		"empty node":         " b 1 r 10",
		"too long":           "n1 " + strings.Repeat("b", LineLimitBytes) + " 1 r 10",
	} {
		if _, err := ParseEntry(line); err == nil {
			t.Errorf("%s: %q was accepted", name, line)
		}
	}
	for name, line := range map[string]string{
		"nothing said": "{}", "no JSON": "answer", "too long": strings.Repeat(" ", LineLimitBytes) + "{}",
	} {
		if _, err := ParseObservation([]byte(line)); err == nil {
			t.Errorf("%s: %q was accepted", name, line)
		}
	}
}

func TestNowIsTheMonotonicClock(t *testing.T) {
	if a, b := Now(), Now(); a <= 0 || b < a {
		t.Errorf("now %v, then %v", a, b)
	}
}

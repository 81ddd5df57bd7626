package fencevirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/wire/xvm"
)

// handClock is a clock that a test sets.
type handClock struct{ at time.Time }

func (c *handClock) now() time.Time { return c.at }

func (c *handClock) pass(d time.Duration) { c.at = c.at.Add(d) }

func TestAnIdenticalPacketIsAReplayForTenMinutes(t *testing.T) {
	clock := &handClock{time.Unix(1000, 0)}
	h := newHistory(clock.now)
	if h.replayed([]byte("a")) || h.replayed([]byte("b")) {
		t.Error("a first packet was a replay")
	}
	clock.pass(replayWindow - 1)
	if !h.replayed([]byte("a")) {
		t.Error("the packet was forgotten before its time")
	}
	clock.pass(1)
	if h.replayed([]byte("a")) {
		t.Error("a replay renewed the window")
	}
}

func TestTheHistoryIsBounded(t *testing.T) {
	clock := &handClock{time.Unix(1000, 0)}
	h := newHistory(clock.now)
	for i := range historyLimit + 10 {
		h.replayed(fmt.Append(nil, i))
		h.complete(runOf(xvm.OpOff, uint32(i), "g"))
	}
	if len(h.packets.at) != historyLimit || len(h.ended.at) != historyLimit || len(h.ended.order) != historyLimit {
		t.Errorf("%d packets, %d runs, %d in order; want %d of each", len(h.packets.at), len(h.ended.at), len(h.ended.order), historyLimit)
	}
	if h.answered(runOf(xvm.OpOff, 9, "g")) || !h.answered(runOf(xvm.OpOff, 10, "g")) {
		t.Error("not the oldest was forgotten")
	}
}

func TestARunThatIsCompletedAgainIsRememberedFromThen(t *testing.T) {
	clock := &handClock{time.Unix(1000, 0)}
	h := newHistory(clock.now)
	r := runOf(xvm.OpOff, 1, "g")
	h.complete(r)
	clock.pass(repeatWindow / 2)
	h.complete(r)
	clock.pass(repeatWindow / 2)
	h.complete(runOf(xvm.OpOff, 2, "g")) // makes the first entry fall out
	if !h.answered(r) {
		t.Error("forgotten with its first completion")
	}
	clock.pass(repeatWindow / 2)
	if h.answered(r) {
		t.Error("remembered for too long")
	}
}

func TestARunIsOperationNumberAndGuestInAnyCase(t *testing.T) {
	h := newHistory(time.Now)
	h.complete(runOf(xvm.OpOff, 1, "Guest"))
	for _, c := range []struct {
		name string
		run  run
		want bool
	}{
		{"the same", runOf(xvm.OpOff, 1, "Guest"), true},
		{"in another case", runOf(xvm.OpOff, 1, "gUEST"), true},
		{"another operation", runOf(xvm.OpOn, 1, "Guest"), false},
		{"another number", runOf(xvm.OpOff, 2, "Guest"), false},
		{"another guest", runOf(xvm.OpOff, 1, "Guest2"), false},
	} {
		if got := h.answered(c.run); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestCallsToOnePlaceAreOneAtATime(t *testing.T) {
	h := newHistory(time.Now)
	r := runOf(xvm.OpOff, 1, "g")
	here := call{r, netip.MustParseAddrPort("192.0.2.1:1229")}
	there := call{r, netip.MustParseAddrPort("192.0.2.2:1229")}
	if !h.begin(here) || h.begin(here) {
		t.Error("two calls to one place at the same time")
	}
	if h.shared(here) {
		t.Error("one call is shared with none")
	}
	if !h.begin(there) || !h.shared(here) {
		t.Error("no call to another place beside")
	}
	h.end(here)
	if !h.begin(here) {
		t.Error("no new call after the end")
	}
}

func TestWithoutProofARunWaitsForTheFirstAndIsDroppedAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(time.Now)
		r := runOf(xvm.OpOff, 1, "g")
		done, err := h.admit(t.Context(), false, r)
		if err != nil {
			t.Fatal(err)
		}
		second := make(chan error, 1)
		go func() {
			_, err := h.admit(t.Context(), false, r)
			second <- err
		}()
		synctest.Wait()
		if len(second) != 0 {
			t.Fatal("the second did not wait")
		}
		if end, err := h.admit(t.Context(), false, runOf(xvm.OpOff, 2, "g")); err != nil {
			t.Error("another run waits too")
		} else {
			end()
		}
		h.complete(r)
		done()
		if err := <-second; !errors.Is(err, errRepeated) {
			t.Errorf("the second: %v, want %v", err, errRepeated)
		}
		if end, err := h.admit(t.Context(), true, r); err != nil {
			t.Errorf("with proof: %v", err)
		} else {
			end()
		}
		time.Sleep(repeatWindow)
		if end, err := h.admit(t.Context(), false, r); err != nil {
			t.Errorf("after the window: %v", err)
		} else {
			end()
		}
	})
}

func TestAFirstThatCameToNothingLeavesNoTrace(t *testing.T) {
	h := newHistory(time.Now)
	r := runOf(xvm.OpOff, 1, "g")
	done, _ := h.admit(t.Context(), false, r)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := h.admit(ctx, false, r); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting ended with %v", err)
	}
	done()
	if end, err := h.admit(t.Context(), false, r); err != nil {
		t.Errorf("the next: %v", err)
	} else {
		end()
	}
}

func TestLimitsEvictTheOldestThatWaits(t *testing.T) {
	l := newLimits()
	var evicted []string
	enter := func(source string, i int) *place {
		return l.enter(source, func() { evicted = append(evicted, fmt.Sprint(source, i)) })
	}
	var places []*place
	for i := range sourceLimit {
		places = append(places, enter("a", i))
	}
	if !places[0].busy() {
		t.Fatal("not busy")
	}
	other := enter("b", 0)
	if enter("a", 100) == nil || strings.Join(evicted, " ") != "a1" {
		t.Errorf("evicted %v, want the oldest of the same source that is not busy", evicted)
	}
	if gone, _ := places[1].evicted(); !gone || places[1].busy() {
		t.Error("who was evicted does not know it")
	}
	places[1].leave()
	if other == nil {
		t.Error("another source got no place")
	}
	if l.total != sourceLimit+1 || l.sources["a"] != sourceLimit {
		t.Errorf("%d connections, %d of the source", l.total, l.sources["a"])
	}
	places[0].waiting()
	places[0].leave()
	if l.sources["a"] != sourceLimit-1 {
		t.Errorf("%d of the source after one left", l.sources["a"])
	}
}

func TestLimitsRefuseOnlyWhenAllAreBusy(t *testing.T) {
	l := newLimits()
	var places []*place
	for i := range connectionLimit {
		p := l.enter(fmt.Sprint(i%16), func() { t.Error("a busy one was evicted") })
		p.busy()
		places = append(places, p)
	}
	if l.enter("new", nil) != nil {
		t.Error("a place beyond the limit")
	}
	places[0].leave()
	if l.enter("new", nil) == nil {
		t.Error("no place after one left")
	}
	l = newLimits()
	for i := range sourceLimit {
		p := l.enter("a", nil)
		if p == nil || !p.busy() {
			t.Fatal(i)
		}
	}
	if l.enter("a", nil) != nil || l.enter("b", nil) == nil {
		t.Error("one busy source takes the place of another one, or more than its own")
	}
}

func TestLimitsEvictTheOldestOfAllWhenFull(t *testing.T) {
	l := newLimits()
	var evicted []int
	for i := range connectionLimit {
		l.enter(fmt.Sprint(i%16), func() { evicted = append(evicted, i) })
	}
	if l.enter("new", nil) == nil || len(evicted) != 1 || evicted[0] != 0 {
		t.Errorf("evicted %v, want the oldest", evicted)
	}
}

func TestDropsAreLoggedOnceAndCounted(t *testing.T) {
	var out bytes.Buffer
	clock := &handClock{time.Unix(1000, 0)}
	d := newDrops(slog.New(slog.NewTextHandler(&out, nil)), clock.now)
	lines := func() []string {
		all := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		out.Reset()
		return all
	}
	for range 5 {
		d.drop("w", "10.0.0.1", "no reason", "n", 1)
	}
	d.drop("w", "10.0.0.2", "no reason")
	if got := lines(); len(got) != 2 || !strings.Contains(got[0], `listener=w source=10.0.0.1 reason="no reason" n=1`) {
		t.Errorf("got %q", got)
	}
	clock.pass(dropQuiet)
	d.drop("w", "10.0.0.1", "no reason")
	if got := lines(); len(got) != 1 || !strings.Contains(got[0], "suppressed=4") {
		t.Errorf("got %q", got)
	}
}

func TestAFloodOfDropsFillsNeitherLogNorMemory(t *testing.T) {
	var out bytes.Buffer
	clock := &handClock{time.Unix(1000, 0)}
	d := newDrops(slog.New(slog.NewTextHandler(&out, nil)), clock.now)
	for i := range 100_000 {
		d.drop("w", fmt.Sprint(i), "no reason")
		if i%100 == 0 {
			clock.pass(time.Second / 10)
		}
	}
	if n, most := strings.Count(out.String(), "\n"), 11*dropLineLimit; n > most || n < dropLineLimit {
		t.Errorf("%d lines in 100 s, want at most %d", n, most)
	}
	if len(d.subjects) > dropSubjectLimit {
		t.Errorf("%d subjects are remembered", len(d.subjects))
	}
}

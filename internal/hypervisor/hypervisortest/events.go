package hypervisortest

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// slowCycles is how often the suite pauses and unpauses a guest beside a
// watcher that never reads.
const slowCycles = 200

func testEvents(t *testing.T, h *host) {
	events := h.watch(t)
	one := h.on(t, h.a)
	h.pause(t, h.a, one)
	h.unpause(t, h.a, one)
	h.off(t, h.a, one)
	two := h.on(t, h.a)
	h.pause(t, h.a, two)
	h.off(t, h.a, two)
	want := []hypervisor.Event{
		{Guest: h.a, Life: one, Kind: hypervisor.EventStarted, Reason: hypervisor.ReasonBooted},
		{Guest: h.a, Life: one, Kind: hypervisor.EventPaused, Reason: hypervisor.ReasonUser},
		{Guest: h.a, Life: one, Kind: hypervisor.EventUnpaused, Reason: hypervisor.ReasonUser},
		{Guest: h.a, Life: one, Kind: hypervisor.EventEnded, Reason: hypervisor.ReasonDestroyed},
		{Guest: h.a, Life: two, Kind: hypervisor.EventStarted, Reason: hypervisor.ReasonBooted},
		{Guest: h.a, Life: two, Kind: hypervisor.EventPaused, Reason: hypervisor.ReasonUser},
		{Guest: h.a, Life: two, Kind: hypervisor.EventEnded, Reason: hypervisor.ReasonDestroyed},
	}
	var got []hypervisor.Event
	for range want {
		got = append(got, next(t, events))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func testKilled(t *testing.T, h *host) {
	life := h.on(t, h.a)
	events := h.watch(t)
	h.Kill(t, h.a)
	h.wantEnd(t, events, life, h.Killed)
}

func testShutdown(t *testing.T, h *host) {
	if h.Shutdown == nil {
		t.Skip("the harness has no guest that can power itself off")
	}
	life := h.on(t, h.a)
	events := h.watch(t)
	h.Shutdown(t, h.a)
	h.wantEnd(t, events, life, hypervisor.ReasonShutdown)
}

// wantEnd expects the end of a's life as the next event, and nothing of it left
// at the moment of the event (rule P10).
func (h *host) wantEnd(t *testing.T, events <-chan hypervisor.Event, life cluster.LifeID, reason hypervisor.Reason) {
	t.Helper()
	got := next(t, events)
	if !h.Gone(t, h.a) {
		t.Error("the end was told while something of the guest was left")
	}
	want := hypervisor.Event{Guest: h.a, Life: life, Kind: hypervisor.EventEnded, Reason: reason}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	h.wantState(t, h.a, hypervisor.StateOff, "")
	wantErr(t, "off after the end", h.Driver.Off(ctxOf(t), h.a, life), hypervisor.ErrNotRunning)
}

func testEndOnce(t *testing.T, h *host) {
	life := h.on(t, h.a)
	events := h.watch(t)
	h.Kill(t, h.a)
	err := h.Driver.Off(ctxOf(t), h.a, life)
	if err != nil && !errors.Is(err, hypervisor.ErrNotRunning) {
		t.Fatalf("off of the killed guest: %v", err)
	}
	second := h.on(t, h.a) // a fence between the ends: nothing of the first comes behind it
	ended := hypervisor.Event{Guest: h.a, Life: life, Kind: hypervisor.EventEnded, Reason: h.Killed}
	started := hypervisor.Event{Guest: h.a, Life: second, Kind: hypervisor.EventStarted, Reason: hypervisor.ReasonBooted}
	h.off(t, h.a, second)
	last := hypervisor.Event{Guest: h.a, Life: second, Kind: hypervisor.EventEnded, Reason: hypervisor.ReasonDestroyed}
	got := []hypervisor.Event{next(t, events), next(t, events), next(t, events)}
	if got[0].Reason == hypervisor.ReasonDestroyed {
		ended.Reason = got[0].Reason // off came before the kill was noticed
	}
	want := []hypervisor.Event{ended, started, last}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// testWatchThenList starts a guest at the same time as it registers: whatever
// List does not show must come as an event.
func testWatchThenList(t *testing.T, h *host) {
	for range 5 {
		ctx := ctxOf(t)
		var life cluster.LifeID
		var err error
		started := make(chan struct{})
		go func() {
			defer close(started)
			life, err = h.Driver.On(ctx, h.a)
		}()
		events := h.watch(t)
		listed := h.list(t)[h.a]
		<-started
		if err != nil {
			t.Fatalf("on: %v", err)
		}
		if listed.Life == "" {
			if e := next(t, events); e.Kind != hypervisor.EventStarted || e.Life != life {
				t.Errorf("list showed no life, the first event is %+v, want the start of %s", e, life)
			}
		} else if listed.Life != life {
			t.Errorf("list shows life %s, on returned %s", listed.Life, life)
		}
		h.off(t, h.a, life)
	}
}

func testSlowWatcher(t *testing.T, h *host) {
	life := h.on(t, h.a)
	slow, fast := h.watch(t), h.watch(t)
	var told []hypervisor.Event
	for range slowCycles {
		h.pause(t, h.a, life)
		told = append(told, next(t, fast))
		h.unpause(t, h.a, life)
		told = append(told, next(t, fast))
	}
	for i, e := range told {
		want := hypervisor.Event{Guest: h.a, Life: life, Kind: hypervisor.EventPaused, Reason: hypervisor.ReasonUser}
		if i%2 == 1 {
			want.Kind = hypervisor.EventUnpaused
		}
		if e != want {
			t.Fatalf("event %d of the fast watcher is %+v, want %+v", i, e, want)
		}
	}
	var kept []hypervisor.Event
	for e := range slow {
		kept = append(kept, e)
	}
	if len(kept) >= len(told) {
		t.Fatalf("the slow watcher got %d of %d events and did not lose its stream", len(kept), len(told))
	}
	if diff := cmp.Diff(told[:len(kept)], kept); diff != "" {
		t.Errorf("the slow watcher's stream has a gap (-want +got):\n%s", diff)
	}
}

func testWatchEnds(t *testing.T, h *host) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := h.Driver.Watch(ctx)
	if err != nil {
		t.Fatalf("watch: %v", err)
	}
	life := h.on(t, h.a)
	if e := next(t, events); e.Life != life {
		t.Errorf("got event %+v, want the start of %s", e, life)
	}
	cancel()
	select {
	case e, ok := <-events:
		if ok {
			t.Errorf("got event %+v after the ctx ended", e)
		}
	case <-ctxOf(t).Done():
		t.Error("the stream did not end with its ctx")
	}
}

func testCtxEnded(t *testing.T, h *host) {
	life := h.on(t, h.a)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, errBoot := h.Driver.HostBoot(ctx)
	_, errList := h.Driver.List(ctx)
	_, errState := h.Driver.State(ctx, h.a)
	_, errOn := h.Driver.On(ctx, h.b)
	_, errWatch := h.Driver.Watch(ctx)
	calls := map[string]error{
		"host boot": errBoot, "list": errList, "state": errState, "on": errOn, "watch": errWatch,
		"off":     h.Driver.Off(ctx, h.a, life),
		"pause":   h.Driver.Pause(ctx, h.a, life),
		"unpause": h.Driver.Unpause(ctx, h.a, life),
	}
	certain := []error{hypervisor.ErrNoGuest, hypervisor.ErrOtherLife, hypervisor.ErrNotRunning, hypervisor.ErrRunning}
	for name, err := range calls {
		if err == nil {
			t.Errorf("%s returned nil though its ctx had ended", name)
		}
		for _, claim := range certain {
			if errors.Is(err, claim) {
				t.Errorf("%s claims %v though its ctx had ended", name, claim)
			}
		}
	}
}

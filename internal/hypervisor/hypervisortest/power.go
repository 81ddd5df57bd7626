package hypervisortest

import (
	"errors"
	"sync"
	"testing"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

func testHostBoot(t *testing.T, h *host) {
	first, err := h.Driver.HostBoot(ctxOf(t))
	if err != nil || first == "" {
		t.Fatalf("host boot %q, error %v", first, err)
	}
	life := h.on(t, h.a)
	if got := life.HostBoot(); got != first {
		t.Errorf("life %s names host boot %q, the host says %q", life, got, first)
	}
	second, err := h.Driver.HostBoot(ctxOf(t))
	if err != nil || second != first {
		t.Errorf("host boot changed from %q to %q, error %v", first, second, err)
	}
}

func testList(t *testing.T, h *host) {
	listed := h.list(t)
	if len(listed) != len(h.Guests) {
		t.Errorf("list has %d guests, want %d", len(listed), len(h.Guests))
	}
	for _, g := range h.Guests {
		want := hypervisor.Guest{ID: g.ID, Name: g.Name, State: hypervisor.StateOff}
		if listed[g.ID] != want {
			t.Errorf("list says %+v, want %+v", listed[g.ID], want)
		}
	}
}

func testNoGuest(t *testing.T, h *host) {
	ctx, life := ctxOf(t), cluster.NewLifeID("boot", 1, 1)
	_, err := h.Driver.State(ctx, unknownGuest)
	wantErr(t, "state", err, hypervisor.ErrNoGuest)
	_, err = h.Driver.On(ctx, unknownGuest)
	wantErr(t, "on", err, hypervisor.ErrNoGuest)
	wantErr(t, "off", h.Driver.Off(ctx, unknownGuest, life), hypervisor.ErrNoGuest)
	wantErr(t, "pause", h.Driver.Pause(ctx, unknownGuest, life), hypervisor.ErrNoGuest)
	wantErr(t, "unpause", h.Driver.Unpause(ctx, unknownGuest, life), hypervisor.ErrNoGuest)
}

func testOn(t *testing.T, h *host) {
	life := h.on(t, h.a)
	h.wantState(t, h.a, hypervisor.StateRunning, life)
	h.wantState(t, h.b, hypervisor.StateOff, "")
	if h.Gone(t, h.a) {
		t.Error("the guest was started and is not there")
	}
}

func testOnRunning(t *testing.T, h *host) {
	life := h.on(t, h.a)
	_, err := h.Driver.On(ctxOf(t), h.a)
	wantErr(t, "second on", err, hypervisor.ErrRunning)
	h.wantState(t, h.a, hypervisor.StateRunning, life)
	h.pause(t, h.a, life)
	_, err = h.Driver.On(ctxOf(t), h.a)
	wantErr(t, "on while paused", err, hypervisor.ErrRunning)
	h.wantState(t, h.a, hypervisor.StatePaused, life)
}

func testOnTwice(t *testing.T, h *host) {
	ctx := ctxOf(t)
	var lives [2]cluster.LifeID
	var errs [2]error
	both(func(i int) { lives[i], errs[i] = h.Driver.On(ctx, h.a) })
	started := 0
	for i := range errs {
		if errs[i] == nil {
			started++
			h.wantState(t, h.a, hypervisor.StateRunning, lives[i])
		} else {
			wantErr(t, "the other on", errs[i], hypervisor.ErrRunning)
		}
	}
	if started != 1 {
		t.Errorf("%d of 2 calls started the guest: %v", started, errs)
	}
}

func testNewLives(t *testing.T, h *host) {
	seen := map[cluster.LifeID]bool{}
	for range 3 {
		for _, id := range []cluster.GuestID{h.a, h.b} {
			life := h.on(t, id)
			if seen[life] {
				t.Errorf("life %s came twice", life)
			}
			seen[life] = true
			h.off(t, id, life)
		}
	}
}

func testOffOtherLife(t *testing.T, h *host) {
	former := h.on(t, h.a)
	h.off(t, h.a, former)
	life := h.on(t, h.a)
	wantErr(t, "off of the former life", h.Driver.Off(ctxOf(t), h.a, former), hypervisor.ErrOtherLife)
	wantErr(t, "off of no life", h.Driver.Off(ctxOf(t), h.a, ""), hypervisor.ErrOtherLife)
	h.wantState(t, h.a, hypervisor.StateRunning, life)
	if h.Gone(t, h.a) {
		t.Error("off of another life ended this one")
	}
}

func testOffNotRunning(t *testing.T, h *host) {
	wantErr(t, "off of a guest never started",
		h.Driver.Off(ctxOf(t), h.a, cluster.NewLifeID("boot", 1, 1)), hypervisor.ErrNotRunning)
	life := h.on(t, h.a)
	h.off(t, h.a, life)
	wantErr(t, "second off", h.Driver.Off(ctxOf(t), h.a, life), hypervisor.ErrNotRunning)
	wantErr(t, "pause of an ended life", h.Driver.Pause(ctxOf(t), h.a, life), hypervisor.ErrNotRunning)
	wantErr(t, "unpause of an ended life", h.Driver.Unpause(ctxOf(t), h.a, life), hypervisor.ErrNotRunning)
}

func testOffVerified(t *testing.T, h *host) {
	for range 3 {
		h.off(t, h.a, h.on(t, h.a))
		if !h.Gone(t, h.a) {
			t.Fatal("off returned nil and something of the guest is left")
		}
		h.wantState(t, h.a, hypervisor.StateOff, "")
	}
}

func testOffOnlyNamed(t *testing.T, h *host) {
	lifeA, lifeB := h.on(t, h.a), h.on(t, h.b)
	h.off(t, h.a, lifeA)
	h.wantState(t, h.b, hypervisor.StateRunning, lifeB)
	if h.Gone(t, h.b) {
		t.Error("off of one guest ended the other")
	}
}

func testOffPaused(t *testing.T, h *host) {
	life := h.on(t, h.a)
	h.pause(t, h.a, life)
	h.off(t, h.a, life)
	if !h.Gone(t, h.a) {
		t.Error("off returned nil and something of the paused guest is left")
	}
	h.wantState(t, h.a, hypervisor.StateOff, "")
}

func testOffTwice(t *testing.T, h *host) {
	ctx, life := ctxOf(t), h.on(t, h.a)
	var errs [2]error
	both(func(i int) { errs[i] = h.Driver.Off(ctx, h.a, life) })
	for _, err := range errs {
		if err != nil && !errors.Is(err, hypervisor.ErrNotRunning) {
			t.Errorf("off: %v", err)
		}
	}
	if errs[0] != nil && errs[1] != nil {
		t.Errorf("none of two calls ended the life: %v", errs)
	}
	h.wantState(t, h.a, hypervisor.StateOff, "")
}

// both runs do(0) and do(1) at once and waits for them.
func both(do func(i int)) {
	var group sync.WaitGroup
	for i := range 2 {
		group.Go(func() { do(i) })
	}
	group.Wait()
}

package hypervisortest

import (
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// stillFor is how long a paused guest is watched for progress. A longer watch
// can only find more; a guest that runs makes progress well within it.
const stillFor = 300 * time.Millisecond

func testPause(t *testing.T, h *host) {
	life, other := h.on(t, h.a), h.on(t, h.b)
	h.wantProgress(t, h.a)
	h.wantReachable(t, h.a)
	for range 2 {
		h.pause(t, h.a, life)
		h.wantState(t, h.a, hypervisor.StatePaused, life)
		h.wantStill(t, h.a)
		h.wantUnreachable(t, h.a, "the paused guest")
		h.wantProgress(t, h.b)
		h.wantState(t, h.b, hypervisor.StateRunning, other)

		h.unpause(t, h.a, life)
		h.wantState(t, h.a, hypervisor.StateRunning, life)
		h.wantProgress(t, h.a)
		h.wantReachable(t, h.a)
	}
}

func testPauseOtherLife(t *testing.T, h *host) {
	former := h.on(t, h.a)
	h.off(t, h.a, former)
	life := h.on(t, h.a)
	wantErr(t, "pause", h.Driver.Pause(ctxOf(t), h.a, former), hypervisor.ErrOtherLife)
	h.wantState(t, h.a, hypervisor.StateRunning, life)
	h.pause(t, h.a, life)
	wantErr(t, "unpause", h.Driver.Unpause(ctxOf(t), h.a, former), hypervisor.ErrOtherLife)
	h.wantState(t, h.a, hypervisor.StatePaused, life)
	h.wantStill(t, h.a)
}

func (h *host) wantProgress(t *testing.T, id cluster.GuestID) {
	t.Helper()
	before, ctx := h.Progress(t, id), ctxOf(t)
	for h.Progress(t, id) == before {
		select {
		case <-ctx.Done():
			t.Fatal("the guest makes no progress")
		case <-time.After(time.Millisecond):
		}
	}
}

func (h *host) wantStill(t *testing.T, id cluster.GuestID) {
	t.Helper()
	before := h.Progress(t, id)
	time.Sleep(stillFor)
	if after := h.Progress(t, id); after != before {
		t.Errorf("the paused guest went on from %d to %d", before, after)
	}
}

func (h *host) wantReachable(t *testing.T, id cluster.GuestID) {
	t.Helper()
	for ctx := ctxOf(t); h.Reachable != nil && !h.Reachable(t, id); {
		if ctx.Err() != nil {
			t.Fatal("the running guest does not answer on its network")
		}
	}
}

func (h *host) wantUnreachable(t *testing.T, id cluster.GuestID, what string) {
	t.Helper()
	if h.Reachable != nil && h.Reachable(t, id) {
		t.Errorf("%s answers on its network", what)
	}
}

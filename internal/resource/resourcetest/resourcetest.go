// Package resourcetest is the conformance suite of resource.Agent: what the
// executor relies on, as tests that every agent runs against itself with
// something real.
package resourcetest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
)

// callTimeout bounds every call of the suite; no call is expected to need it.
const callTimeout = 30 * time.Second

// BadParams is one wrong resource: Check and Start must refuse it with an error
// that holds every string of Want: the key, the value and what is allowed.
type BadParams struct {
	Name   string
	Params map[string]string
	Want   []string
}

// Harness is one agent with one resource that is not active, in a world of its
// own.
type Harness struct {
	Agent resource.Agent
	Call  resource.Call
	// Left names what of the resource exists, seen without the agent's help.
	Left func(t *testing.T) []string
	// End ends the active resource behind the agent's back, leaving nothing or
	// something.
	End func(t *testing.T)
	// Damage turns the active resource into one that is there but not well.
	Damage func(t *testing.T)
	// Blind makes a probe impossible, until the returned function is called.
	Blind func(t *testing.T) (restore func())
	Bad   []BadParams
}

// Run runs the suite. make makes a new world for each case and cleans up by
// t.Cleanup.
func Run(t *testing.T, make func(t *testing.T) Harness) {
	cases := []struct {
		name string
		run  func(t *testing.T, h Harness)
	}{
		{"a resource that was never started is inactive", neverStarted},
		{"start makes it active and may be repeated", start},
		{"stop leaves nothing and may be repeated", stop},
		{"it can be started again after a stop", again},
		{"stop cleans up what failed, then it starts", damaged},
		{"a probe that cannot see says unknown and why", blind},
		{"a call whose ctx has ended does nothing good or bad", ctxEnded},
		{"watch tells the end of the resource", watchEnd},
		{"watch ends with its ctx", watchCtx},
		{"bad parameters are refused by key, value and what is allowed", badParams},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := make(t)
			t.Cleanup(func() { h.stopAfterFailure(t) })
			c.run(t, h)
		})
	}
}

func ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	t.Cleanup(cancel)
	return ctx
}

func (h Harness) mustStart(t *testing.T) {
	t.Helper()
	if err := h.Agent.Start(ctx(t), h.Call); err != nil {
		t.Fatalf("start: %v", err)
	}
}

func (h Harness) mustStop(t *testing.T) {
	t.Helper()
	if err := h.Agent.Stop(ctx(t), h.Call); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if left := h.Left(t); len(left) > 0 {
		t.Fatalf("stop said nil, but left: %v", left)
	}
}

func (h Harness) mustBe(t *testing.T, want ...resource.Status) {
	t.Helper()
	got, err := h.Agent.Monitor(ctx(t), h.Call)
	matched := false
	for _, w := range want {
		matched = matched || got == w
	}
	if !matched {
		t.Fatalf("monitor = %q (%v), want one of %q", got, err, want)
	}
	explained := err != nil && err.Error() != ""
	if needs := got == resource.StatusFailed || got == resource.StatusUnknown; needs && !explained {
		t.Fatalf("monitor = %q without an error that explains it", got)
	}
}

// stopAfterFailure leaves nothing behind when a case ended early.
func (h Harness) stopAfterFailure(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := h.Agent.Stop(ctx, h.Call); err != nil {
		t.Errorf("stop after the case: %v", err)
	}
}

func neverStarted(t *testing.T, h Harness) {
	h.mustBe(t, resource.StatusInactive)
	h.mustStop(t)
}

func start(t *testing.T, h Harness) {
	if err := h.Agent.Check(h.Call.Resource); err != nil {
		t.Fatalf("check: %v", err)
	}
	h.mustStart(t)
	h.mustBe(t, resource.StatusActive)
	before := h.Left(t)
	if len(before) == 0 {
		t.Fatal("started, but nothing of it can be seen")
	}
	h.mustStart(t)
	h.mustBe(t, resource.StatusActive)
	if after := h.Left(t); len(after) != len(before) {
		t.Fatalf("a second start changed what runs: %v, then %v", before, after)
	}
	h.mustStop(t)
}

func stop(t *testing.T, h Harness) {
	h.mustStart(t)
	h.mustStop(t)
	h.mustBe(t, resource.StatusInactive)
	h.mustStop(t)
	h.mustBe(t, resource.StatusInactive)
}

func again(t *testing.T, h Harness) {
	h.mustStart(t)
	h.mustStop(t)
	h.mustStart(t)
	h.mustBe(t, resource.StatusActive)
	h.End(t)
	h.mustBe(t, resource.StatusInactive, resource.StatusFailed)
	h.mustStop(t)
	h.mustStart(t)
	h.mustBe(t, resource.StatusActive)
	h.mustStop(t)
}

func damaged(t *testing.T, h Harness) {
	h.mustStart(t)
	h.Damage(t)
	h.mustBe(t, resource.StatusFailed)
	h.mustStop(t)
	h.mustBe(t, resource.StatusInactive)
}

func blind(t *testing.T, h Harness) {
	h.mustStart(t)
	restore := h.Blind(t)
	h.mustBe(t, resource.StatusUnknown)
	restore()
	h.mustBe(t, resource.StatusActive)
	h.mustStop(t)
}

func ctxEnded(t *testing.T, h Harness) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Agent.Start(ended, h.Call); !errors.Is(err, context.Canceled) {
		t.Fatalf("start = %v, want %v", err, context.Canceled)
	}
	h.mustStart(t)
	if status, err := h.Agent.Monitor(ended, h.Call); status != resource.StatusUnknown || !errors.Is(err, context.Canceled) {
		t.Fatalf("monitor = %q, %v, want unknown and %v", status, err, context.Canceled)
	}
	if err := h.Agent.Stop(ended, h.Call); !errors.Is(err, context.Canceled) {
		t.Fatalf("stop = %v, want %v", err, context.Canceled)
	}
	h.mustStop(t)
}

// watcher returns the agent's Watch; an agent without one is polled, and the
// case has nothing to test.
func (h Harness) watcher(t *testing.T) resource.Watcher {
	w, ok := h.Agent.(resource.Watcher)
	if !ok {
		t.Log("the agent is polled: it has no Watch")
	}
	return w
}

func watchEnd(t *testing.T, h Harness) {
	w := h.watcher(t)
	if w == nil {
		return
	}
	h.mustStart(t)
	got := make(chan error, 1)
	watching := ctx(t)
	go func() { got <- w.Watch(watching, h.Call) }()
	h.mustBe(t, resource.StatusActive) // beside the watch
	h.End(t)
	if err := <-got; err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("watch = %v, want the reason of the end", err)
	}
	if err := w.Watch(watching, h.Call); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("watch of one that has ended = %v, want the reason at once", err)
	}
	h.mustStop(t)
}

func watchCtx(t *testing.T, h Harness) {
	w := h.watcher(t)
	if w == nil {
		return
	}
	h.mustStart(t)
	watching, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() { got <- w.Watch(watching, h.Call) }()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Fatalf("watch = %v, want %v", err, context.Canceled)
	}
	h.mustBe(t, resource.StatusActive)
	h.mustStop(t)
}

func badParams(t *testing.T, h Harness) {
	if len(h.Bad) == 0 {
		t.Fatal("the harness has no bad parameters")
	}
	for _, bad := range h.Bad {
		call := h.Call
		call.Resource = withParams(h.Call.Resource, bad.Params)
		for name, err := range map[string]error{
			"check": h.Agent.Check(call.Resource),
			"start": h.Agent.Start(ctx(t), call),
		} {
			if err == nil {
				t.Errorf("%s: %s accepted it", bad.Name, name)
				continue
			}
			for _, want := range bad.Want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %s says %q, which lacks %q", bad.Name, name, err, want)
				}
			}
		}
	}
	if left := h.Left(t); len(left) > 0 {
		t.Errorf("a refused start left: %v", left)
	}
}

func withParams(r cluster.Resource, params map[string]string) cluster.Resource {
	r.Params = params
	return r
}

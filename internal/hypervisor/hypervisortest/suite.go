// Package hypervisortest is the conformance suite of hypervisor.Driver: every
// sentence of the contract is a case here, and every driver passes all of them.
// The tests of the drivers call it; nothing else does.
//
// The suite judges a driver through the driver and, where the contract speaks
// of effects (verified gone, makes no progress, cannot be reached), through
// probes of the harness that do not go through the driver.
package hypervisortest

import (
	"cmp"
	"context"
	"errors"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// Timeout bounds every call that the suite expects to succeed.
const Timeout = 30 * time.Second

// unknownGuest is a guest that no harness has.
const unknownGuest = cluster.GuestID("ffffffff-ffff-4fff-8fff-ffffffffffff")

// Fixture is one host under test.
type Fixture struct {
	Driver hypervisor.Driver
	// Guests are at least two guests, all off.
	Guests []hypervisor.Guest
	// Kill ends the running guest behind the driver's back, as kill -9 of its
	// hypervisor process does.
	Kill func(t *testing.T, id cluster.GuestID)
	// Killed is the reason with which the end of a killed guest is told; "" is
	// destroyed.
	Killed hypervisor.Reason
	// Shutdown makes the running guest power itself off; nil skips its case.
	Shutdown func(t *testing.T, id cluster.GuestID)
	// Gone reports, without the driver, that nothing of the guest is left: no
	// process and no link.
	Gone func(t *testing.T, id cluster.GuestID) bool
	// Progress counts something that the running guest does all the time.
	Progress func(t *testing.T, id cluster.GuestID) uint64
	// Reachable reports whether the guest answers on its network. It may take
	// as long as a careful prober would wait for an answer. Nil: the guests have
	// no network, and nothing is judged of it.
	Reachable func(t *testing.T, id cluster.GuestID) bool
}

// Harness makes a fresh host for each case and removes it through t.Cleanup.
type Harness func(t *testing.T) Fixture

// Run runs the whole suite.
func Run(t *testing.T, harness Harness) {
	cases := []struct {
		name string
		run  func(*testing.T, *host)
	}{
		{"the boot id of the host is there and does not change", testHostBoot},
		{"list names every guest and off has no life", testList},
		{"an unknown guest is ErrNoGuest for every call", testNoGuest},
		{"on starts a life that state and list show", testOn},
		{"on of a running guest is ErrRunning and does nothing", testOnRunning},
		{"of two calls of on at once one starts the guest", testOnTwice},
		{"lives are never reused", testNewLives},
		{"off of another life is ErrOtherLife and does nothing", testOffOtherLife},
		{"off of a guest without life is ErrNotRunning", testOffNotRunning},
		{"off returns when nothing of the life is left", testOffVerified},
		{"off ends only the named guest", testOffOnlyNamed},
		{"off ends a paused life", testOffPaused},
		{"of two calls of off at once none fails", testOffTwice},
		{"pause stops progress and network, unpause continues both", testPause},
		{"pause and unpause touch only the named life", testPauseOtherLife},
		{"events come in order with their reasons", testEvents},
		{"the end of a killed guest is told once nothing of it is left", testKilled},
		{"a guest that powers itself off ends with shutdown", testShutdown},
		{"an end is told once", testEndOnce},
		{"list after watch misses nothing", testWatchThenList},
		{"a slow watcher loses its stream and delays nobody", testSlowWatcher},
		{"a watch ends with its ctx", testWatchEnds},
		{"a call whose ctx has ended fails without a claim", testCtxEnded},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			fixture := harness(t)
			if len(fixture.Guests) < 2 {
				t.Fatalf("the harness has %d guests, the suite needs 2", len(fixture.Guests))
			}
			fixture.Killed = cmp.Or(fixture.Killed, hypervisor.ReasonDestroyed)
			c.run(t, &host{Fixture: fixture, a: fixture.Guests[0].ID, b: fixture.Guests[1].ID})
		})
	}
}

// host is a fixture with the calls that a case expects to succeed.
type host struct {
	Fixture
	a, b cluster.GuestID
}

func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	t.Cleanup(cancel)
	return ctx
}

func (h *host) on(t *testing.T, id cluster.GuestID) cluster.LifeID {
	t.Helper()
	life, err := h.Driver.On(ctxOf(t), id)
	if err != nil {
		t.Fatalf("on: %v", err)
	}
	if life == "" {
		t.Fatal("on returned no life")
	}
	return life
}

func (h *host) off(t *testing.T, id cluster.GuestID, life cluster.LifeID) {
	t.Helper()
	if err := h.Driver.Off(ctxOf(t), id, life); err != nil {
		t.Fatalf("off: %v", err)
	}
}

func (h *host) pause(t *testing.T, id cluster.GuestID, life cluster.LifeID) {
	t.Helper()
	if err := h.Driver.Pause(ctxOf(t), id, life); err != nil {
		t.Fatalf("pause: %v", err)
	}
}

func (h *host) unpause(t *testing.T, id cluster.GuestID, life cluster.LifeID) {
	t.Helper()
	if err := h.Driver.Unpause(ctxOf(t), id, life); err != nil {
		t.Fatalf("unpause: %v", err)
	}
}

func (h *host) watch(t *testing.T) <-chan hypervisor.Event {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	events, err := h.Driver.Watch(ctx)
	if err != nil {
		t.Fatalf("watch: %v", err)
	}
	return events
}

func (h *host) list(t *testing.T) map[cluster.GuestID]hypervisor.Guest {
	t.Helper()
	guests, err := h.Driver.List(ctxOf(t))
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	byID := map[cluster.GuestID]hypervisor.Guest{}
	for _, g := range guests {
		byID[g.ID] = g
	}
	return byID
}

// wantState checks one guest through State and List.
func (h *host) wantState(t *testing.T, id cluster.GuestID, state hypervisor.GuestState, life cluster.LifeID) {
	t.Helper()
	got, err := h.Driver.State(ctxOf(t), id)
	if err != nil {
		t.Fatalf("state: %v", err)
	}
	if got.State != state || got.Life != life {
		t.Errorf("state says %q life %q, want %q life %q", got.State, got.Life, state, life)
	}
	if listed := h.list(t)[id]; listed != got {
		t.Errorf("list says %+v, state says %+v", listed, got)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

func next(t *testing.T, events <-chan hypervisor.Event) hypervisor.Event {
	t.Helper()
	select {
	case e, ok := <-events:
		if !ok {
			t.Fatal("the stream broke")
		}
		return e
	case <-ctxOf(t).Done():
		t.Fatal("no event came")
	}
	return hypervisor.Event{}
}

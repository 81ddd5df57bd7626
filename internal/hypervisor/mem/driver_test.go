package mem_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/hypervisortest"
	"ringfence/internal/hypervisor/mem"
)

const (
	guestA = cluster.GuestID("00000000-0000-4000-8000-00000000000a")
	guestB = cluster.GuestID("00000000-0000-4000-8000-00000000000b")
)

func newHost() *mem.Driver {
	return mem.New("hostboot-1", mem.Guest{ID: guestA, Name: "a"}, mem.Guest{ID: guestB, Name: "b"})
}

func TestConformance(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Fixture { return fixture(newHost()) })
}

// fixture is a host of the model under test.
func fixture(d *mem.Driver) hypervisortest.Fixture {
	running := func(id cluster.GuestID) bool {
		g, err := d.State(context.Background(), id)
		return err == nil && g.State == hypervisor.StateRunning
	}
	var progress atomic.Uint64
	return hypervisortest.Fixture{
		Driver: d,
		Guests: []hypervisor.Guest{{ID: guestA, Name: "a"}, {ID: guestB, Name: "b"}},
		Kill:   func(_ *testing.T, id cluster.GuestID) { d.End(id, hypervisor.ReasonDestroyed) },
		Shutdown: func(_ *testing.T, id cluster.GuestID) {
			d.End(id, hypervisor.ReasonShutdown)
		},
		Gone: func(_ *testing.T, id cluster.GuestID) bool { return d.Life(id) == "" },
		Progress: func(_ *testing.T, id cluster.GuestID) uint64 {
			if running(id) {
				progress.Add(1)
			}
			return progress.Load()
		},
		Reachable: func(_ *testing.T, id cluster.GuestID) bool { return running(id) },
	}
}

func newPair() (from, to *mem.Driver) {
	guests := []mem.Guest{{ID: guestA, Name: "a"}, {ID: guestB, Name: "b"}}
	return mem.New("hostboot-1", guests...), mem.New("hostboot-2", guests...)
}

func TestMoverConformance(t *testing.T) {
	hypervisortest.RunMover(t, func(t *testing.T) hypervisortest.MoverFixture {
		from, to := newPair()
		bounded := func(do func(context.Context) error) error {
			ctx, cancel := context.WithTimeout(t.Context(), hypervisortest.Timeout)
			defer cancel()
			return do(ctx)
		}
		begin := func(from, to *mem.Driver, id cluster.GuestID) error {
			return bounded(func(ctx context.Context) error { return from.BeginMove(ctx, to, id) })
		}
		return hypervisortest.MoverFixture{
			Source: fixture(from), Target: fixture(to),
			Begin:  func(_ *testing.T, id cluster.GuestID) error { return begin(from, to, id) },
			Finish: func(_ *testing.T, id cluster.GuestID) error { return from.FinishMove(id) },
			Fail:   func(_ *testing.T, id cluster.GuestID, postcopy bool) error { return from.FailMove(id, postcopy) },
			Back: func(_ *testing.T, id cluster.GuestID) error {
				if err := begin(to, from, id); err != nil {
					return err
				}
				return to.FinishMove(id)
			},
			Save: func(_ *testing.T, id cluster.GuestID) error { return from.Save(id) },
			Restore: func(_ *testing.T, id cluster.GuestID) error {
				return bounded(func(ctx context.Context) error { return from.Restore(ctx, id) })
			},
		}
	})
}

func TestAMigrationFailsWithEitherHost(t *testing.T) {
	for _, lost := range []string{"source", "target"} {
		t.Run(lost, func(t *testing.T) {
			from, to := newPair()
			life, _ := from.On(t.Context(), guestA)
			if err := from.BeginMove(t.Context(), to, guestA); err != nil {
				t.Fatal(err)
			}
			left, dead, atSource := to, from, cluster.LifeID("")
			if lost == "target" {
				left, dead, atSource = from, to, life
			}
			events, _ := left.Watch(t.Context())
			dead.RestartHost("hostboot-3")
			want := hypervisor.Event{Guest: guestA, Life: life, Kind: hypervisor.EventStayed}
			if diff := cmp.Diff(want, <-events); diff != "" {
				t.Errorf("event at the other host (-want +got):\n%s", diff)
			}
			if err := from.FinishMove(guestA); err == nil {
				t.Error("the migration was finished without the " + lost)
			}
			if from.Life(guestA) != atSource || to.Life(guestA) != "" {
				t.Errorf("life at source %q, want %q; at target %q, want none", from.Life(guestA), atSource, to.Life(guestA))
			}
		})
	}
}

func TestASavedImageOutlivesTheHost(t *testing.T) {
	d := newHost()
	life, _ := d.On(t.Context(), guestA)
	if err := d.Save(guestA); err != nil {
		t.Fatal(err)
	}
	d.RestartHost("hostboot-2")
	if err := d.Restore(t.Context(), guestA); err != nil || d.Life(guestA) != life {
		t.Errorf("restored life %q, want %q, error %v", d.Life(guestA), life, err)
	}
}

func TestFaults(t *testing.T) {
	broken := errors.New("broken")
	cases := []struct {
		name    string
		fault   mem.Fault
		wantErr error
		wantOff bool // the effect: is the guest off afterwards?
	}{
		{"no fault", mem.Fault{}, nil, true},
		{"a lie claims success without effect", mem.Fault{Lie: true}, nil, false},
		{"fail has no effect", mem.Fault{Fail: broken}, broken, false},
		{"fail after has the effect", mem.Fault{FailAfter: broken}, broken, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := newHost()
			life, err := d.On(t.Context(), guestA)
			if err != nil {
				t.Fatal(err)
			}
			d.SetFault(mem.FaultOn(mem.OpOff, c.fault))
			if err := d.Off(t.Context(), guestA, life); !errors.Is(err, c.wantErr) {
				t.Errorf("off: got %v, want %v", err, c.wantErr)
			}
			if off := d.Life(guestA) == ""; off != c.wantOff {
				t.Errorf("guest off: %v, want %v", off, c.wantOff)
			}
		})
	}
}

func TestHangEndsWithCtxAndDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newHost()
		life, _ := d.On(t.Context(), guestA)
		d.SetFault(mem.FaultOn(mem.OpOff, mem.Fault{Hang: true}))
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- d.Off(ctx, guestA, life) }()
		synctest.Wait()
		if _, err := d.On(t.Context(), guestB); err != nil {
			t.Errorf("the hanging off delays another call: %v", err)
		}
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("hanging off: got %v, want %v", err, context.Canceled)
		}
		if d.Life(guestA) != life {
			t.Error("the hanging off had an effect")
		}
	})
}

func TestSlowCallTakesEffectWhenReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newHost()
		life, _ := d.On(t.Context(), guestA)
		release := make(chan struct{})
		d.SetFault(mem.FaultOn(mem.OpOff, mem.Fault{Wait: release}))
		result := make(chan error, 1)
		go func() { result <- d.Off(t.Context(), guestA, life) }()
		synctest.Wait()
		if d.Life(guestA) != life {
			t.Error("the slow off had its effect before its time")
		}
		close(release)
		if err := <-result; err != nil || d.Life(guestA) != "" {
			t.Errorf("slow off: error %v, life %q", err, d.Life(guestA))
		}
	})
}

func TestQuietHoldsEventsBackAndSilentEndHasNone(t *testing.T) {
	d := newHost()
	events, err := d.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.SetQuiet(true)
	lifeA, _ := d.On(t.Context(), guestA)
	if len(events) != 0 {
		t.Error("a quiet host told an event")
	}
	d.SetQuiet(false)
	d.EndSilently(guestA)
	lifeB, _ := d.On(t.Context(), guestB)
	want := []hypervisor.Event{
		{Guest: guestA, Life: lifeA, Kind: hypervisor.EventStarted, Reason: hypervisor.ReasonBooted},
		{Guest: guestB, Life: lifeB, Kind: hypervisor.EventStarted, Reason: hypervisor.ReasonBooted},
	}
	if diff := cmp.Diff(want, []hypervisor.Event{<-events, <-events}); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestMigrationKeepsTheLifeAndIsNoEnd(t *testing.T) {
	from := newHost()
	to := mem.New("hostboot-2", mem.Guest{ID: guestA, Name: "a"})
	life, _ := from.On(t.Context(), guestA)
	left, _ := from.Watch(t.Context())
	came, _ := to.Watch(t.Context())
	from.MoveTo(to, guestA)
	if from.Life(guestA) != "" || to.Life(guestA) != life {
		t.Errorf("life %s is %q at the source and %q at the target", life, from.Life(guestA), to.Life(guestA))
	}
	if e := <-left; e.Kind != hypervisor.EventEnded || e.Reason.Ends() {
		t.Errorf("the source told %+v, want an end that ends no life", e)
	}
	if e := <-came; e.Kind != hypervisor.EventStarted || e.Life != life || e.Reason != hypervisor.ReasonMigrated {
		t.Errorf("the target told %+v", e)
	}
}

func TestRestartedHostHasNewBootAndNewLives(t *testing.T) {
	d := newHost()
	before, _ := d.On(t.Context(), guestA)
	events, _ := d.Watch(t.Context())
	d.RestartHost("hostboot-2")
	if e, ok := <-events; ok {
		t.Errorf("a host that lost its power told %+v", e)
	}
	after, err := d.On(t.Context(), guestA)
	if err != nil || after == before || after.HostBoot() != "hostboot-2" {
		t.Errorf("life after the restart is %q (before: %q), error %v", after, before, err)
	}
}

func TestUnavailableAnswersNothing(t *testing.T) {
	d := newHost()
	d.SetAvailable(false)
	if _, err := d.List(t.Context()); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("list: got %v, want %v", err, hypervisor.ErrUnavailable)
	}
	d.SetAvailable(true)
	if _, err := d.List(t.Context()); err != nil {
		t.Errorf("list of a host that is back: %v", err)
	}
}

func TestChannelCarriesBytesAndIsReplaced(t *testing.T) {
	d := newHost()
	first, err := d.Channel(t.Context(), guestA)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.DialChannel(t.Context(), guestA); err == nil {
		t.Error("a guest that is off dialed its channel")
	}
	if _, err := d.On(t.Context(), guestA); err != nil {
		t.Fatal(err)
	}
	second, err := d.Channel(t.Context(), guestA)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Accept(); err == nil {
		t.Error("the replaced listener still accepts")
	}
	go func() {
		conn, err := d.DialChannel(t.Context(), guestA)
		if err == nil {
			_, _ = io.WriteString(conn, "hello")
			conn.Close()
		}
	}()
	conn, err := second.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("read %q, error %v", got, err)
	}
}

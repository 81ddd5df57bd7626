package hypervisortest

import (
	"cmp"
	"context"
	"errors"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// MoverFixture is two hosts under test whose drivers are hypervisor.Movers.
// Both have the same guests, all off. The functions are what an administrator
// does, step by step; an error means that it was refused or has failed.
type MoverFixture struct {
	Source, Target Fixture
	// Begin begins the guest's migration from source to target.
	Begin func(t *testing.T, id cluster.GuestID) error
	// Finish switches it over.
	Finish func(t *testing.T, id cluster.GuestID) error
	// Fail makes it fail: before switch-over, or after it if postcopy is set.
	Fail func(t *testing.T, id cluster.GuestID, postcopy bool) error
	// Back migrates the guest from target to source, in one go.
	Back func(t *testing.T, id cluster.GuestID) error
	// Stuck: a guest whose migration failed after switch-over cannot be unpaused, so
	// that it can only be ended.
	Stuck bool
	// Save and Restore are done at the source.
	Save    func(t *testing.T, id cluster.GuestID) error
	Restore func(t *testing.T, id cluster.GuestID) error
}

// MoverHarness makes a fresh pair of hosts for each case and removes it through
// t.Cleanup.
type MoverHarness func(t *testing.T) MoverFixture

// RunMover runs the suite of hypervisor.Mover.
func RunMover(t *testing.T, harness MoverHarness) {
	cases := []struct {
		name string
		run  func(*testing.T, *pair)
	}{
		{"a migration keeps the life and tells each step at both ends", testMigrates},
		{"a paused guest migrates and stays paused", testMigratesPaused},
		{"a guest comes back under the same life", testComesBack},
		{"a migration that fails leaves the life at its source", testMoveFails},
		{"a migration that fails after switch-over leaves it paused at the target", testPostcopyFails},
		{"the guard is asked first and may refuse a migration", testGuardRefusesMove},
		{"off at the source ends the life and the migration", testOffAtSource},
		{"off at the target refuses the arrival", testOffAtTarget},
		{"the end of a guest that migrates ends the migration", testKilledMoving},
		{"abort ends a migration at either end", testAbort},
		{"abort without a migration is ErrNotRunning", testAbortNothing},
		{"a guest that arrives cannot be started or paused", testArrivingIsNotRunning},
		{"a guest that migrates cannot be saved or migrate again", testOneThingAtATime},
		{"a saved guest has no life until it is restored", testSaves},
		{"the guard may refuse a restore", testGuardRefusesRestore},
		{"on discards a saved image", testOnDiscards},
		{"the guard is told which cluster has claimed the life, wherever it goes", testClaimTravels},
		{"a claim is noted with a life that runs here and with no other", testClaimRefused},
		{"a claim that is noted while the guard is asked is not missed", testClaimMeanwhile},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := harness(t)
			a := f.Source.Guests[0].ID
			f.Source.Killed = cmp.Or(f.Source.Killed, hypervisor.ReasonDestroyed)
			p := &pair{MoverFixture: f, a: a, source: &host{Fixture: f.Source, a: a}, target: &host{Fixture: f.Target, a: a}}
			p.here, p.there = p.source.watch(t), p.target.watch(t)
			p.life = p.source.on(t, a)
			p.wantEvents(t, p.here, hypervisor.EventStarted, hypervisor.ReasonBooted)
			c.run(t, p)
		})
	}
}

// pair is two hosts with the guest a running at the source.
type pair struct {
	MoverFixture
	a              cluster.GuestID
	life           cluster.LifeID
	source, target *host
	here, there    <-chan hypervisor.Event // at source and target
}

func (p *pair) abort(t *testing.T, at *host, life cluster.LifeID) error {
	return at.Driver.(hypervisor.Mover).Abort(ctxOf(t), p.a, life)
}

func (p *pair) guard(at *host, guard hypervisor.Guard) {
	at.Driver.(hypervisor.Mover).SetGuard(guard)
}

func succeed(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func refused(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		t.Fatalf("%s was not refused", what)
	}
}

// wantEvents expects the life's events: kinds and reasons in turn.
func (p *pair) wantEvents(t *testing.T, events <-chan hypervisor.Event, kindsAndReasons ...any) {
	t.Helper()
	for i := 0; i < len(kindsAndReasons); i += 2 {
		want := hypervisor.Event{Guest: p.a, Life: p.life, Kind: kindsAndReasons[i].(hypervisor.EventKind)}
		if reason, ok := kindsAndReasons[i+1].(hypervisor.Reason); ok {
			want.Reason = reason
		}
		if diff := gocmp.Diff(want, next(t, events)); diff != "" {
			t.Errorf("event (-want +got):\n%s", diff)
		}
	}
}

// begin begins a migration that nobody refuses.
func (p *pair) begin(t *testing.T) {
	t.Helper()
	succeed(t, "begin migration", p.Begin(t, p.a))
	p.wantEvents(t, p.there, hypervisor.EventArriving, nil)
	p.wantEvents(t, p.here, hypervisor.EventLeaving, nil)
}

// wantAt expects the running or paused life at one host and not at the other.
func (p *pair) wantAt(t *testing.T, at, not *host, state hypervisor.GuestState) {
	t.Helper()
	at.wantState(t, p.a, state, p.life)
	not.wantState(t, p.a, hypervisor.StateOff, "")
	wantErr(t, "off where the life is not", not.Driver.Off(ctxOf(t), p.a, p.life), hypervisor.ErrNotRunning)
	wantErr(t, "pause where the life is not", not.Driver.Pause(ctxOf(t), p.a, p.life), hypervisor.ErrNotRunning)
	if state == hypervisor.StateRunning {
		at.wantProgress(t, p.a)
		at.wantReachable(t, p.a)
	} else {
		at.wantStill(t, p.a)
	}
}

// wantEnds ends the life where it is, and checks that nothing is left.
func (p *pair) wantEnds(t *testing.T, at *host, events <-chan hypervisor.Event) {
	t.Helper()
	at.off(t, p.a, p.life)
	if !at.Gone(t, p.a) {
		t.Error("off returned nil and something of the guest is left")
	}
	p.wantEvents(t, events, hypervisor.EventEnded, hypervisor.ReasonDestroyed)
	at.wantState(t, p.a, hypervisor.StateOff, "")
}

func testMigrates(t *testing.T, p *pair) {
	p.source.wantReachable(t, p.a)
	p.begin(t)
	p.source.wantState(t, p.a, hypervisor.StateRunning, p.life)
	p.target.wantState(t, p.a, hypervisor.StateArriving, p.life)
	p.source.wantProgress(t, p.a)
	succeed(t, "finish migration", p.Finish(t, p.a))
	p.wantEvents(t, p.there, hypervisor.EventStarted, hypervisor.ReasonMigrated)
	p.wantEvents(t, p.here, hypervisor.EventEnded, hypervisor.ReasonMigrated)
	p.wantAt(t, p.target, p.source, hypervisor.StateRunning)
	p.target.pause(t, p.a, p.life)
	p.target.wantStill(t, p.a)
	p.target.wantUnreachable(t, p.a, "the guest, paused at the target,")
	p.target.unpause(t, p.a, p.life)
	p.wantEvents(t, p.there, hypervisor.EventPaused, hypervisor.ReasonUser, hypervisor.EventUnpaused, hypervisor.ReasonUser)
	p.wantEnds(t, p.target, p.there)
}

func testMigratesPaused(t *testing.T, p *pair) {
	p.source.pause(t, p.a, p.life)
	p.wantEvents(t, p.here, hypervisor.EventPaused, hypervisor.ReasonUser)
	p.begin(t)
	succeed(t, "finish migration", p.Finish(t, p.a))
	p.wantEvents(t, p.there, hypervisor.EventStarted, hypervisor.ReasonMigrated, hypervisor.EventPaused, hypervisor.ReasonUser)
	p.wantEvents(t, p.here, hypervisor.EventEnded, hypervisor.ReasonMigrated)
	p.wantAt(t, p.target, p.source, hypervisor.StatePaused)
	p.target.unpause(t, p.a, p.life)
	p.wantEvents(t, p.there, hypervisor.EventUnpaused, hypervisor.ReasonUser)
	p.wantAt(t, p.target, p.source, hypervisor.StateRunning)
}

func testComesBack(t *testing.T, p *pair) {
	for range 2 {
		p.begin(t)
		succeed(t, "finish migration", p.Finish(t, p.a))
		p.wantEvents(t, p.there, hypervisor.EventStarted, hypervisor.ReasonMigrated)
		p.wantEvents(t, p.here, hypervisor.EventEnded, hypervisor.ReasonMigrated)
		succeed(t, "migrate back", p.Back(t, p.a))
		p.wantEvents(t, p.here, hypervisor.EventArriving, nil, hypervisor.EventStarted, hypervisor.ReasonMigrated)
		p.wantEvents(t, p.there, hypervisor.EventLeaving, nil, hypervisor.EventEnded, hypervisor.ReasonMigrated)
		p.wantAt(t, p.source, p.target, hypervisor.StateRunning)
	}
	p.wantEnds(t, p.source, p.here)
	p.life = p.source.on(t, p.a)
	p.wantEvents(t, p.here, hypervisor.EventStarted, hypervisor.ReasonBooted)
}

// wantStayed expects that the migration is over and the life at its source.
func (p *pair) wantStayed(t *testing.T) {
	t.Helper()
	p.wantEvents(t, p.there, hypervisor.EventStayed, nil)
	p.wantEvents(t, p.here, hypervisor.EventStayed, nil)
	refused(t, "to finish a failed migration", p.Finish(t, p.a))
	p.wantAt(t, p.source, p.target, hypervisor.StateRunning)
}

func testMoveFails(t *testing.T, p *pair) {
	for range 2 {
		p.begin(t)
		succeed(t, "fail migration", p.Fail(t, p.a, false))
		p.wantStayed(t)
	}
	p.begin(t) // a failure is no obstacle for the next one
	succeed(t, "finish migration", p.Finish(t, p.a))
	p.wantAt(t, p.target, p.source, hypervisor.StateRunning)
}

func testPostcopyFails(t *testing.T, p *pair) {
	p.begin(t)
	succeed(t, "fail migration", p.Fail(t, p.a, true))
	p.wantEvents(t, p.there, hypervisor.EventStarted, hypervisor.ReasonMigrated, hypervisor.EventPaused, hypervisor.ReasonFailed)
	p.wantEvents(t, p.here, hypervisor.EventEnded, hypervisor.ReasonMigrated)
	p.wantAt(t, p.target, p.source, hypervisor.StatePaused)
	if p.Stuck {
		p.wantEnds(t, p.target, p.there)
		return
	}
	p.target.unpause(t, p.a, p.life) // recovered
	p.wantAt(t, p.target, p.source, hypervisor.StateRunning)
}

func testGuardRefusesMove(t *testing.T, p *pair) {
	no, asked := errors.New("not here"), 0
	p.guard(p.source, func(context.Context, hypervisor.Incoming) error {
		t.Error("the guard of the source was asked")
		return nil
	})
	p.guard(p.target, func(ctx context.Context, in hypervisor.Incoming) error {
		asked++
		want := hypervisor.Incoming{Guest: p.a, Life: p.life, Why: hypervisor.ReasonMigrated}
		if _, bounded := ctx.Deadline(); in != want || !bounded {
			t.Errorf("guard was asked about %+v, bounded %v", in, bounded)
		}
		if _, err := p.target.Driver.State(ctx, in.Guest); err != nil { // no lock is held
			t.Errorf("state in the guard: %v", err)
		}
		return no
	})
	refused(t, "a migration that the guard refuses", p.Begin(t, p.a))
	if asked != 1 {
		t.Errorf("guard was asked %d times, want once", asked)
	}
	p.wantAt(t, p.source, p.target, hypervisor.StateRunning)
	p.guard(p.target, func(context.Context, hypervisor.Incoming) error { return nil })
	p.begin(t) // its events are the first: the refused one told nothing
}

func testOffAtSource(t *testing.T, p *pair) {
	p.begin(t)
	p.wantEnds(t, p.source, p.here)
	refused(t, "to finish the migration of an ended life", p.Finish(t, p.a))
	p.wantEvents(t, p.there, hypervisor.EventStayed, nil)
	p.target.wantState(t, p.a, hypervisor.StateOff, "")
	if !p.target.Gone(t, p.a) {
		t.Error("something of the guest is left at the target")
	}
	p.life = p.target.on(t, p.a)
	p.wantEvents(t, p.there, hypervisor.EventStarted, hypervisor.ReasonBooted)
}

func testOffAtTarget(t *testing.T, p *pair) {
	p.begin(t)
	wantErr(t, "off at the target", p.target.Driver.Off(ctxOf(t), p.a, p.life), hypervisor.ErrNotRunning)
	p.wantStayed(t)
	p.wantEnds(t, p.source, p.here)
}

func testKilledMoving(t *testing.T, p *pair) {
	p.begin(t)
	p.source.Kill(t, p.a)
	p.wantEvents(t, p.here, hypervisor.EventEnded, p.source.Killed)
	p.wantEvents(t, p.there, hypervisor.EventStayed, nil)
	refused(t, "to finish the migration of an ended life", p.Finish(t, p.a))
	p.source.wantState(t, p.a, hypervisor.StateOff, "")
	p.target.wantState(t, p.a, hypervisor.StateOff, "")
}

func testAbort(t *testing.T, p *pair) {
	for _, at := range []*host{p.source, p.target} {
		p.begin(t)
		wantErr(t, "abort of another life", p.abort(t, at, cluster.NewLifeID("boot", 1, 1)), hypervisor.ErrNotRunning)
		succeed(t, "abort", p.abort(t, at, p.life))
		p.wantStayed(t)
		wantErr(t, "second abort", p.abort(t, at, p.life), hypervisor.ErrNotRunning)
	}
}

func testAbortNothing(t *testing.T, p *pair) {
	for _, at := range []*host{p.source, p.target} {
		wantErr(t, "abort without migration", p.abort(t, at, p.life), hypervisor.ErrNotRunning)
		err := at.Driver.(hypervisor.Mover).Abort(ctxOf(t), unknownGuest, p.life)
		wantErr(t, "abort of an unknown guest", err, hypervisor.ErrNoGuest)
	}
	p.begin(t)
	succeed(t, "finish migration", p.Finish(t, p.a))
	for _, at := range []*host{p.source, p.target} {
		wantErr(t, "abort after switch-over", p.abort(t, at, p.life), hypervisor.ErrNotRunning)
	}
	p.wantAt(t, p.target, p.source, hypervisor.StateRunning)
}

func testArrivingIsNotRunning(t *testing.T, p *pair) {
	p.begin(t)
	_, err := p.target.Driver.On(ctxOf(t), p.a)
	wantErr(t, "on of a guest that arrives", err, hypervisor.ErrRunning)
	wantErr(t, "pause", p.target.Driver.Pause(ctxOf(t), p.a, p.life), hypervisor.ErrNotRunning)
	wantErr(t, "unpause", p.target.Driver.Unpause(ctxOf(t), p.a, p.life), hypervisor.ErrNotRunning)
	wantErr(t, "off of another life", p.target.Driver.Off(ctxOf(t), p.a, "x"), hypervisor.ErrNotRunning)
	succeed(t, "finish migration", p.Finish(t, p.a))
	p.wantAt(t, p.target, p.source, hypervisor.StateRunning)
}

func testOneThingAtATime(t *testing.T, p *pair) {
	p.begin(t)
	refused(t, "to save a guest that migrates", p.Save(t, p.a))
	refused(t, "a second migration", p.Begin(t, p.a))
	refused(t, "to migrate back what has not arrived", p.Back(t, p.a))
	succeed(t, "finish migration", p.Finish(t, p.a))
	p.wantAt(t, p.target, p.source, hypervisor.StateRunning)
}

func testSaves(t *testing.T, p *pair) {
	p.source.wantReachable(t, p.a)
	refused(t, "to restore a guest that runs", p.Restore(t, p.a))
	var asked []hypervisor.Reason
	p.guard(p.source, func(_ context.Context, in hypervisor.Incoming) error {
		if in.Guest != p.a || in.Life != p.life {
			t.Errorf("guard was asked about %+v", in)
		}
		asked = append(asked, in.Why)
		return nil
	})
	succeed(t, "save", p.Save(t, p.a))
	p.wantEvents(t, p.here, hypervisor.EventEnded, hypervisor.ReasonSaved)
	p.source.wantState(t, p.a, hypervisor.StateSaved, "")
	p.source.wantStill(t, p.a)
	p.source.wantUnreachable(t, p.a, "the saved guest")
	for what, err := range map[string]error{
		"off":     p.source.Driver.Off(ctxOf(t), p.a, p.life),
		"pause":   p.source.Driver.Pause(ctxOf(t), p.a, p.life),
		"unpause": p.source.Driver.Unpause(ctxOf(t), p.a, p.life),
	} {
		wantErr(t, what+" of a saved guest", err, hypervisor.ErrNotRunning)
	}
	refused(t, "to save a saved guest", p.Save(t, p.a))
	refused(t, "to migrate a saved guest", p.Begin(t, p.a))
	succeed(t, "restore", p.Restore(t, p.a))
	p.wantEvents(t, p.here, hypervisor.EventStarted, hypervisor.ReasonRestored)
	p.wantAt(t, p.source, p.target, hypervisor.StateRunning)
	if diff := gocmp.Diff([]hypervisor.Reason{hypervisor.ReasonRestored}, asked); diff != "" {
		t.Errorf("the guard was asked (-want +got):\n%s", diff)
	}
	p.wantEnds(t, p.source, p.here)
}

func testGuardRefusesRestore(t *testing.T, p *pair) {
	succeed(t, "save", p.Save(t, p.a))
	p.wantEvents(t, p.here, hypervisor.EventEnded, hypervisor.ReasonSaved)
	p.guard(p.source, func(context.Context, hypervisor.Incoming) error {
		return errors.New("this life is over")
	})
	refused(t, "a restore that the guard refuses", p.Restore(t, p.a))
	p.source.wantState(t, p.a, hypervisor.StateSaved, "")
	p.source.wantStill(t, p.a)
}

func testOnDiscards(t *testing.T, p *pair) {
	succeed(t, "save", p.Save(t, p.a))
	p.wantEvents(t, p.here, hypervisor.EventEnded, hypervisor.ReasonSaved)
	saved := p.life
	p.life = p.source.on(t, p.a)
	if p.life == saved {
		t.Errorf("a cold start took up the saved life %s", saved)
	}
	p.wantEvents(t, p.here, hypervisor.EventStarted, hypervisor.ReasonBooted)
	refused(t, "to restore a discarded image", p.Restore(t, p.a))
	p.wantAt(t, p.source, p.target, hypervisor.StateRunning)
	p.wantEnds(t, p.source, p.here)
}

func (p *pair) claim(t *testing.T, at *host, life cluster.LifeID, c cluster.ClusterID) error {
	return at.Driver.(hypervisor.Mover).Claim(ctxOf(t), p.a, life, c)
}

// wantClaimed expects what the guard was told last.
func wantClaimed(t *testing.T, what string, told *[]hypervisor.Incoming, want cluster.ClusterID) {
	t.Helper()
	if n := len(*told); n == 0 || (*told)[n-1].Claimed != want {
		t.Errorf("%s: the guard was told %+v, want the claim %q", what, *told, want)
	}
	*told = nil
}

func testClaimTravels(t *testing.T, p *pair) {
	var told []hypervisor.Incoming
	for _, at := range []*host{p.source, p.target} {
		p.guard(at, func(_ context.Context, in hypervisor.Incoming) error { told = append(told, in); return nil })
	}
	succeed(t, "claim", p.claim(t, p.source, p.life, "prod"))
	succeed(t, "claim once more", p.claim(t, p.source, p.life, "prod"))
	succeed(t, "save", p.Save(t, p.a))
	succeed(t, "restore", p.Restore(t, p.a))
	wantClaimed(t, "restored", &told, "prod")
	succeed(t, "begin migration", p.Begin(t, p.a))
	wantClaimed(t, "migrates", &told, "prod")
	succeed(t, "finish migration", p.Finish(t, p.a))
	succeed(t, "migrate back", p.Back(t, p.a))
	wantClaimed(t, "comes back", &told, "prod")
	succeed(t, "claim by another cluster", p.claim(t, p.source, p.life, "test"))
	succeed(t, "begin migration", p.Begin(t, p.a))
	wantClaimed(t, "claimed by another", &told, "test")
	succeed(t, "finish migration", p.Finish(t, p.a))
	p.target.off(t, p.a, p.life)
	p.life = p.source.on(t, p.a)
	succeed(t, "begin migration", p.Begin(t, p.a))
	wantClaimed(t, "a new life", &told, "")
}

func testClaimRefused(t *testing.T, p *pair) {
	wantErr(t, "claim of another life", p.claim(t, p.source, cluster.NewLifeID("boot", 1, 1), "prod"), hypervisor.ErrOtherLife)
	wantErr(t, "claim where the guest is off", p.claim(t, p.target, p.life, "prod"), hypervisor.ErrNotRunning)
	err := p.source.Driver.(hypervisor.Mover).Claim(ctxOf(t), unknownGuest, p.life, "prod")
	wantErr(t, "claim of an unknown guest", err, hypervisor.ErrNoGuest)
	var told []hypervisor.Incoming
	p.guard(p.target, func(_ context.Context, in hypervisor.Incoming) error { told = append(told, in); return nil })
	succeed(t, "begin migration", p.Begin(t, p.a))
	refused(t, "claim of a life whose migration has begun", p.claim(t, p.source, p.life, "prod"))
	wantErr(t, "claim where the guest arrives", p.claim(t, p.target, p.life, "prod"), hypervisor.ErrNotRunning)
	succeed(t, "fail migration", p.Fail(t, p.a, false))
	wantClaimed(t, "was told", &told, "")
	succeed(t, "claim behind the migration", p.claim(t, p.source, p.life, "prod"))
	succeed(t, "begin migration", p.Begin(t, p.a))
	wantClaimed(t, "migrates again", &told, "prod")
}

func testClaimMeanwhile(t *testing.T, p *pair) {
	var noted error
	p.guard(p.target, func(context.Context, hypervisor.Incoming) error {
		noted = p.claim(t, p.source, p.life, "prod")
		return nil
	})
	if err := p.Begin(t, p.a); err == nil && noted == nil {
		t.Error("the life migrates with a claim of which the guard was not told")
	}
}

package fencevirt

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/wire/xvm"
)

// answererOf has no listeners.
func answererOf(t testing.TB, host Host) *answerer {
	t.Helper()
	log := logOf(t)
	return &answerer{
		host: host, log: log, drops: newDrops(log, time.Now), power: newTurns[cluster.GuestID](),
		follow: newFollower(host, log, func([]hypervisor.Guest) {}),
	}
}

func (a *answerer) ask(t testing.TB, op xvm.Op, guest string) xvm.Result {
	t.Helper()
	return a.answer(t.Context(), request{op: op, guest: guest, from: address("10.0.0.1")}).result
}

func upper(name string) string {
	id := []byte(idOf(name))
	for i, c := range id {
		if c >= 'a' && c <= 'f' {
			id[i] = c - 32
		}
	}
	return string(id)
}

func TestAnswersAreThoseOfTheCDaemon(t *testing.T) {
	type row struct {
		guest                            string
		status, off, on, reboot, monitor xvm.Result
	}
	const ok, failed, isOff = xvm.ResultOK, xvm.ResultFailed, xvm.ResultOff
	for _, c := range []row{
		{"runs", ok, ok, ok, ok, ok},
		{upper("runs"), ok, ok, ok, ok, ok},
		{"paused", ok, ok, ok, ok, ok},
		{"off", isOff, ok, ok, ok, ok},
		{"off-saved", isOff, ok, ok, ok, ok},
		{"nobody", isOff, failed, failed, failed, failed},
		{"RUNS", isOff, failed, failed, failed, failed},
		{string(idOf("nobody")), isOff, failed, failed, failed, failed},
		{"", isOff, failed, failed, failed, ok},
	} {
		for op, want := range map[xvm.Op]xvm.Result{
			xvm.OpStatus: c.status, xvm.OpOff: c.off, xvm.OpOn: c.on, xvm.OpReboot: c.reboot, xvm.OpMonitor: c.monitor,
			xvm.OpNull: failed, 7: failed, 9: failed, 255: failed,
		} {
			host := newHost(t, "runs", "paused", "off", "off-saved")
			if err := host.Pause(t.Context(), idOf("paused"), host.Life(idOf("paused"))); err != nil {
				t.Fatal(err)
			}
			host.On(t.Context(), idOf("off-saved"))
			if err := host.Save(idOf("off-saved")); err != nil {
				t.Fatal(err)
			}
			if got := answererOf(t, host).ask(t, op, c.guest); got != want {
				t.Errorf("%v of %q: %d, want %d", op, c.guest, got, want)
			}
		}
	}
}

func TestPowerHasItsEffect(t *testing.T) {
	host := newHost(t, "a", "b", "off")
	a := answererOf(t, host)
	before := host.Life(idOf("a"))
	if got := a.ask(t, xvm.OpReboot, "a"); got != xvm.ResultOK || host.Life(idOf("a")) == before || host.Life(idOf("a")) == "" {
		t.Errorf("reboot: %d, life %q", got, host.Life(idOf("a")))
	}
	if got := a.ask(t, xvm.OpOff, "b"); got != xvm.ResultOK || host.Life(idOf("b")) != "" {
		t.Errorf("off: %d, life %q", got, host.Life(idOf("b")))
	}
	if got := a.ask(t, xvm.OpReboot, "off"); got != xvm.ResultOK || host.Life(idOf("off")) != "" {
		t.Errorf("reboot of a guest that is off: %d, life %q; it must stay off", got, host.Life(idOf("off")))
	}
	if got := a.ask(t, xvm.OpOn, "off"); got != xvm.ResultOK || host.Life(idOf("off")) == "" {
		t.Errorf("on: %d, life %q", got, host.Life(idOf("off")))
	}
	before = host.Life(idOf("a"))
	if got := a.ask(t, xvm.OpOn, "a"); got != xvm.ResultOK || host.Life(idOf("a")) != before {
		t.Errorf("on of a guest that runs: %d, life %q", got, host.Life(idOf("a")))
	}
	for _, op := range []xvm.Op{xvm.OpStatus, xvm.OpMonitor, xvm.OpNull, xvm.OpList} {
		a.ask(t, op, "a")
	}
	if host.Life(idOf("a")) != before {
		t.Error("a question had an effect")
	}
}

func TestWhatWasNotSeenIsNotDone(t *testing.T) {
	broken := errors.New("connection lost")
	for _, c := range []struct {
		name string
		op   mem.Op
		err  error
		ask  xvm.Op
		want xvm.Result
	}{
		{"off with an unknown outcome", mem.OpOff, broken, xvm.OpOff, xvm.ResultFailed},
		{"off of a life that is gone, who knows where", mem.OpOff, hypervisor.ErrNotRunning, xvm.OpOff, xvm.ResultFailed},
		{"off that always meets another life", mem.OpOff, hypervisor.ErrOtherLife, xvm.OpOff, xvm.ResultFailed},
		{"reboot whose off has an unknown outcome", mem.OpOff, broken, xvm.OpReboot, xvm.ResultFailed},
		{"reboot that meets another life: the former has ended", mem.OpOff, hypervisor.ErrOtherLife, xvm.OpReboot, xvm.ResultOK},
		{"reboot whose on fails, as C has it", mem.OpOn, broken, xvm.OpReboot, xvm.ResultOK},
		{"status of a silent hypervisor", mem.OpList, hypervisor.ErrUnavailable, xvm.OpStatus, xvm.ResultFailed},
		{"off of a silent hypervisor", mem.OpState, hypervisor.ErrUnavailable, xvm.OpOff, xvm.ResultFailed},
		{"on of a silent hypervisor", mem.OpState, hypervisor.ErrUnavailable, xvm.OpOn, xvm.ResultFailed},
		{"reboot of a silent hypervisor", mem.OpState, hypervisor.ErrUnavailable, xvm.OpReboot, xvm.ResultFailed},
		{"monitor of a silent hypervisor", mem.OpList, hypervisor.ErrUnavailable, xvm.OpMonitor, xvm.ResultFailed},
		{"list of a silent hypervisor", mem.OpList, hypervisor.ErrUnavailable, xvm.OpList, xvm.ResultFailed},
	} {
		host := newHost(t, "a")
		host.SetFault(mem.FaultOn(c.op, mem.Fault{Fail: c.err}))
		out := answererOf(t, host).answer(t.Context(), request{op: c.ask, guest: "a"})
		if out.result != c.want || out.listed {
			t.Errorf("%s: %d, want %d", c.name, out.result, c.want)
		}
	}
}

// departed is a hypervisor that remembers where guests went before anybody watched.
type departed struct {
	*mem.Driver
	gone map[cluster.GuestID]bool
	err  error
}

func (d departed) Departed(_ context.Context, id cluster.GuestID) (bool, error) {
	return d.gone[id], d.err
}

// A definition that a migration has left behind is not a guest that is off (C-2):
// the guest runs elsewhere, be it that the daemon was started since, or that the end
// of the migration is not told yet.
func TestAGuestThatMayBeElsewhereIsNotOff(t *testing.T) {
	const ok, failed, off = xvm.ResultOK, xvm.ResultFailed, xvm.ResultOff
	changes := []xvm.Op{xvm.OpOff, xvm.OpOn, xvm.OpReboot}
	host := newHost(t, "off", "off2")
	before := answererOf(t, departed{Driver: host, gone: map[cluster.GuestID]bool{idOf("off"): true}})
	leaving := answererOf(t, host)
	leaving.follow.event(hypervisor.Event{Guest: idOf("off"), Kind: hypervisor.EventLeaving})
	for name, a := range map[string]*answerer{"it went before": before, "it was leaving": leaving} {
		for _, op := range changes {
			if got := a.ask(t, op, "off"); got != failed {
				t.Errorf("%s: %v: %d, want %d", name, op, got, failed)
			}
		}
		if got := a.ask(t, xvm.OpStatus, "off"); got != off {
			t.Errorf("%s: status: %d", name, got)
		}
		if got := a.ask(t, xvm.OpOff, "off2"); got != ok {
			t.Errorf("%s: off of another that is off: %d", name, got)
		}
	}
	silent := answererOf(t, departed{Driver: host, err: hypervisor.ErrUnavailable})
	if got := silent.ask(t, xvm.OpOff, "off2"); got != failed {
		t.Errorf("nobody knows whether it went: %d", got)
	}
}

func TestAHypervisorThatHangsIsAFailureWithinABound(t *testing.T) {
	for _, op := range []mem.Op{mem.OpList, mem.OpState, mem.OpOff, mem.OpOn} {
		synctest.Test(t, func(t *testing.T) {
			host := newHost(t, "a", "off")
			host.SetFault(mem.FaultOn(op, mem.Fault{Hang: true}))
			a := answererOf(t, host)
			for ask, bound := range map[xvm.Op]time.Duration{
				xvm.OpStatus: askLimit, xvm.OpList: askLimit, xvm.OpMonitor: askLimit,
				xvm.OpOff: powerLimit, xvm.OpOn: powerLimit, xvm.OpReboot: powerLimit,
			} {
				guest := "a"
				if ask == xvm.OpOn {
					guest = "off"
				}
				began := time.Now()
				got := a.ask(t, ask, guest)
				took := time.Since(began)
				started := ask == xvm.OpReboot && op == mem.OpOn // its off was seen
				if took > bound || took > 0 && got != xvm.ResultFailed && !started {
					t.Errorf("%v while %v hangs: %d after %v", ask, op, got, took)
				}
			}
		})
	}
}

func TestOnePowerOperationForAGuestAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := newHost(t, "a", "b")
		a := answererOf(t, host)
		starts := make(chan struct{})
		host.SetFault(mem.FaultOn(mem.OpOn, mem.Fault{Wait: starts}))
		reboot, off := make(chan xvm.Result, 1), make(chan xvm.Result, 1)
		go func() { reboot <- a.ask(t, xvm.OpReboot, "a") }()
		synctest.Wait() // it is off, and being started
		go func() { off <- a.ask(t, xvm.OpOff, "a") }()
		synctest.Wait()
		if len(off) != 0 {
			t.Error("an off was answered while the guest is being started")
		}
		if got := a.ask(t, xvm.OpOff, "b"); got != xvm.ResultOK {
			t.Errorf("off of another guest: %d", got)
		}
		if got := a.ask(t, xvm.OpStatus, "a"); got != xvm.ResultOff {
			t.Errorf("status meanwhile: %d", got)
		}
		close(starts)
		if r, o := <-reboot, <-off; r != xvm.ResultOK || o != xvm.ResultOK || host.Life(idOf("a")) != "" {
			t.Errorf("reboot %d, then off %d, life %q", r, o, host.Life(idOf("a")))
		}
	})
}

func TestOffChasesTheLifeThatIsThere(t *testing.T) {
	host := newHost(t, "a")
	first := true
	host.SetFault(func(c mem.Call) mem.Fault {
		if c.Op == mem.OpOff && first {
			first = false
			host.End(idOf("a"), hypervisor.ReasonCrashed)
			host.On(context.Background(), idOf("a"))
		}
		return mem.Fault{}
	})
	if got := answererOf(t, host).ask(t, xvm.OpOff, "a"); got != xvm.ResultOK || host.Life(idOf("a")) != "" {
		t.Errorf("off: %d, life %q", got, host.Life(idOf("a")))
	}
}

// able has the optional abilities.
type able struct {
	*mem.Driver
	finds, reboots, checks int
	err                    error
}

func (a *able) Find(ctx context.Context, name string) (hypervisor.Guest, error) {
	a.finds++
	return a.State(ctx, idOf(name))
}

func (a *able) Reboot(ctx context.Context, id cluster.GuestID, life cluster.LifeID) (cluster.LifeID, error) {
	a.reboots++
	if a.err != nil {
		return "", a.err
	}
	if err := a.Off(ctx, id, life); err != nil {
		return "", err
	}
	return a.On(ctx, id)
}

func (a *able) Check(context.Context) error {
	a.checks++
	return a.err
}

func TestAbilitiesOfTheDriverAreUsed(t *testing.T) {
	host := &able{Driver: newHost(t, "a")}
	host.SetFault(mem.FaultOn(mem.OpList, mem.Fault{Fail: errors.New("a listing was asked for")}))
	a := answererOf(t, host)
	before := host.Life(idOf("a"))
	for _, op := range []xvm.Op{xvm.OpStatus, xvm.OpMonitor, xvm.OpReboot} {
		if got := a.ask(t, op, "a"); got != xvm.ResultOK {
			t.Errorf("%v: %d", op, got)
		}
	}
	if host.Life(idOf("a")) == before {
		t.Error("nothing was rebooted")
	}
	if diff := cmp.Diff([]int{3, 1, 1}, []int{host.finds, host.reboots, host.checks}); diff != "" {
		t.Errorf("finds, reboots, checks (-want +got):\n%s", diff)
	}
	for name, err := range map[string]error{"unknown": errors.New("lost"), "gone": hypervisor.ErrNotRunning} {
		host.err = err
		for _, op := range []xvm.Op{xvm.OpReboot, xvm.OpMonitor} {
			if got := a.ask(t, op, "a"); got != xvm.ResultFailed {
				t.Errorf("%v, %s: %d", op, name, got)
			}
		}
	}
	// A guest that is off behind a reboot which could not start it was ended: as with
	// C, that is done. Behind one that found no life, it may have gone elsewhere.
	for err, want := range map[error]xvm.Result{errors.New("cannot start"): xvm.ResultOK, hypervisor.ErrNotRunning: xvm.ResultFailed} {
		host.err = err
		host.On(t.Context(), idOf("a"))
		before := host.reboots
		host.SetFault(func(c mem.Call) mem.Fault {
			if c.Op == mem.OpState && host.reboots > before {
				host.End(idOf("a"), hypervisor.ReasonDestroyed)
			}
			return mem.Fault{}
		})
		if got := a.ask(t, xvm.OpReboot, "a"); got != want {
			t.Errorf("reboot that ends with %q, and the guest is off: %d, want %d", err, got, want)
		}
	}
}

func TestListsAreSortedAndShowWhatMayBeSeen(t *testing.T) {
	host := newHost(t, "beta", "Alpha", "off", "gamma")
	host.Pause(t.Context(), idOf("gamma"), host.Life(idOf("gamma")))
	entry := func(name string, state byte) xvm.Entry {
		return xvm.Entry{Name: name, UUID: string(idOf(name)), State: state}
	}
	all := []xvm.Entry{entry("Alpha", 1), entry("beta", 1), entry("gamma", 3), entry("off", 5)}
	seen := func(guests ...string) []Group {
		return []Group{{From: []string{"10.0.0.1"}, Guests: guests}}
	}
	for _, c := range []struct {
		name   string
		groups []Group
		mapped []string
		want   []xvm.Entry
	}{
		{"no groups", nil, nil, all},
		{"nobody", []Group{}, nil, nil},
		{"names and UUIDs", seen("BETA", upper("off")), nil, []xvm.Entry{all[1], all[3]}},
		{"the map", nil, []string{"gamma", string(idOf("off")), "elsewhere"}, all[2:]},
		{"the map and groups", seen("beta", "gamma"), []string{"gamma"}, all[2:3]},
	} {
		out := answererOf(t, host).answer(t.Context(), request{
			op: xvm.OpList, from: address("10.0.0.1"), key: Key{Groups: c.groups}, cfg: Config{Guests: c.mapped},
		})
		if diff := cmp.Diff(answer{listed: true, entries: c.want}, out, cmp.AllowUnexported(answer{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestAListAlwaysHasItsEnd(t *testing.T) {
	out := answer{listed: true, entries: []xvm.Entry{{Name: "a"}, {}, {Name: "b"}}}
	for _, prefix := range []string{"", xvm.Magic} {
		b := out.bytes(prefix)
		want := append([]byte(prefix), 253)
		want = xvm.Entry{Name: "a"}.Append(want)
		want = xvm.Entry{Name: "b"}.Append(want)
		want = append(append(append(want, make([]byte, xvm.EntrySize)...), prefix...), 0)
		if diff := cmp.Diff(want, b); diff != "" {
			t.Errorf("prefix %q (-want +got):\n%s", prefix, diff)
		}
	}
}

func TestGroupsDecideBeforeAnythingIsDone(t *testing.T) {
	const ok, failed, isOff, denied = xvm.ResultOK, xvm.ResultFailed, xvm.ResultOff, xvm.ResultDenied
	groups := []Group{
		{From: []string{"10.0.0.1"}, Guests: []string{"mine", string(idOf("byid")), "planned"}},
		{From: []string{"10.0.0.2"}, Guests: []string{"theirs"}},
	}
	for _, c := range []struct {
		guest                        string
		status, off, monitor, reboot xvm.Result
	}{
		{"mine", ok, ok, ok, ok},
		{string(idOf("mine")), ok, ok, ok, ok},
		{"byid", ok, ok, ok, ok},
		{upper("byid"), ok, ok, ok, ok},
		{"theirs", denied, denied, denied, denied},
		{upper("theirs"), denied, denied, denied, denied},
		{"stranger", denied, denied, denied, denied},
		{"planned", isOff, failed, failed, failed},
		{"PLANNED", isOff, failed, failed, failed},
	} {
		for op, want := range map[xvm.Op]xvm.Result{
			xvm.OpStatus: c.status, xvm.OpOff: c.off, xvm.OpMonitor: c.monitor, xvm.OpReboot: c.reboot, xvm.OpNull: failed,
		} {
			host := newHost(t, "mine", "byid", "theirs")
			before := host.Life(idOf("theirs"))
			out := answererOf(t, host).answer(t.Context(), request{
				op: op, guest: c.guest, from: address("10.0.0.1"), key: Key{Groups: groups},
			})
			if out.result != want {
				t.Errorf("%v of %s: %d, want %d", op, c.guest, out.result, want)
			}
			if host.Life(idOf("theirs")) != before {
				t.Errorf("%v of %s touched the guest of another group", op, c.guest)
			}
		}
	}
	out := answererOf(t, newHost(t)).answer(t.Context(), request{op: xvm.OpMonitor, from: address("10.9.9.9"), key: Key{Groups: groups}})
	if out.result != ok {
		t.Errorf("monitor of the daemon itself by a stranger: %d", out.result)
	}
}

func TestTheMapHidesWhatItLacks(t *testing.T) {
	host := newHost(t, "mapped", "other")
	cfg := Config{Guests: []string{"mapped", "elsewhere"}}
	a := answererOf(t, host)
	for guest, want := range map[string]xvm.Result{"mapped": xvm.ResultOK, "other": xvm.ResultFailed, "elsewhere": xvm.ResultFailed} {
		before := host.Life(idOf("other"))
		if out := a.answer(t.Context(), request{op: xvm.OpOff, guest: guest, cfg: cfg}); out.result != want {
			t.Errorf("off of %s: %d, want %d", guest, out.result, want)
		}
		if host.Life(idOf("other")) != before {
			t.Errorf("off of %s ended a guest that the map lacks", guest)
		}
	}
}

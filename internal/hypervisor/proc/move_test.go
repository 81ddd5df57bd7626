package proc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/hypervisortest"
)

// newPair describes two hosts that have the same two guests.
func newPair(t *testing.T) (source, target Config) {
	t.Helper()
	source = newConfig(t)
	target = source
	target.StateDir = filepath.Join(t.TempDir(), "state")
	target.Guests = slices.Clone(source.Guests)
	for i := range target.Guests {
		target.Guests[i].Link = "vethb" + strconv.Itoa(i)
	}
	if source.Cgroup != "" {
		var err error
		if target.Cgroup, err = OwnCgroup(filepath.Base(source.Cgroup) + "-target"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { removeHost(t, target) })
	return source, target
}

func move(ctx context.Context, from, to *Driver, id cluster.GuestID) error {
	if err := from.BeginMove(ctx, to, id); err != nil {
		return err
	}
	return from.FinishMove(ctx, to, id, 0, false)
}

func testMoverConformance(t *testing.T) {
	hypervisortest.RunMover(t, func(t *testing.T) hypervisortest.MoverFixture {
		source, target := newPair(t)
		from, to := newDriver(t, source), newDriver(t, target)
		// An administrator's drivers, as beside those of two hostds.
		adminFrom, adminTo := newDriver(t, source), newDriver(t, target)
		return hypervisortest.MoverFixture{
			Source: newFixture(t, from), Target: newFixture(t, to),
			Begin: func(t *testing.T, id cluster.GuestID) error { return adminFrom.BeginMove(t.Context(), adminTo, id) },
			Finish: func(t *testing.T, id cluster.GuestID) error {
				return adminFrom.FinishMove(t.Context(), adminTo, id, 0, false)
			},
			Fail: func(t *testing.T, id cluster.GuestID, postcopy bool) error {
				if postcopy {
					return adminFrom.FinishMove(t.Context(), adminTo, id, 0, true)
				}
				guest, err := adminFrom.State(t.Context(), id)
				if err != nil {
					return err
				}
				return adminFrom.Abort(t.Context(), id, guest.Life)
			},
			Back: func(t *testing.T, id cluster.GuestID) error { return move(t.Context(), adminTo, adminFrom, id) },
			Save: func(t *testing.T, id cluster.GuestID) error { return adminFrom.Save(t.Context(), id) },
			Restore: func(t *testing.T, id cluster.GuestID) error {
				return adminFrom.Restore(t.Context(), id)
			},
		}
	})
}

// brokenMove begins a migration and does part of its switch-over, as a mover
// that dies there.
func brokenMove(t *testing.T, from, to *Driver, id cluster.GuestID, part func(*ends) error) {
	t.Helper()
	if err := from.BeginMove(t.Context(), to, id); err != nil {
		t.Fatal(err)
	}
	both, err := from.lockBoth(t.Context(), to, id)
	if err != nil {
		t.Fatal(err)
	}
	defer both.unlock()
	if err := part(both); err != nil {
		t.Fatal(err)
	}
}

// testABrokenMoveLeavesOneOwner breaks migrations off after each of their steps.
func testABrokenMoveLeavesOneOwner(t *testing.T) {
	cases := []struct {
		name     string
		part     func(*ends) error
		atTarget bool
	}{
		{"only the target has begun", func(e *ends) error {
			e.source.Leaving = false
			return e.from.save(e.here.ID, e.source)
		}, false},
		{"frozen in the record", func(e *ends) error {
			e.source.Frozen = true
			return e.from.save(e.here.ID, e.source)
		}, false},
		{"frozen", func(e *ends) error {
			e.source.Frozen = true
			return errors.Join(e.from.save(e.here.ID, e.source), e.from.stop(context.Background(), e.here, e.source))
		}, false},
		{"the target knows the processes", func(e *ends) error {
			e.source.Frozen = true
			e.target.Incoming = &incoming{process: e.source.process, Link: e.here.Link}
			return errors.Join(e.from.save(e.here.ID, e.source), e.from.stop(context.Background(), e.here, e.source), e.to.save(e.there.ID, e.target))
		}, false},
		{"given away", func(e *ends) error { return e.handOver(context.Background(), 0, false) }, true},
		{"link moved", func(e *ends) error {
			return errors.Join(e.handOver(context.Background(), 0, false), adoptLink(e.here.Link, testBridge, e.there.Link))
		}, true},
		{"taken over", func(e *ends) error {
			err := errors.Join(e.handOver(context.Background(), 0, false), adoptLink(e.here.Link, testBridge, e.there.Link))
			taken := record{Life: e.target.Life, Came: hypervisor.ReasonMigrated, process: e.source.process}
			taken.Frozen, taken.Arrivals = true, e.target.Arrivals
			return errors.Join(err, e.to.save(e.there.ID, taken))
		}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			source, target := newPair(t)
			id := source.Guests[0].ID
			before := newDriver(t, source)
			life := on(t, before, id)
			brokenMove(t, before, newDriver(t, target), id, c.part)
			at, not := newDriver(t, source), newDriver(t, target) // whoever starts next puts it right
			if c.atTarget {
				at, not = not, at
			}
			w := world{t: t, d: at}
			w.waitReachable(id)
			if got, err := at.State(t.Context(), id); err != nil || got.Life != life || got.State != hypervisor.StateRunning {
				t.Errorf("state where the life is: %+v, error %v", got, err)
			}
			if got, err := not.State(t.Context(), id); err != nil || got.Life != "" || got.State != hypervisor.StateOff {
				t.Errorf("state where it is not: %+v, error %v", got, err)
			}
			if err := not.Off(t.Context(), id, life); !errors.Is(err, hypervisor.ErrNotRunning) {
				t.Errorf("off where it is not: %v", err)
			}
			if err := at.Off(t.Context(), id, life); err != nil || !w.gone(t, id) {
				t.Errorf("off where it is: %v", err)
			}
		})
	}
}

// talkChannel is a process that says each line of its input on the channel,
// anew and on a connection that it keeps, and prints the answers.
func talkChannel(args []string) int {
	var kept net.Conn
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		conn, err := net.Dial("unix", args[0])
		if err != nil {
			fmt.Println(err)
			continue
		}
		fresh, _ := bufio.NewReader(conn).ReadString('\n')
		old := "none"
		if kept != nil {
			_, err := kept.Read(make([]byte, 1))
			old = fmt.Sprint(errors.Is(err, io.EOF))
			kept.Close()
		}
		kept = conn
		fmt.Printf("%s, former connection ended: %s\n", strings.TrimSpace(fresh), old)
	}
	return 0
}

// answerChannel says the name of the host to all that dial, and keeps them.
func answerChannel(t *testing.T, d *Driver, id cluster.GuestID, name string) {
	t.Helper()
	l, err := d.Channel(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the driver
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, name+"\n")
		}
	}()
}

func testTheChannelFollowsTheGuest(t *testing.T) {
	source, target := newPair(t)
	from, to := newDriver(t, source), newDriver(t, target)
	id := source.Guests[0].ID
	on(t, from, id)
	answerChannel(t, from, id, "source")
	answerChannel(t, to, id, "target")
	cmd := exec.Command(source.Guests[0].Command[0], "talk", GuestChannel)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := from.Exec(t.Context(), id, cmd); err != nil {
		t.Fatal(err)
	}
	heard := bufio.NewScanner(out)
	want := func(want string) {
		t.Helper()
		if _, err := io.WriteString(in, "go\n"); err != nil {
			t.Fatal(err)
		}
		if heard.Scan(); heard.Text() != want {
			t.Errorf("the guest heard %q, want %q", heard.Text(), want)
		}
	}
	want("source, former connection ended: none")
	if err := move(t.Context(), from, to, id); err != nil {
		t.Fatal(err)
	}
	want("target, former connection ended: true")
	if err := move(t.Context(), to, from, id); err != nil {
		t.Fatal(err)
	}
	want("source, former connection ended: true")
	in.Close()
	_ = cmd.Wait()
}

func testAGuardThatIsGoneRefuses(t *testing.T) {
	source, target := newPair(t)
	from, to := newDriver(t, source), newDriver(t, target)
	id := source.Guests[0].ID
	life := on(t, from, id)
	hostd := newDriver(t, target)
	hostd.SetGuard(func(context.Context, hypervisor.Incoming) error { return nil })
	hostd.Close()
	if err := from.BeginMove(t.Context(), to, id); err == nil {
		t.Error("a guest migrates to a host whose guard does not answer")
	}
	if got, err := from.State(t.Context(), id); err != nil || got.Life != life {
		t.Errorf("state at the source: %+v, error %v", got, err)
	}
	next := newDriver(t, target)
	next.SetGuard(func(context.Context, hypervisor.Incoming) error { return nil })
	if err := move(t.Context(), from, to, id); err != nil {
		t.Error(err)
	}
}

func testImmobileGuestsStay(t *testing.T) {
	source, target := newPair(t)
	source.Immobile = true
	from, to := newDriver(t, source), newDriver(t, target)
	id := source.Guests[0].ID
	on(t, from, id)
	if !from.Immobile() || to.Immobile() {
		t.Errorf("immobile: source %v, target %v", from.Immobile(), to.Immobile())
	}
	if err := from.BeginMove(t.Context(), to, id); err == nil {
		t.Error("an immobile guest migrates")
	}
	if err := from.Save(t.Context(), id); err == nil {
		t.Error("an immobile guest is saved")
	}
}

// TestEventsBetweenRecords looks at what a driver tells that saw two records of
// a guest and nothing in between.
func TestEventsBetweenRecords(t *testing.T) {
	const life = cluster.LifeID("l")
	type records map[string]record
	r := records{
		"none":      {Ended: true},
		"running":   {Life: life, Came: hypervisor.ReasonBooted},
		"leaving":   {Life: life, Came: hypervisor.ReasonBooted, migration: migration{Leaving: true, Departures: 1}},
		"stayed":    {Life: life, Came: hypervisor.ReasonBooted, migration: migration{Departures: 1}},
		"again":     {Life: life, Came: hypervisor.ReasonBooted, migration: migration{Leaving: true, Departures: 2}},
		"left":      {Life: life, Came: hypervisor.ReasonBooted, Ended: true, Reason: hypervisor.ReasonMigrated, migration: migration{Departures: 1}},
		"ended":     {Life: life, Came: hypervisor.ReasonBooted, Ended: true, Reason: hypervisor.ReasonCrashed},
		"saved":     {Life: life, Came: hypervisor.ReasonBooted, Saved: true, Saves: 1},
		"restored":  {Life: life, Came: hypervisor.ReasonRestored, Saves: 1},
		"arriving":  {Life: life, migration: migration{Arriving: true, Arrivals: 1}},
		"refused":   {Life: life, Ended: true, migration: migration{Arrivals: 1}},
		"anew":      {Life: life, migration: migration{Arriving: true, Arrivals: 2}},
		"arrived":   {Life: life, Came: hypervisor.ReasonMigrated, migration: migration{Arrivals: 1}},
		"paused":    {Life: life, Came: hypervisor.ReasonMigrated, Paused: true, PausedFor: hypervisor.ReasonFailed, migration: migration{Arrivals: 1}},
		"died":      {Life: life, Came: hypervisor.ReasonMigrated, Ended: true, Reason: hypervisor.ReasonCrashed, migration: migration{Arrivals: 1}},
		"came back": {Life: life, Came: hypervisor.ReasonMigrated, migration: migration{Departures: 1, Arrivals: 1}},
		"other":     {Life: "m", Came: hypervisor.ReasonBooted},
	}
	cases := []struct{ before, now, want string }{
		{"none", "running", "started booted"},
		{"none", "ended", "started booted, ended crashed"},
		{"none", "left", "started booted, leaving , ended migrated"},
		{"running", "leaving", "leaving "},
		{"running", "stayed", "leaving , stayed "},
		{"leaving", "stayed", "stayed "},
		{"leaving", "again", "stayed , leaving "},
		{"leaving", "left", "ended migrated"},
		{"running", "left", "leaving , ended migrated"},
		{"running", "ended", "ended crashed"},
		{"leaving", "other", "ended destroyed, started booted"},
		{"left", "came back", "arriving , started migrated"},
		{"running", "came back", "leaving , ended migrated, arriving , started migrated"},
		{"none", "arriving", "arriving "},
		{"none", "refused", "arriving , stayed "},
		{"none", "arrived", "arriving , started migrated"},
		{"none", "paused", "arriving , started migrated, paused failed"},
		{"none", "died", "arriving , started migrated, ended crashed"},
		{"arriving", "arrived", "started migrated"},
		{"arriving", "refused", "stayed "},
		{"arriving", "died", "started migrated, ended crashed"},
		{"arriving", "anew", "stayed , arriving "},
		{"refused", "anew", "arriving "},
		{"arriving", "other", "stayed , started booted"},
		{"running", "saved", "ended saved"},
		{"saved", "restored", "started restored"},
		{"running", "restored", "ended saved, started restored"},
		{"none", "saved", "started booted, ended saved"},
		{"saved", "ended", ""},
		{"saved", "other", "started booted"},
		{"left", "other", "started booted"},
	}
	for _, c := range cases {
		var got []string
		for _, e := range eventsBetween(r[c.before], r[c.now]) {
			got = append(got, fmt.Sprintf("%s %s", e.Kind, e.Reason))
		}
		if diff := cmp.Diff(c.want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s to %s (-want +got):\n%s", c.before, c.now, diff)
		}
	}
}

package lab

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// TestMovableLab runs its cases on one lab, in an order in which each leaves n1
// running on h1.
func TestMovableLab(t *testing.T) {
	dir := filepath.Join(shortTempDir(t), "lab")
	options := testOptions(dir)
	options.Movable = true
	l, err := Up(ctxOf(t), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Down(context.Background()) })
	b := bench{t: t, dir: dir, lab: l}
	for _, host := range Hosts() {
		b.awaitHostd(t, host)
	}
	t.Run("a guest migrates with its processes and its address", b.testMigrate)
	t.Run("a migration may fail before switch-over or after", b.testMigrationFails)
	t.Run("a guest is saved and restored", b.testSave)
	t.Run("a saved guest survives its hostd and not its host", b.testSavedEnds)
	t.Run("power loss in a migration leaves one life at most", b.testPowerLossInMigration)
	t.Run("what cannot be is refused", b.testMoveRefused)
	had := b.traces(t)
	must(t, b.lab.Migrate(ctxOf(t), "n1", "h2", Migration{}))
	must(t, b.lab.Save(ctxOf(t), "n2"))
	must(t, b.lab.Down(ctxOf(t)))
	b.wantNothing(t, had, true)
}

// awaitHostd waits until the host's hostd watches.
func (b *bench) awaitHostd(t *testing.T, host cluster.HostName) {
	t.Helper()
	await(t, "hostd watches", func() bool {
		raw, err := os.ReadFile(b.lab.HostLog(host))
		return err == nil && strings.Contains(string(raw), "ready\n")
	})
}

// process names the node's process inside its guest, with its start.
func (b *bench) process(t *testing.T, node cluster.NodeName) string {
	t.Helper()
	out, err := b.lab.Output(ctxOf(t), string(node), "sh", "-c", // which must not find itself
		`for p in /proc/[0-9]*; do case "$(tr '\0' ' ' <$p/cmdline)" in *" no""de `+string(node)+` "*) cut -d ' ' -f 1,22 $p/stat;; esac; done`)
	must(t, err)
	if strings.Count(string(out), "\n") != 1 {
		t.Fatalf("processes of %s: %q, want one", node, out)
	}
	return string(out)
}

func (b *bench) wantGuest(t *testing.T, node cluster.NodeName, host cluster.HostName, state hypervisor.GuestState, life cluster.LifeID) {
	t.Helper()
	got := b.status(t).Nodes[number(string(node))-1]
	if got.Host != host || got.State != state || got.Life != life {
		t.Errorf("%s is %s on %s in life %q, want %s on %s in life %q", node, got.State, got.Host, got.Life, state, host, life)
	}
}

// wantTold expects that a host's hostd was told these events of the life last.
func (b *bench) wantTold(t *testing.T, host cluster.HostName, life cluster.LifeID, want ...hypervisor.Event) {
	t.Helper()
	for i := range want {
		want[i].Guest, want[i].Life = b.lab.GuestID("n1"), life
	}
	var got []hypervisor.Event
	for ctx := ctxOf(t); ctx.Err() == nil; time.Sleep(time.Millisecond) {
		got = nil
		for _, e := range b.events(t, host) {
			if e.Life == life {
				got = append(got, e)
			}
		}
		got = got[max(0, len(got)-len(want)):]
		if cmp.Equal(want, got) {
			return
		}
	}
	t.Errorf("events of %s (-want +got):\n%s", host, cmp.Diff(want, got))
}

func event(kind hypervisor.EventKind, reason hypervisor.Reason) hypervisor.Event {
	return hypervisor.Event{Kind: kind, Reason: reason}
}

func (b *bench) testMigrate(t *testing.T) {
	life, process := b.status(t).Nodes[0].Life, b.process(t, "n1")
	must(t, b.lab.Migrate(ctxOf(t), "n1", "h2", Migration{Duration: 50 * time.Millisecond, Downtime: 50 * time.Millisecond}))
	b.wantGuest(t, "n1", "h2", hypervisor.StateRunning, life)
	b.wantTold(t, "h1", life,
		event(hypervisor.EventLeaving, ""), event(hypervisor.EventEnded, hypervisor.ReasonMigrated))
	b.wantTold(t, "h2", life, event(hypervisor.EventArriving, ""), event(hypervisor.EventStarted, hypervisor.ReasonMigrated))
	if now := b.process(t, "n1"); now != process {
		t.Errorf("its process is %q, was %q", now, process)
	}
	before := b.count(t, "n1")
	await(t, "the node goes on", func() bool { return b.count(t, "n1") != before })
	b.want(t, "n3", "10.77.0.1", true)
	devices, err := b.lab.Output(ctxOf(t), "h2", "cat", "/proc/net/dev")
	must(t, err)
	if !strings.Contains(string(devices), "h2-n1:") || strings.Contains(string(devices), "h1-n1:") {
		t.Errorf("the link did not move to the target:\n%s", devices)
	}
	must(t, b.lab.Cut(ctxOf(t), "n1")) // verbs find it where it is
	b.want(t, "n3", "10.77.0.1", false)
	must(t, b.lab.Heal(ctxOf(t), "n1"))
	b.want(t, "n3", "10.77.0.1", true)
	must(t, b.lab.Migrate(ctxOf(t), "n1", "h1", Migration{}))
	b.wantGuest(t, "n1", "h1", hypervisor.StateRunning, life)
}

func (b *bench) testMigrationFails(t *testing.T) {
	life := b.status(t).Nodes[0].Life
	must(t, b.lab.Migrate(ctxOf(t), "n1", "h2", Migration{Fail: true}))
	b.wantGuest(t, "n1", "h1", hypervisor.StateRunning, life)
	b.wantTold(t, "h1", life, event(hypervisor.EventLeaving, ""), event(hypervisor.EventStayed, ""))
	b.wantTold(t, "h2", life, event(hypervisor.EventArriving, ""), event(hypervisor.EventStayed, ""))
	must(t, b.lab.Migrate(ctxOf(t), "n1", "h2", Migration{PostcopyFail: true}))
	b.wantGuest(t, "n1", "h2", hypervisor.StatePaused, life)
	b.wantTold(t, "h2", life, event(hypervisor.EventStarted, hypervisor.ReasonMigrated), event(hypervisor.EventPaused, hypervisor.ReasonFailed))
	b.wantTold(t, "h1", life, event(hypervisor.EventLeaving, ""), event(hypervisor.EventEnded, hypervisor.ReasonMigrated))
	b.want(t, "n3", "10.77.0.1", false)
	must(t, b.lab.Unpause(ctxOf(t), "n1"))
	b.want(t, "n3", "10.77.0.1", true)
	must(t, b.lab.Migrate(ctxOf(t), "n1", "h1", Migration{}))
}

func (b *bench) testSave(t *testing.T) {
	life, process := b.status(t).Nodes[0].Life, b.process(t, "n1")
	must(t, b.lab.Save(ctxOf(t), "n1"))
	b.wantGuest(t, "n1", "h1", hypervisor.StateSaved, "")
	b.wantTold(t, "h1", life, event(hypervisor.EventEnded, hypervisor.ReasonSaved))
	b.want(t, "n3", "10.77.0.1", false)
	must(t, b.lab.Restore(ctxOf(t), "n1"))
	b.wantGuest(t, "n1", "h1", hypervisor.StateRunning, life)
	b.wantTold(t, "h1", life, event(hypervisor.EventEnded, hypervisor.ReasonSaved), event(hypervisor.EventStarted, hypervisor.ReasonRestored))
	b.want(t, "n3", "10.77.0.1", true)
	if now := b.process(t, "n1"); now != process {
		t.Errorf("its process is %q, was %q", now, process)
	}
}

func (b *bench) testSavedEnds(t *testing.T) {
	must(t, b.lab.Save(ctxOf(t), "n1"))
	must(t, b.lab.KillHostd(ctxOf(t), "h1"))
	must(t, b.lab.StartHostd(ctxOf(t), "h1"))
	b.wantGuest(t, "n1", "h1", hypervisor.StateSaved, "")
	must(t, b.lab.HostPowerLoss(ctxOf(t), "h1"))
	must(t, os.Truncate(b.lab.HostLog("h1"), 0))
	must(t, b.lab.HostPowerOn(ctxOf(t), false, "h1"))
	b.awaitHostd(t, "h1")
	b.wantGuest(t, "n1", "h1", hypervisor.StateOff, "")
	if err := b.lab.Restore(ctxOf(t), "n1"); err == nil {
		t.Error("an image outlived the power of its host")
	}
	must(t, b.lab.PowerOn(ctxOf(t), "n1"))
}

func (b *bench) testPowerLossInMigration(t *testing.T) {
	for _, lost := range []cluster.HostName{"h1", "h2"} {
		life := b.status(t).Nodes[0].Life
		before := len(b.events(t, "h2"))
		migrated := make(chan error, 1)
		go func() { migrated <- b.lab.Migrate(ctxOf(t), "n1", "h2", Migration{Duration: time.Second}) }()
		await(t, "the migration begins", func() bool {
			events := b.events(t, "h2")
			return slices.ContainsFunc(events[before:], func(e hypervisor.Event) bool { return e.Life == life && e.Kind == hypervisor.EventArriving })
		})
		must(t, b.lab.HostPowerLoss(ctxOf(t), lost))
		if err := <-migrated; err == nil {
			t.Errorf("the migration succeeded without %s", lost)
		}
		must(t, os.Truncate(b.lab.HostLog(lost), 0))
		must(t, b.lab.HostPowerOn(ctxOf(t), lost == "h2", lost))
		b.awaitHostd(t, lost)
		if lost == "h1" {
			b.wantGuest(t, "n1", "h1", hypervisor.StateOff, "")
			await(t, "the target hears that it never came", func() bool { return b.told(t, "h2", life, hypervisor.EventStayed) })
			must(t, b.lab.PowerOn(ctxOf(t), "n1"))
		} else {
			b.wantGuest(t, "n1", "h1", hypervisor.StateRunning, life)
			b.wantTold(t, "h1", life, event(hypervisor.EventLeaving, ""), event(hypervisor.EventStayed, ""))
		}
		must(t, b.lab.Migrate(ctxOf(t), "n1", "h2", Migration{})) // nothing is in the way of the next one
		must(t, b.lab.Migrate(ctxOf(t), "n1", "h1", Migration{}))
		await(t, "everybody has heard", func() bool {
			events := b.events(t, "h2")
			return len(events) > 0 && events[len(events)-1].Kind == hypervisor.EventEnded
		})
	}
}

func (b *bench) testMoveRefused(t *testing.T) {
	ctx := ctxOf(t)
	for what, err := range map[string]error{
		"to itself":         b.lab.Migrate(ctx, "n1", "h1", Migration{}),
		"to nowhere":        b.lab.Migrate(ctx, "n1", "h4", Migration{}),
		"of nobody":         b.lab.Migrate(ctx, "n4", "h2", Migration{}),
		"for hours":         b.lab.Migrate(ctx, "n1", "h2", Migration{Duration: time.Hour}),
		"with long silence": b.lab.Migrate(ctx, "n1", "h2", Migration{Downtime: time.Hour}),
		"failing twice":     b.lab.Migrate(ctx, "n1", "h2", Migration{Fail: true, PostcopyFail: true}),
		"restore":           b.lab.Restore(ctx, "n1"),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if got := b.status(t).Nodes[0]; got.State != hypervisor.StateRunning || got.Host != "h1" {
		t.Errorf("a refused verb had an effect: %+v", got)
	}
}

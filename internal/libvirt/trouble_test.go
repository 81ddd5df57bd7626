package libvirt_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ringfence/internal/libvirt"
	"ringfence/internal/libvirt/libvirtlab"
	"ringfence/internal/libvirt/libvirttest"
)

// tells waits until the events were told in this order, with others in between or
// not: QEMU does not always say that it stops before it says why.
func tells(t *testing.T, c *collector, want ...string) {
	t.Helper()
	var got []string
	eventually(t, strings.Join(want, ", "), func() bool {
		got = append(got, c.taken()...)
		at := 0
		for _, e := range got {
			if at < len(want) && e == want[at] {
				at++
			}
		}
		return at == len(want)
	})
}

// Watchdog, panic and a disk that fails, each by a real guest.
func TestARealLibvirtdTellsOfTrouble(t *testing.T) {
	t.Parallel()
	h := libvirtlab.Start(t, "trouble")
	for _, c := range []struct {
		guest  libvirtlab.Guest
		want   []string
		state  libvirt.State // StateNone: it is gone
		reason libvirt.Reason
	}{
		{
			h.WatchdogGuest(1, "pause"),
			[]string{"vm1 watchdog 1", "vm1 life 3/3"},
			libvirt.StatePaused, libvirt.PausedWatchdog,
		},
		{
			h.PanicGuest(2, "destroy"),
			[]string{"vm2 life 8/0", "vm2 life 5/2"},
			libvirt.StateNone, 0,
		},
		{
			h.PanicGuest(3, "preserve"),
			[]string{"vm3 life 8/0"},
			libvirt.StateCrashed, libvirt.CrashedPanicked,
		},
		{
			h.BrokenDiskGuest(4),
			[]string{"vm4 io 1   ", "vm4 life 3/2"},
			libvirt.StatePaused, libvirt.PausedIOError,
		},
	} {
		t.Run(c.guest.Name, func(t *testing.T) {
			s := openReal(t, h.URI("qemu", "/system"), libvirt.Options{})
			var got collector
			ok(t, s.Subscribe(t.Context(), got.take))
			dom, err := s.CreateXML(t.Context(), c.guest.XML, 0)
			ok(t, err)
			tells(t, &got, append([]string{"connected", dom.Name + " life 4/0", dom.Name + " life 2/0"}, c.want...)...)
			state, why, err := s.State(t.Context(), dom)
			if c.state == libvirt.StateNone {
				if err == nil {
					t.Errorf("it is there: %d, %d", state, why)
				}
				return
			}
			if err != nil || state != c.state || why != c.reason {
				t.Errorf("state %d, %d, %v, want %d, %d", state, why, err, c.state, c.reason)
			}
			ok(t, s.Destroy(t.Context(), dom, 0))
		})
	}
}

// What a migration tells at its source and its target.
var (
	leaves   = []string{"vm1 iteration 1", "vm1 life 3/1", "vm1 iteration 2", "vm1 life 5/3", "vm1 job 5"}
	arrives  = []string{"vm1 life 2/1", "vm1 life 4/1"}
	comesNot = []string{"vm1 life 2/1", "vm1 life 5/5"}
)

func TestARealMigrationIsToldAtBothEnds(t *testing.T) {
	t.Parallel()
	a, b := libvirtlab.Start(t, "source"), libvirtlab.Start(t, "target")
	libvirtlab.Join(a, b)
	var atA, atB collector
	source := openReal(t, a.URI("qemu", "/system"), libvirt.Options{})
	target := openReal(t, b.URI("qemu", "/system"), libvirt.Options{})
	ok(t, source.Subscribe(t.Context(), atA.take), target.Subscribe(t.Context(), atB.take))
	g := a.Guest(1)
	dom, err := source.CreateXML(t.Context(), g.XML, 0)
	ok(t, err)
	expect(t, &atA, "connected", "vm1 life 4/0", "vm1 life 2/0")
	expect(t, &atB, "connected")
	migrate := func(more ...string) *exec.Cmd {
		args := []string{
			"-c", "qemu:///system", "migrate", "--live", "--unsafe", g.Name, "qemu+unix:///system?socket=" + b.Socket(),
			"--migrateuri", "tcp://10.77.0.2",
		}
		return a.Command(t.Context(), "virsh", append(args, more...)...)
	}

	// One that is cancelled before the switch tells nothing at its source but, if it
	// came so far, its iterations.
	cmd := migrate("--bandwidth", "1")
	ok(t, cmd.Start())
	eventually(t, "the job is there", func() bool {
		job, err := source.Job(t.Context(), dom)
		return err == nil && job.Operation == libvirt.OperationMigrationOut
	})
	ok(t, source.AbortJob(t.Context(), dom))
	if err := cmd.Wait(); err == nil {
		t.Error("a cancelled migration succeeded")
	}
	eventually(t, "the target has given up", func() bool {
		list, err := target.List(t.Context(), 0)
		return err == nil && len(list) == 0
	})
	for _, e := range atA.taken() {
		if !strings.Contains(e, "iteration") {
			t.Errorf("the source tells %s", e)
		}
	}
	if !g.Lives(patience) {
		t.Error("the guest does not go on at its source")
	}
	time.Sleep(100 * time.Millisecond)
	atB.taken() // nothing, or that it came and failed

	out, err := migrate().CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	expect(t, &atA, leaves...)
	expect(t, &atB, arrives...)
	if state, why, err := target.State(t.Context(), dom); err != nil || state != libvirt.StateRunning || why != libvirt.RunningMigrated {
		t.Errorf("at the target: %d, %d, %v", state, why, err)
	}
}

// The fake's migrations tell the same.
func TestTheFakeMigratesLikeTheRealOne(t *testing.T) {
	a, b := libvirttest.New(t), libvirttest.New(t)
	a.Add(libvirttest.Guest{Name: "vm1", State: libvirt.StateRunning, Transient: true})
	var atA, atB collector
	source, target := started(t, a), started(t, b)
	ok(t, source.Subscribe(t.Context(), atA.take), target.Subscribe(t.Context(), atB.take))
	expect(t, &atA, "connected")
	expect(t, &atB, "connected")
	for _, fails := range []bool{true, false} {
		a.LeaveBegins("vm1")
		job, err := source.Job(t.Context(), libvirt.Domain{Name: "vm1", UUID: libvirttest.UUIDOf("vm1")})
		if err != nil || job.Operation != libvirt.OperationMigrationOut {
			t.Errorf("job %v, %v", job, err)
		}
		b.ArriveBegins(libvirttest.Guest{Name: "vm1"})
		if fails {
			a.LeaveFails("vm1")
			b.ArriveFails("vm1")
			expect(t, &atA, "vm1 iteration 1")
			expect(t, &atB, comesNot...)
			continue
		}
		a.LeaveSwitches("vm1")
		b.ArriveEnds("vm1")
		a.LeaveEnds("vm1")
		expect(t, &atA, leaves...)
		expect(t, &atB, arrives...)
	}
	list, err := source.List(context.Background(), 0)
	if err != nil || len(list) != 0 {
		t.Errorf("at the source: %v, %v", list, err)
	}
}

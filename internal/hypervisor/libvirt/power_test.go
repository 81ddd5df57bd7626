package libvirt

import (
	"context"
	"errors"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	lv "ringfence/internal/libvirt"
	"ringfence/internal/libvirt/libvirttest"
	"ringfence/internal/wire/virnet"
)

// endsWith has the fake notice the end of a process, as libvirtd does.
func endsWith(t *testing.T, s *libvirttest.Server, p *process, name string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Wait()
		s.Change(name, func(g *libvirttest.Guest) { g.State, g.Reason = lv.StateShutoff, lv.ShutoffCrashed }, libvirttest.Lifecycle(lv.Stopped, lv.StoppedFailed))
	}()
	t.Cleanup(func() { p.end(); <-done })
}

func TestOffWhereLibvirtHangs(t *testing.T) {
	for what, hangs := range map[string]map[virnet.Proc]bool{
		"destroy":       {virnet.ProcDestroy: true},
		"the guest":     {virnet.ProcDestroy: true, virnet.ProcJobStats: true, virnet.ProcSetMetadata: true},
		"all of it":     {virnet.ProcDestroy: true, virnet.ProcLookupByUUID: true, virnet.ProcState: true, virnet.ProcJobStats: true},
		"and no longer": {},
	} {
		t.Run(what, func(t *testing.T) {
			f, s, p, life := started(t, "vm1")
			events := f.watch()
			endsWith(t, s, p, "vm1")
			s.Hook(func(c libvirttest.Call) libvirttest.Answer {
				if c.Proc == virnet.ProcDestroy && len(hangs) == 0 {
					_ = p.Process.Kill()
					return libvirttest.Answer{Fail: &virnet.Error{Code: int32(lv.CodeOperationInvalid), Message: "domain is not running"}}
				}
				return libvirttest.Answer{Hang: hangs[c.Proc]}
			})
			ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
			defer cancel()
			if err := f.Abort(ctx, guestID("vm1"), life); !errors.Is(err, hypervisor.ErrNotRunning) {
				t.Fatalf("hostd aborts before off, and hears: %v", err)
			}
			if err := f.Off(ctx, guestID("vm1"), life); err != nil {
				t.Fatal(err)
			}
			f.want(events, "vm1", life, "ended/failed")
		})
	}
}

func TestOffIsUnknownWithoutTheWordOfLibvirt(t *testing.T) {
	f, s, p, life := started(t, "vm1")
	s.Hook(func(c libvirttest.Call) libvirttest.Answer {
		return libvirttest.Answer{Hang: c.Proc == virnet.ProcDestroy}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := f.Off(ctx, guestID("vm1"), life) // its process dies; libvirt never says so
	for _, claim := range []error{nil, hypervisor.ErrNotRunning, hypervisor.ErrNoGuest, hypervisor.ErrOtherLife} {
		if errors.Is(err, claim) {
			t.Errorf("off says %v", err)
		}
	}
	_ = p.Wait()
}

func TestOffDoesNotKillWhatMayHaveSwitchedOver(t *testing.T) {
	f, s, p, life := started(t, "vm1")
	events := f.watch()
	s.LeaveBegins("vm1")
	f.want(events, "vm1", life, "leaving")
	s.Hook(func(c libvirttest.Call) libvirttest.Answer {
		return libvirttest.Answer{Hang: c.Proc == virnet.ProcJobStats || c.Proc == virnet.ProcLookupByUUID}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := f.Abort(ctx, guestID("vm1"), life); err == nil || errors.Is(err, hypervisor.ErrNotRunning) {
		t.Errorf("abort, where nothing can be learned: %v", err)
	}
	if err := f.Off(ctx, guestID("vm1"), life); err == nil {
		t.Error("off of a guest that leaves, of which nothing can be learned, is done")
	}
	if r := f.hosts[0].known(libvirttest.UUIDOf("vm1")).now(); r == nil || r.process.Exited() {
		t.Error("its process was killed")
	}
	p.end()
}

func TestOffOfAGuestThatLeaves(t *testing.T) {
	f, s, p, life := started(t, "vm1")
	events := f.watch()
	s.LeaveBegins("vm1")
	f.want(events, "vm1", life, "leaving")
	aborted := false
	s.Hook(func(c libvirttest.Call) libvirttest.Answer {
		switch c.Proc {
		case virnet.ProcAbortJob:
			aborted = true
		case virnet.ProcDestroy:
			if !aborted {
				t.Error("it is destroyed before its migration was aborted")
			}
			p.end()
		}
		return libvirttest.Answer{}
	})
	if err := f.Off(t.Context(), guestID("vm1"), life); err != nil {
		t.Fatal(err)
	}
	f.want(events, "vm1", life, "ended/destroyed")
}

func TestAStampInTheStoredConfigurationIsNoLife(t *testing.T) {
	s := libvirttest.New(t)
	f := newFakes(t, s)
	f.qemu("vm1")
	s.Add(libvirttest.Guest{Name: "vm1", State: lv.StateRunning, XML: stamped("vm1", "old-boot:1:1", "old-boot:1:1")})
	if life := f.life("vm1"); life == "old-boot:1:1" || life.HostBoot() != f.hostBoot {
		t.Errorf("a cold start took up life %s", life)
	}
}

func TestRevertsAreToldOnceAndRestoresAreNone(t *testing.T) {
	const life = "old-boot:1:1"
	s := libvirttest.New(t)
	f := newFakes(t, s)
	f.qemu("vm1", "-loadvm", "s1")
	s.Add(libvirttest.Guest{Name: "vm1", State: lv.StateRunning, Reason: lv.RunningFromSnapshot, XML: stamped("vm1", life, "old-boot:1:1")})
	f.settle("vm1")
	f.want(f.watch(), "vm1", life, "started/from snapshot")
	g, _ := s.Get("vm1")
	if g.Metadata[stampNamespace] == "" {
		t.Error("the guest was not stamped anew, so the next driver will tell it again")
	}

	f.qemu("vm2", "-incoming", "defer")
	s.Add(libvirttest.Guest{Name: "vm2", XML: stamped("vm2", life+"2", "x")})
	events := f.watch()
	s.Change("vm2", func(g *libvirttest.Guest) { g.ID, g.State = 7, lv.StateRunning },
		libvirttest.Lifecycle(lv.Started, lv.StartedRestored), libvirttest.Lifecycle(lv.Resumed, lv.ResumedFromSnapshot))
	f.want(events, "vm2", life+"2", "started/restored")
	s.Change("vm2", func(*libvirttest.Guest) {}, libvirttest.Lifecycle(lv.Resumed, lv.ResumedFromSnapshot))
	f.want(events, "vm2", life+"2", "started/from snapshot") // old libvirts load it into the process that runs

	f.qemu("vm3")
	s.Add(libvirttest.Guest{Name: "vm3", State: lv.StateRunning})
	f.settle("vm3")
	cold := f.life("vm3")
	events = f.watch()
	s.Change("vm3", func(*libvirttest.Guest) {}, libvirttest.Lifecycle(lv.Resumed, lv.ResumedFromSnapshot))
	f.want(events, "vm3", cold, "started/from snapshot")
}

func TestWhatHappensInsideALife(t *testing.T) {
	f, s, _, life := started(t, "vm1")
	events := f.watch()
	nothing := func(*libvirttest.Guest) {}
	s.Change("vm1", nothing, libvirttest.Reboot(), libvirttest.Watchdog(2), libvirttest.Lifecycle(lv.Crashed, lv.CrashedByPanic))
	f.want(events, "vm1", life, "inside/reset", "inside", "inside/panicked")
	s.Change("vm1", func(g *libvirttest.Guest) { g.State, g.Reason = lv.StateCrashed, lv.CrashedPanicked })
	f.wantState("vm1", hypervisor.StatePaused, life) // preserved: its process is there
	s.Change("vm1", func(g *libvirttest.Guest) { g.State, g.Reason = lv.StatePaused, lv.PausedIOError },
		libvirttest.IOError(lv.IOErrorPause, "/x", "vda", "enospc"), libvirttest.Lifecycle(lv.Suspended, lv.SuspendedIOError))
	f.want(events, "vm1", life, "paused/io error")
	s.Change("vm1", func(g *libvirttest.Guest) { g.State = lv.StateRunning }, libvirttest.Lifecycle(lv.Resumed, lv.ResumedUnpaused))
	s.Change("vm1", func(g *libvirttest.Guest) { g.State = lv.StatePMSuspended }, libvirttest.Lifecycle(lv.PMSuspended, 0))
	f.want(events, "vm1", life, "unpaused/user", "paused/user")
	f.wantState("vm1", hypervisor.StatePaused, life)
}

func TestXenSaysLittle(t *testing.T) {
	s := libvirttest.NewXen(t)
	s.Add(libvirttest.Guest{Name: "vm1"})
	s.Add(libvirttest.Guest{Name: "vm2", State: lv.StateRunning})
	f := newFakes(t, s)
	f.settle("vm2")
	list, err := f.List(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("list %+v, %v: Domain-0 is no guest", list, err)
	}
	if g, err := f.Find(t.Context(), "Domain-0"); !errors.Is(err, hypervisor.ErrNoGuest) {
		t.Errorf("Domain-0 is found: %+v, %v", g, err)
	}
	if err := f.Off(t.Context(), "00000000-0000-0000-0000-000000000000", "x"); !errors.Is(err, hypervisor.ErrNoGuest) {
		t.Errorf("off of Domain-0: %v", err)
	}
	events := f.watch()
	life, err := f.On(t.Context(), guestID("vm1"))
	if err != nil || life.HostBoot() != f.hostBoot {
		t.Fatalf("life %s, %v", life, err)
	}
	f.want(events, "vm1", life, "started/booted")
	if err := f.Claim(t.Context(), guestID("vm1"), life, "prod"); !errors.Is(err, hypervisor.ErrNoClaims) {
		t.Errorf("claim where no metadata is kept: %v", err)
	}
	if err := f.Pause(t.Context(), guestID("vm1"), life); err != nil {
		t.Error(err)
	}
	if err := f.Off(t.Context(), guestID("vm1"), life); err != nil {
		t.Error(err)
	}
	f.want(events, "vm1", life, "paused/user", "ended/destroyed")
	if next, err := f.On(t.Context(), guestID("vm1")); err != nil || next == life {
		t.Errorf("the next life is %s, %v", next, err)
	}
	other := f.life("vm2")
	for range events { // the start
		break
	}
	s.Change("vm2", func(g *libvirttest.Guest) { g.State = lv.StateShutoff }, libvirttest.Lifecycle(lv.Stopped, 0))
	f.want(events, "vm2", other, "ended") // it may have been saved or have migrated
}

func TestATransientGuestComesBackByReboot(t *testing.T) {
	f, s, p, life := started(t, "vm1")
	s.Change("vm1", func(g *libvirttest.Guest) { g.Transient = true })
	s.Hook(func(c libvirttest.Call) libvirttest.Answer {
		switch c.Proc {
		case virnet.ProcDestroy:
			p.end()
		case virnet.ProcCreateXML:
			f.qemu("vm1")
		}
		return libvirttest.Answer{}
	})
	next, err := f.Reboot(t.Context(), guestID("vm1"), life)
	if err != nil || next == "" || next == life {
		t.Errorf("reboot: life %s, %v", next, err)
	}
	if _, err := f.Reboot(t.Context(), guestID("vm1"), life); !errors.Is(err, hypervisor.ErrOtherLife) {
		t.Errorf("reboot of another life: %v", err)
	}
}

func TestATestDriverKeepsNoLifeOverItsConnection(t *testing.T) {
	number := uint64(1)
	find := domainNumbers("boot", func() uint64 { return number })
	a, errA := find(lv.Domain{ID: 1}, nil)
	number++
	b, errB := find(lv.Domain{ID: 1}, nil)
	if errA != nil || errB != nil || a.fresh == b.fresh || a.key == b.key {
		t.Errorf("%+v and %+v, %v %v", a, b, errA, errB)
	}
	if _, err := find(lv.Domain{ID: -1}, nil); !errors.Is(err, errNoProcess) {
		t.Errorf("a domain that does not run: %v", err)
	}
}

// What a name meant the last time is a guess that saves time and nothing else.
func TestAGuestIsTheOneThatHasTheNameNow(t *testing.T) {
	f, s, _, life := started(t, "red")
	s.Add(libvirttest.Guest{Name: "blue", State: lv.StateShutoff, Reason: lv.ShutoffShutdown})
	look := func(name string, id cluster.GuestID, state hypervisor.GuestState, life cluster.LifeID) {
		t.Helper()
		got, err := f.Find(t.Context(), name)
		if err != nil || got.ID != id || got.State != state || got.Life != life {
			t.Errorf("%s is %+v, %v; want %s, %s, life %q", name, got, err, id, state, life)
		}
	}
	if _, err := f.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		look("red", guestID("red"), hypervisor.StateRunning, life)
		look("blue", guestID("blue"), hypervisor.StateOff, "")
	}
	s.Change("red", func(g *libvirttest.Guest) { g.Name = "was-red" })
	s.Change("blue", func(g *libvirttest.Guest) { g.Name = "red" })
	look("red", guestID("blue"), hypervisor.StateOff, "")
	if got, err := f.Find(t.Context(), "blue"); !errors.Is(err, hypervisor.ErrNoGuest) {
		t.Errorf("a name that no guest has any more: %+v, %v", got, err)
	}
	s.Change("red", func(g *libvirttest.Guest) { g.State, g.Reason = lv.StateRunning, lv.RunningBooted })
	if got, err := f.Find(t.Context(), "red"); err == nil && got.Life == life {
		t.Errorf("the guest has the life of another one: %+v", got)
	}
}

package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	lv "ringfence/internal/libvirt"
	"ringfence/internal/libvirt/libvirttest"
	"ringfence/internal/wire/virnet"
)

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// fakes is a driver over strict fakes of libvirtd, with processes that look like
// QEMU's.
type fakes struct {
	*Driver
	t    *testing.T
	dir  string
	uris []string
}

// newFakes connects a driver to fakes, each under a URI of its own.
func newFakes(t *testing.T, servers ...*libvirttest.Server) *fakes {
	t.Helper()
	f := &fakes{t: t, dir: t.TempDir()}
	dial := map[string]dialer{}
	for i, s := range servers {
		uri := fmt.Sprintf("%s?socket=/fake-%d", s.URI(), i)
		f.uris = append(f.uris, uri)
		dial[uri] = s.Dial
	}
	var err error
	f.Driver, err = newDriver(Config{URIs: f.uris, RunDir: f.dir}, testLog(t), seams{dial: dial, patience: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	for _, h := range f.hosts {
		await(t, "a fake is connected", func() bool { up, _ := h.condition(); return up })
	}
	return f
}

func guestID(name string) cluster.GuestID {
	return cluster.GuestID(libvirttest.UUIDOf(name).String())
}

// process is a process that looks like a guest's QEMU.
type process struct {
	*exec.Cmd
	end func()
}

// qemu starts one and writes its pid file.
func (f *fakes) qemu(name string, args ...string) *process {
	f.t.Helper()
	args = append([]string{"-c", "while read -r _; do :; done", "qemu", "-uuid", string(guestID(name))}, args...)
	p := &process{Cmd: exec.Command("/bin/sh", args...)}
	in, err := p.StdinPipe()
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		f.t.Fatal(err)
	}
	p.end = func() {
		in.Close()
		_ = p.Process.Kill()
		_ = p.Wait()
	}
	f.t.Cleanup(p.end)
	pid := strconv.Itoa(p.Process.Pid)
	await(f.t, "the process has its command line", func() bool {
		line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		return strings.Contains(string(line), "-uuid")
	})
	if err := os.WriteFile(filepath.Join(f.dir, name+".pid"), []byte(pid), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return p
}

func (f *fakes) life(name string) cluster.LifeID {
	f.t.Helper()
	g, err := f.State(f.t.Context(), guestID(name))
	if err != nil {
		f.t.Fatal(err)
	}
	return g.Life
}

func (f *fakes) wantState(name string, state hypervisor.GuestState, life cluster.LifeID) {
	f.t.Helper()
	want := hypervisor.Guest{ID: guestID(name), Name: name, State: state, Life: life}
	got, err := f.State(f.t.Context(), guestID(name))
	if err != nil || got != want {
		f.t.Errorf("state %+v, error %v, want %+v", got, err, want)
	}
}

// stamped is the configuration of a guest that carries a stamp.
func stamped(name string, life cluster.LifeID, process string) string {
	return fmt.Sprintf("<domain type='kvm'><name>%s</name><uuid>%s</uuid><metadata><r:life xmlns:r='%s' id='%s' process='%s'/></metadata></domain>",
		name, guestID(name), stampNamespace, life, process)
}

func (f *fakes) watch() <-chan hypervisor.Event {
	f.t.Helper()
	events, err := f.Watch(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return events
}

// want expects events of one guest, each as KIND or KIND/REASON, and then nothing
// for as long as a wrong one would need.
func (f *fakes) want(events <-chan hypervisor.Event, name string, life cluster.LifeID, want ...string) {
	f.t.Helper()
	var got []string
	for timeout := callTimeout; ; {
		if len(got) >= len(want) {
			timeout = 100 * time.Millisecond
		}
		select {
		case e, ok := <-events:
			if !ok {
				f.t.Fatalf("the stream broke behind %v", got)
			}
			if e.Guest != guestID(name) || e.Life != life {
				f.t.Errorf("event %+v, want of guest %s life %s", e, guestID(name), life)
			}
			got = append(got, strings.TrimSuffix(string(e.Kind)+"/"+string(e.Reason), "/"))
			continue
		case <-time.After(timeout):
		}
		break
	}
	if diff := cmp.Diff(want, got); diff != "" {
		f.t.Errorf("events (-want +got):\n%s", diff)
	}
}

// started is a guest that was started cold and seen.
func started(t *testing.T, name string) (*fakes, *libvirttest.Server, *process, cluster.LifeID) {
	t.Helper()
	s := libvirttest.New(t)
	f := newFakes(t, s)
	p := f.qemu(name)
	s.Add(libvirttest.Guest{Name: name, State: lv.StateRunning, Reason: lv.RunningBooted})
	life := f.life(name)
	f.settle(name)
	return f, s, p, life
}

// settle makes what runs known as if the connection had just come up.
func (f *fakes) settle(names ...string) {
	for _, h := range f.hosts {
		h.connected(f.ctx)
	}
	for _, name := range names {
		await(f.t, "the guest is known", func() bool {
			for _, h := range f.hosts {
				if g := h.known(libvirttest.UUIDOf(name)); g != nil {
					g.mu.Lock()
					done := g.current != nil && !g.working
					g.mu.Unlock()
					if done {
						return true
					}
				}
			}
			return false
		})
	}
}

func TestAMigrationAsItsSourceTellsIt(t *testing.T) {
	t.Run("it goes", func(t *testing.T) {
		f, s, p, life := started(t, "vm1")
		events := f.watch()
		s.LeaveBegins("vm1")
		f.want(events, "vm1", life, "leaving")
		s.LeaveSwitches("vm1")
		f.wantState("vm1", hypervisor.StateRunning, life)
		p.end()
		s.LeaveEnds("vm1")
		f.want(events, "vm1", life, "ended/migrated")
		f.wantState("vm1", hypervisor.StateOff, "")
	})
	t.Run("too fast for its job to be seen", func(t *testing.T) {
		f, s, p, life := started(t, "vm1")
		events := f.watch()
		p.end()
		s.LeaveSwitches("vm1")
		s.LeaveEnds("vm1")
		f.want(events, "vm1", life, "leaving", "ended/migrated")
	})
	t.Run("it fails before the switch, which nobody tells", func(t *testing.T) {
		f, s, _, life := started(t, "vm1")
		events := f.watch()
		s.LeaveBegins("vm1")
		f.want(events, "vm1", life, "leaving")
		s.LeaveFails("vm1")
		f.want(events, "vm1", life, "stayed")
		f.wantState("vm1", hypervisor.StateRunning, life)
	})
	t.Run("it fails behind the switch", func(t *testing.T) {
		f, s, _, life := started(t, "vm1")
		events := f.watch()
		s.LeaveBegins("vm1")
		s.LeaveSwitches("vm1")
		f.want(events, "vm1", life, "leaving")
		s.LeaveFails("vm1")
		f.want(events, "vm1", life, "stayed")
	})
}

func TestAMigrationThatEndsOtherwiseAtItsSource(t *testing.T) {
	t.Run("post-copy: the life is elsewhere while a rest is here", func(t *testing.T) {
		f, s, p, life := started(t, "vm1")
		events := f.watch()
		s.LeaveBegins("vm1")
		s.LeaveSwitches("vm1")
		s.Change("vm1", func(g *libvirttest.Guest) { g.Reason = lv.PausedPostcopy }, libvirttest.Lifecycle(lv.Suspended, lv.SuspendedPostcopy))
		f.want(events, "vm1", life, "leaving", "ended/migrated")
		f.wantState("vm1", hypervisor.StateOff, "")
		if err := f.Off(t.Context(), guestID("vm1"), life); !errors.Is(err, hypervisor.ErrNotRunning) {
			t.Errorf("off where the life is not: %v", err)
		}
		// The rest crashes: no end of the life.
		p.end()
		s.Change("vm1", func(g *libvirttest.Guest) { g.State, g.Reason = lv.StateShutoff, lv.ShutoffCrashed }, libvirttest.Lifecycle(lv.Stopped, lv.StoppedFailed))
		f.want(events, "vm1", life)
	})
	t.Run("the process dies while it leaves", func(t *testing.T) {
		f, s, p, life := started(t, "vm1")
		events := f.watch()
		s.LeaveBegins("vm1")
		f.want(events, "vm1", life, "leaving")
		p.end()
		s.Change("vm1", func(g *libvirttest.Guest) { g.State = lv.StateShutoff }, libvirttest.Lifecycle(lv.Stopped, lv.StoppedFailed))
		f.want(events, "vm1", life, "ended/failed") // hostd makes nothing of it: the life was leaving
	})
	t.Run("a save is none", func(t *testing.T) {
		f, s, p, life := started(t, "vm1")
		events := f.watch()
		s.Change("vm1", func(g *libvirttest.Guest) {
			g.State, g.Reason, g.Job = lv.StatePaused, lv.PausedSave, lv.Job{Kind: lv.JobUnbounded, Operation: lv.OperationSave}
		}, libvirttest.Lifecycle(lv.Suspended, lv.SuspendedPaused), libvirttest.Iteration(1))
		f.want(events, "vm1", life)
		p.end()
		s.Change("vm1", func(g *libvirttest.Guest) { g.State, g.Saved = lv.StateShutoff, true }, libvirttest.Lifecycle(lv.Stopped, lv.StoppedSaved))
		f.want(events, "vm1", life, "ended/saved")
		f.wantState("vm1", hypervisor.StateSaved, "")
	})
}

// arrive begins an arrival of vm1 with that configuration.
func arrive(t *testing.T, xml string) (*fakes, *libvirttest.Server, *process, <-chan hypervisor.Event) {
	t.Helper()
	s := libvirttest.New(t)
	f := newFakes(t, s)
	events := f.watch()
	p := f.qemu("vm1", "-incoming", "defer")
	s.ArriveBegins(libvirttest.Guest{Name: "vm1", XML: xml})
	return f, s, p, events
}

func TestAMigrationAsItsTargetTellsIt(t *testing.T) {
	const life = cluster.LifeID("other-boot:5:55")
	t.Run("it comes, under the life that it brings", func(t *testing.T) {
		f, s, p, events := arrive(t, stamped("vm1", life, "other-boot:5:55"))
		f.want(events, "vm1", life, "arriving")
		f.wantState("vm1", hypervisor.StateArriving, life)
		f.want(f.watch(), "vm1", life, "arriving") // told once more to who comes now
		s.ArriveEnds("vm1")
		f.want(events, "vm1", life, "started/migrated")
		f.wantState("vm1", hypervisor.StateRunning, life)
		p.end()
		s.Change("vm1", func(g *libvirttest.Guest) { g.State = lv.StateShutoff }, libvirttest.Lifecycle(lv.Stopped, lv.StoppedCrashed))
		f.want(events, "vm1", life, "ended/crashed")
	})
	t.Run("it comes paused", func(t *testing.T) {
		f, s, _, events := arrive(t, stamped("vm1", life, "other-boot:5:55"))
		s.Change("vm1", func(g *libvirttest.Guest) { g.Reason, g.Job = lv.PausedUser, lv.Job{} }, libvirttest.Lifecycle(lv.Suspended, lv.SuspendedPaused))
		f.want(events, "vm1", life, "arriving", "started/migrated", "paused/user")
		f.wantState("vm1", hypervisor.StatePaused, life)
	})
	t.Run("it fails", func(t *testing.T) {
		f, s, p, events := arrive(t, stamped("vm1", life, "other-boot:5:55"))
		f.want(events, "vm1", life, "arriving")
		p.end()
		s.ArriveFails("vm1")
		f.want(events, "vm1", life, "stayed")
	})
	t.Run("post-copy, which fails behind the switch", func(t *testing.T) {
		f, s, _, events := arrive(t, stamped("vm1", life, "other-boot:5:55"))
		s.Change("vm1", func(g *libvirttest.Guest) { g.State, g.Reason = lv.StateRunning, lv.RunningPostcopy }, libvirttest.Lifecycle(lv.Resumed, lv.ResumedPostcopy))
		s.ArriveEnds("vm1")
		f.want(events, "vm1", life, "arriving", "started/migrated")
		s.Change("vm1", func(g *libvirttest.Guest) { g.State, g.Reason = lv.StatePaused, lv.PausedPostcopyFailed }, libvirttest.Lifecycle(lv.Suspended, lv.SuspendedPostcopyFailed))
		f.want(events, "vm1", life, "paused/failed")
		f.wantState("vm1", hypervisor.StatePaused, life)
	})
}

func TestAnArrivalOfAnotherKind(t *testing.T) {
	const life = cluster.LifeID("other-boot:5:55")
	t.Run("from a host without a driver: its life begins when it runs here", func(t *testing.T) {
		f, s, p, events := arrive(t, "")
		f.wantState("vm1", hypervisor.StateArriving, "")
		s.ArriveEnds("vm1")
		await(t, "it runs", func() bool { return f.life("vm1") != "" })
		own := f.life("vm1")
		if want := ":" + strconv.Itoa(p.Process.Pid) + ":"; !strings.Contains(string(own), want) {
			t.Errorf("life %s, want one of the process%s", own, want)
		}
		f.want(events, "vm1", own, "started/migrated")
		if g, _ := s.Get("vm1"); !strings.Contains(g.Metadata[stampNamespace], string(own)) {
			t.Errorf("the guest carries %v", g.Metadata)
		}
	})
	t.Run("off refuses it, and its life is not ended", func(t *testing.T) {
		f, s, p, events := arrive(t, stamped("vm1", life, "other-boot:5:55"))
		f.want(events, "vm1", life, "arriving")
		s.Hook(func(c libvirttest.Call) libvirttest.Answer {
			if c.Proc == virnet.ProcDestroy {
				p.end()
			}
			return libvirttest.Answer{}
		})
		if _, err := f.On(t.Context(), guestID("vm1")); !errors.Is(err, hypervisor.ErrRunning) {
			t.Errorf("on of a guest that arrives: %v", err)
		}
		if err := f.Off(t.Context(), guestID("vm1"), "another"); !errors.Is(err, hypervisor.ErrNotRunning) {
			t.Errorf("off of another life: %v", err)
		}
		if err := f.Off(t.Context(), guestID("vm1"), life); !errors.Is(err, hypervisor.ErrNotRunning) {
			t.Errorf("off: %v", err)
		}
		f.want(events, "vm1", life, "stayed")
	})
}

func TestALostConnectionMakesGuestsUnknown(t *testing.T) {
	one, two := libvirttest.New(t), libvirttest.New(t)
	f := newFakes(t, one, two)
	f.qemu("vm1")
	two1 := f.qemu("vm2")
	one.Add(libvirttest.Guest{Name: "vm1", State: lv.StateRunning})
	two.Add(libvirttest.Guest{Name: "vm2", State: lv.StateRunning})
	two.Add(libvirttest.Guest{Name: "vm3"})
	life1, life2 := f.life("vm1"), f.life("vm2")
	if _, err := f.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.settle("vm1", "vm2")
	events := f.watch()
	two.Stop()
	await(t, "the stream ends", func() bool {
		select {
		case _, open := <-events:
			return !open
		default:
			return false
		}
	})
	f.wantState("vm1", hypervisor.StateRunning, life1)
	for _, name := range []string{"vm2", "vm3", "vm4"} {
		if g, err := f.State(t.Context(), guestID(name)); !errors.Is(err, hypervisor.ErrUnavailable) {
			t.Errorf("a guest that may be behind the lost connection is %+v, %v", g, err)
		}
	}
	list, err := f.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]hypervisor.GuestState{}
	for _, g := range list {
		got[g.Name] = g.State
	}
	want := map[string]hypervisor.GuestState{"vm1": hypervisor.StateRunning, "vm2": hypervisor.StateUnknown, "vm3": hypervisor.StateUnknown}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	if err := f.Check(t.Context()); !errors.Is(err, hypervisor.ErrUnavailable) || !strings.Contains(err.Error(), f.uris[1]) {
		t.Errorf("check: %v", err)
	}
	one.Stop()
	await(t, "there is no listing", func() bool { _, err := f.List(t.Context()); return errors.Is(err, hypervisor.ErrUnavailable) })
	await(t, "there is no watch", func() bool { _, err := f.Watch(t.Context()); return errors.Is(err, hypervisor.ErrUnavailable) })

	// vm2 dies under the eyes of the driver, while libvirt is away, which says how.
	two1.end()
	two.Change("vm2", func(g *libvirttest.Guest) { g.State, g.Reason = lv.StateShutoff, lv.ShutoffCrashed })
	two.Restart()
	events = nil
	await(t, "there is a watch", func() bool {
		var err error
		events, err = f.Watch(t.Context())
		return err == nil
	})
	f.want(events, "vm2", life2, "ended/crashed")
}

func TestAnEndBehindAGapThatLeavesDoubtIsNone(t *testing.T) {
	for why, change := range map[string]func(*libvirttest.Guest){
		"libvirt says migrated": func(g *libvirttest.Guest) { g.State, g.Reason = lv.StateShutoff, lv.ShutoffMigrated },
		"libvirt says saved":    func(g *libvirttest.Guest) { g.State, g.Reason = lv.StateShutoff, lv.ShutoffSaved },
		"libvirt says nothing":  func(g *libvirttest.Guest) { g.State, g.Reason = lv.StateShutoff, lv.ShutoffUnknown },
		"libvirt says failed":   func(g *libvirttest.Guest) { g.State, g.Reason = lv.StateShutoff, lv.ShutoffFailed },
		"the guest is gone":     func(g *libvirttest.Guest) { g.State, g.Transient = lv.StateShutoff, true },
	} {
		t.Run(why, func(t *testing.T) {
			f, s, p, life := started(t, "vm1")
			s.Stop()
			await(t, "it is noticed", func() bool { up, _ := f.hosts[0].condition(); return !up })
			p.end()
			s.Change("vm1", change)
			s.Restart()
			events := make(<-chan hypervisor.Event)
			await(t, "there is a watch", func() (ok bool) {
				var err error
				events, err = f.Watch(t.Context())
				return err == nil
			})
			e := <-events
			if e.Life != life || e.Kind != hypervisor.EventEnded || e.Reason.Ends() {
				t.Errorf("told %+v", e)
			}
		})
	}
}

// A guest is started anew within a gap, and its new process cannot be found at once.
// The end of the former run must not wait for an event: the next one is the new run's,
// and would be taken for it, while the new run had none.
func TestAGuestThatIsStartedAnewWithinAGap(t *testing.T) {
	f, s, p, life := started(t, "vm1")
	s.Stop()
	await(t, "it is noticed", func() bool { up, _ := f.hosts[0].condition(); return !up })
	p.end()
	if err := os.Remove(filepath.Join(f.dir, "vm1.pid")); err != nil {
		t.Fatal(err)
	}
	s.Change("vm1", func(g *libvirttest.Guest) { g.ID, g.State, g.Reason = 9, lv.StateRunning, lv.RunningBooted })
	s.Restart()
	var events <-chan hypervisor.Event
	await(t, "there is a watch", func() (ok bool) {
		var err error
		events, err = f.Watch(t.Context())
		return err == nil
	})
	select {
	case e := <-events:
		if e.Life != life || e.Kind != hypervisor.EventEnded || e.Reason.Ends() {
			t.Errorf("told %+v", e)
		}
	case <-time.After(callTimeout):
		t.Fatal("the end of the former run is not told")
	}
	f.qemu("vm1")
	g := f.hosts[0].guest(lv.Domain{UUID: libvirttest.UUIDOf("vm1")})
	await(t, "the new run is known, and no other", func() (ok bool) {
		g.set(func() { ok = g.current != nil && g.current.life != life && g.current.started && len(g.former) == 0 })
		return ok
	})
}

// A definition that a migration has left behind is told from a guest that is off,
// also by a driver that was not there.
func TestAGuestThatWentToAnotherHostHasDeparted(t *testing.T) {
	s := libvirttest.New(t)
	s.Add(libvirttest.Guest{Name: "vm1", Reason: lv.ShutoffMigrated})
	s.Add(libvirttest.Guest{Name: "vm2", Reason: lv.ShutoffShutdown})
	f := newFakes(t, s)
	for name, want := range map[string]bool{"vm1": true, "vm2": false} {
		if got, err := f.Departed(t.Context(), guestID(name)); got != want || err != nil {
			t.Errorf("%s has departed: %v, error %v; want %v", name, got, err, want)
		}
	}
	if _, err := f.Departed(t.Context(), guestID("vm3")); !errors.Is(err, hypervisor.ErrNoGuest) {
		t.Errorf("a guest that is not there: %v", err)
	}
}

func TestOneGuestInTwoConnections(t *testing.T) {
	one, two := libvirttest.New(t), libvirttest.New(t)
	f := newFakes(t, one, two)
	f.qemu("vm1")
	one.Add(libvirttest.Guest{Name: "vm1"})
	two.Add(libvirttest.Guest{Name: "vm1", State: lv.StateRunning})
	life := f.life("vm1")
	if life == "" {
		t.Fatal("it is taken from where it does not run")
	}
	f.wantState("vm1", hypervisor.StateRunning, life)
	one.Change("vm1", func(g *libvirttest.Guest) { g.ID, g.State = 9, lv.StateRunning })
	for what, err := range map[string]error{
		"state": func() error { _, err := f.State(t.Context(), guestID("vm1")); return err }(),
		"find":  func() error { _, err := f.Find(t.Context(), "vm1"); return err }(),
		"off":   f.Off(t.Context(), guestID("vm1"), life),
	} {
		if err == nil || !strings.Contains(err.Error(), f.uris[0]) || !strings.Contains(err.Error(), f.uris[1]) {
			t.Errorf("%s of a guest that runs twice: %v", what, err)
		}
	}
	list, err := f.List(t.Context())
	if err != nil || len(list) != 1 || list[0].State != hypervisor.StateUnknown || list[0].Life != "" {
		t.Errorf("list says %+v, %v", list, err)
	}
}

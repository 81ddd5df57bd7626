package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	lv "ringfence/internal/libvirt"
	"ringfence/internal/libvirt/libvirtlab"
)

// farmGuests is how many guests run beside each other.
const farmGuests = 20

// farm is a host with many guests and a driver that watches them.
type farm struct {
	*real
	*Driver
	t      *testing.T
	s      *lv.Session
	guests []libvirtlab.Guest
	lives  []cluster.LifeID

	mu     sync.Mutex // guards events
	events []hypervisor.Event
}

func (f *farm) id(n int) cluster.GuestID { return cluster.GuestID(f.guests[n].UUID) }

func (f *farm) dom(n int) lv.Domain {
	uuid, err := lv.ParseUUID(f.guests[n].UUID)
	if err != nil {
		f.t.Fatal(err)
	}
	return lv.Domain{Name: f.guests[n].Name, UUID: uuid, ID: -1}
}

// follow collects events as hostd does: a stream that is lost is opened anew.
func (f *farm) follow(ctx context.Context) {
	for ctx.Err() == nil {
		events, err := f.Watch(ctx)
		if err != nil {
			_ = pause(ctx, 10*time.Millisecond)
			continue
		}
		for e := range events {
			f.mu.Lock()
			f.events = append(f.events, e)
			f.mu.Unlock()
		}
	}
}

// told waits for an event.
func (f *farm) told(n int, life cluster.LifeID, kind hypervisor.EventKind, why hypervisor.Reason) {
	f.t.Helper()
	want := hypervisor.Event{Guest: f.id(n), Life: life, Kind: kind, Reason: why}
	await(f.t, fmt.Sprintf("%+v is told", want), func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, e := range f.events {
			if e == want {
				return true
			}
		}
		return false
	})
}

// each does something to some guests at the same time.
func (f *farm) each(guests []int, do func(ctx context.Context, n int) error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), callTimeout)
	defer cancel()
	var group sync.WaitGroup
	for _, n := range guests {
		group.Go(func() {
			if err := do(ctx, n); err != nil {
				f.t.Errorf("guest %s: %v", f.guests[n].Name, err)
			}
		})
	}
	group.Wait()
}

func (f *farm) off(ctx context.Context, n int) error { return f.Off(ctx, f.id(n), f.lives[n]) }

// wantAlive checks by their logs that exactly these guests live.
func (f *farm) wantAlive(alive func(n int) bool) {
	f.t.Helper()
	before := make([]int, len(f.guests))
	for n, g := range f.guests {
		before[n] = g.Beats()
	}
	for n, g := range f.guests {
		if alive(n) {
			await(f.t, "guest "+g.Name+" beats", func() bool { return g.Beats() != before[n] })
		}
	}
	time.Sleep(stillFor)
	for n, g := range f.guests {
		if !alive(n) && g.Beats() != before[n] {
			f.t.Errorf("guest %s beats and should be dead or paused", g.Name)
		}
	}
}

// stillFor is longer than a guest that lives is silent.
const stillFor = 600 * time.Millisecond

func newFarm(t *testing.T) *farm {
	f := &farm{real: startReal(t, "farm"), t: t}
	f.s = f.session(t)
	for n := range farmGuests {
		g := f.Guest(200 + n)
		if n == 0 { // one whose memory can be kept in a snapshot
			disk := f.Path("files", "snap.qcow2")
			if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", disk, "16M").CombinedOutput(); err != nil {
				t.Fatalf("qemu-img: %v: %s", err, out)
			}
			g.XML = strings.Replace(g.XML, "<serial", "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='"+disk+"'/><target dev='hda' bus='ide'/></disk><serial", 1)
		}
		f.guests = append(f.guests, g)
		f.define(t, f.s, g.XML)
	}
	f.Driver = f.real.driver(t)
	f.lives = make([]cluster.LifeID, farmGuests)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.follow(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return f
}

func span(from, to int) (all []int) {
	for n := from; n < to; n++ {
		all = append(all, n)
	}
	return all
}

// TestTwentyRealGuests lives through all that happens to guests, several of them at
// a time, while libvirtd is killed in between.
func TestTwentyRealGuests(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("qemu-img"); os.Geteuid() == 0 && err != nil {
		t.Skip("SKIPPED: needs qemu-img: apt-get install --no-install-recommends qemu-utils")
	}
	f := newFarm(t)
	all := span(0, farmGuests)
	f.each(all, func(ctx context.Context, n int) (err error) {
		f.lives[n], err = f.On(ctx, f.id(n))
		return err
	})
	list, err := f.Driver.List(t.Context())
	if err != nil || len(list) != farmGuests {
		t.Fatalf("list: %d guests, %v", len(list), err)
	}
	for _, g := range list {
		if g.State != hypervisor.StateRunning || g.Life == "" {
			t.Errorf("listed: %+v", g)
		}
	}
	f.wantAlive(func(int) bool { return true })

	t.Log("off, pause, kill and save, several at a time")
	f.each(span(1, 5), f.off)
	f.each(span(5, 8), func(ctx context.Context, n int) error { return f.Pause(ctx, f.id(n), f.lives[n]) })
	f.each(span(8, 10), func(_ context.Context, n int) error { f.real.kill(t, f.id(n)); return nil })
	f.each(span(10, 12), func(ctx context.Context, n int) error { return f.s.ManagedSave(ctx, f.dom(n)) })
	for n := range farmGuests {
		switch {
		case n >= 1 && n < 5:
			f.told(n, f.lives[n], hypervisor.EventEnded, hypervisor.ReasonDestroyed)
		case n >= 8 && n < 10:
			f.told(n, f.lives[n], hypervisor.EventEnded, hypervisor.ReasonFailed)
		case n >= 10 && n < 12:
			f.told(n, f.lives[n], hypervisor.EventEnded, hypervisor.ReasonSaved)
		}
	}
	f.wantAlive(func(n int) bool { return n == 0 || n >= 12 })

	t.Log("on, unpause, restore, reboot")
	f.each(span(1, 5), func(ctx context.Context, n int) error {
		life, err := f.On(ctx, f.id(n))
		if life == f.lives[n] {
			t.Errorf("life %s came twice", life)
		}
		f.lives[n] = life
		return err
	})
	f.each(span(5, 8), func(ctx context.Context, n int) error { return f.Unpause(ctx, f.id(n), f.lives[n]) })
	f.each(span(10, 12), func(ctx context.Context, n int) error { _, err := f.s.Create(ctx, f.dom(n), 0); return err })
	for n := range 2 {
		f.told(10+n, f.lives[10+n], hypervisor.EventStarted, hypervisor.ReasonRestored)
	}
	f.each(span(12, 14), func(ctx context.Context, n int) error {
		life, err := f.Reboot(ctx, f.id(n), f.lives[n])
		if err == nil && life == f.lives[n] {
			t.Errorf("rebooted into the same life %s", life)
		}
		f.lives[n] = life
		return err
	})
	f.wantAlive(func(n int) bool { return n != 8 && n != 9 })
	f.Run("virsh", "-c", "qemu:///system", "reset", f.guests[18].Name)
	f.told(18, f.lives[18], hypervisor.EventInside, hypervisor.ReasonReset)
	f.qemuHangs()
	f.libvirtdDies()
	f.revert()
	f.leakedStamp()
}

// qemuHangs: a QEMU that does nothing any more is ended all the same, in time.
func (f *farm) qemuHangs() {
	pid := f.qemuOf(f.id(17))
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), 15*time.Second) // what hostd gives to off
	defer cancel()
	if err := f.off(ctx, 17); err != nil {
		f.t.Errorf("off of a guest whose QEMU hangs: %v", err)
	}
	if f.qemuOf(f.id(17)) != 0 {
		f.t.Error("its process is there")
	}
	life, err := f.On(f.t.Context(), f.id(17))
	if err != nil {
		f.t.Error(err)
	}
	f.lives[17] = life
}

// libvirtdDies: guests and driver outlive libvirtd; what ends meanwhile is told
// behind its return, and by a second driver nothing is known but what runs.
func (f *farm) libvirtdDies() {
	f.StopDaemon("KILL")
	await(f.t, "nothing is known", func() bool {
		_, err := f.State(f.t.Context(), f.id(14))
		return errors.Is(err, hypervisor.ErrUnavailable)
	})
	f.wantAlive(func(n int) bool { return n != 8 && n != 9 })
	f.real.kill(f.t, f.id(14))
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
	defer cancel()
	if err := f.off(ctx, 15); err == nil || errors.Is(err, hypervisor.ErrNotRunning) {
		f.t.Errorf("off without libvirtd: %v", err) // its process is killed; libvirt has not said so
	}
	f.StartDaemon()
	for n := 14; n < 16; n++ {
		f.told(n, f.lives[n], hypervisor.EventEnded, hypervisor.ReasonCrashed)
	}
	next := f.real.driver(f.t, func(c *Config) { c.HookSocket = "" }) // as behind a restart of hostd
	for n := range farmGuests {
		dead := n == 8 || n == 9 || n == 14 || n == 15
		for _, d := range []*Driver{f.Driver, next} {
			g, err := d.State(f.t.Context(), f.id(n))
			if want := f.lives[n]; err != nil || dead && g.State != hypervisor.StateOff || !dead && (g.State != hypervisor.StateRunning || g.Life != want) {
				f.t.Errorf("guest %d behind the return of libvirtd: %+v, %v; its life was %s", n, g, err, want)
			}
		}
	}
	f.wantAlive(func(n int) bool { return n != 8 && n != 9 && n != 14 && n != 15 })
}

// revert: a guest that goes back to an old memory image is told so, and is in the
// life of that image.
func (f *farm) revert() {
	f.Run("virsh", "-c", "qemu:///system", "snapshot-create-as", f.guests[0].Name, "s1")
	f.Run("virsh", "-c", "qemu:///system", "snapshot-revert", f.guests[0].Name, "s1")
	f.told(0, f.lives[0], hypervisor.EventStarted, hypervisor.ReasonFromSnapshot)
	f.mu.Lock()
	for _, e := range f.events {
		if e.Guest == f.id(0) && e.Kind == hypervisor.EventEnded && e.Reason.Ends() {
			f.t.Errorf("a revert is told as an end: %+v", e)
		}
	}
	f.mu.Unlock()
	await(f.t, "the reverted guest beats", func() bool { return f.guests[0].Lives(time.Second) })
	if err := f.Off(f.t.Context(), f.id(0), f.lives[0]); err != nil {
		f.t.Error(err)
	}
}

// leakedStamp: an administrator who defines a guest from its live configuration
// copies the stamp; the next cold start is a new life all the same.
func (f *farm) leakedStamp() {
	const n = 16
	f.s = f.session(f.t) // the former one went with libvirtd
	text, err := f.s.XML(f.t.Context(), f.dom(n), 0)
	if err != nil || !strings.Contains(text, string(f.lives[n])) {
		f.t.Fatalf("the guest carries no stamp of its life: %v", err)
	}
	if _, err := f.s.DefineXML(f.t.Context(), text); err != nil {
		f.t.Fatal(err)
	}
	if err := f.off(f.t.Context(), n); err != nil {
		f.t.Fatal(err)
	}
	life, err := f.On(f.t.Context(), f.id(n))
	if err != nil || life == f.lives[n] {
		f.t.Errorf("a cold start with a copied stamp: life %s, was %s, %v", life, f.lives[n], err)
	}
	if old, err := filepath.Glob(f.Path("run/ringfence/admitted/*")); err != nil || len(old) != 0 {
		f.t.Errorf("admissions were left: %v, %v", old, err)
	}
}

// TestLibvirtsTestDriver: where guests have no process, libvirt's word is all.
func TestLibvirtsTestDriver(t *testing.T) {
	t.Parallel()
	r := &real{libvirtlab.Start(t, "plain"), t}
	d := r.driver(t, func(c *Config) { c.URIs = []string{r.URI("test", "/default")} })
	g, err := d.Find(t.Context(), "test")
	if err != nil || g.State != hypervisor.StateRunning || g.Life.HostBoot() != d.hostBoot {
		t.Fatalf("found %+v, %v", g, err)
	}
	events, err := d.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := func(kind hypervisor.EventKind, life cluster.LifeID) {
		t.Helper()
		select {
		case e := <-events:
			if e.Kind != kind || e.Life != life {
				t.Errorf("told %+v, want %s of %s", e, kind, life)
			}
		case <-time.After(callTimeout):
			t.Fatalf("%s is not told", kind)
		}
	}
	if err := d.Pause(t.Context(), g.ID, g.Life); err != nil {
		t.Error(err)
	}
	want(hypervisor.EventPaused, g.Life)
	if err := d.Off(t.Context(), g.ID, g.Life); err != nil {
		t.Error(err)
	}
	want(hypervisor.EventEnded, g.Life)
	next, err := d.On(t.Context(), g.ID)
	if err != nil || next == g.Life {
		t.Errorf("on: life %s, was %s, %v", next, g.Life, err)
	}
	want(hypervisor.EventStarted, next)
	list, err := d.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Life != next {
		t.Errorf("list %+v, %v", list, err)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

package libvirt_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/libvirt"
	"ringfence/internal/libvirt/libvirtlab"
	"ringfence/internal/libvirt/libvirttest"
)

// patience bounds a wait for a real libvirtd.
const patience = 20 * time.Second

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// expect waits until the events are these and no others. Not counted is what QEMU
// tells or not, as it comes: one reset up to four times and late, and that it ends
// because the host wants it.
func expect(t *testing.T, c *collector, want ...string) {
	t.Helper()
	var got []string
	for deadline := time.Now().Add(patience); len(got) < len(want) && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		got = append(got, c.taken()...)
		got = slices.CompactFunc(got, func(a, b string) bool { return a == b && a == "vm1 reboot" })
		for _, noise := range []string{"vm1 reboot", "vm1 life 6/2"} {
			if !slices.Contains(want, noise) {
				got = slices.DeleteFunc(got, func(e string) bool { return e == noise })
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events: %s", diff)
	}
}

func openReal(t *testing.T, uri string, o libvirt.Options) *libvirt.Session {
	t.Helper()
	s, err := libvirt.Open(t.Context(), parsed(t, uri), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// ok fails the test if one of the calls failed.
func ok(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestARealLibvirtd(t *testing.T) {
	t.Parallel()
	h := libvirtlab.StartWith(t, "real", libvirtlab.Options{
		Config: map[string]string{"keepalive_interval": "1", "keepalive_count": "1"},
	})
	t.Run("its test driver", func(t *testing.T) { testTestDriver(t, h) })
	t.Run("a guest of QEMU through its life", func(t *testing.T) { testLifeOfAGuest(t, h) })
	t.Run("a guest that hangs delays nobody", func(t *testing.T) { testHangingGuest(t, h) })
	t.Run("it ends and comes back", func(t *testing.T) { testRestart(t, h) })
	t.Run("it drops who does not answer its pings", func(t *testing.T) { testPings(t, h) })
	t.Run("it hangs", func(t *testing.T) { testHangingDaemon(t, h) })
}

func testTestDriver(t *testing.T, h *libvirtlab.Host) {
	ctx := t.Context()
	s := openReal(t, h.URI("test", "/default"), libvirt.Options{})
	var c collector
	ok(t, s.Subscribe(ctx, c.take))
	name, err1 := s.Hostname(ctx)
	kind, err2 := s.Type(ctx)
	version, err3 := s.LibVersion(ctx)
	list, err4 := s.List(ctx, libvirt.ListActive)
	ok(t, err1, err2, err3, err4)
	if name != "real" || kind != "TEST" || version < 9000000 || len(list) != 1 || list[0].Name != "test" {
		t.Fatalf("host %q, driver %q, version %d, domains %v", name, kind, version, list)
	}
	ok(t, s.Destroy(ctx, list[0], 0))
	dom, err := s.Create(ctx, list[0], 0)
	ok(t, err)
	if state, why, err := s.State(ctx, dom); err != nil || state != libvirt.StateRunning || why != libvirt.RunningBooted {
		t.Errorf("state %d, %d, %v", state, why, err)
	}
	if _, err := s.ByName(ctx, "nobody"); !errors.Is(err, libvirt.ErrNoDomain) {
		t.Errorf("a domain that is not there: %v", err)
	}
	var answer *libvirt.Error
	if _, err := s.Job(ctx, dom); !errors.As(err, &answer) || answer.Code != libvirt.CodeNoSupport {
		t.Errorf("a job of the test driver: %v", err)
	}
	expect(t, &c, "connected", "test life 5/1", "test life 2/0")
}

func testLifeOfAGuest(t *testing.T, h *libvirtlab.Host) {
	s := openReal(t, h.URI("qemu", "/system"), libvirt.Options{})
	g := h.Guest(1)
	testLife(t, s, g.XML, h.Path("files", "image"), func() bool { return g.Lives(patience) })
}

// The fake must pass for a libvirtd with QEMU where the real one does.
func TestTheFakeIsLikeTheRealOne(t *testing.T) {
	fake := libvirttest.New(t)
	text := "<domain><name>vm1</name><uuid>" + libvirttest.UUIDOf("vm1").String() + "</uuid></domain>"
	testLife(t, started(t, fake), text, "/image", func() bool { return true })
}

// testLife leads a guest vm1 through all that can happen to it.
func testLife(t *testing.T, s *libvirt.Session, text, image string, lives func() bool) {
	t.Helper()
	ctx := t.Context()
	var c collector
	ok(t, s.Subscribe(ctx, c.take))
	dom, err := s.DefineXML(ctx, text)
	ok(t, err)
	expect(t, &c, "connected", "vm1 life 0/0")
	dom, err = s.Create(ctx, dom, 0)
	ok(t, err)
	expect(t, &c, "vm1 life 4/0", "vm1 life 2/0")
	if found, err := s.ByUUID(ctx, dom.UUID); err != nil || found != dom || dom.ID < 1 {
		t.Errorf("found %v, %v, want %v", found, err, dom)
	}
	if !lives() {
		t.Error("the guest does not beat")
	}
	ok(t, s.Suspend(ctx, dom), s.Resume(ctx, dom), s.Reset(ctx, dom), s.Shutdown(ctx, dom))
	expect(t, &c, "vm1 life 3/0", "vm1 life 4/0", "vm1 reboot")
	testMetadata(t, s, dom)
	if job, err := s.Job(ctx, dom); err != nil || job.Kind != libvirt.JobNone {
		t.Errorf("job %v, %v", job, err)
	}
	var answer *libvirt.Error
	if err := s.AbortJob(ctx, dom); !errors.As(err, &answer) || answer.Code != libvirt.CodeOperationInvalid {
		t.Errorf("abort without a job: %v", err)
	}
	if text, err := s.XML(ctx, dom, libvirt.XMLSecure); err != nil || !strings.Contains(text, dom.UUID.String()) {
		t.Errorf("configuration %.60s, %v", text, err)
	}
	c.taken()
	testSaving(t, s, &c, dom, image)
	ok(t, s.Destroy(ctx, dom, libvirt.DestroyGraceful))
	if state, why, err := s.State(ctx, dom); err != nil || state != libvirt.StateShutoff || why != libvirt.ShutoffDestroyed {
		t.Errorf("state %d, %d, %v", state, why, err)
	}
	ok(t, s.Undefine(ctx, dom, 0))
	expect(t, &c, "vm1 life 5/1", "vm1 life 1/0")
	if _, _, err := s.State(ctx, dom); !errors.Is(err, libvirt.ErrNoDomain) {
		t.Errorf("state after undefine: %v", err)
	}
	if _, err := s.CreateXML(ctx, "<domain", 0); !errors.As(err, &answer) {
		t.Errorf("a broken configuration: %v", err)
	}
}

func testSaving(t *testing.T, s *libvirt.Session, c *collector, dom libvirt.Domain, image string) {
	t.Helper()
	ctx := t.Context()
	ok(t, s.ManagedSave(ctx, dom))
	if has, err := s.HasManagedSave(ctx, dom); err != nil || !has {
		t.Errorf("managed save: %v, %v", has, err)
	}
	ok(t, s.RemoveManagedSave(ctx, dom))
	if has, err := s.HasManagedSave(ctx, dom); err != nil || has {
		t.Errorf("managed save after its removal: %v, %v", has, err)
	}
	expect(t, c, "vm1 life 3/0", "vm1 iteration 1", "vm1 iteration 2", "vm1 job 2", "vm1 life 5/4")
	_, err := s.Create(ctx, dom, libvirt.CreateForceBoot)
	ok(t, err)
	expect(t, c, "vm1 life 4/0", "vm1 life 2/0")
	ok(t, s.Save(ctx, dom, image), s.Restore(ctx, image))
	expect(t, c, "vm1 life 3/0", "vm1 iteration 1", "vm1 iteration 2", "vm1 job 2", "vm1 life 5/4", "vm1 life 2/2", "vm1 life 4/2")
	if state, why, err := s.State(ctx, dom); err != nil || state != libvirt.StateRunning || why != libvirt.RunningRestored {
		t.Errorf("state after restore: %d, %d, %v", state, why, err)
	}
}

// startClient starts a client of a real libvirtd and collects its events.
func startClient(t *testing.T, h *libvirtlab.Host, o libvirt.Options) (*libvirt.Client, *collector) {
	t.Helper()
	c := libvirt.NewClient(parsed(t, h.URI("qemu", "/system")), o)
	var got collector
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			e, err := c.Next(context.Background())
			if err != nil {
				return
			}
			got.take(e)
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ok(t, c.Wait(ctx))
	return c, &got
}

// QEMU's process stands still, so that six calls wait for its monitor: one more
// than libvirtd takes of a connection.
func testHangingGuest(t *testing.T, h *libvirtlab.Host) {
	ctx := t.Context()
	c, _ := startClient(t, h, libvirt.Options{})
	hangs, err1 := c.CreateXML(ctx, h.Guest(2).XML, 0)
	other, err2 := c.CreateXML(ctx, h.Guest(3).XML, 0)
	pid, err3 := os.ReadFile(h.Path("run", "libvirt", "qemu", "vm2.pid"))
	ok(t, err1, err2, err3)
	n, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	ok(t, err)
	h.Signal(n, "STOP")
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var wait sync.WaitGroup
	for range 6 {
		wait.Go(func() {
			if err := c.Reset(ctx, hangs); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a reset of a guest that hangs: %v", err)
			}
		})
	}
	time.Sleep(200 * time.Millisecond) // they have reached libvirtd
	state, _, err1 := c.State(ctx, hangs)
	_, err2 = c.List(ctx, 0)
	ok(t, err1, err2, c.Destroy(ctx, other, 0))
	if ctx.Err() != nil || state != libvirt.StateRunning {
		t.Errorf("beside a guest that hangs: state %d, %v", state, ctx.Err())
	}
	wait.Wait()
	h.Signal(n, "CONT") // or destroy takes libvirtd ten seconds
	ok(t, c.Destroy(t.Context(), hangs, 0))
}

func testRestart(t *testing.T, h *libvirtlab.Host) {
	ctx := t.Context()
	c, got := startClient(t, h, libvirt.Options{})
	dom, err := c.CreateXML(ctx, h.Guest(4).XML, 0)
	ok(t, err)
	expect(t, got, "connected", "vm4 life 4/0", "vm4 life 2/0")
	h.StopDaemon("KILL")
	eventually(t, "the loss is noticed", func() bool { return c.Err() != nil })
	if _, _, err := c.State(ctx, dom); !errors.Is(err, libvirt.ErrDown) || errors.Is(err, libvirt.ErrNoDomain) {
		t.Errorf("state while libvirtd is away: %v", err)
	}
	h.StartDaemon()
	began := time.Now()
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ok(t, c.Wait(wait))
	t.Logf("connected %v after libvirtd", time.Since(began))
	expect(t, got, "lost", "connected")
	if found, err := c.ByName(ctx, "vm4"); err != nil || found != dom {
		t.Errorf("the guest after libvirtd's return: %v, %v, want %v", found, err, dom)
	}
	eventually(t, "libvirtd has found its guest again", func() bool {
		state, _, err := c.State(ctx, dom)
		return err == nil && state == libvirt.StateRunning
	})
	if !h.Guest(4).Lives(patience) {
		t.Error("the guest ended with libvirtd")
	}
	// A destroy while libvirtd still connects to QEMU's monitor ends the guest and is
	// answered with ErrNoDomain, without an event. A change waits until it has.
	ok(t, c.SetMetadata(ctx, dom, "urn:x", "x", "<x/>", libvirt.AffectLive))
	got.taken()
	ok(t, c.Destroy(ctx, dom, 0))
	eventually(t, "the end is told", func() bool { return slices.Contains(got.taken(), "vm4 life 5/1") })
}

func testPings(t *testing.T, h *libvirtlab.Host) {
	s := openReal(t, h.URI("qemu", "/system"), libvirt.Options{Keepalive: time.Hour})
	select {
	case <-s.Done():
		t.Errorf("lost: %v", s.Err())
	case <-time.After(4 * time.Second): // it drops others after two
	}
	if _, err := s.Hostname(t.Context()); err != nil {
		t.Error(err)
	}
}

func testHangingDaemon(t *testing.T, h *libvirtlab.Host) {
	s := openReal(t, h.URI("qemu", "/system"), libvirt.Options{Keepalive: 50 * time.Millisecond})
	time.Sleep(time.Second) // twenty pings
	ok(t, s.Err())
	pid := h.DaemonPID()
	h.Signal(pid, "STOP")
	defer h.Signal(pid, "CONT")
	began := time.Now()
	select {
	case <-s.Done():
		t.Logf("noticed after %v: %v", time.Since(began), s.Err())
	case <-time.After(patience):
		t.Error("a libvirtd that stands still is not noticed")
	}
}

package libvirt_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/libvirt"
	"ringfence/internal/libvirt/libvirttest"
	"ringfence/internal/wire/virnet"
)

// client starts a client of a fake and collects its events until the test ends.
func client(t *testing.T, fake *libvirttest.Server) (*libvirt.Client, *collector) {
	t.Helper()
	c := libvirt.NewClient(fake.URI(), libvirt.Options{Dial: fake.Dial})
	var got collector
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			e, err := c.Next(context.Background())
			if errors.Is(err, libvirt.ErrClosed) {
				return
			}
			got.take(e)
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return c, &got
}

func TestAClientMendsItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Add(libvirttest.Guest{Name: "vm1", State: libvirt.StateRunning})
		c, got := client(t, fake)
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		dom, err := c.ByName(t.Context(), "vm1")
		if err != nil {
			t.Fatal(err)
		}
		fake.Emit(dom, libvirttest.Reboot())
		synctest.Wait()
		fake.Stop()
		fake.Emit(dom, libvirttest.Watchdog(1)) // nobody hears it
		synctest.Wait()
		began := time.Now()
		if _, err := c.List(t.Context(), 0); !errors.Is(err, libvirt.ErrDown) || time.Since(began) != 0 {
			t.Errorf("a call while down: %v after %v", err, time.Since(began))
		}
		if err := c.Err(); !errors.Is(err, libvirt.ErrDown) {
			t.Errorf("the client is down and says %v", err)
		}
		if diff := cmp.Diff([]string{"connected", "vm1 reboot", "lost"}, got.taken()); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Minute)
		// 0.1, 0.2, 0.4 ... 5, 5, 5 seconds apart; an attempt tries four sockets.
		if n := fake.Dials() / 4; n < 12 || n > 22 {
			t.Errorf("%d attempts in a minute", n)
		}
		if more := got.taken(); more != nil {
			t.Errorf("events while it stays down: %v", more)
		}
		fake.Restart()
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Create(t.Context(), dom, 0); err == nil {
			t.Error("a running guest was started")
		}
		if err := c.Destroy(t.Context(), dom, 0); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if diff := cmp.Diff([]string{"connected", "vm1 life 6/2", "vm1 life 5/1"}, got.taken()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAClientReconnectsWithinABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		c, _ := client(t, fake)
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		fake.Stop()
		time.Sleep(time.Minute) // the back-off has grown
		fake.Restart()
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		fake.Drop()
		synctest.Wait()
		began := time.Now()
		if err := c.Wait(t.Context()); err != nil || time.Since(began) > 100*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A daemon that drops everyone at once is not asked ten times a second.
func TestAConnectionThatDoesNotHoldIsNoSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
			return libvirttest.Answer{Drop: c.Proc == virnet.ProcWatchClose}
		})
		client(t, fake)
		time.Sleep(time.Minute)
		if n := fake.Dials(); n > 22 {
			t.Errorf("%d connections in a minute", n)
		}
	})
}

func TestAClientThatNeverConnectsSaysSoOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Stop()
		c, got := client(t, fake)
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]string{"lost"}, got.taken()); diff != "" {
			t.Error(diff)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, libvirt.ErrDown) {
			t.Errorf("wait: %v", err)
		}
	})
}

func TestAFrozenDaemonIsLostAndFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		c, got := client(t, fake)
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		fake.Freeze()
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]string{"connected", "lost", "connected"}, got.taken()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestClientsDoNotDisturbEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := libvirttest.New(t), libvirttest.NewXen(t)
		c, got := client(t, good)
		d, _ := client(t, bad)
		for _, one := range []*libvirt.Client{c, d} {
			if err := one.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		bad.Freeze()
		for range 120 {
			began := time.Now()
			if _, err := c.List(t.Context(), 0); err != nil || time.Since(began) != 0 {
				t.Fatalf("%v after %v", err, time.Since(began))
			}
			time.Sleep(time.Second)
		}
		if diff := cmp.Diff([]string{"connected"}, got.taken()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestACallUnderWayEndsWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
			return libvirttest.Answer{Hang: c.Proc == virnet.ProcHostname}
		})
		c, _ := client(t, fake)
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, err := c.Hostname(t.Context())
			done <- err
		}()
		synctest.Wait()
		fake.Drop()
		if err := <-done; !errors.Is(err, libvirt.ErrLost) {
			t.Error(err)
		}
	})
}

// Five calls that hang stop libvirtd's reading of their connection, but not of the
// client's others, and destroys have room of their own.
func TestAGuestThatHangsDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Add(libvirttest.Guest{Name: "hangs", State: libvirt.StateRunning})
		fake.Add(libvirttest.Guest{Name: "vm1", State: libvirt.StateRunning})
		fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
			return libvirttest.Answer{Hang: c.Proc == virnet.ProcReset}
		})
		c, got := client(t, fake)
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		hangs, vm1 := libvirt.Domain{Name: "hangs", UUID: libvirttest.UUIDOf("hangs")}, libvirt.Domain{Name: "vm1", UUID: libvirttest.UUIDOf("vm1")}
		var wait sync.WaitGroup
		for range 30 {
			wait.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := c.Reset(ctx, hangs); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("reset: %v", err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		if state, _, err := c.State(t.Context(), vm1); err != nil || state != libvirt.StateRunning {
			t.Errorf("state: %v, %v", state, err)
		}
		if err := c.Destroy(t.Context(), vm1, 0); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Create(ctx, vm1, 0); !errors.Is(err, libvirt.ErrBusy) {
			t.Errorf("one call too many: %v", err)
		}
		wait.Wait()
		if _, err := c.Create(t.Context(), vm1, 0); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if diff := cmp.Diff([]string{"connected", "vm1 life 6/2", "vm1 life 5/1", "vm1 life 4/0", "vm1 life 2/0"}, got.taken()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestCloseEndsCallsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
			return libvirttest.Answer{Hang: c.Proc == virnet.ProcDestroy || c.Proc == virnet.ProcHostname}
		})
		c := libvirt.NewClient(fake.URI(), libvirt.Options{Dial: fake.Dial})
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 2)
		go func() { done <- c.Destroy(context.Background(), libvirt.Domain{}, 0) }()
		go func() {
			_, err := c.Hostname(context.Background())
			done <- err
		}()
		synctest.Wait()
		began := time.Now()
		c.Close()
		for range 2 {
			if err := <-done; err == nil || errors.Is(err, libvirt.ErrDown) {
				t.Errorf("a call under way: %v", err)
			}
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("close took %v", took)
		}
	})
}

func TestASlowReaderIsToldToListAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		c := libvirt.NewClient(fake.URI(), libvirt.Options{Dial: fake.Dial})
		defer c.Close()
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 5000 {
			fake.Emit(libvirt.Domain{Name: "vm1"}, libvirttest.Reboot())
		}
		synctest.Wait()
		for i, want := range []string{"lost", "connected", "vm1 reboot"} {
			e, err := c.Next(t.Context())
			if err != nil || brief(e) != want {
				t.Errorf("event %d: %s, %v, want %s", i, brief(e), err, want)
			}
			if i == 0 && !errors.Is(e.Err, libvirt.ErrSlow) {
				t.Errorf("lost because of %v", e.Err)
			}
		}
		if _, err := c.List(t.Context(), 0); err != nil || fake.Dials() != 1 {
			t.Errorf("the session did not go on: %v, %d dials", err, fake.Dials())
		}
	})
}

// What overflows while the connection is lost is told as lost alone.
func TestASlowReaderIsNotToldOfAConnectionThatIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		c := libvirt.NewClient(fake.URI(), libvirt.Options{Dial: fake.Dial})
		defer c.Close()
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 4095 { // with Connected the queue is full
			fake.Emit(libvirt.Domain{Name: "vm1"}, libvirttest.Reboot())
		}
		synctest.Wait()
		fake.Stop()
		synctest.Wait()
		if e, err := c.Next(t.Context()); err != nil || e.Kind != libvirt.Lost || !errors.Is(e.Err, libvirt.ErrSlow) {
			t.Errorf("%s, %v, %v", brief(e), e.Err, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if e, err := c.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s, %v", brief(e), err)
		}
	})
}

// The caller of a call that hangs is not held up by a good-bye that hangs.
func TestACallThatHangsEndsWithItsCtx(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
			return libvirttest.Answer{Hang: c.Proc == virnet.ProcReset || c.Proc == virnet.ProcClose}
		})
		c, _ := client(t, fake)
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := c.Reset(ctx, libvirt.Domain{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestXenHasFewerDetails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.NewXen(t)
		fake.Add(libvirttest.Guest{Name: "vm1"})
		c, got := client(t, fake)
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		list, err := c.List(t.Context(), 0)
		if err != nil || len(list) != 2 || list[0] != (libvirt.Domain{Name: "Domain-0"}) {
			t.Errorf("list: %v, %v", list, err)
		}
		dom, err := c.Create(t.Context(), list[1], 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Reset(t.Context(), dom); err == nil {
			t.Error("Xen reset a guest")
		}
		if err := c.Destroy(t.Context(), dom, 0); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		want := []string{"connected", "vm1 life 4/0", "vm1 life 2/0", "vm1 life 5/0"}
		if diff := cmp.Diff(want, got.taken()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestCloseWhileConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Hook(func(libvirttest.Call) libvirttest.Answer { return libvirttest.Answer{Hang: true} })
		c := libvirt.NewClient(fake.URI(), libvirt.Options{Dial: fake.Dial})
		synctest.Wait()
		began := time.Now()
		c.Close()
		c.Close()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("close took %v", took)
		}
		for range 2 {
			if e, err := c.Next(t.Context()); err == nil && e.Kind != libvirt.Lost {
				t.Errorf("after close: %v", e)
			}
		}
		if _, err := c.Next(t.Context()); !errors.Is(err, libvirt.ErrClosed) {
			t.Errorf("next after close: %v", err)
		}
		if err := c.Wait(t.Context()); !errors.Is(err, libvirt.ErrClosed) {
			t.Errorf("wait after close: %v", err)
		}
		if _, err := c.List(t.Context(), 0); !errors.Is(err, libvirt.ErrDown) {
			t.Errorf("list after close: %v", err)
		}
	})
}

// Whatever is cut off where, the client comes back and no call is answered wrongly.
func TestAConnectionMayBreakAtEveryCall(t *testing.T) {
	for n := 1; n <= 12; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := libvirttest.New(t)
				calls := 0
				fake.Hook(func(libvirttest.Call) libvirttest.Answer {
					calls++
					return libvirttest.Answer{Drop: calls == n, Lose: calls == n+20}
				})
				c, got := client(t, fake)
				for range 50 {
					time.Sleep(time.Second)
					if name, err := c.Hostname(t.Context()); err == nil && name != "fake" {
						t.Fatalf("host name %q", name)
					}
				}
				last := got.taken()
				if len(last) < 3 || last[len(last)-1] != "connected" {
					t.Errorf("events: %v", last)
				}
			})
		})
	}
}

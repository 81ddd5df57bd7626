package libvirt_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/libvirt"
	"ringfence/internal/libvirt/libvirttest"
	"ringfence/internal/wire/virnet"
)

// started opens a session with a fake in the test's bubble.
func started(t *testing.T, fake *libvirttest.Server) *libvirt.Session {
	t.Helper()
	s, err := libvirt.Open(t.Context(), fake.URI(), libvirt.Options{Dial: fake.Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// collector takes events.
type collector struct {
	mu   sync.Mutex
	list []string
}

func (c *collector) take(e libvirt.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, brief(e))
}

func (c *collector) taken() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.list
	c.list = nil
	return list
}

// brief is an event in a few words.
func brief(e libvirt.Event) string {
	switch e.Kind {
	case libvirt.Connected:
		return "connected"
	case libvirt.Lost:
		return "lost"
	case libvirt.LifecycleEvent:
		return fmt.Sprintf("%s life %d/%d", e.Domain.Name, e.Lifecycle, e.Detail)
	case libvirt.RebootEvent:
		return e.Domain.Name + " reboot"
	case libvirt.WatchdogEvent:
		return fmt.Sprintf("%s watchdog %d", e.Domain.Name, e.Action)
	case libvirt.IOErrorEvent:
		return fmt.Sprintf("%s io %d %s %s %s", e.Domain.Name, e.Action, e.Path, e.Device, e.Reason)
	case libvirt.ControlErrorEvent:
		return e.Domain.Name + " control error"
	case libvirt.IterationEvent:
		return fmt.Sprintf("%s iteration %d", e.Domain.Name, e.Iteration)
	case libvirt.JobCompletedEvent:
		return fmt.Sprintf("%s job %d", e.Domain.Name, e.Job.Operation)
	}
	return fmt.Sprintf("unknown kind %d", e.Kind)
}

func TestCallsSayWhatTheServerSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Add(libvirttest.Guest{Name: "vm1"})
		fake.Add(libvirttest.Guest{Name: "vm2", State: libvirt.StatePaused, Reason: libvirt.PausedIOError, Transient: true})
		s, ctx := started(t, fake), t.Context()
		id := libvirttest.UUIDOf("vm1")

		list, err := s.List(ctx, 0)
		want := []libvirt.Domain{{Name: "vm1", UUID: id, ID: -1}, {Name: "vm2", UUID: libvirttest.UUIDOf("vm2"), ID: 1}}
		if diff := cmp.Diff(want, list); err != nil || diff != "" {
			t.Errorf("list: %v\n%s", err, diff)
		}
		list, err = s.List(ctx, libvirt.ListActive)
		if diff := cmp.Diff(want[1:], list); err != nil || diff != "" {
			t.Errorf("list of the active: %v\n%s", err, diff)
		}
		if state, why, err := s.State(ctx, want[1]); state != libvirt.StatePaused || why != libvirt.PausedIOError || err != nil {
			t.Errorf("state of vm2: %d, %d, %v", state, why, err)
		}
		if dom, err := s.ByUUID(ctx, id); err != nil || dom != want[0] {
			t.Errorf("by UUID: %v, %v", dom, err)
		}
		if _, err := s.ByName(ctx, "nobody"); !errors.Is(err, libvirt.ErrNoDomain) {
			t.Errorf("a domain that is not there: %v", err)
		}
		dom, err := s.Create(ctx, want[0], 0)
		if err != nil || dom.ID != 2 {
			t.Errorf("create: %v, %v", dom, err)
		}
		var answer *libvirt.Error
		if _, err = s.Create(ctx, dom, 0); !errors.As(err, &answer) || answer.Code != libvirt.CodeOperationInvalid || errors.Is(err, libvirt.ErrNoDomain) {
			t.Errorf("create what runs: %v", err)
		}
		testMetadata(t, s, dom)
		if err := s.Destroy(ctx, dom, libvirt.DestroyGraceful); err != nil {
			t.Error(err)
		}
		if err := s.Undefine(ctx, dom, 0); err != nil {
			t.Error(err)
		}
		if _, _, err := s.State(ctx, dom); !errors.Is(err, libvirt.ErrNoDomain) {
			t.Errorf("state after undefine: %v", err)
		}
	})
}

func testMetadata(t *testing.T, s *libvirt.Session, dom libvirt.Domain) {
	t.Helper()
	ctx := t.Context()
	for _, want := range []string{"", "<life>7</life>", ""} {
		if want != "" {
			if err := s.SetMetadata(ctx, dom, "urn:x", "x", want, libvirt.AffectLive); err != nil {
				t.Error(err)
			}
		}
		if got, err := s.Metadata(ctx, dom, "urn:x", libvirt.AffectLive); got != want || err != nil {
			t.Errorf("metadata: %q, %v, want %q", got, err, want)
		}
		if err := s.SetMetadata(ctx, dom, "urn:x", "x", "", libvirt.AffectLive); err != nil {
			t.Error(err)
		}
	}
}

func TestANameWithAZeroByteIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Add(libvirttest.Guest{Name: "vm1"})
		s := started(t, fake)
		if _, err := s.ByName(t.Context(), "vm1\x00vm2"); err == nil || fake.Count(virnet.ProcLookupByName) != 0 {
			t.Errorf("%v, calls: %d", err, fake.Count(virnet.ProcLookupByName))
		}
	})
}

func TestEventsComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Add(libvirttest.Guest{Name: "vm1"})
		s := started(t, fake)
		var c collector
		if err := s.Subscribe(t.Context(), c.take); err != nil {
			t.Fatal(err)
		}
		dom, err := s.ByName(t.Context(), "vm1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Create(t.Context(), dom, 0); err != nil {
			t.Fatal(err)
		}
		for _, e := range []virnet.Event{
			libvirttest.Reboot(), libvirttest.Watchdog(3),
			{Proc: virnet.ProcEventControlError},
			libvirttest.IOError(libvirt.IOErrorPause, "/dev/x", "virtio0", "enospc"),
		} {
			fake.Emit(dom, e)
		}
		fake.LeaveBegins("vm1")
		fake.LeaveSwitches("vm1")
		fake.LeaveEnds("vm1")
		synctest.Wait()
		want := []string{
			"connected", "vm1 life 4/0", "vm1 life 2/0", "vm1 reboot", "vm1 watchdog 3", "vm1 control error",
			"vm1 io 1 /dev/x virtio0 enospc", "vm1 iteration 1", "vm1 life 3/1", "vm1 iteration 2", "vm1 life 5/3", "vm1 job 5",
		}
		if diff := cmp.Diff(want, c.taken()); diff != "" {
			t.Error(diff)
		}
	})
}

// Events between the first registration and the last come after Connected.
func TestEventsDuringRegistrationAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Add(libvirttest.Guest{Name: "vm1"})
		s := started(t, fake)
		fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
			return libvirttest.Answer{After: time.Second}
		})
		var c collector
		done := make(chan error)
		go func() { done <- s.Subscribe(t.Context(), c.take) }()
		time.Sleep(1500 * time.Millisecond)
		fake.Emit(libvirt.Domain{Name: "vm1"}, libvirttest.Lifecycle(libvirt.Stopped, libvirt.StoppedCrashed))
		synctest.Wait()
		if got := c.taken(); got != nil {
			t.Errorf("events before Connected: %v", got)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"connected", "vm1 life 5/2"}, c.taken()); diff != "" {
			t.Error(diff)
		}
	})
}

// Events that come faster than the registration ends are not kept without bound.
func TestAFloodDuringRegistrationEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		s := started(t, fake)
		fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
			return libvirttest.Answer{Hang: c.Proc == virnet.ProcRegister && c.N == 2}
		})
		done := make(chan error)
		go func() {
			done <- s.Subscribe(t.Context(), func(libvirt.Event) { t.Error("an event before the registration") })
		}()
		synctest.Wait()
		for range 5000 {
			fake.Emit(libvirt.Domain{Name: "vm1"}, libvirttest.Lifecycle(libvirt.Started, 0))
		}
		if err := <-done; !errors.Is(err, libvirt.ErrLost) {
			t.Error(err)
		}
	})
}

func TestAnAbandonedCallLeavesTheSessionUsable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Add(libvirttest.Guest{Name: "vm1"})
		fake.Add(libvirttest.Guest{Name: "vm2"})
		s := started(t, fake)
		fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
			switch {
			case c.Proc == virnet.ProcLookupByName && c.N == 1:
				return libvirttest.Answer{After: 3 * time.Second}
			case c.Proc == virnet.ProcHostname:
				return libvirttest.Answer{Hang: true}
			}
			return libvirttest.Answer{}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.ByName(ctx, "vm1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call that takes longer than its ctx: %v", err)
		}
		if dom, err := s.ByName(t.Context(), "vm2"); err != nil || dom.Name != "vm2" {
			t.Errorf("the next call: %v, %v", dom, err)
		}
		time.Sleep(5 * time.Second) // the late answer has come
		if dom, err := s.ByName(t.Context(), "vm2"); err != nil || dom.Name != "vm2" {
			t.Errorf("after the late answer: %v, %v", dom, err)
		}
		began := time.Now()
		if _, err := s.Hostname(context.Background()); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != libvirt.CallTimeout {
			t.Errorf("a call without deadline: %v after %v", err, time.Since(began))
		}
		if n := s.Waiting(); n != 0 {
			t.Errorf("the session waits for %d answers that nobody wants", n)
		}
	})
}

func TestAnswersMayOvertakeEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		for i := range 5 {
			fake.Add(libvirttest.Guest{Name: fmt.Sprint("vm", i)})
		}
		s := started(t, fake)
		fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
			if c.Proc != virnet.ProcLookupByName {
				return libvirttest.Answer{}
			}
			return libvirttest.Answer{After: time.Duration(10-c.N) * time.Second}
		})
		var wait sync.WaitGroup
		for i := range 5 {
			name := fmt.Sprint("vm", i)
			wait.Go(func() {
				if dom, err := s.ByName(t.Context(), name); err != nil || dom.Name != name {
					t.Errorf("%s: %v, %v", name, dom, err)
				}
			})
		}
		wait.Wait()
	})
}

func TestASilentServerIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		s := started(t, fake)
		time.Sleep(time.Minute) // pings are answered
		if err := s.Err(); err != nil {
			t.Fatal(err)
		}
		fake.Freeze()
		began := time.Now()
		<-s.Done()
		took := time.Since(began)
		if want := libvirt.KeepaliveInterval * (libvirt.KeepaliveCount + 2); took > want || took < libvirt.KeepaliveInterval*libvirt.KeepaliveCount {
			t.Errorf("lost after %v: %v", took, s.Err())
		}
		if _, err := s.Hostname(t.Context()); !errors.Is(err, libvirt.ErrDown) {
			t.Errorf("a call after the end: %v", err)
		}
	})
}

func TestWithoutKeepaliveNoPingIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Lack(virnet.FeatureKeepalive)
		s := started(t, fake)
		fake.Freeze()
		time.Sleep(time.Hour)
		if err := s.Err(); err != nil {
			t.Error(err)
		}
	})
}

// The server pings too, and drops a client that is silent.
func TestAPingIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		s := started(t, fake)
		ping := virnet.Message{Program: virnet.ProgramKeepalive, Version: 1, Proc: virnet.ProcPing, Type: virnet.TypeMessage}
		fake.Raw(ping.Append(nil))
		synctest.Wait()
		if fake.Pongs() != 1 || s.Err() != nil {
			t.Errorf("%d answers to one ping; %v", fake.Pongs(), s.Err())
		}
	})
}

func TestALostConnectionMakesTheOutcomeUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Add(libvirttest.Guest{Name: "vm1", State: libvirt.StateRunning})
		s := started(t, fake)
		dom, err := s.ByName(t.Context(), "vm1")
		if err != nil {
			t.Fatal(err)
		}
		fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
			return libvirttest.Answer{Lose: c.Proc == virnet.ProcDestroy}
		})
		if err := s.Destroy(t.Context(), dom, 0); !errors.Is(err, libvirt.ErrLost) || errors.Is(err, libvirt.ErrDown) {
			t.Errorf("destroy without an answer: %v", err)
		}
		if err := s.Destroy(t.Context(), dom, 0); !errors.Is(err, libvirt.ErrDown) {
			t.Errorf("destroy after the end: %v", err)
		}
	})
}

func TestADaemonThatWantsMoreIsRefusedWithTheFix(t *testing.T) {
	for want, ways := range map[string][]virnet.Auth{
		"run as root": {virnet.AuthPolkit}, "SASL": {virnet.AuthSASL}, "unknown kinds [7]": {7},
	} {
		synctest.Test(t, func(t *testing.T) {
			fake := libvirttest.New(t)
			fake.Authenticate(ways...)
			_, err := libvirt.Open(t.Context(), fake.URI(), libvirt.Options{Dial: fake.Dial})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %v", ways, err)
			}
		})
	}
}

func TestOpenIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		fake.Hook(func(libvirttest.Call) libvirttest.Answer { return libvirttest.Answer{Hang: true} })
		began := time.Now()
		_, err := libvirt.Open(context.Background(), fake.URI(), libvirt.Options{Dial: fake.Dial})
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != libvirt.OpenTimeout {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// hostile are bytes after which the two sides do not understand each other.
func hostile() map[string][]byte {
	reply := func(serial uint32, p virnet.Proc, body []byte) []byte {
		return virnet.Message{
			Program: virnet.ProgramRemote, Version: 1, Proc: p, Type: virnet.TypeReply, Serial: serial, Body: body,
		}.Append(nil)
	}
	message := func(p virnet.Proc, body []byte) []byte {
		return virnet.Message{Program: virnet.ProgramRemote, Version: 1, Proc: p, Type: virnet.TypeMessage, Body: body}.Append(nil)
	}
	badStatus := reply(4, virnet.ProcHostname, nil)
	binary.BigEndian.PutUint32(badStatus[24:], 9)
	return map[string][]byte{
		"a length of 0":                   {0, 0, 0, 0},
		"a length below the header":       {0, 0, 0, 27},
		"a length of 4 GiB":               {255, 255, 255, 255},
		"a length just above the limit":   binary.BigEndian.AppendUint32(nil, virnet.MessageLimitBytes+1),
		"HTTP":                            []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"an answer to a call of the next": reply(1000, virnet.ProcHostname, nil),
		"an answer to serial 0":           reply(0, virnet.ProcHostname, nil),
		"another procedure's answer":      reply(4, virnet.ProcDestroy, nil),
		"an unknown status":               badStatus,
		"an event that ends early":        message(virnet.ProcEventLifecycle, []byte{0, 0, 0, 1}),
		"an event with too much":          message(virnet.ProcEventReboot, make([]byte, 100)),
		"the hypervisor has gone":         message(virnet.ProcEventClosed, []byte{0, 0, 0, 1}),
	}
}

func TestHostileBytesEndTheSession(t *testing.T) {
	for name, b := range hostile() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := libvirttest.New(t)
				s := started(t, fake)
				fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
					return libvirttest.Answer{Hang: c.Proc == virnet.ProcHostname}
				})
				done := make(chan error)
				go func() {
					_, err := s.Hostname(t.Context()) // serial 4
					done <- err
				}()
				synctest.Wait()
				fake.Raw(b)
				if err := <-done; !errors.Is(err, libvirt.ErrLost) {
					t.Errorf("the call under way: %v", err)
				}
				t.Log(s.Err())
			})
		})
	}
}

// An answer that is cut off at any byte is no answer.
func TestACutOffAnswerIsNone(t *testing.T) {
	body := binary.BigEndian.AppendUint32(nil, 4)
	whole := virnet.Message{
		Program: virnet.ProgramRemote, Version: 1, Proc: virnet.ProcHostname, Type: virnet.TypeReply, Serial: 4, Body: append(body, "fake"...),
	}.Append(nil)
	for n := range whole {
		synctest.Test(t, func(t *testing.T) {
			fake := libvirttest.New(t)
			s := started(t, fake)
			fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
				return libvirttest.Answer{Hang: c.Proc == virnet.ProcHostname}
			})
			done := make(chan error)
			go func() {
				_, err := s.Hostname(t.Context())
				done <- err
			}()
			synctest.Wait()
			fake.Raw(whole[:n])
			synctest.Wait()
			fake.Drop()
			if err := <-done; !errors.Is(err, libvirt.ErrLost) {
				t.Errorf("after %d of %d bytes: %v", n, len(whole), err)
			}
		})
	}
}

// A length is no reason to allocate: what promises 32 MiB and sends 16 bytes costs
// one small buffer.
func TestALengthAloneAllocatesLittle(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		_, _ = theirs.Write(append(binary.BigEndian.AppendUint32(nil, virnet.MessageLimitBytes), make([]byte, 16)...))
		theirs.Close()
	}()
	before := allocated()
	if _, err := libvirt.ReadMessage(ours); err == nil {
		t.Error("half a message was read")
	}
	if grown := allocated() - before; grown > 1<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
}

func TestUnknownMessagesAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		s := started(t, fake)
		for _, m := range []virnet.Message{
			{Program: 0x20008087, Version: 1, Proc: 4, Type: virnet.TypeMessage, Body: []byte{1, 2, 3}},
			{Program: virnet.ProgramRemote, Version: 2, Proc: virnet.ProcEventLifecycle, Type: virnet.TypeMessage},
			{Program: virnet.ProgramRemote, Version: 1, Proc: 400, Type: virnet.TypeMessage},
			{Program: virnet.ProgramRemote, Version: 1, Proc: virnet.ProcHostname, Type: virnet.TypeStream, Serial: 3},
			{Program: virnet.ProgramRemote, Version: 1, Proc: virnet.ProcOpen, Type: 77},
			{Program: virnet.ProgramRemote, Version: 1, Proc: virnet.ProcOpen, Type: virnet.TypeReply, Serial: 1}, // twice
			{Program: virnet.ProgramKeepalive, Version: 1, Proc: 9, Type: virnet.TypeMessage},
		} {
			fake.Raw(m.Append(nil))
		}
		if name, err := s.Hostname(t.Context()); err != nil || name != "fake" {
			t.Errorf("%q, %v", name, err)
		}
	})
}

func TestAGarbledAnswerFailsItsCallAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := libvirttest.New(t)
		s := started(t, fake)
		for _, body := range [][]byte{nil, {0}, {0, 0, 0, 9}, {255, 255, 255, 255}, {0, 0, 0, 1, 'x', 1, 1, 1}, make([]byte, 8)} {
			fake.Hook(func(c libvirttest.Call) libvirttest.Answer {
				if c.Proc != virnet.ProcHostname {
					return libvirttest.Answer{}
				}
				return libvirttest.Answer{Body: body, Garbled: true}
			})
			var answer *libvirt.Error
			if name, err := s.Hostname(t.Context()); err == nil || errors.As(err, &answer) {
				t.Errorf("body %v: %q, %v", body, name, err)
			}
			if _, err := s.Type(t.Context()); err != nil {
				t.Errorf("after body %v: %v", body, err)
			}
		}
	})
}

// allocated returns how many bytes were ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

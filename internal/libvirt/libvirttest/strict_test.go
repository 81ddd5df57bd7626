package libvirttest

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"ringfence/internal/libvirt"
	"ringfence/internal/wire/virnet"
)

// recorder is a test that may fail without that this one does.
type recorder struct {
	testing.TB
	mu   sync.Mutex
	said []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

func (r *recorder) Error(args ...any) { r.Errorf("%s", fmt.Sprint(args...)) }

// call makes the bytes of a call.
func call(serial uint32, p virnet.Proc, put func(*virnet.Encoder)) virnet.Message {
	var e virnet.Encoder
	if put != nil {
		put(&e)
	}
	body, err := e.Bytes()
	if err != nil {
		panic(err)
	}
	return virnet.Message{Program: virnet.ProgramRemote, Version: 1, Proc: p, Type: virnet.TypeCall, Serial: serial, Body: body}
}

func TestWrongCallsFailTheTest(t *testing.T) {
	domain := libvirt.Domain{Name: "vm1", UUID: UUIDOf("vm1")}
	open := call(1, virnet.ProcOpen, func(e *virnet.Encoder) {
		name := "xen:///system"
		e.OptString(&name)
		e.Uint32(0)
	})
	withFlags := func(d libvirt.Domain, flags uint32) func(*virnet.Encoder) {
		return func(e *virnet.Encoder) { e.Domain(d); e.Uint32(flags) }
	}
	version := open
	version.Version = 2
	reply := open
	reply.Type = virnet.TypeReply
	for name, c := range map[string]struct {
		want  string
		calls []virnet.Message
	}{
		"nothing wrong":            {"", []virnet.Message{open, call(2, virnet.ProcState, withFlags(domain, 0))}},
		"a call before open":       {"before open", []virnet.Message{call(1, virnet.ProcType, nil)}},
		"a serial twice":           {"serial 1", []virnet.Message{open, call(1, virnet.ProcType, nil)}},
		"serial 0":                 {"serial 0", []virnet.Message{call(0, virnet.ProcAuthList, nil)}},
		"another version":          {"version 2", []virnet.Message{version}},
		"a reply":                  {"want a call", []virnet.Message{reply}},
		"an unknown procedure":     {"unknown procedure", []virnet.Message{open, call(2, 9999, nil)}},
		"unknown flags":            {"flags 0x8", []virnet.Message{open, call(2, virnet.ProcDestroy, withFlags(domain, 8))}},
		"another guest's name":     {"by the UUID of", []virnet.Message{open, call(2, virnet.ProcDestroy, withFlags(libvirt.Domain{Name: "vm2", UUID: domain.UUID}, 0))}},
		"bytes too many":           {"too many", []virnet.Message{open, call(2, virnet.ProcType, func(e *virnet.Encoder) { e.Uint32(0) })}},
		"bytes too few":            {"too early", []virnet.Message{open, call(2, virnet.ProcState, func(e *virnet.Encoder) { e.Domain(domain) })}},
		"a destroy of Domain-0":    {"Domain-0", []virnet.Message{open, call(2, virnet.ProcDestroy, withFlags(libvirt.Domain{Name: "Domain-0"}, 0))}},
		"another hypervisor":       {"want xen:///system", []virnet.Message{call(1, virnet.ProcOpen, func(e *virnet.Encoder) { e.OptString(nil); e.Uint32(0) })}},
		"an event that is no such": {"event 99", []virnet.Message{open, call(2, virnet.ProcRegister, func(e *virnet.Encoder) { e.Int32(99); e.Bool(false) })}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{TB: t}
				fake := NewXen(r)
				fake.Add(Guest{Name: "vm1", State: libvirt.StateRunning})
				conn, err := fake.Dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				drain(conn)
				for _, m := range c.calls {
					if _, err := conn.Write(m.Append(nil)); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				fake.Close()
				said := strings.Join(r.said, "\n")
				if c.want == "" && said != "" || !strings.Contains(said, c.want) {
					t.Errorf("the fake says %q, want %q", said, c.want)
				}
			})
		})
	}
}

func drain(conn net.Conn) {
	go func() {
		b := make([]byte, 4096)
		for {
			if _, err := conn.Read(b); err != nil {
				return
			}
		}
	}()
}

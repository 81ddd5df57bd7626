package virnet

import (
	"bytes"
	"encoding/hex"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var testUUID = UUID{0x66, 0x95, 0xeb, 0x01, 0xf6, 0xa4, 0x83, 0x04, 0x79, 0xaa, 0x97, 0xf2, 0x50, 0x2e, 0x19, 0x3f}

// vector is a message as it went to or from libvirtd 9.0.0 with its test driver.
type vector struct {
	hex     string
	message Message            // without Body
	body    func(*Encoder)     // writes the body; nil when it holds what is dropped
	read    func(*Decoder) any // reads it
	value   any                // what is read
}

const testDomain = "0000000474657374" + "6695eb01f6a4830479aa97f2502e193f"

func vectors() map[string]vector {
	all := answers()
	maps.Copy(all, plainVectors())
	return all
}

// plainVectors are calls and messages.
func plainVectors() map[string]vector {
	domain := Domain{Name: "test", UUID: testUUID, ID: 1}
	return map[string]vector{
		"call of state": {
			"0000003c2000808600000001000000d4000000000000000d00000000" + testDomain + "0000000100000000",
			Message{Program: ProgramRemote, Version: 1, Proc: ProcState, Type: TypeCall, Serial: 13},
			func(e *Encoder) { e.Domain(domain); e.Uint32(0) },
			func(d *Decoder) any { return []any{d.Domain(), d.Uint32()} },
			[]any{domain, uint32(0)},
		},
		"reply to open": {
			"0000001c200080860000000100000001000000010000000300000000",
			Message{Program: ProgramRemote, Version: 1, Proc: ProcOpen, Type: TypeReply, Serial: 3},
			func(*Encoder) {}, func(*Decoder) any { return nil }, nil,
		},
		"call of open": {
			"00000038200080860000000100000001000000000000000300000000000000010000000f746573743a2f2f2f64656661756c740000000000",
			Message{Program: ProgramRemote, Version: 1, Proc: ProcOpen, Type: TypeCall, Serial: 3},
			func(e *Encoder) { s := "test:///default"; e.OptString(&s); e.Uint32(0) },
			func(d *Decoder) any { return []any{d.OptString(), d.Uint32()} },
			[]any{new("test:///default"), uint32(0)},
		},
		"lifecycle event": {
			"0000004420008086000000010000013e00000002000000010000000000000000" + testDomain + "ffffffff0000000500000001",
			Message{Program: ProgramRemote, Version: 1, Proc: ProcEventLifecycle, Type: TypeMessage, Serial: 1},
			func(e *Encoder) {
				e.Int32(0)
				e.Domain(Domain{Name: "test", UUID: testUUID, ID: -1})
				e.Int32(5)
				e.Int32(1)
			},
			func(d *Decoder) any {
				event, err := ParseEvent(ProcEventLifecycle, d.rest)
				if err != nil {
					d.fail(err)
				}
				d.rest = nil
				return event
			},
			Event{Proc: ProcEventLifecycle, Domain: Domain{Name: "test", UUID: testUUID, ID: -1}, Code: 5, Detail: 1},
		},
		"ping": {
			"0000001c6b6565700000000100000001000000020000000000000000",
			Message{Program: ProgramKeepalive, Version: 1, Proc: ProcPing, Type: TypeMessage},
			func(*Encoder) {}, func(*Decoder) any { return nil }, nil,
		},
	}
}

// answers are replies.
func answers() map[string]vector {
	domain := Domain{Name: "test", UUID: testUUID, ID: 1}
	return map[string]vector{
		"ways to authenticate": {
			"000000242000808600000001000000420000000100000001000000000000000100000000",
			Message{Program: ProgramRemote, Version: 1, Proc: ProcAuthList, Type: TypeReply, Serial: 1},
			func(e *Encoder) { e.Uint32(1); e.Int32(int32(AuthNone)) },
			func(d *Decoder) any { return d.Auths() },
			[]Auth{AuthNone},
		},
		"list": {
			"00000040200080860000000100000111000000010000000c0000000000000001" + testDomain + "0000000100000001",
			Message{Program: ProgramRemote, Version: 1, Proc: ProcListDomains, Type: TypeReply, Serial: 12},
			func(e *Encoder) { e.Domains([]Domain{domain}); e.Uint32(1) },
			func(d *Decoder) any { return []any{d.Domains(), d.Uint32()} },
			[]any{[]Domain{domain}, uint32(1)},
		},
		"error": {
			"00000070200080860000000100000017000000010000000f000000010000002a0000000c0000000100000010446f6d61696e206e6f7420666f756e64" +
				"00000002000000000000000100000010446f6d61696e206e6f7420666f756e640000000000000000ffffffffffffffff00000000",
			Message{Program: ProgramRemote, Version: 1, Proc: ProcLookupByName, Type: TypeReply, Serial: 15, Status: StatusError},
			nil, // fields that are dropped
			func(d *Decoder) any { return d.Error() },
			Error{Code: 42, Origin: 12, Message: "Domain not found"},
		},
	}
}

func TestMessagesAreThoseOfLibvirtd(t *testing.T) {
	for name, v := range vectors() {
		t.Run(name, func(t *testing.T) {
			raw := unhex(t, v.hex)
			n, err := Rest([4]byte(raw))
			if err != nil || n != len(raw)-4 {
				t.Fatalf("%d bytes follow, %v, want %d", n, err, len(raw)-4)
			}
			m, err := ParseMessage(raw[4:])
			if err != nil {
				t.Fatal(err)
			}
			want := v.message
			want.Body = raw[4+HeaderBytes:]
			if diff := cmp.Diff(want, m); diff != "" {
				t.Error(diff)
			}
			if v.body != nil {
				var e Encoder
				v.body(&e)
				want.Body, err = e.Bytes()
				if got := want.Append(nil); err != nil || !bytes.Equal(got, raw) {
					t.Errorf("written %x, %v\nwant    %x", got, err, raw)
				}
			}
			d := NewDecoder(m.Body)
			if diff := cmp.Diff(v.value, v.read(d)); diff != "" {
				t.Error(diff)
			}
			if err := d.End(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Every body that ends early, at whatever byte, is an error; so is one byte more.
func TestBodiesAreReadWholeOrNotAtAll(t *testing.T) {
	for name, v := range vectors() {
		body := unhex(t, v.hex)[4+HeaderBytes:]
		for n := range body {
			d := NewDecoder(body[:n])
			v.read(d)
			if d.End() == nil {
				t.Errorf("%s: %d of %d bytes are read without an error", name, n, len(body))
			}
		}
		d := NewDecoder(append(bytes.Clone(body), 0))
		v.read(d)
		if d.End() == nil {
			t.Errorf("%s: a byte too many is no error", name)
		}
	}
}

func events() []Event {
	d := Domain{Name: "vm1", UUID: testUUID, ID: 7}
	return []Event{
		{Proc: ProcEventLifecycle, Callback: 3, Domain: d, Code: 5, Detail: 1},
		{Proc: ProcEventReboot, Domain: d},
		{Proc: ProcEventControlError, Domain: d},
		{Proc: ProcEventWatchdog, Domain: d, Code: 6},
		{Proc: ProcEventIteration, Domain: d, Code: 12},
		{Proc: ProcEventIOError, Domain: d, Code: 1, Path: "/dev/sda", Device: "virtio0", Reason: "enospc"},
		{Proc: ProcEventClosed, Code: 2},
		{Proc: ProcEventJobCompleted, Domain: d, Params: []Param{
			{"operation", int32(5)}, {"a", uint32(6)}, {"b", int64(-7)}, {"c", uint64(8)}, {"d", 0.5}, {"e", true}, {"f", "x"},
		}},
	}
}

func TestEventsSurviveTheWire(t *testing.T) {
	for _, want := range events() {
		body, err := want.Bytes()
		if err != nil || !IsEvent(want.Proc) {
			t.Fatal(err, want.Proc)
		}
		got, err := ParseEvent(want.Proc, body)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
		for n := range body {
			if _, err := ParseEvent(want.Proc, body[:n]); err == nil {
				t.Errorf("event %d: %d of %d bytes are read without an error", want.Proc, n, len(body))
			}
		}
	}
}

func TestLimitsHoldBeforeTheBytesAreThere(t *testing.T) {
	for name, body := range map[string]string{
		"a string of 4 GiB":           "ffffffff",
		"a string above the limit":    "00400001",
		"a string that is not there":  "00400000",
		"a string with a zero byte":   "0000000261000000",
		"padding that is not zero":    "0000000161000001",
		"padding that is not there":   "0000000161",
		"4 GiB of domains":            "ffffffff",
		"more domains than are there": "00004000",
		"more domains than allowed":   "00004001",
	} {
		d := NewDecoder(unhex(t, body))
		if strings.Contains(name, "domains") {
			d.Domains()
		} else {
			_ = d.String()
		}
		if d.End() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, length := range []string{"00000000", "0000001b", "02000005", "ffffffff"} {
		if n, err := Rest([4]byte(unhex(t, length))); err == nil {
			t.Errorf("length %s: %d bytes follow", length, n)
		}
	}
	if n, err := Rest([4]byte(unhex(t, "02000004"))); err != nil || n != MessageLimitBytes-4 {
		t.Errorf("the longest message: %d, %v", n, err)
	}
}

func TestWhatCannotBeSaidIsNotWritten(t *testing.T) {
	for name, put := range map[string]func(*Encoder){
		"a zero byte":            func(e *Encoder) { e.String("vm1\x00") },
		"a string too long":      func(e *Encoder) { e.String(strings.Repeat("x", StringLimitBytes+1)) },
		"too many domains":       func(e *Encoder) { e.Domains(make([]Domain, DomainsLimit+1)) },
		"a value without a type": func(e *Encoder) { e.Params([]Param{{"x", 1}}) },
	} {
		var e Encoder
		put(&e)
		if _, err := e.Bytes(); err == nil {
			t.Errorf("%s is written", name)
		}
	}
	if _, err := (Event{Proc: ProcOpen}).Bytes(); err == nil {
		t.Error("an event that is none is written")
	}
}

func TestUUIDs(t *testing.T) {
	const text = "6695eb01-f6a4-8304-79aa-97f2502e193f"
	for _, s := range []string{text, strings.ToUpper(text)} {
		if u, err := ParseUUID(s); err != nil || u != testUUID || u.String() != text {
			t.Errorf("%s: %v, %v", s, u, err)
		}
	}
	for _, s := range []string{"", text[1:], text + "0", "x" + text[1:], strings.ReplaceAll(text, "-", "0"), strings.ReplaceAll(text, "-", "")} {
		if u, err := ParseUUID(s); err == nil {
			t.Errorf("%q: %v", s, u)
		}
	}
}

func FuzzMessage(f *testing.F) {
	for _, v := range vectors() {
		f.Add(unhex(f, v.hex)[4:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		if again := m.Append(nil)[4:]; !bytes.Equal(again, b) {
			t.Errorf("read %x, written %x", b, again)
		}
	})
}

func FuzzEvent(f *testing.F) {
	for _, e := range events() {
		body, err := e.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint32(e.Proc), body)
	}
	f.Fuzz(func(t *testing.T, p uint32, b []byte) {
		e, err := ParseEvent(Proc(p), b)
		if err != nil {
			return
		}
		if again, err := e.Bytes(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("read %x, written %x, %v", b, again, err)
		}
	})
}

// FuzzBody reads any bytes as each of the bodies that a client is sent.
func FuzzBody(f *testing.F) {
	for _, v := range vectors() {
		f.Add(unhex(f, v.hex)[4+HeaderBytes:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := NewDecoder(b)
		list := d.Domains()
		if d.Int32(); d.End() == nil {
			var e Encoder
			e.Domains(list)
			if again, err := e.Bytes(); err != nil || !bytes.Equal(again, b[:len(b)-4]) {
				t.Errorf("read %x, written %x, %v", b, again, err)
			}
		}
		d = NewDecoder(b)
		if params := d.Params(); d.End() == nil {
			var e Encoder
			e.Params(params)
			if again, err := e.Bytes(); err != nil || !bytes.Equal(again, b) {
				t.Errorf("read %x, written %x, %v", b, again, err)
			}
		}
		for _, read := range []func(*Decoder){
			func(d *Decoder) { d.Error() }, func(d *Decoder) { d.Auths() }, func(d *Decoder) { d.OptString() }, func(d *Decoder) { d.Bool() },
		} {
			d := NewDecoder(b)
			read(d)
			_ = d.End()
		}
	})
}

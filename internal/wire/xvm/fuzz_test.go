package xvm

import (
	"bytes"
	"testing"
)

// FuzzRequest: what is parsed and written again is the same request, and
// survives its own signature.
func FuzzRequest(f *testing.F) {
	for _, v := range vectors() {
		f.Add(unhex(f, v.packet), []byte(v.key))
	}
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, packet, key []byte) {
		signed := Verify(packet, key, HashNone) == nil
		r, err := ParseRequest(packet)
		if err != nil {
			return
		}
		again, err := r.Append(nil, key)
		if err != nil {
			t.Fatalf("parsed, but not appended: %v", err)
		}
		second, err := ParseRequest(again)
		if err != nil {
			t.Fatalf("appended, but not parsed: %v", err)
		}
		r.Address, second.Address = r.Address.Unmap(), second.Address.Unmap()
		if r != second {
			t.Fatalf("parsed as %+v, then as %+v", r, second)
		}
		if r.Hash > HashSHA512 && signed {
			t.Fatalf("%v was verified", r.Hash)
		}
		if r.Hash <= HashSHA512 && (r.Hash == HashNone || len(key) > 0) {
			if err := Verify(again, key, r.Hash); err != nil {
				t.Fatalf("its own signature: %v", err)
			}
		}
	})
}

// FuzzSerialRequest is the same over a line.
func FuzzSerialRequest(f *testing.F) {
	f.Add(unhex(f, "61626261 04 00 766d31 00*61 1e970300"))
	f.Add(unhex(f, "61626261 ff ff 78*63 00 ffffffff"))
	f.Add([]byte(Magic))
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, err := ParseSerialRequest(packet)
		if err != nil {
			return
		}
		again, err := r.Append(nil)
		if err != nil {
			t.Fatalf("parsed, but not appended: %v", err)
		}
		if second, err := ParseSerialRequest(again); err != nil || second != r {
			t.Fatalf("parsed as %+v, then as %+v, %v", r, second, err)
		}
	})
}

// FuzzEntry: an entry of any garbage is read, and read again the same.
func FuzzEntry(f *testing.F) {
	f.Add(Entry{Name: "vm1", UUID: "6695eb01-f6a4-8304-79aa-97f2502e193f", State: StateRunning}.Append(nil))
	f.Add(make([]byte, EntrySize))
	f.Add(bytes.Repeat([]byte{0xff}, EntrySize))
	f.Fuzz(func(t *testing.T, packet []byte) {
		e, err := ParseEntry(packet)
		if err != nil {
			if len(packet) == EntrySize {
				t.Fatal(err)
			}
			return
		}
		if again, err := ParseEntry(e.Append(nil)); err != nil || again != e {
			t.Fatalf("parsed as %+v, then as %+v, %v", e, again, err)
		}
	})
}

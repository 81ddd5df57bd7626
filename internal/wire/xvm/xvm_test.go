package xvm

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func signed(t testing.TB, hash Hash, key string) []byte {
	t.Helper()
	r := Request{Op: OpStatus, Hash: hash, Guest: "vm1", Seq: 7}
	packet, err := r.Append(nil, []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

func TestNoOtherLengthIsTaken(t *testing.T) {
	request, entry := signed(t, HashSHA256, "k"), Entry{Name: "vm1"}.Append(nil)
	serial, _ := SerialRequest{Op: OpStatus, Guest: "vm1"}.Append(nil)
	for _, c := range []struct {
		name  string
		whole []byte
		parse func([]byte) error
	}{
		{"Verify", request, func(b []byte) error { return Verify(b, []byte("k"), HashNone) }},
		{"Verify without a hash", signed(t, HashNone, ""), func(b []byte) error { return Verify(b, nil, HashNone) }},
		{"ParseRequest", request, func(b []byte) error { _, err := ParseRequest(b); return err }},
		{"ParseSerialRequest", serial, func(b []byte) error { _, err := ParseSerialRequest(b); return err }},
		{"ParseEntry", entry, func(b []byte) error { _, err := ParseEntry(b); return err }},
	} {
		if err := c.parse(c.whole); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		long := append(bytes.Clone(c.whole), make([]byte, 300)...)
		for n := range long {
			if err := c.parse(long[:n]); n != len(c.whole) && err == nil {
				t.Errorf("%s took %d bytes, want %d", c.name, n, len(c.whole))
			}
		}
		if err := c.parse(nil); err == nil {
			t.Errorf("%s took nothing", c.name)
		}
	}
}

func TestVerifyNamesTheReason(t *testing.T) {
	with := func(packet []byte, at int, b byte) []byte {
		packet[at] = b
		return packet
	}
	for _, c := range []struct {
		name    string
		packet  []byte
		key     string
		weakest Hash
		want    error
	}{
		{"as strong as demanded", signed(t, HashSHA256, "k"), "k", HashSHA256, nil},
		{"stronger than demanded", signed(t, HashSHA512, "k"), "k", HashSHA256, nil},
		{"weaker than demanded", signed(t, HashSHA1, "k"), "k", HashSHA256, ErrWeakHash},
		{"no signature where one is demanded", signed(t, HashNone, ""), "k", HashSHA1, ErrWeakHash},
		{"no signature where none is demanded", signed(t, HashNone, ""), "k", HashNone, nil},
		{"no signature and no key", signed(t, HashNone, ""), "", HashNone, nil},
		{"a signature and no key", signed(t, HashSHA256, "k"), "", HashNone, ErrNoKey},
		{"another key", signed(t, HashSHA256, "k"), "k\n", HashNone, ErrDigest},
		{"hash 4", with(signed(t, HashSHA256, "k"), 1, 4), "k", HashNone, ErrHash},
		{"hash 255", with(signed(t, HashSHA256, "k"), 1, 255), "k", HashNone, ErrHash},
		{"padding that is not zero", with(signed(t, HashSHA1, "k"), RequestSize-1, 1), "k", HashNone, ErrDigest},
	} {
		if err := Verify(c.packet, []byte(c.key), c.weakest); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestEveryByteIsSigned(t *testing.T) {
	for _, hash := range []Hash{HashSHA1, HashSHA256, HashSHA512} {
		for i := range RequestSize {
			packet := signed(t, hash, "k")
			packet[i] ^= 0x80
			if err := Verify(packet, []byte("k"), HashSHA1); err == nil {
				t.Errorf("%v: byte %d may be changed", hash, i)
			}
		}
	}
}

func TestVerifyLeavesThePacketAlone(t *testing.T) {
	packet := signed(t, HashSHA256, "k")
	before := bytes.Clone(packet)
	if err := Verify(packet, []byte("k"), HashSHA256); err != nil || !bytes.Equal(before, packet) {
		t.Errorf("Verify: %v, changed: %v", err, !bytes.Equal(before, packet))
	}
}

func TestNamesFillTheirFieldsAndNoMore(t *testing.T) {
	longest, tooLong := strings.Repeat("n", NameLimitBytes), strings.Repeat("n", NameLimitBytes+1)
	packet, err := Request{Guest: longest}.Append(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := ParseRequest(packet); err != nil || r.Guest != longest {
		t.Errorf("the longest name came back as %q, %v", r.Guest, err)
	}
	packet[4+NameLimitBytes] = 'n'
	if r, err := ParseRequest(packet); err == nil {
		t.Errorf("a name without end was read as %q", r.Guest)
	}
	serial, err := SerialRequest{Guest: longest}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := ParseSerialRequest(serial); err != nil || r.Guest != longest {
		t.Errorf("the longest name came back as %q, %v", r.Guest, err)
	}
	serial[6+NameLimitBytes] = 'n'
	if r, err := ParseSerialRequest(serial); err == nil {
		t.Errorf("a name without end was read as %q", r.Guest)
	}
	for _, name := range []string{tooLong, "a\x00b", "\x00"} {
		if b, err := (Request{Guest: name}).Append(nil, nil); err == nil || b != nil {
			t.Errorf("Request.Append took the name %q", name)
		}
		if b, err := (SerialRequest{Guest: name}).Append(nil); err == nil || b != nil {
			t.Errorf("SerialRequest.Append took the name %q", name)
		}
	}
	e, err := ParseEntry(Entry{Name: tooLong, UUID: tooLong}.Append(nil))
	if err != nil || e.Name != longest || e.UUID != longest {
		t.Errorf("a long entry came back as %+v, %v", e, err)
	}
}

func TestAddressFamilies(t *testing.T) {
	base, err := Request{Address: netip.MustParseAddr("192.0.2.1"), Port: 0x1234}.Append(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for family, want := range map[byte]string{0: "invalid IP", 2: "192.0.2.1", 10: "c000:201::"} {
		packet := bytes.Clone(base)
		packet[108], packet[2] = family, 99 // the length of the address is never looked at
		r, err := ParseRequest(packet)
		if err != nil || r.Address.String() != want || r.Port != 0x1234 {
			t.Errorf("family %d: %v port %#x, %v; want %s", family, r.Address, r.Port, err, want)
		}
	}
	for _, at := range []int{108, 109, 111} {
		packet := bytes.Clone(base)
		packet[at] = 99
		if r, err := ParseRequest(packet); err == nil {
			t.Errorf("a family with byte %d = 99 was read as %v", at, r.Address)
		}
	}
	mapped, err := Request{Address: netip.MustParseAddr("::ffff:192.0.2.1"), Port: 0x1234}.Append(nil, nil)
	if err != nil || !bytes.Equal(mapped, base) {
		t.Errorf("an IPv4 address in IPv6 form is not sent as IPv4: %v", err)
	}
}

func TestSerialMagicIsDemanded(t *testing.T) {
	packet, _ := SerialRequest{Op: OpOff, Flags: FlagUUID, Guest: "vm1", Seq: 1 << 31}.Append(nil)
	if r, err := ParseSerialRequest(packet); err != nil || r != (SerialRequest{OpOff, FlagUUID, "vm1", 1 << 31}) {
		t.Fatalf("got %+v, %v", r, err)
	}
	for i := range Magic {
		wrong := bytes.Clone(packet)
		wrong[i]++
		if _, err := ParseSerialRequest(wrong); err == nil {
			t.Errorf("a magic with another byte %d was taken", i)
		}
	}
}

func TestEntryEnds(t *testing.T) {
	for _, c := range []struct {
		entry Entry
		want  bool
	}{
		{Entry{}, true},
		{Entry{State: StateRunning}, true}, // as C: only the strings count
		{Entry{Name: "a"}, false},
		{Entry{UUID: "b"}, false},
	} {
		if got := c.entry.IsEnd(); got != c.want {
			t.Errorf("%+v ends the list: %v, want %v", c.entry, got, c.want)
		}
	}
	if end := (Entry{}).Append(nil); !bytes.Equal(end, make([]byte, EntrySize)) {
		t.Errorf("the end of a list is %x", end)
	}
}

func TestHashesHaveNames(t *testing.T) {
	for hash := HashNone; hash <= HashSHA512; hash++ {
		got, err := ParseHash(strings.ToUpper(hash.String()))
		if err != nil || got != hash {
			t.Errorf("%v was read as %v, %v", hash, got, err)
		}
	}
	for _, s := range []string{"", "md5", "sha-256", "4"} {
		if got, err := ParseHash(s); err == nil {
			t.Errorf("%q was read as %v", s, got)
		}
	}
	if got := Hash(4).String(); got != "hash 4" {
		t.Errorf("hash 4 is called %q", got)
	}
}

func TestOperationsHaveNames(t *testing.T) {
	want := []string{"null", "off", "reboot", "on", "status", "monitor", "list", "operation 7"}
	for i, name := range want {
		if got := Op(i).String(); got != name {
			t.Errorf("operation %d is called %q, want %q", i, got, name)
		}
	}
}

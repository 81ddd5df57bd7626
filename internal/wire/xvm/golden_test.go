package xvm

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// unhex reads hexadecimal digits; "*n" behind a byte repeats it n times, so
// that padding can be read.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	var out []byte
	for word := range strings.FieldsSeq(s) {
		digits, times, repeated := strings.Cut(word, "*")
		b, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		n := 1
		if repeated {
			n = 0
			for _, c := range times {
				n = 10*n + int(c-'0')
			}
		}
		for range n {
			out = append(out, b...)
		}
	}
	return out
}

// vector is a request as the C programs sign it.
type vector struct {
	name    string
	key     string
	request Request
	packet  string
}

const (
	vectorKey  = "secret-key"
	captureKey = "fence-virt-go interop test key 01"
)

func vectors() []vector {
	reboot := Request{
		Op: OpReboot, Guest: "node1", Address: netip.MustParseAddr("192.168.122.11"), Port: 1229,
		Salt: [6]byte{1, 2, 3, 4, 5, 6}, Seq: 123456,
	}
	with := func(hash Hash) Request {
		r := reboot
		r.Hash = hash
		if hash == HashNone {
			r.Salt = [6]byte{}
		}
		return r
	}
	head := func(hash, salt string) string {
		return "02 " + hash + " 04 00 6e6f646531 00*59 c0a87a0b 00*24 cd04 " + salt + " 40e20100 02000000 "
	}
	return []vector{
		{"no hash", vectorKey, with(HashNone), head("00", "00*6") + "00*64"},
		{"sha1", vectorKey, with(HashSHA1), head("01", "010203040506") + "aeddf18b5cbbd547b9afe7224ca03ff58f886a87 00*44"},
		{
			"sha256", vectorKey, with(HashSHA256),
			head("02", "010203040506") + "910ee1c2e7916160dfa7db9951377060303d300808bbd59857a04108da91ab95 00*32",
		},
		{
			"sha512", vectorKey, with(HashSHA512),
			head("03", "010203040506") + "c9f4458bfa1b0b4cac274c01bf25d7ed087eee3e80c1c2639800db7aea1aa9e6" +
				"79cfe6445b52f75b1a719485ff212a6b160f95066f62aa76ae342428408e7f69",
		},
		{
			"IPv6 with the flag of UUIDs", vectorKey,
			Request{
				Op: OpOff, Hash: HashSHA256, Flags: FlagUUID, Guest: "node1", Address: netip.MustParseAddr("fd00::11"), Port: 1229,
				Salt: [6]byte{1, 2, 3, 4, 5, 6}, Seq: 123456,
			},
			"01 02 10 01 6e6f646531 00*59 fd00 00*13 11 00*12 cd04 010203040506 40e20100 0a000000 " +
				"c6aece958a62cd9229257778241c7ab169b007a197030628f20408382df99074 00*32",
		},
		{
			"captured from Debian's fence_xvm", captureKey,
			Request{
				Op: OpStatus, Hash: HashSHA256, Guest: "vm1", Address: netip.MustParseAddr("127.0.0.1"), Port: 12292,
				Salt: [6]byte{0x07, 0xcb, 0x57, 0x6e, 0x68, 0xdf}, Seq: 0x000270d9,
			},
			"04 02 04 00 766d31 00*61 7f000001 00*24 0430 07cb576e68df d9700200 02000000 " +
				"c3533e6f1c6f2b8af67cf47cbd125c65cab632c732787793304bf6327f4b52b8 00*32",
		},
	}
}

func TestRequestsAreThoseOfTheCPrograms(t *testing.T) {
	for _, v := range vectors() {
		t.Run(v.name, func(t *testing.T) {
			want := unhex(t, v.packet)
			if len(want) != RequestSize {
				t.Fatalf("the vector has %d bytes", len(want))
			}
			packet, err := v.request.Append([]byte("front"), []byte(v.key))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff("front"+string(want), string(packet)); diff != "" {
				t.Errorf("Append (-want +got):\n%s", diff)
			}
			if err := Verify(want, []byte(v.key), v.request.Hash); err != nil {
				t.Errorf("Verify: %v", err)
			}
			got, err := ParseRequest(want)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(v.request, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("ParseRequest (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnswersAreThoseOfTheCPrograms(t *testing.T) {
	var challenge [ChallengeSize]byte
	for i := range challenge {
		challenge[i] = byte(i)
	}
	for hash, digest := range map[Hash]string{
		HashNone:   "00*64",
		HashSHA1:   "b0e0761ebe140aa525dabbfc5e251d7c61319b62 00*44",
		HashSHA256: "640e99fe95bb0039f84d098da7b325dd07bb14c909a4cff111904095c4a080b5 00*32",
		HashSHA512: "ab297ea288054cb23eeaeefafdc206d22df3e8190c46eb3a41a17feced8ecdd8" +
			"a4b58c7a25789095cd02ab46d466c5e5d39a4c2c6740d9db4c49d8b9e5e29625",
	} {
		answer := Answer(hash, []byte(vectorKey), challenge)
		if diff := cmp.Diff(unhex(t, digest), answer[:]); diff != "" {
			t.Errorf("%v (-want +got):\n%s", hash, diff)
		}
		if !Answers(hash, []byte(vectorKey), challenge, answer) {
			t.Errorf("%v: the right answer was refused", hash)
		}
		for i := range answer {
			wrong := answer
			wrong[i] ^= 1
			if Answers(hash, []byte(vectorKey), challenge, wrong) {
				t.Errorf("%v: an answer with another byte %d was taken", hash, i)
			}
		}
	}
}

func TestSerialRequestsAreThoseOfTheCPrograms(t *testing.T) {
	captured := unhex(t, "61626261 04 00 766d31 00*61 1e970300")
	want := SerialRequest{Op: OpStatus, Guest: "vm1", Seq: 0x0003971e}
	got, err := ParseSerialRequest(captured)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ParseSerialRequest (-want +got):\n%s", diff)
	}
	packet, err := want.Append([]byte("front"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("front"+string(captured), string(packet)); diff != "" {
		t.Errorf("Append (-want +got):\n%s", diff)
	}
}

func TestAnEntryAcceptsWhatTheCDaemonLeavesInItsPadding(t *testing.T) {
	// The bytes 63, 127 and 129 as measured.
	packet := unhex(t, "766d31 00*60 36 36363935656230312d663661342d383330342d373961612d393766323530326531393366 00*27 e5 01 90")
	want := Entry{Name: "vm1", UUID: "6695eb01-f6a4-8304-79aa-97f2502e193f", State: StateRunning}
	got, err := ParseEntry(packet)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ParseEntry (-want +got):\n%s", diff)
	}
	packet[63], packet[127], packet[129] = 0, 0, 0
	if diff := cmp.Diff("front"+string(packet), string(want.Append([]byte("front")))); diff != "" {
		t.Errorf("Append (-want +got):\n%s", diff)
	}
}

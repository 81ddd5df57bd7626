package xvmdiag

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ringfence/internal/wire/xvm"
)

var nonce = Nonce{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

var compare = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

func full() Report {
	return Report{
		Nonce: nonce, Stage: StageEnded, Outcome: OutcomeServed, Result: xvm.ResultDenied, Kind: KindMulticast,
		Address: netip.MustParseAddr("225.0.0.12"), Port: 1229, Source: netip.MustParseAddrPort("10.77.0.11:40000"),
		ToGroup: true, Fits: 2,
		Keys: []Key{
			{FingerprintOf([]byte("a")), xvm.HashSHA1, xvm.HashNone}, {FingerprintOf([]byte("b")), xvm.HashSHA256, xvm.HashSHA512},
		},
		Interfaces: []Interface{
			{Name: "br0", Prefix: netip.MustParsePrefix("10.77.0.1/24"), Joined: true, Arrived: true, Snoops: true, Querier: true},
			{Name: "br1", Prefix: netip.MustParsePrefix("fd77::1/64")},
			{Name: "x"},
		},
		Version: "v1.2.3",
	}
}

// TestTheLayoutIsTheDocumentedOne holds the bytes against those of the package comment.
func TestTheLayoutIsTheDocumentedOne(t *testing.T) {
	request := bytes.Repeat([]byte{7}, xvm.RequestSize)
	probe, err := AppendProbe(nil, request, nonce)
	if err != nil {
		t.Fatal(err)
	}
	want := append(append([]byte{}, request...), "RFPROBE1\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10"...)
	want = append(want, make([]byte, 824)...)
	if !bytes.Equal(probe, want) {
		t.Errorf("probe %x", probe)
	}
	got := hex.EncodeToString(full().Append(nil))
	golden := strings.Join([]string{
		hex.EncodeToString([]byte("RFREPLY1")), "0102030405060708090a0b0c0d0e0f10", "02", "0a", "03", "01",
		"00000000000000000000ffffe100000c", "cd04", "00000000000000000000ffff0a4d000b", "409c", "01", "02",
		"02", FingerprintOf([]byte("a")).String() + "0100", FingerprintOf([]byte("b")).String() + "0203",
		"03",
		"0f", "00000000000000000000ffff0a4d0001", "18", "03" + hex.EncodeToString([]byte("br0")),
		"00", "fd770000000000000000000000000001", "40", "03" + hex.EncodeToString([]byte("br1")),
		"00", strings.Repeat("00", 16), "00", "0178",
		"06" + hex.EncodeToString([]byte("v1.2.3")),
	}, "")
	if diff := cmp.Diff(golden, got); diff != "" {
		t.Error(diff)
	}
	if got := FingerprintOf([]byte("fence-virt-go interop test key 01")).String(); got != "10384840" {
		t.Errorf("fingerprint %s", got)
	}
}

func TestAReportComesBackAsItWas(t *testing.T) {
	got, err := ParseReport(full().Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full(), got, compare); diff != "" {
		t.Error(diff)
	}
}

// TestNoReportIsLargerThanItsLimit is what keeps a forged probe from being worth
// anything: two reports are not larger than one probe, with their headers.
func TestNoReportIsLargerThanItsLimit(t *testing.T) {
	r := full()
	r.Version = strings.Repeat("v", 1000)
	for range 20 {
		r.Keys = append(r.Keys, Key{})
		r.Interfaces = append(r.Interfaces, Interface{Name: strings.Repeat("\n", 100), Prefix: netip.MustParsePrefix("fd77::1/64")})
	}
	b := r.Append(nil)
	const headers = 14 + 40 + 8 // of Ethernet, IPv6 and UDP
	if len(b) > ReportLimit || 2*(ReportLimit+headers) > ProbeSize+headers {
		t.Errorf("%d bytes", len(b))
	}
	got, err := ParseReport(b)
	if err != nil || len(got.Keys) != KeyLimit || len(got.Interfaces) != InterfaceLimit || strings.Contains(got.Interfaces[5].Name, "\n") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWhatIsCutOrChangedIsRefused(t *testing.T) {
	whole := full().Append(nil)
	for n := range whole {
		if _, err := ParseReport(whole[:n]); err == nil {
			t.Errorf("%d of %d bytes were taken", n, len(whole))
		}
	}
	if _, err := ParseReport(append(bytes.Clone(whole), 0)); err == nil {
		t.Error("a byte behind the report was taken")
	}
	for name, change := range map[string]func(b []byte){
		"magic": func(b []byte) { b[0]++ }, "stage": func(b []byte) { b[24] = 3 }, "outcome": func(b []byte) { b[25] = byte(outcomeEnd) },
		"kind": func(b []byte) { b[27] = 4 }, "flags": func(b []byte) { b[64] = 2 }, "fits": func(b []byte) { b[65] = 3 },
		"keys": func(b []byte) { b[66] = KeyLimit + 1 }, "interfaces": func(b []byte) { b[79] = InterfaceLimit + 1 },
		"prefix": func(b []byte) { b[97] = 33 }, "escape": func(b []byte) { b[len(b)-1] = 0x1b },
	} {
		b := bytes.Clone(whole)
		change(b)
		if _, err := ParseReport(b); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	probe, _ := AppendProbe(nil, make([]byte, xvm.RequestSize), nonce)
	for n := range ProbeSize {
		if _, ok := ParseProbe(probe[:n]); ok {
			t.Errorf("a probe of %d bytes was taken", n)
		}
	}
	if got, ok := ParseProbe(probe); !ok || got != nonce {
		t.Errorf("nonce %x, %v", got, ok)
	}
	if _, err := AppendProbe(nil, make([]byte, xvm.RequestSize-1), nonce); err == nil {
		t.Error("a short request was taken")
	}
}

func TestAChallengeMayBeAProbe(t *testing.T) {
	random := [xvm.ChallengeSize]byte(bytes.Repeat([]byte{9}, xvm.ChallengeSize))
	if _, ok := ParseChallenge(random); ok {
		t.Error("an ordinary challenge was taken for a probe")
	}
	probe := ChallengeProbe(random, nonce)
	if got, ok := ParseChallenge(probe); !ok || got != nonce || !bytes.Equal(probe[24:], random[24:]) || string(probe[:8]) != "RFPROBE1" {
		t.Errorf("probe %x", probe)
	}
	if IsReport(probe[:]) || !IsReport(full().Append(nil)) || IsReport([]byte("RFREPLY")) {
		t.Error("what is a report was mistaken")
	}
}

func FuzzReport(f *testing.F) {
	f.Add(full().Append(nil))
	f.Add(Report{Stage: StageArrived, Kind: KindUDP}.Append(nil))
	f.Add([]byte(reportMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReport(b)
		if err != nil {
			return
		}
		again, err := ParseReport(r.Append(nil))
		if err != nil {
			t.Fatalf("parsed, but not its copy: %v", err)
		}
		if diff := cmp.Diff(r, again, compare); diff != "" {
			t.Fatal(diff)
		}
	})
}

// FuzzProbe: what is taken for a probe is one again when it is made anew.
func FuzzProbe(f *testing.F) {
	probe, _ := AppendProbe(nil, make([]byte, xvm.RequestSize), nonce)
	f.Add(probe)
	f.Add(probe[:xvm.RequestSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := ParseProbe(b)
		if !ok {
			return
		}
		again, err := AppendProbe(nil, b[:xvm.RequestSize], got)
		if err != nil || len(again) != len(b) {
			t.Fatal(err)
		}
		if second, ok := ParseProbe(again); !ok || second != got {
			t.Fatalf("nonce %x, then %x", got, second)
		}
	})
}

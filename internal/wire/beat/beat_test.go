package beat

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
)

var update = flag.Bool("update", false, "rewrite the golden vectors")

var testDomain = Domain{"6f1d2c3b4a5968778695a4b3c2d1e0ff", 3}

func testKey() *Key {
	var k Key
	for i := range k {
		k[i] = byte(i)
	}
	return &k
}

// vectors are the named beats whose bytes are pinned in testdata.
func vectors() map[string]Beat {
	return map[string]Beat{
		"first": {Node: "n1", Boot: "0b7c9a52-3d64-4fd4-8a43-6a2f6b0e9d11", Session: 0x1122334455667788, Counter: 1, Nonce: 7},
		"leader": {
			Node: "db-2.example", Boot: "boot", Session: 1, Counter: 4711, Tick: 99, Revision: 1234,
			Quorum: true, Nonce: 0xa1a2a3a4a5a6a7a8, Echo: 0xb1b2b3b4b5b6b7b8,
		},
		"shortest": {Node: "a", Boot: "b"},
		"longest": {
			Node: cluster.NodeName(strings.Repeat("n", 63)), Boot: cluster.BootID(strings.Repeat("b", 64)),
			Session: math.MaxUint64, Counter: math.MaxUint64, Tick: math.MaxUint64, Revision: math.MaxInt64,
			Quorum: true, Nonce: math.MaxUint64, Echo: math.MaxUint64,
		},
	}
}

func encode(t *testing.T, b Beat) []byte {
	t.Helper()
	data, err := Append(nil, testKey(), testDomain, b)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestGoldenVectors(t *testing.T) {
	for name, want := range vectors() {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".hex")
			if *update {
				if err := os.WriteFile(file, []byte(hex.EncodeToString(encode(t, want))+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			golden, err := hex.DecodeString(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(golden, encode(t, want)); diff != "" {
				t.Errorf("Append differs from the golden vector (-want +got):\n%s", diff)
			}
			got, err := Parse(golden, testKey(), testDomain)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Parse of the golden vector (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSizesAreTheDocumentedLimits(t *testing.T) {
	all := vectors()
	if got := len(encode(t, all["shortest"])); got != minimumBytes {
		t.Errorf("shortest beat has %d bytes, want %d", got, minimumBytes)
	}
	if got := len(encode(t, all["longest"])); got != LimitBytes {
		t.Errorf("longest beat has %d bytes, want %d", got, LimitBytes)
	}
}

func TestAppendKeepsWhatIsInFront(t *testing.T) {
	b := vectors()["leader"]
	data, err := Append([]byte("front"), testKey(), testDomain, b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("front"+string(encode(t, b)), string(data)); diff != "" {
		t.Error(diff)
	}
}

func TestAppendRefusesWhatItCannotExpress(t *testing.T) {
	for name, b := range map[string]Beat{
		"no node":           {Boot: "b"},
		"no boot":           {Node: "n"},
		"node too long":     {Node: cluster.NodeName(strings.Repeat("n", 64)), Boot: "b"},
		"boot too long":     {Node: "n", Boot: cluster.BootID(strings.Repeat("b", 65))},
		"negative revision": {Node: "n", Boot: "b", Revision: -1},
	} {
		if data, err := Append(nil, testKey(), testDomain, b); err == nil || len(data) != 0 {
			t.Errorf("%s: got %d bytes and error %v, want refusal", name, len(data), err)
		}
	}
}

func TestTruncationAtEveryLengthIsRefused(t *testing.T) {
	for name, b := range vectors() {
		data := encode(t, b)
		for n := range data {
			if _, err := Parse(data[:n], testKey(), testDomain); err == nil {
				t.Errorf("%s: accepted the first %d of %d bytes", name, n, len(data))
			}
		}
	}
}

func TestTrailingBytesAreRefused(t *testing.T) {
	for name, b := range vectors() {
		if _, err := Parse(append(encode(t, b), 0), testKey(), testDomain); err == nil {
			t.Errorf("%s: accepted a byte behind the MAC", name)
		}
	}
}

func TestEveryBitFlipIsRefused(t *testing.T) {
	data := encode(t, vectors()["leader"])
	for i := range data {
		for bit := range 8 {
			data[i] ^= 1 << bit
			if _, err := Parse(data, testKey(), testDomain); err == nil {
				t.Errorf("accepted with bit %d of byte %d flipped", bit, i)
			}
			data[i] ^= 1 << bit
		}
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	good := encode(t, vectors()["leader"])
	otherKey := testKey()
	otherKey[31] ^= 1
	changed := func(at int, to byte) []byte {
		data := append([]byte(nil), good...)
		data[at] = to
		return data
	}
	for _, c := range []struct {
		name string
		data []byte
		key  *Key
		of   Domain
		want error
	}{
		{"empty datagram", nil, testKey(), testDomain, ErrSize},
		{"longer than any beat", make([]byte, LimitBytes+1), testKey(), testDomain, ErrSize},
		{"other protocol", changed(0, 'X'), testKey(), testDomain, ErrFormat},
		{"newer version", changed(3, 2), testKey(), testDomain, ErrFormat},
		{"other cluster", good, testKey(), Domain{testDomain.Cluster + "0", 3}, ErrCluster},
		{"older incarnation", good, testKey(), Domain{testDomain.Cluster, 4}, ErrCluster},
		{"other key", good, otherKey, testDomain, ErrKey},
		{"forged body", changed(30, 1), testKey(), testDomain, ErrKey},
	} {
		if _, err := Parse(c.data, c.key, c.of); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// A holder of the key may still send nonsense: it must be refused by the body
// rules, never crash the reader.
func TestAuthenticNonsenseIsRefused(t *testing.T) {
	good := encode(t, vectors()["leader"])
	resign := func(change func([]byte) []byte) []byte {
		body := change(append([]byte(nil), good[:len(good)-macBytes]...))
		return append(body, mac(testKey(), body)...)
	}
	for name, change := range map[string]func([]byte) []byte{
		"unknown flag":          func(d []byte) []byte { d[60] |= 2; return d },
		"revision out of range": func(d []byte) []byte { d[36] = 0x80; return d },
		"node name empty":       func(d []byte) []byte { d[61] = 0; return d },
		"node name too long":    func(d []byte) []byte { d[61] = 64; return append(d, make([]byte, 40)...) },
		"node name past end":    func(d []byte) []byte { d[61] = 60; return d },
		"boot missing":          func(d []byte) []byte { return d[:74] },
		"bytes behind boot":     func(d []byte) []byte { return append(d, 1) },
		"boot too short":        func(d []byte) []byte { return d[:len(d)-1] },
	} {
		if _, err := Parse(resign(change), testKey(), testDomain); !errors.Is(err, ErrBody) {
			t.Errorf("%s: got %v, want ErrBody", name, err)
		}
	}
}

func TestKeyIsNotPrintedByAccident(t *testing.T) {
	config := struct{ Key Key }{*testKey()}
	if got := fmt.Sprintf("%v %+v", config, testKey()); got != "{(secret)} (secret)" {
		t.Errorf("got %s", got)
	}
}

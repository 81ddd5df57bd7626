package beat

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
)

// FuzzParse signs arbitrary bodies, so that the fuzzer gets behind the MAC, and
// demands that whatever Parse accepts is printed back byte for byte.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seed files (%v)", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		data, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data[:len(data)-macBytes])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := Parse(body, testKey(), testDomain); err == nil {
			t.Fatal("accepted an unsigned body")
		}
		data := append(body[:len(body):len(body)], mac(testKey(), body)...)
		b, err := Parse(data, testKey(), testDomain)
		if err != nil {
			return
		}
		again, err := Append(nil, testKey(), testDomain, b)
		if err != nil || !bytes.Equal(data, again) {
			t.Fatalf("accepted %x, printed back %x (%v)", data, again, err)
		}
	})
}

// FuzzRoundTrip demands that every beat that can be sent is received as it was.
func FuzzRoundTrip(f *testing.F) {
	for _, b := range vectors() {
		f.Add(string(b.Node), string(b.Boot), b.Session, b.Counter, b.Tick, int64(b.Revision), b.Quorum, b.Nonce, b.Echo)
	}
	f.Fuzz(func(t *testing.T, node, boot string, session, counter, tick uint64, rev int64, quorum bool, nonce, echo uint64) {
		want := Beat{
			Node: cluster.NodeName(node), Boot: cluster.BootID(boot), Session: session, Counter: counter,
			Tick: tick, Revision: cluster.Revision(rev), Quorum: quorum, Nonce: nonce, Echo: echo,
		}
		data, err := Append(nil, testKey(), testDomain, want)
		if err != nil {
			return
		}
		got, err := Parse(data, testKey(), testDomain)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

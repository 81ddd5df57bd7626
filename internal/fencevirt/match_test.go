package fencevirt

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/wire/xvm"
)

func serialBytes(t testing.TB, op xvm.Op, guest string, seq uint32) []byte {
	t.Helper()
	b, err := xvm.SerialRequest{Op: op, Guest: guest, Seq: seq}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRequestsAreFoundBehindAnyNoise(t *testing.T) {
	request := serialBytes(t, xvm.OpOff, "vm1", 7)
	want := []xvm.SerialRequest{{Op: xvm.OpOff, Guest: "vm1", Seq: 7}}
	for name, noise := range map[string]string{
		"none":                           "",
		"text":                           "login: ",
		"the begin of the magic":         "ab",
		"three of its bytes":             "abb",
		"its end":                        "bba",
		"the magic":                      "abba",
		"two":                            "abbaabba",
		"magics that overlap":            "abbabbabba",
		"a magic, and text":              "abba is a band; this goes on for longer than a request has bytes, which is seventy-four.",
		"a request with a name too long": "abba\x01\x00" + string(bytes.Repeat([]byte("x"), 64)) + "1234",
	} {
		for _, chunk := range []int{1, 3, 4096} {
			var m matcher
			var got []xvm.SerialRequest
			for b := append([]byte(noise), request...); len(b) > 0; {
				n := min(chunk, len(b))
				got, b = append(got, m.feed(b[:n])...), b[n:]
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %d bytes at a time (-want +got):\n%s", name, chunk, diff)
			}
		}
	}
}

func TestRequestsFollowEachOther(t *testing.T) {
	var m matcher
	stream := append(serialBytes(t, xvm.OpOff, "a", 1), serialBytes(t, xvm.OpStatus, "b", 2)...)
	want := []xvm.SerialRequest{{Op: xvm.OpOff, Guest: "a", Seq: 1}, {Op: xvm.OpStatus, Guest: "b", Seq: 2}}
	if diff := cmp.Diff(want, m.feed(stream)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if m.partial() {
		t.Error("something is left")
	}
}

func TestAPartialRequestCanBeForgotten(t *testing.T) {
	var m matcher
	m.feed([]byte("abb"))
	if m.partial() {
		t.Error("half a magic is no request")
	}
	m.feed([]byte("a"))
	if !m.partial() {
		t.Error("a request has begun")
	}
	m.reset()
	if got := m.feed(serialBytes(t, xvm.OpOff, "a", 1)); len(got) != 1 {
		t.Errorf("got %v", got)
	}
}

// FuzzMatcher: whatever comes, little is held; a request that follows enough
// silence bytes is found; and it does not matter how the stream was cut.
func FuzzMatcher(f *testing.F) {
	f.Add([]byte("ab"), 1)
	f.Add([]byte("abbabbabba"), 2)
	f.Add(serialBytes(f, xvm.OpOff, "vm1", 7), 5)
	f.Add(append([]byte("abba\x01"), serialBytes(f, xvm.OpOff, "vm1", 7)...), 74)
	f.Fuzz(func(t *testing.T, noise []byte, chunk int) {
		if chunk < 1 {
			chunk = 1
		}
		stream := append(bytes.Clone(noise), make([]byte, 2*xvm.SerialSize)...)
		stream = append(stream, serialBytes(t, xvm.OpStatus, "last", 42)...)
		var whole, cut matcher
		want := whole.feed(stream)
		var got []xvm.SerialRequest
		for b := stream; len(b) > 0; {
			n := min(chunk, len(b))
			got, b = append(got, cut.feed(b[:n])...), b[n:]
			if len(cut.held) > xvm.SerialSize {
				t.Fatalf("%d bytes are held", len(cut.held))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("cut into %d (-whole +cut):\n%s", chunk, diff)
		}
		if len(got) == 0 || got[len(got)-1] != (xvm.SerialRequest{Op: xvm.OpStatus, Guest: "last", Seq: 42}) {
			t.Fatalf("the last request was not found: %v", got)
		}
	})
}

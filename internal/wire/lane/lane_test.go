package lane

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func encode(t testing.TB, f Frame) []byte {
	t.Helper()
	b, err := f.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheFormIsFixed(t *testing.T) {
	if got := checksum([]byte("12345"), []byte("6789")); got != 0xe3069283 {
		t.Errorf("CRC-32C of the check string is %#x, want 0xe3069283", got)
	}
	got := encode(t, Frame{Kind: Data, Session: 0x0102030405060708, Stream: 9, Payload: []byte("hi")})
	want := append([]byte("RFln\x01\x05\x00\x02\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00\x00\x09"), got[20:24]...)
	if diff := cmp.Diff(append(want, "hi"...), got); diff != "" {
		t.Errorf("frame (-want +got):\n%s", diff)
	}
	if _, err := (Frame{Payload: make([]byte, PayloadLimit+1)}).Append(nil); err == nil {
		t.Error("a payload above the limit is taken")
	}
}

// all returns the frames in b, given in pieces of one size.
func all(b []byte, piece int) (frames []Frame) {
	var buf []byte
	for len(b) > 0 {
		n := min(piece, len(b))
		buf, b = append(buf, b[:n]...), b[n:]
		for {
			f, used, ok := Next(buf)
			if ok {
				f.Payload = append([]byte(nil), f.Payload...)
				frames = append(frames, f)
			}
			buf = buf[used:]
			if !ok {
				break
			}
		}
	}
	return frames
}

func TestFramesAreFoundWhereverTheStreamBegins(t *testing.T) {
	want := []Frame{
		{Kind: Hello, Session: 7},
		{Kind: Data, Session: 7, Stream: 1, Payload: []byte("RFln RFln\x01\x05 and so on")},
		{Kind: Close, Session: 7, Stream: 1},
	}
	var good []byte
	for _, f := range want {
		good = append(good, encode(t, f)...)
	}
	broken := encode(t, Frame{Kind: Data, Session: 6, Stream: 3, Payload: bytes.Repeat([]byte("RFl"), 1000)})
	for n := range broken {
		front := append(bytes.Clone(broken[:n]), Preamble()...)
		for _, piece := range []int{1 << 20, 100} {
			if diff := cmp.Diff(want, all(append(bytes.Clone(front), good...), piece)); diff != "" {
				t.Fatalf("behind %d bytes of a frame that broke off, in pieces of %d (-want +got):\n%s", n, piece, diff)
			}
		}
	}
	for n := range good {
		for _, f := range all(good[:n], 1) {
			if !cmp.Equal(f, want[0]) && !cmp.Equal(f, want[1]) {
				t.Fatalf("%d of %d bytes hold %+v", n, len(good), f)
			}
		}
	}
}

func FuzzNext(f *testing.F) {
	f.Add([]byte("RFln"))
	f.Add(encode(f, Frame{Kind: Open, Session: 1, Stream: 2}))
	f.Add(append([]byte("RFlnRFln"), encode(f, Frame{Kind: Data, Payload: []byte("x")})...))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, used, ok := Next(b)
		if used < 0 || used > len(b) {
			t.Fatalf("%d of %d bytes used", used, len(b))
		}
		if !ok {
			if len(b)-used > headerBytes+PayloadLimit {
				t.Errorf("%d bytes are kept, more than one frame", len(b)-used)
			}
			return
		}
		again, err := got.Append(nil)
		if err != nil || !bytes.HasSuffix(b[:used], again) {
			t.Errorf("frame %+v is not what stands there", got)
		}
	})
}

package virnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Encoder builds a body. The first value that does not fit makes Bytes fail.
type Encoder struct {
	b   []byte
	err error
}

// Bytes returns the body.
func (e *Encoder) Bytes() ([]byte, error) { return e.b, e.err }

// Uint32 appends an unsigned int.
func (e *Encoder) Uint32(v uint32) { e.b = binary.BigEndian.AppendUint32(e.b, v) }

// Int32 appends an int.
func (e *Encoder) Int32(v int32) { e.Uint32(uint32(v)) }

// Uint64 appends an unsigned hyper.
func (e *Encoder) Uint64(v uint64) { e.b = binary.BigEndian.AppendUint64(e.b, v) }

// Bool appends an int that is 0 or 1.
func (e *Encoder) Bool(v bool) {
	if v {
		e.Uint32(1)
	} else {
		e.Uint32(0)
	}
}

// String appends a string.
func (e *Encoder) String(s string) {
	switch {
	case len(s) > StringLimitBytes:
		e.fail(fmt.Errorf("a string of %d bytes, at most %d are allowed", len(s), StringLimitBytes))
	case strings.IndexByte(s, 0) >= 0:
		e.fail(fmt.Errorf("the string %q holds a zero byte, where libvirt would end it", s))
	default:
		e.Uint32(uint32(len(s)))
		e.b = append(e.b, s...)
		e.b = append(e.b, make([]byte, padding(len(s)))...)
	}
}

// OptString appends a string that may be missing: nil.
func (e *Encoder) OptString(s *string) {
	e.Bool(s != nil)
	if s != nil {
		e.String(*s)
	}
}

// UUID appends a UUID.
func (e *Encoder) UUID(u UUID) { e.b = append(e.b, u[:]...) }

func (e *Encoder) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

func padding(n int) int { return -n & 3 }

var errShort = errors.New("the body ends too early")

// Decoder reads a body. After the first value that is not there all are zero,
// and End says why.
type Decoder struct {
	rest []byte
	err  error
}

// NewDecoder returns a decoder of the body.
func NewDecoder(body []byte) *Decoder { return &Decoder{rest: body} }

// End returns the first error, or one if bytes are left.
func (d *Decoder) End() error {
	if d.err == nil && len(d.rest) > 0 {
		d.fail(fmt.Errorf("%d bytes too many in the body", len(d.rest)))
	}
	return d.err
}

func (d *Decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.rest = nil
}

func (d *Decoder) take(n int) []byte {
	if n > len(d.rest) {
		d.fail(errShort)
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

// Uint32 reads an unsigned int.
func (d *Decoder) Uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Int32 reads an int.
func (d *Decoder) Int32() int32 { return int32(d.Uint32()) }

// Uint64 reads an unsigned hyper.
func (d *Decoder) Uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Bool reads an int that must be 0 or 1.
func (d *Decoder) Bool() bool {
	v := d.Uint32()
	if v > 1 {
		d.fail(fmt.Errorf("the number %d stands where 0 or 1 must", v))
	}
	return v == 1
}

// String reads a string.
func (d *Decoder) String() string {
	n := d.Uint32()
	if n > StringLimitBytes {
		d.fail(fmt.Errorf("a string of %d bytes, at most %d are allowed", n, StringLimitBytes))
		return ""
	}
	s := string(d.take(int(n)))
	for _, b := range d.take(padding(int(n))) {
		if b != 0 {
			d.fail(errors.New("the padding of a string is not zero"))
		}
	}
	if strings.IndexByte(s, 0) >= 0 {
		d.fail(errors.New("a string holds a zero byte"))
	}
	if d.err != nil {
		return ""
	}
	return s
}

// OptString reads a string that may be missing: nil.
func (d *Decoder) OptString() *string {
	if !d.Bool() {
		return nil
	}
	s := d.String()
	return &s
}

// UUID reads a UUID.
func (d *Decoder) UUID() (u UUID) {
	copy(u[:], d.take(len(u)))
	return u
}

// count reads the length of a list whose entries have at least size bytes each.
func (d *Decoder) count(limit, size int) int {
	n := d.Uint32()
	if uint64(n) > uint64(limit) {
		d.fail(fmt.Errorf("a list of %d, at most %d are allowed", n, limit))
		return 0
	}
	if int(n)*size > len(d.rest) {
		d.fail(errShort)
		return 0
	}
	return int(n)
}

func (e *Encoder) float(v float64) { e.Uint64(math.Float64bits(v)) }

func (d *Decoder) float() float64 { return math.Float64frombits(d.Uint64()) }

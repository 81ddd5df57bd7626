// Package lane is the byte form of connections between a guest and its host over
// one byte stream that neither end can begin anew: a virtio-serial port. Package
// ringfence/internal/lane carries it.
//
//	offset  bytes
//	0       4      "RFln"
//	4       1      version, 1
//	5       1      kind
//	6       2      length of the payload, at most 4096, big endian as all numbers
//	8       8      session
//	16      4      stream
//	20      4      CRC-32C of bytes 0 to 20 and the payload
//	24      ...    payload
//
// The stream may begin in the middle of a frame, or break off in one: whoever was
// there before was killed. What is no frame is skipped. A frame that broke off
// would swallow what follows, so whoever begins sends Preamble first.
package lane

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Kind says what a frame is for.
type Kind byte

// The kinds.
const (
	// Hello: the guest begins a session. All streams of another end.
	Hello Kind = 1
	// Welcome: the host knows the session.
	Welcome Kind = 2
	// Unknown: the host does not know the session; begin another.
	Unknown Kind = 3
	// Open: the guest opens the stream.
	Open Kind = 4
	// Data is some bytes of the stream.
	Data Kind = 5
	// Close: the stream ends, in both directions.
	Close Kind = 6
)

const (
	headerBytes = 24
	// PayloadLimit bounds the payload of a frame.
	PayloadLimit = 4096
	version      = 1
)

var magic = []byte("RFln")

// Frame is one message.
type Frame struct {
	Kind    Kind
	Session uint64
	Stream  uint32
	Payload []byte
}

// Preamble returns bytes that complete any frame that broke off, and are none.
func Preamble() []byte { return make([]byte, headerBytes+PayloadLimit) }

// Append appends the byte form. The payload must keep its limit.
func (f Frame) Append(b []byte) ([]byte, error) {
	if len(f.Payload) > PayloadLimit {
		return b, fmt.Errorf("a frame with %d bytes of payload: at most %d are allowed", len(f.Payload), PayloadLimit)
	}
	begin := len(b)
	b = append(b, magic...)
	b = append(b, version, byte(f.Kind))
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.Payload)))
	b = binary.BigEndian.AppendUint64(b, f.Session)
	b = binary.BigEndian.AppendUint32(b, f.Stream)
	b = binary.BigEndian.AppendUint32(b, checksum(b[begin:begin+20], f.Payload))
	return append(b, f.Payload...), nil
}

// Next returns the first frame in b and how many bytes it and what is no frame in
// front of it take. Without a whole frame ok is false, and used may be dropped.
// The payload is a part of b.
func Next(b []byte) (f Frame, used int, ok bool) {
	for {
		at := bytes.Index(b[used:], magic)
		if at < 0 { // the end may be the beginning of one
			return Frame{}, max(used, len(b)-len(magic)+1), false
		}
		used += at
		rest := b[used:]
		if len(rest) < headerBytes {
			return Frame{}, used, false
		}
		length := int(binary.BigEndian.Uint16(rest[6:]))
		if rest[4] == version && length <= PayloadLimit {
			if len(rest) < headerBytes+length {
				return Frame{}, used, false
			}
			payload := rest[headerBytes : headerBytes+length]
			if binary.BigEndian.Uint32(rest[20:]) == checksum(rest[:20], payload) {
				return Frame{
					Kind: Kind(rest[5]), Session: binary.BigEndian.Uint64(rest[8:]), Stream: binary.BigEndian.Uint32(rest[16:]), Payload: payload,
				}, used + headerBytes + length, true
			}
		}
		used++ // these four bytes begin no frame
	}
}

// castagnoli is the reversed polynomial of CRC-32C.
const castagnoli = 0x82f63b78

// checksum is CRC-32C bit by bit: frames are few and small.
func checksum(parts ...[]byte) uint32 {
	crc := ^uint32(0)
	for _, part := range parts {
		for _, b := range part {
			crc ^= uint32(b)
			for range 8 {
				crc = crc>>1 ^ castagnoli&-(crc&1)
			}
		}
	}
	return ^crc
}

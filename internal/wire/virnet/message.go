package virnet

import (
	"encoding/binary"
	"fmt"
)

// The programs, and the version of each.
const (
	ProgramRemote    uint32 = 0x20008086
	ProgramKeepalive uint32 = 0x6b656570
	Version          uint32 = 1
)

// Sizes and limits, as libvirt has them.
const (
	LengthBytes       = 4
	HeaderBytes       = 24
	MessageLimitBytes = 32<<20 + LengthBytes
	StringLimitBytes  = 4 << 20
	DomainsLimit      = 16384
	ParamsLimit       = 64
	AuthsLimit        = 20
)

// Type says what a message is.
type Type uint32

// The types. A client gets replies and messages.
const (
	TypeCall Type = iota
	TypeReply
	TypeMessage
	TypeStream
)

// Status says how a call ended. Calls and messages have StatusOK.
type Status uint32

// The states: the body of a reply with StatusError is an Error.
const (
	StatusOK Status = iota
	StatusError
	StatusContinue
)

// Message is one message.
type Message struct {
	Program uint32
	Version uint32
	Proc    Proc
	Type    Type
	Serial  uint32
	Status  Status
	Body    []byte
}

// Append appends the message to b with its length before it.
func (m Message) Append(b []byte) []byte {
	for _, word := range []uint32{
		uint32(LengthBytes + HeaderBytes + len(m.Body)),
		m.Program, m.Version, uint32(m.Proc), uint32(m.Type), m.Serial, uint32(m.Status),
	} {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	return append(b, m.Body...)
}

// Rest reads the length at the start of a message and returns how many bytes
// follow it.
func Rest(length [LengthBytes]byte) (int, error) {
	n := binary.BigEndian.Uint32(length[:])
	if n < LengthBytes+HeaderBytes || n > MessageLimitBytes {
		return 0, fmt.Errorf("a message of %d bytes, want %d to %d", n, LengthBytes+HeaderBytes, MessageLimitBytes)
	}
	return int(n) - LengthBytes, nil
}

// ParseMessage reads what follows the length. The body aliases b.
func ParseMessage(b []byte) (Message, error) {
	if len(b) < HeaderBytes || len(b) > MessageLimitBytes-LengthBytes {
		return Message{}, fmt.Errorf("a message of %d bytes, want %d to %d", len(b), HeaderBytes, MessageLimitBytes-LengthBytes)
	}
	word := func(i int) uint32 { return binary.BigEndian.Uint32(b[4*i:]) }
	m := Message{
		Program: word(0), Version: word(1), Proc: Proc(word(2)), Type: Type(word(3)),
		Serial: word(4), Status: Status(word(5)), Body: b[HeaderBytes:],
	}
	if m.Status > StatusContinue {
		return Message{}, fmt.Errorf("a message with status %d, want 0 to %d", m.Status, StatusContinue)
	}
	return m, nil
}

package xvm

import (
	"crypto/subtle"
	"fmt"
	"net/netip"
)

// FlagUUID says that the guest is named by its UUID. Daemons decide by the
// string and never by this flag.
const FlagUUID = 0x01

// The address families on the wire are Linux's numbers.
const (
	familyIPv4 = 2
	familyIPv6 = 10
)

const digestAt = 112

// Request is a request by multicast, TCP or vsock.
type Request struct {
	Op    Op
	Hash  Hash
	Flags byte
	Guest string // name or UUID; at most NameLimitBytes
	// Address and Port are where the client waits to be called back; zero over
	// TCP and vsock.
	Address netip.Addr
	Port    uint16
	Salt    [6]byte // drawn anew for each packet, zero with HashNone
	Seq     uint32  // one for all packets of a run
}

// Append appends the request to b, signed with the key unless Hash is HashNone.
// It refuses a guest whose name does not fit or holds a NUL.
func (r Request) Append(b []byte, key []byte) ([]byte, error) {
	if err := checkName(r.Guest); err != nil {
		return nil, err
	}
	var p [RequestSize]byte
	p[0], p[1], p[3] = byte(r.Op), byte(r.Hash), r.Flags
	put(p[4:68], r.Guest)
	if r.Address.IsValid() {
		address := r.Address.Unmap().AsSlice()
		p[2] = byte(len(address))
		copy(p[68:96], address)
		family := uint32(familyIPv4)
		if r.Address.Unmap().Is6() {
			family = familyIPv6
		}
		le.PutUint32(p[108:], family)
	}
	le.PutUint16(p[96:], r.Port)
	copy(p[98:104], r.Salt[:])
	le.PutUint32(p[104:], r.Seq)
	digest := r.Hash.sum(key, p[:])
	copy(p[digestAt:], digest[:])
	return append(b, p[:]...), nil
}

// Verify checks the signature of a packet of RequestSize bytes. Its error is one
// of the Err… of this package, or says that the length is wrong.
func Verify(packet, key []byte, weakest Hash) error {
	if len(packet) != RequestSize {
		return fmt.Errorf("a request of %d bytes, want %d", len(packet), RequestSize)
	}
	hash := Hash(packet[1])
	switch {
	case hash > HashSHA512:
		return ErrHash
	case hash < weakest:
		return ErrWeakHash
	case hash == HashNone:
		return nil
	case len(key) == 0:
		return ErrNoKey
	}
	var p [RequestSize]byte
	copy(p[:digestAt], packet)
	want := hash.sum(key, p[:])
	if subtle.ConstantTimeCompare(want[:], packet[digestAt:]) != 1 {
		return ErrDigest
	}
	return nil
}

// ParseRequest reads a packet of RequestSize bytes. It does not check the
// signature: Verify comes first.
func ParseRequest(packet []byte) (Request, error) {
	if len(packet) != RequestSize {
		return Request{}, fmt.Errorf("a request of %d bytes, want %d", len(packet), RequestSize)
	}
	guest, err := text(packet[4:68])
	if err != nil {
		return Request{}, err
	}
	r := Request{
		Op: Op(packet[0]), Hash: Hash(packet[1]), Flags: packet[3], Guest: guest,
		Port: le.Uint16(packet[96:]), Salt: [6]byte(packet[98:104]), Seq: le.Uint32(packet[104:]),
	}
	switch family := le.Uint32(packet[108:]); family {
	case 0:
	case familyIPv4:
		r.Address = netip.AddrFrom4([4]byte(packet[68:72]))
	case familyIPv6:
		r.Address = netip.AddrFrom16([16]byte(packet[68:84]))
	default:
		return Request{}, fmt.Errorf("address family %d: want %d for IPv4 or %d for IPv6", family, familyIPv4, familyIPv6)
	}
	return r, nil
}

// SerialRequest is a request over a serial line or channel. Its sender is known
// by the line.
type SerialRequest struct {
	Op    Op
	Flags byte
	Guest string
	Seq   uint32
}

// Append appends the request to b.
func (r SerialRequest) Append(b []byte) ([]byte, error) {
	if err := checkName(r.Guest); err != nil {
		return nil, err
	}
	var p [SerialSize]byte
	copy(p[:], Magic)
	p[4], p[5] = byte(r.Op), r.Flags
	put(p[6:70], r.Guest)
	le.PutUint32(p[70:], r.Seq)
	return append(b, p[:]...), nil
}

// ParseSerialRequest reads SerialSize bytes that begin with the magic.
func ParseSerialRequest(packet []byte) (SerialRequest, error) {
	if len(packet) != SerialSize {
		return SerialRequest{}, fmt.Errorf("a request of %d bytes, want %d", len(packet), SerialSize)
	}
	if string(packet[:4]) != Magic {
		return SerialRequest{}, fmt.Errorf("a request that begins with %x, want %q", packet[:4], Magic)
	}
	guest, err := text(packet[6:70])
	if err != nil {
		return SerialRequest{}, err
	}
	return SerialRequest{Op: Op(packet[4]), Flags: packet[5], Guest: guest, Seq: le.Uint32(packet[70:])}, nil
}

// Package xvm is the byte form of the fence_virt protocols, as the C programs
// fence_virtd, fence_xvm and fence_virt of fence-agents 4.12 speak them: requests
// by multicast, TCP and vsock, requests over serial lines, challenges, results
// and lists of guests. It knows no socket. The daemon's listeners and the clients
// use it; every length is checked here before anything else is looked at.
//
// Measured on the wire with Debian's binaries; all numbers are little-endian,
// also on big-endian machines (where two C programs do not understand each other).
//
// A request, exactly 176 bytes:
//
//	0    1   operation                  96   2   port to call back, 0 for TCP and vsock
//	1    1   hash, 0..3                 98   6   salt, random; zero without a hash
//	2    1   length of the address     104   4   sequence number, one per run
//	3    1   flags, bit 0: UUID        108   4   address family: 2, 10, or 0
//	4   64   guest, NUL padded         112  64   digest, zero padded
//	68  28   address, zero padded
//
// The digest is H(key, the 176 bytes with a zero digest). Nothing of it is an
// HMAC: that is the protocol. Over a serial line a request has 74 bytes: magic
// (4), operation, flags, guest (64), sequence number (4). The answer is the magic
// and one result byte; elsewhere the result byte alone. A list is the byte 253,
// entries of 130 bytes (name 64, UUID 64, state, padding), an entry of zeros, and
// the result byte, which the magic precedes again over a serial line.
//
// Bytes behind a message are the caller's business: the functions take exactly
// one message and refuse any other length.
package xvm

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Sizes of the messages and fields, in bytes.
const (
	RequestSize   = 176
	SerialSize    = 74
	ChallengeSize = 64
	EntrySize     = 130
	// NameLimitBytes bounds the name or UUID of a guest.
	NameLimitBytes = 63
	// KeyLimitBytes is how much of a key file counts.
	KeyLimitBytes = 4096

	fieldSize = 64
)

// Magic begins everything on a serial line.
const Magic = "abba"

// DefaultPort is the port of every transport.
const DefaultPort = 1229

// The groups and the key file of both ends, unless told otherwise.
const (
	DefaultGroup4  = "225.0.0.12"
	DefaultGroup6  = "ff05::3:1"
	DefaultKeyFile = "/etc/cluster/fence_xvm.key"
)

// Op is what a request asks for.
type Op byte

// The operations on the wire.
const (
	OpNull    Op = 0
	OpOff     Op = 1
	OpReboot  Op = 2
	OpOn      Op = 3
	OpStatus  Op = 4
	OpMonitor Op = 5 // devstatus in the C sources
	OpList    Op = 6
)

func (o Op) String() string {
	switch o {
	case OpNull:
		return "null"
	case OpOff:
		return "off"
	case OpReboot:
		return "reboot"
	case OpOn:
		return "on"
	case OpStatus:
		return "status"
	case OpMonitor:
		return "monitor"
	case OpList:
		return "list"
	}
	return fmt.Sprintf("operation %d", byte(o))
}

// Result is the answer to a request.
type Result byte

// The results. Off is the answer to a status: off, or unknown to the daemon, so
// that it is never evidence (rule P13).
const (
	ResultOK     Result = 0
	ResultFailed Result = 1
	ResultOff    Result = 2
	ResultDenied Result = 3
	// ResultList says that a list follows.
	ResultList Result = 253
)

// Hash is a hash by its number on the wire; hashes of a higher number are stronger.
type Hash byte

// The hashes. They also name how a stream is authenticated.
const (
	HashNone Hash = iota
	HashSHA1
	HashSHA256
	HashSHA512
)

var hashNames = [...]string{"none", "sha1", "sha256", "sha512"}

func (h Hash) String() string {
	if int(h) < len(hashNames) {
		return hashNames[h]
	}
	return fmt.Sprintf("hash %d", byte(h))
}

// ParseHash reads the name of a hash, in any case.
func ParseHash(s string) (Hash, error) {
	for i, name := range hashNames {
		if strings.EqualFold(s, name) {
			return Hash(i), nil
		}
	}
	return 0, fmt.Errorf("hash %.40q: allowed are %s", s, strings.Join(hashNames[:], ", "))
}

// sum is H over the parts, zero padded.
func (h Hash) sum(parts ...[]byte) (out [ChallengeSize]byte) {
	whole := bytes.Join(parts, nil)
	switch h {
	case HashSHA1:
		d := sha1.Sum(whole)
		copy(out[:], d[:])
	case HashSHA256:
		d := sha256.Sum256(whole)
		copy(out[:], d[:])
	case HashSHA512:
		out = sha512.Sum512(whole)
	}
	return out
}

// Answer is the answer to a challenge.
func Answer(auth Hash, key []byte, challenge [ChallengeSize]byte) [ChallengeSize]byte {
	return auth.sum(key, challenge[:])
}

// Answers reports whether answer is the one to challenge, in constant time.
func Answers(auth Hash, key []byte, challenge, answer [ChallengeSize]byte) bool {
	want := Answer(auth, key, challenge)
	return subtle.ConstantTimeCompare(want[:], answer[:]) == 1
}

// The reasons why a request is refused before anybody looks into it.
var (
	ErrWeakHash = errors.New("its hash is weaker than allowed")
	ErrHash     = errors.New("its hash is none that exists")
	ErrNoKey    = errors.New("it is signed, and there is no key to check it")
	ErrDigest   = errors.New("its digest does not fit the key: keys differ, or it was changed on its way")
)

// text returns the string in a NUL padded field; one without a NUL is refused.
func text(field []byte) (string, error) {
	n := bytes.IndexByte(field, 0)
	if n < 0 {
		return "", fmt.Errorf("a name without end: at most %d bytes are allowed", NameLimitBytes)
	}
	return string(field[:n]), nil
}

// checkName refuses what would not come back from its field.
func checkName(s string) error {
	if len(s) > NameLimitBytes {
		return fmt.Errorf("guest %.20q…: the name has %d bytes, at most %d are allowed", s, len(s), NameLimitBytes)
	}
	if strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("guest %q: a name cannot hold a NUL", s)
	}
	return nil
}

// put writes a string into a NUL padded field, cut to what fits.
func put(field []byte, s string) { copy(field[:len(field)-1], s) }

var le = binary.LittleEndian

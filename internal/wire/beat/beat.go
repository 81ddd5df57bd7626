// Package beat is the codec of the heartbeat that members send each other over
// UDP. It is pure: bytes in, values out. internal/heartbeat is the only caller;
// it owns the socket and decides whether an authentic beat is also fresh.
//
// One datagram holds one beat. Numbers are big-endian.
//
//	     0               1               2               3
//	 0  +---------------+---------------+---------------+---------------+
//	    |      'R'      |      'F'      |      'B'      |  version = 1  |
//	 4  +---------------+---------------+---------------+---------------+
//	    |  first 8 bytes of SHA-256("cluster id/incarnation")           |
//	12  +---------------------------------------------------------------+
//	    |      session: random number of the sender's daemon run, 8     |
//	20  +---------------------------------------------------------------+
//	    |      counter: grows with every datagram of a session, 8       |
//	28  +---------------------------------------------------------------+
//	    |      planner tick: 0 unless the sender is the leader, 8       |
//	36  +---------------------------------------------------------------+
//	    |      store revision that the sender has applied, 8            |
//	44  +---------------------------------------------------------------+
//	    |      nonce: fresh random number of the sender, 8              |
//	52  +---------------------------------------------------------------+
//	    |      echo: the last nonce heard from the receiver, or 0; 8    |
//	60  +---------------+-----------------------------------------------+
//	    |     flags     |  bit 0: the sender has quorum; others 0
//	61  +---------------+---------------+---------------+
//	    | length 1..63  | sender's node name ...        |
//	    +---------------+---------------+---------------+
//	    | length 1..64  | sender's boot id ...          |
//	    +---------------+---------------+---------------+
//	    | MAC: first 16 bytes of HMAC-SHA256(beat key, all before) |
//	    +-----------------------------------------------------------+
//
// The invariant: Parse looks at the session, the names and everything else
// between tag and MAC only after the MAC was found right. Nothing may follow
// the MAC. A beat of any other version is refused: beats carry no history, so
// a release that must change the layout sends the version its peers know until
// the last of them is upgraded. Flags that this version does not know are
// refused for the same reason.
package beat

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"ringfence/internal/cluster"
)

// Sizes of the format, in bytes.
const (
	// KeyBytes is the size of the cluster's beat key.
	KeyBytes = 32
	// LimitBytes is the size of the longest beat.
	LimitBytes = fixedBytes + 1 + nodeLimitBytes + 1 + bootLimitBytes + macBytes

	fixedBytes     = 61
	macBytes       = 16
	tagBytes       = 8
	nodeLimitBytes = 63
	bootLimitBytes = 64
	minimumBytes   = fixedBytes + 2 + 2 + macBytes
)

const (
	magic      = "RFB"
	version    = 1
	flagQuorum = 1 << 0
)

// Errors of Parse, in the order in which they are looked for.
var (
	// ErrSize: too short or too long to be a beat.
	ErrSize = errors.New("beat: wrong size")
	// ErrFormat: not a beat of version 1.
	ErrFormat = errors.New("beat: not a beat of version 1")
	// ErrCluster: a beat of another cluster that shares the network, or of
	// another incarnation of this one.
	ErrCluster = errors.New("beat: of another cluster or incarnation")
	// ErrKey: the MAC does not fit; another key, or forged.
	ErrKey = errors.New("beat: not made with this cluster's beat key")
	// ErrBody: authentic, but the fields break the format.
	ErrBody = errors.New("beat: malformed body")
)

// Domain is whose beats they are: those of another cluster, or of another
// incarnation of the same one, say nothing here (rule P21).
type Domain struct {
	Cluster     cluster.ClusterID
	Incarnation cluster.Incarnation
}

// Key is the secret that all members share.
type Key [KeyBytes]byte

// String keeps the key out of logs and messages.
func (Key) String() string { return "(secret)" }

// Beat is what one node says of itself in one datagram.
type Beat struct {
	Node cluster.NodeName
	Boot cluster.BootID
	// Session is the random number of the sender's daemon run.
	Session uint64
	// Counter grows with every datagram of a session.
	Counter uint64
	// Tick is the planner's tick; 0 when the sender is not the leader.
	Tick uint64
	// Revision is the last store revision that the sender has applied.
	Revision cluster.Revision
	// Quorum says that the sender can commit to the store.
	Quorum bool
	// Nonce is fresh; the receiver returns it as Echo in a beat of its own.
	Nonce uint64
	// Echo is the last nonce that the sender heard from the receiver, or 0: it
	// lets the receiver know that the path works both ways.
	Echo uint64
}

// Append appends the datagram of b for a domain to dst. It fails only
// when a field of b cannot be expressed: an empty or too long name, a negative
// revision.
func Append(dst []byte, key *Key, d Domain, b Beat) ([]byte, error) {
	if err := b.check(); err != nil {
		return dst, err
	}
	start := len(dst)
	dst = append(dst, magic...)
	dst = append(dst, version)
	dst = append(dst, d.tag()...)
	for _, n := range []uint64{b.Session, b.Counter, b.Tick, uint64(b.Revision), b.Nonce, b.Echo} {
		dst = binary.BigEndian.AppendUint64(dst, n)
	}
	dst = append(dst, b.flags())
	dst = append(append(dst, byte(len(b.Node))), b.Node...)
	dst = append(append(dst, byte(len(b.Boot))), b.Boot...)
	return append(dst, mac(key, dst[start:])...), nil
}

// Parse returns the beat in data, which must be exactly one datagram of the
// domain. The result shares no memory with data.
func Parse(data []byte, key *Key, d Domain) (Beat, error) {
	if err := authenticate(data, key, d); err != nil {
		return Beat{}, err
	}
	return parseBody(data[:len(data)-macBytes])
}

func authenticate(data []byte, key *Key, d Domain) error {
	if len(data) < minimumBytes || len(data) > LimitBytes {
		return fmt.Errorf("%w: %d bytes, want %d to %d", ErrSize, len(data), minimumBytes, LimitBytes)
	}
	if string(data[:3]) != magic || data[3] != version {
		return ErrFormat
	}
	if string(data[4:4+tagBytes]) != string(d.tag()) {
		return ErrCluster
	}
	body := len(data) - macBytes
	if !hmac.Equal(data[body:], mac(key, data[:body])) {
		return ErrKey
	}
	return nil
}

// parseBody reads an authentic beat; signed is everything before the MAC.
func parseBody(signed []byte) (Beat, error) {
	number := func(at int) uint64 { return binary.BigEndian.Uint64(signed[at:]) }
	b := Beat{
		Session: number(12), Counter: number(20), Tick: number(28),
		Revision: cluster.Revision(number(36)), Nonce: number(44), Echo: number(52),
	}
	if number(36) > math.MaxInt64 {
		return Beat{}, fmt.Errorf("%w: revision is out of range", ErrBody)
	}
	flags := signed[60]
	if flags&^flagQuorum != 0 {
		return Beat{}, fmt.Errorf("%w: unknown flags %#02x", ErrBody, flags)
	}
	b.Quorum = flags&flagQuorum != 0
	node, rest, err := cutName("node", signed[fixedBytes:], nodeLimitBytes)
	if err != nil {
		return Beat{}, err
	}
	boot, rest, err := cutName("boot", rest, bootLimitBytes)
	if err != nil {
		return Beat{}, err
	}
	if len(rest) != 0 {
		return Beat{}, fmt.Errorf("%w: %d bytes too many", ErrBody, len(rest))
	}
	b.Node, b.Boot = cluster.NodeName(node), cluster.BootID(boot)
	return b, nil
}

// cutName takes a string behind its length byte off data.
func cutName(what string, data []byte, limit int) (name string, rest []byte, err error) {
	if len(data) == 0 {
		return "", nil, fmt.Errorf("%w: %s is missing", ErrBody, what)
	}
	size := int(data[0])
	if size == 0 || size > limit || size >= len(data) {
		return "", nil, fmt.Errorf("%w: %s of %d bytes", ErrBody, what, size)
	}
	return string(data[1 : 1+size]), data[1+size:], nil
}

func (b Beat) check() error {
	if len(b.Node) == 0 || len(b.Node) > nodeLimitBytes {
		return fmt.Errorf("beat: node name of %d bytes, want 1 to %d", len(b.Node), nodeLimitBytes)
	}
	if len(b.Boot) == 0 || len(b.Boot) > bootLimitBytes {
		return fmt.Errorf("beat: boot id of %d bytes, want 1 to %d", len(b.Boot), bootLimitBytes)
	}
	if b.Revision < 0 {
		return fmt.Errorf("beat: revision %d is negative", b.Revision)
	}
	return nil
}

func (b Beat) flags() byte {
	if b.Quorum {
		return flagQuorum
	}
	return 0
}

func (d Domain) tag() []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", d.Cluster, d.Incarnation))
	return sum[:tagBytes]
}

func mac(key *Key, signed []byte) []byte {
	h := hmac.New(sha256.New, key[:])
	h.Write(signed)
	return h.Sum(nil)[:macBytes]
}

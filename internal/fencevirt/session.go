package fencevirt

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"ringfence/internal/wire/xvm"
)

const (
	// requestLimit is how long a client has for its request.
	requestLimit = time.Second
	// stepLimit bounds each step of the handshake, handshakeLimit all of it.
	stepLimit      = 10 * time.Second
	handshakeLimit = 15 * time.Second
	// replyLimit is how long a client has to take its answer, be it a list.
	replyLimit = 10 * time.Second
	// sendLimitBytes is what the kernel keeps of an answer that is not taken.
	sendLimitBytes = 64 << 10
)

var errEvicted = errors.New("it made room for a newer connection, since it did not authenticate itself or take its answer")

// errReflected: the client would have the daemon answer for it.
var errReflected = errors.New("its challenge is one of this daemon's own, sent back to have it answered")

// errNotOurs: the client's answer to the challenge does not fit the key.
var errNotOurs = errors.New("its answer to the challenge does not fit: keys or auth differ")

// verify finds the key whose holder sent the packet.
func verify(l Listener, packet []byte) (Key, error) {
	err := errors.New("the listener has no key")
	for _, k := range l.Keys {
		was := err
		if err = xvm.Verify(packet, k.Secret, k.Hash); err == nil {
			return k, nil
		}
		// The reason of the key that came nearest says most.
		if errors.Is(was, xvm.ErrDigest) {
			err = was
		}
	}
	return Key{}, err
}

// guarded reports whether the handshake tells one run of a client from another; see
// the package comment.
func guarded(k Key, r xvm.Request) bool {
	return k.Auth != xvm.HashNone && r.Hash != xvm.HashNone
}

// challenges are those that the daemon has sent and that are not answered yet. The
// protocol answers a challenge in the same way in both directions, so that somebody
// without the key could pass one on to another connection, and the answer back. It
// is safe for concurrent use.
type challenges struct {
	mu      sync.Mutex // guards pending
	pending map[[xvm.ChallengeSize]byte]struct{}
}

func newChallenges() *challenges {
	return &challenges{pending: map[[xvm.ChallengeSize]byte]struct{}{}}
}

// draw returns a new one, which is pending until done.
func (c *challenges) draw() (challenge [xvm.ChallengeSize]byte, done func()) {
	rand.Read(challenge[:])
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending[challenge] = struct{}{}
	return challenge, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.pending, challenge)
	}
}

func (c *challenges) isOurs(challenge [xvm.ChallengeSize]byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ours := c.pending[challenge]
	return ours
}

// prove is the handshake: each side challenges the other one. With HashNone nothing
// is said.
func (c *challenges) prove(conn net.Conn, k Key) error {
	if k.Auth == xvm.HashNone {
		return nil
	}
	end := time.Now().Add(handshakeLimit)
	var theirs, answer [xvm.ChallengeSize]byte
	if err := step(conn, end, func() error { _, err := io.ReadFull(conn, theirs[:]); return err }); err != nil {
		return fmt.Errorf("its challenge: %w", err)
	}
	if c.isOurs(theirs) {
		return errReflected
	}
	ours, done := c.draw()
	defer done()
	mine := xvm.Answer(k.Auth, k.Secret, theirs)
	if err := step(conn, end, func() error { _, err := conn.Write(append(mine[:], ours[:]...)); return err }); err != nil {
		return fmt.Errorf("its challenge: %w", err)
	}
	if err := step(conn, end, func() error { _, err := io.ReadFull(conn, answer[:]); return err }); err != nil {
		return fmt.Errorf("its answer to the challenge: %w", err)
	}
	if !xvm.Answers(k.Auth, k.Secret, ours, answer) {
		return errNotOurs
	}
	return nil
}

// step does one step of the handshake that ends at the time end.
func step(conn net.Conn, end time.Time, do func() error) error {
	deadline := time.Now().Add(stepLimit)
	if end.Before(deadline) {
		deadline = end
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	return do()
}

// session is one exchange on a connection of its own.
type session struct {
	daemon  *daemon
	conn    net.Conn
	place   *place
	history *history
	done    func() // called when the outcome is there, before the client hears it; or nil
}

// serve carries out the request, once the client has shown that it holds the key,
// and answers.
func (s session) serve(cfg Config, k Key, r xvm.Request, from Requester) (answer, error) {
	if tcp, ok := s.conn.(*net.TCPConn); ok {
		if err := tcp.SetWriteBuffer(sendLimitBytes); err != nil {
			return answer{}, err
		}
	}
	if err := s.daemon.challenges.prove(s.conn, k); err != nil {
		return answer{}, err
	}
	if !s.place.busy() {
		return answer{}, errEvicted
	}
	out := s.daemon.answerer.answer(s.daemon.work, request{op: r.Op, guest: r.Guest, from: from, key: k, cfg: cfg})
	s.history.complete(runOf(r.Op, r.Seq, r.Guest))
	if s.done != nil {
		s.done()
	}
	s.place.waiting()
	err := s.conn.SetDeadline(time.Now().Add(replyLimit))
	if err == nil {
		_, err = s.conn.Write(out.bytes(""))
	}
	if err != nil {
		return out, fmt.Errorf("%w: %w", errNotTaken, err)
	}
	return out, nil
}

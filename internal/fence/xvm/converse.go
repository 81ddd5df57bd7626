package xvm

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	wire "ringfence/internal/wire/xvm"
)

// Bounds of what a daemon may send.
const (
	guestsLimit     = 100_000 // in one list
	noiseLimitBytes = 1 << 20 // before the magic on a line
	// tailLimit is how long to wait for what follows a list on a line.
	tailLimit = time.Second
)

// errNoResult says that no result came in time although the request may have been
// carried out.
var errNoResult = errors.New("whether it was carried out is unknown")

// converse proves to each other who has the key, and reads the answer. The daemon
// has the request.
func (c *client) converse(s stream) (answer, error) {
	if err := s.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return answer{}, fmt.Errorf("setting a deadline: %w", err)
	}
	if c.auth != wire.HashNone {
		if err := c.handshake(s); err != nil {
			return answer{}, err
		}
		// The daemon begins only now.
		if err := s.SetDeadline(time.Now().Add(c.timeout)); err != nil {
			return answer{}, fmt.Errorf("setting a deadline: %w", err)
		}
	}
	return c.readAnswer(bufio.NewReader(s))
}

// handshake sends a challenge and answers one. No operation is carried out before
// its last write.
func (c *client) handshake(s stream) error {
	var ours, theirs, got [wire.ChallengeSize]byte
	_, _ = rand.Read(ours[:]) // never fails
	if _, err := s.Write(ours[:]); err != nil {
		return fmt.Errorf("sending a challenge: %w", err)
	}
	if _, err := io.ReadFull(s, got[:]); err != nil {
		return fmt.Errorf("waiting for the answer to a challenge (does the daemon use auth %s, too?): %w", c.auth, err)
	}
	if !wire.Answers(c.auth, c.key, ours, got) {
		return errChallenge
	}
	if _, err := io.ReadFull(s, theirs[:]); err != nil {
		return fmt.Errorf("waiting for the daemon's challenge: %w", err)
	}
	reply := wire.Answer(c.auth, c.key, theirs)
	if _, err := s.Write(reply[:]); err != nil {
		return fmt.Errorf("answering the daemon's challenge: %w", err)
	}
	c.debug("authenticated by %s", c.auth)
	return nil
}

// readAnswer reads a result, and the list that may follow.
func (c *client) readAnswer(r io.Reader) (answer, error) {
	var b [1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return answer{}, c.noResult(err)
	}
	a := answer{result: wire.Result(b[0])}
	c.debug("result %d", a.result)
	if a.result != wire.ResultList || c.op != wire.OpList {
		if c.op == wire.OpList && a.result == wire.ResultOK {
			return answer{}, errors.New("the daemon's answer has no list")
		}
		return a, nil
	}
	guests, err := readList(r)
	if err != nil {
		return answer{}, err
	}
	// What follows is a result that says nothing: 1 from a C daemon with cpg.
	return answer{result: wire.ResultOK, listed: true, guests: guests}, nil
}

// noResult tells a closed connection from silence: the C client's exit codes are 1
// and 255. Both are unknown.
func (c *client) noResult(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no answer within %v: %w", c.timeout, errNoResult)
	}
	return fmt.Errorf("the connection ended before the answer (%v): whether it was carried out is unknown", err)
}

// readList reads entries up to the one that ends a list.
func readList(r io.Reader) ([]wire.Entry, error) {
	var guests []wire.Entry
	var packet [wire.EntrySize]byte
	for {
		if _, err := io.ReadFull(r, packet[:]); err != nil {
			return nil, fmt.Errorf("the list ended after %d guests, without its end: %w", len(guests), err)
		}
		e, err := wire.ParseEntry(packet[:])
		if err != nil {
			return nil, fmt.Errorf("guest %d of the list: %w", len(guests)+1, err)
		}
		if e.IsEnd() {
			return guests, nil
		}
		if len(guests) == guestsLimit {
			return nil, fmt.Errorf("the list has more than %d guests", guestsLimit)
		}
		guests = append(guests, e)
	}
}

// overLine asks over a serial line or a channel: no key, but the line says who asks.
func (c *client) overLine(s stream) (answer, error) {
	r := wire.SerialRequest{Op: c.op, Seq: c.seq}
	if c.op != wire.OpList {
		r.Guest = c.guest
	}
	packet, err := r.Append(nil)
	if err != nil {
		return answer{}, err
	}
	if err := s.SetDeadline(time.Now().Add(writeLimit)); err != nil {
		return answer{}, fmt.Errorf("setting a deadline: %w", err)
	}
	if _, err := s.Write(packet); err != nil {
		return answer{}, fmt.Errorf("sending the request: %w", err)
	}
	if err := s.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return answer{}, fmt.Errorf("setting a deadline: %w", err)
	}
	b := bufio.NewReader(s)
	if err := seekMagic(b); err != nil {
		return answer{}, c.noResult(err)
	}
	a, err := c.readAnswer(b)
	if err == nil && a.listed {
		err = skipTail(s, b)
	}
	return a, err
}

// skipTail takes the result behind a list off the line, where the next client would
// find it and take it for its own. A daemon that sends none is waited for in vain.
func skipTail(s stream, b *bufio.Reader) error {
	if err := s.SetDeadline(time.Now().Add(tailLimit)); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	if seekMagic(b) == nil {
		_, _ = b.ReadByte() // the list is whole, whatever this is
	}
	return nil
}

// seekMagic reads up to the end of the magic, which may stand behind noise, and
// behind a part of itself.
func seekMagic(r io.ByteReader) error {
	var last [len(wire.Magic)]byte
	for range noiseLimitBytes {
		b, err := r.ReadByte()
		if err != nil {
			return err
		}
		copy(last[:], last[1:])
		last[len(last)-1] = b
		if string(last[:]) == wire.Magic {
			return nil
		}
	}
	return fmt.Errorf("%d bytes of noise", noiseLimitBytes)
}

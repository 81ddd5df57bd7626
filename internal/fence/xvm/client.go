package xvm

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	wire "ringfence/internal/wire/xvm"
)

const (
	// connectLimit bounds each connection to a daemon, with the look-up of its name.
	connectLimit = 3 * time.Second
	// writeLimit bounds a request over a line.
	writeLimit = 3 * time.Second
)

// stream is a connection to a daemon: a socket or a serial device.
type stream interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
}

// client is one run. It makes one connection (see the package comment).
type client struct {
	config
	seq   uint32
	debug func(format string, args ...any)
	// dialVsock is replaced in tests: machines without vsock have no address for it.
	dialVsock func(ctx context.Context, cid uint32, port uint32) (stream, error)
}

func newClient(c config, debugTo io.Writer) *client {
	var seq [4]byte
	_, _ = rand.Read(seq[:]) // never fails
	cl := &client{
		config: c, seq: binary.LittleEndian.Uint32(seq[:]),
		debug: func(string, ...any) {}, dialVsock: dialVsock,
	}
	if c.debug {
		cl.debug = func(format string, args ...any) { fmt.Fprintf(debugTo, "debug: "+format+"\n", args...) }
	}
	return cl
}

// answer is what a daemon said.
type answer struct {
	result wire.Result
	listed bool // guests is the whole list
	guests []wire.Entry
}

// exit is the exit code of an answer: the result, as the C client passes it on.
func (a answer) exit() int { return int(a.result) }

// ask finds a daemon and has its answer. Each of the two takes at most the timeout.
func (c *client) ask(ctx context.Context) (answer, error) {
	deadline := time.Now().Add(c.timeout)
	switch c.way {
	case waySerial:
		s, err := openSerial(ctx, c.device, c.line, deadline)
		if err != nil {
			return answer{}, err
		}
		defer s.Close()
		return c.overLine(s)
	case wayChannel:
		s, err := c.dialTCP(ctx, c.channel, deadline)
		if err != nil {
			return answer{}, err
		}
		defer s.Close()
		return c.overLine(s)
	}
	s, called, err := c.connect(ctx, deadline)
	if err != nil {
		return answer{}, err
	}
	defer s.Close()
	if !called {
		if err := c.request(s); err != nil {
			return answer{}, err
		}
	}
	return c.converse(s)
}

// connect makes the one connection of this run. Called says that the daemon made
// it, and so has the request.
func (c *client) connect(ctx context.Context, deadline time.Time) (s stream, called bool, err error) {
	var errs []error
	if c.way == wayCallBack {
		end := deadline
		if c.hasSecondWay() {
			end = deadline.Add(-c.timeout / 3)
		}
		s, err := c.callBack(ctx, end)
		if err == nil {
			return s, true, nil
		}
		errs = append(errs, err)
		if !c.hasSecondWay() {
			if c.host != "" || c.cid != 0 {
				errs = append(errs, fmt.Errorf("with auth %s there is no second way for %s: it might be done twice", c.auth, c.action))
			}
			return nil, false, errors.Join(errs...)
		}
		c.debug("nobody called back, and the listener is closed; trying the second way")
	}
	if c.host != "" && c.way != wayVsock {
		s, err := c.dialTCP(ctx, c.host, deadline)
		if err == nil {
			return s, false, nil
		}
		errs = append(errs, err)
	}
	if c.cid != 0 {
		ctx, cancel := context.WithDeadline(ctx, earlier(deadline, time.Now().Add(connectLimit)))
		defer cancel()
		s, err := c.dialVsock(ctx, c.cid, uint32(c.port))
		if err == nil {
			return s, false, nil
		}
		errs = append(errs, fmt.Errorf("%w CID %d, port %d: %w", errConnect, c.cid, c.port, err))
	}
	return nil, false, errors.Join(errs...)
}

// hasSecondWay says whether fence_xvm may go on where multicast was silent.
// Without authentication a request that changes something has none: see the package
// comment.
func (c *client) hasSecondWay() bool {
	if c.host == "" && c.cid == 0 {
		return false
	}
	return c.auth != wire.HashNone || !changes(c.op)
}

// dialTCP connects to a daemon or a channel by address or name.
func (c *client) dialTCP(ctx context.Context, host string, deadline time.Time) (stream, error) {
	d := net.Dialer{Deadline: earlier(deadline, time.Now().Add(connectLimit))}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(c.port))))
	if err != nil {
		return nil, fmt.Errorf("%w %s, port %d: %w", errConnect, host, c.port, err)
	}
	c.debug("connected to %s", conn.RemoteAddr())
	return conn, nil
}

// request sends the request over a connection that the client made.
func (c *client) request(s stream) error {
	packet, err := c.packet(wire.Request{})
	if err != nil {
		return err
	}
	if err := s.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	if _, err := s.Write(packet); err != nil {
		return fmt.Errorf("sending the request: %w", err)
	}
	return nil
}

// packet forms and signs a request; r has what differs between packets of a run.
func (c *client) packet(r wire.Request) ([]byte, error) {
	r.Op, r.Hash, r.Flags, r.Seq = c.op, c.hash, c.flags, c.seq
	if c.op != wire.OpList {
		r.Guest = c.guest
	}
	if c.hash != wire.HashNone {
		_, _ = rand.Read(r.Salt[:]) // never fails
	}
	return r.Append(nil, c.key)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

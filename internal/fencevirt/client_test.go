package fencevirt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"ringfence/internal/wire/xvm"
)

// clientJob is one run of a client of the protocol, by TCP or by datagrams.
type clientJob struct {
	Network string // "tcp", or "udp" with a call back
	To      string
	Key     []byte
	Hash    xvm.Hash
	Auth    xvm.Hash
	Op      xvm.Op
	Guest   string
	Seq     uint32
	// Of datagrams.
	CallBack  netip.Addr // where the client listens
	Port      uint16     // 0: any
	Interface string     // by which multicast leaves
	Every     time.Duration
	Timeout   time.Duration
}

// reply is what the client got.
type reply struct {
	Result  xvm.Result
	Listed  bool
	Entries []xvm.Entry
}

const clientTimeout = 8 * time.Second

func (c clientJob) ask(ctx context.Context) (reply, error) {
	if c.Timeout == 0 {
		c.Timeout = clientTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if c.Network == "tcp" {
		return c.askStream(ctx)
	}
	return c.askDatagram(ctx)
}

func (c clientJob) request() xvm.Request {
	r := xvm.Request{Op: c.Op, Hash: c.Hash, Guest: c.Guest, Seq: c.Seq}
	if c.Hash != xvm.HashNone {
		rand.Read(r.Salt[:])
	}
	return r
}

func (c clientJob) askStream(ctx context.Context) (reply, error) {
	packet, err := c.request().Append(nil, c.Key)
	if err != nil {
		return reply{}, err
	}
	return c.exchange(ctx, packet)
}

// exchange sends the packet as it is.
func (c clientJob) exchange(ctx context.Context, packet []byte) (reply, error) {
	conn, err := new(net.Dialer).DialContext(ctx, c.Network, c.To)
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	if _, err := conn.Write(packet); err != nil {
		return reply{}, err
	}
	if err := c.prove(conn); err != nil {
		return reply{}, err
	}
	return readReply(conn, "")
}

// prove is the client's side of the handshake.
func (c clientJob) prove(conn net.Conn) error {
	if c.Auth == xvm.HashNone {
		return nil
	}
	var ours, answer, theirs [xvm.ChallengeSize]byte
	rand.Read(ours[:])
	if _, err := conn.Write(ours[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if !xvm.Answers(c.Auth, c.Key, ours, answer) {
		return errors.New("the daemon does not have the key")
	}
	if _, err := io.ReadFull(conn, theirs[:]); err != nil {
		return fmt.Errorf("challenge: %w", err)
	}
	answer = xvm.Answer(c.Auth, c.Key, theirs)
	_, err := conn.Write(answer[:])
	return err
}

// readReply reads an answer whose parts have the prefix.
func readReply(r io.Reader, prefix string) (reply, error) {
	var out reply
	for {
		head := make([]byte, len(prefix)+1)
		if _, err := io.ReadFull(r, head); err != nil {
			return out, fmt.Errorf("result: %w", err)
		}
		if string(head[:len(prefix)]) != prefix {
			return out, fmt.Errorf("prefix %x", head)
		}
		out.Result = xvm.Result(head[len(prefix)])
		if out.Result != xvm.ResultList || out.Listed {
			return out, nil
		}
		out.Listed = true
		for {
			var p [xvm.EntrySize]byte
			if _, err := io.ReadFull(r, p[:]); err != nil {
				return out, fmt.Errorf("list: %w", err)
			}
			if p[63] != 0 || p[127] != 0 || p[129] != 0 {
				return out, fmt.Errorf("padding that is not zero: %x", p)
			}
			e, err := xvm.ParseEntry(p[:])
			if err != nil {
				return out, err
			}
			if e.IsEnd() {
				break
			}
			out.Entries = append(out.Entries, e)
		}
	}
}

// askDatagram sends datagrams until the daemon calls back, and accepts one call.
func (c clientJob) askDatagram(ctx context.Context) (reply, error) {
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.CallBack, c.Port)))
	if err != nil {
		return reply{}, err
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	every := c.Every
	if every == 0 {
		every = 2 * time.Second
	}
	deadline, _ := ctx.Deadline()
	for {
		r := c.request()
		r.Address, r.Port = c.CallBack.WithZone(""), uint16(port)
		packet, err := r.Append(nil, c.Key)
		if err != nil {
			return reply{}, err
		}
		sent := c.send(packet) // fails while an interface comes up
		next := time.Now().Add(every)
		if next.After(deadline) {
			next = deadline
		}
		listener.SetDeadline(next)
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil || !time.Now().Before(deadline) {
				return reply{}, fmt.Errorf("nobody calls back: %w", errors.Join(err, sent))
			}
			continue
		}
		listener.Close()
		defer conn.Close()
		conn.SetDeadline(deadline)
		if err := c.prove(conn); err != nil {
			return reply{}, err
		}
		return readReply(conn, "")
	}
}

// send sends one datagram by the interface.
func (c clientJob) send(packet []byte) error {
	to, err := netip.ParseAddrPort(c.To)
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	if c.Interface != "" {
		if err := leaveBy(conn, c.Interface); err != nil {
			return err
		}
	}
	_, err = conn.WriteToUDPAddrPort(packet, to)
	return err
}

package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"ringfence/internal/wire/xvm"
	"ringfence/internal/wire/xvmdiag"
)

const (
	// resend is the pause between two probes while nobody says anything.
	resend = time.Second
	// reportGrace is how long a report may come behind what it is about, or behind
	// another daemon's.
	reportGrace = 300 * time.Millisecond
	// calledLimit is how long an accepted request may take to be called back, which is
	// longer than a daemon tries.
	calledLimit = 7 * time.Second
	// proveLimit bounds the handshake, resultLimit the wait for the result behind it.
	proveLimit  = 10 * time.Second
	resultLimit = 12 * time.Second
	sendLimit   = 3 * time.Second
)

// hops is how many routers a packet to a group may pass, plus one; that of the C client.
const hops = 2

// local is an address of this machine and the interface that has it.
type local struct {
	addr netip.Addr
	ifi  net.Interface
}

// locals returns the addresses of a family that a daemon might call.
func locals(v6 bool) ([]local, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []local
	for _, ifi := range interfaces {
		if ifi.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := ifi.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list the addresses of %s: %w", ifi.Name, err)
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || p.Addr().Is6() != v6 || v6 && (p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast()) {
				continue
			}
			out = append(out, local{p.Addr(), ifi})
		}
	}
	return out, nil
}

// exchange is one request with all that was heard of it.
type exchange struct {
	reports []xvmdiag.Report
	called  bool
	calls   string // who called back
	proved  error  // of the handshake
	result  xvm.Result
	got     bool // result is there
	sent    int
	problem error // why nothing could be sent
}

// answered reports whether anybody said or did anything.
func (x *exchange) answered() bool { return x.called || len(x.reports) > 0 }

// first returns the report that says most: of a stage, one for a probe that was
// accepted before any other.
func (x *exchange) first(stage xvmdiag.Stage) (best xvmdiag.Report, ok bool) {
	for _, r := range x.reports {
		better := !ok || best.Outcome != xvmdiag.OutcomeAccepted && best.Outcome != xvmdiag.OutcomeServed
		if r.Stage == stage && better {
			best, ok = r, true
		}
	}
	return best, ok
}

// pending reports whether a probe was accepted and has not ended: each local address
// has one of its own.
func (x *exchange) pending() bool {
	n := 0
	for _, r := range x.reports {
		switch {
		case r.Stage == xvmdiag.StageEnded:
			n--
		case r.Outcome == xvmdiag.OutcomeAccepted:
			n++
		}
	}
	return n > 0
}

// asker sends requests with the settings of a guest.
type asker struct {
	o     GuestOptions
	key   []byte
	nonce xvmdiag.Nonce // of all probes of an exchange
}

// ask sends one request to the group, or to a host by unicast, and returns what
// came of it. The error is of the port that the daemon calls back to.
func (a asker) ask(ctx context.Context, op xvm.Op, guest string, host netip.Addr) (*exchange, error) {
	ln, err := listen(ctx, a.o.Group.Is6(), a.o.Port)
	if err != nil {
		return nil, err
	}
	rand.Read(a.nonce[:])
	var seq [4]byte
	rand.Read(seq[:])
	r := xvm.Request{Op: op, Hash: a.o.Hash, Guest: guest, Port: a.o.Port, Seq: uint32(seq[0]) | uint32(seq[1])<<8 | uint32(seq[2])<<16 | uint32(seq[3])<<24}
	x := &exchange{}
	senders := a.senders(ctx, host, x)
	e := &hearing{asker: a, x: x, reports: make(chan xvmdiag.Report, 64), calls: make(chan net.Conn)}
	stop := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() { accept(ln, e.calls, stop) })
	for _, s := range senders {
		wait.Go(func() { e.hear(s, stop) })
	}
	e.follow(ctx, func() { a.send(senders, r, x) })
	close(stop)
	ln.Close()
	for _, s := range senders {
		s.conn.Close()
	}
	wait.Wait()
	return x, nil
}

func listen(ctx context.Context, v6 bool, port uint16) (net.Listener, error) {
	network := "tcp4"
	if v6 {
		network = "tcp6"
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, network, net.JoinHostPort("", strconv.Itoa(int(port))))
}

// accept passes on the first connection.
func accept(ln net.Listener, to chan<- net.Conn, stop <-chan struct{}) {
	conn, err := ln.Accept()
	if err != nil {
		return // closed
	}
	select {
	case to <- conn:
	case <-stop:
		conn.Close()
	}
}

// sender sends from one local address.
type sender struct {
	from netip.Addr
	to   netip.AddrPort
	conn *net.UDPConn
}

// senders opens a socket for each way that a packet can leave by.
func (a asker) senders(ctx context.Context, host netip.Addr, x *exchange) (out []sender) {
	if host.IsValid() {
		to := netip.AddrPortFrom(host, a.o.Port)
		conn, err := new(net.Dialer).DialContext(ctx, "udp", to.String())
		if err != nil {
			x.problem = err
			return nil
		}
		udp := conn.(*net.UDPConn)
		return []sender{{udp.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone(""), to, udp}}
	}
	all, err := locals(a.o.Group.Is6())
	x.problem = err
	for _, l := range all {
		conn, err := openGroup(l, a.o.Group)
		if err != nil {
			x.problem = fmt.Errorf("send from %v: %w", l.addr, err)
			continue
		}
		out = append(out, sender{l.addr, netip.AddrPortFrom(a.o.Group, a.o.Port), conn})
	}
	return out
}

// openGroup opens a socket that sends to the group by one interface. As the C client
// does it joins the group, so that switches that watch joins know this port.
func openGroup(l local, group netip.Addr) (*net.UDPConn, error) {
	network := "udp4"
	if group.Is6() {
		network = "udp6"
	}
	conn, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, err
	}
	to := &net.UDPAddr{IP: group.AsSlice()}
	if group.Is4() {
		p := ipv4.NewPacketConn(conn)
		_ = p.JoinGroup(&l.ifi, to) // sending does not need it
		err = errors.Join(p.SetMulticastInterface(&l.ifi), p.SetMulticastTTL(hops))
	} else {
		p := ipv6.NewPacketConn(conn)
		_ = p.JoinGroup(&l.ifi, to)
		err = errors.Join(p.SetMulticastInterface(&l.ifi), p.SetMulticastHopLimit(hops), p.SetMulticastLoopback(true))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// send sends one probe by each way, with a salt of its own.
func (a asker) send(senders []sender, r xvm.Request, x *exchange) {
	for _, s := range senders {
		r.Address = s.from
		if r.Hash != xvm.HashNone {
			rand.Read(r.Salt[:])
		}
		packet, err := r.Append(nil, a.key)
		if err == nil {
			packet, err = xvmdiag.AppendProbe(nil, packet, a.nonce)
		}
		if err == nil {
			err = s.conn.SetWriteDeadline(time.Now().Add(sendLimit))
		}
		if err == nil && s.conn.RemoteAddr() != nil {
			_, err = s.conn.Write(packet)
		} else if err == nil {
			_, err = s.conn.WriteToUDPAddrPort(packet, s.to)
		}
		if err != nil {
			x.problem = fmt.Errorf("send from %v: %w", s.from, err)
			continue
		}
		x.sent++
	}
}

// hearing waits for what comes back. Only follow touches the exchange.
type hearing struct {
	asker
	x       *exchange
	reports chan xvmdiag.Report
	calls   chan net.Conn
	refused error // of a socket that is connected; guarded by mu

	mu sync.Mutex
}

// hear passes on the reports that come to a socket.
func (e *hearing) hear(s sender, stop <-chan struct{}) {
	buffer := make([]byte, xvmdiag.ReportLimit+1)
	for {
		n, _, err := s.conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // an answer of the network, such as: port unreachable
			e.mu.Lock()
			e.refused = err
			e.mu.Unlock()
			continue
		}
		r, err := xvmdiag.ParseReport(buffer[:n])
		if err != nil || r.Nonce != e.nonce {
			continue
		}
		select {
		case e.reports <- r:
		case <-stop:
			return
		}
	}
}

// follow sends until somebody answers, and then waits until all is said.
func (e *hearing) follow(ctx context.Context, send func()) {
	send()
	silent, again := time.NewTimer(e.o.Wait), time.NewTicker(resend)
	defer silent.Stop()
	defer again.Stop()
	end := silent.C
	for {
		select {
		case <-ctx.Done():
			return
		case <-end:
			e.mu.Lock()
			if e.refused != nil && e.x.problem == nil {
				e.x.problem = e.refused
			}
			e.mu.Unlock()
			return
		case <-again.C:
			if !e.x.answered() {
				send()
			}
		case r := <-e.reports:
			e.x.reports = append(e.x.reports, r)
			after := reportGrace
			if e.x.pending() {
				after = calledLimit
			}
			silent.Reset(after)
		case conn := <-e.calls:
			e.call(conn)
			return
		}
	}
}

// call has the conversation of the call back.
func (e *hearing) call(conn net.Conn) {
	defer conn.Close()
	e.x.called, e.x.calls = true, conn.RemoteAddr().String()
	e.gather(func(r xvmdiag.Report) bool { return r.Stage == xvmdiag.StageArrived })
	if r, ok := e.x.first(xvmdiag.StageArrived); ok && r.Fits > 0 && r.Keys[r.Fits-1].Auth != e.o.Auth {
		return // it cannot come to anything
	}
	stream := prover{conn: conn, auth: e.o.Auth, key: e.key}
	if e.x.proved = stream.prove(); e.x.proved == nil {
		e.x.result, e.x.proved = stream.result()
		e.x.got = e.x.proved == nil
	}
	if len(e.x.reports) > 0 {
		e.gather(func(r xvmdiag.Report) bool { return r.Stage == xvmdiag.StageEnded })
	}
}

// gather takes reports until one is wanted, for reportGrace.
func (e *hearing) gather(wanted func(xvmdiag.Report) bool) {
	for _, r := range e.x.reports {
		if wanted(r) {
			return
		}
	}
	timeout := time.After(reportGrace)
	for {
		select {
		case <-timeout:
			return
		case r := <-e.reports:
			if e.x.reports = append(e.x.reports, r); wanted(r) {
				return
			}
		}
	}
}

// prover is the client's side of a conversation.
type prover struct {
	conn net.Conn
	auth xvm.Hash
	key  []byte
}

var errChallenge = errors.New("whoever called does not have the same key, or has another auth")

func (p prover) prove() error {
	if p.auth == xvm.HashNone {
		return nil
	}
	if err := p.conn.SetDeadline(time.Now().Add(proveLimit)); err != nil {
		return err
	}
	var ours, answer, theirs [xvm.ChallengeSize]byte
	rand.Read(ours[:])
	if _, err := p.conn.Write(ours[:]); err != nil {
		return fmt.Errorf("the challenge could not be sent: %w", err)
	}
	if _, err := io.ReadFull(p.conn, answer[:]); err != nil {
		return fmt.Errorf("the challenge was not answered: %w", plainly(err))
	}
	if !xvm.Answers(p.auth, p.key, ours, answer) {
		return errChallenge
	}
	if _, err := io.ReadFull(p.conn, theirs[:]); err != nil {
		return fmt.Errorf("no challenge came: %w", plainly(err))
	}
	answer = xvm.Answer(p.auth, p.key, theirs)
	_, err := p.conn.Write(answer[:])
	return err
}

func (p prover) result() (xvm.Result, error) {
	if err := p.conn.SetDeadline(time.Now().Add(resultLimit)); err != nil {
		return 0, err
	}
	var b [1]byte
	if _, err := io.ReadFull(p.conn, b[:]); err != nil {
		return 0, fmt.Errorf("no result came: %w", plainly(err))
	}
	return xvm.Result(b[0]), nil
}

// plainly says in words what ended a connection.
func plainly(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the other side hung up")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("the other side kept silent")
	}
	return err
}

package fencevirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"ringfence/internal/wire/xvm"
	"ringfence/internal/wire/xvmdiag"
)

const (
	// callBackLimit bounds how long a client is tried to be called back.
	callBackLimit = 5 * time.Second
	// receiveLimitBytes is what the kernel may keep of datagrams that come faster than
	// they are looked at; it allows less where net.core.rmem_max is less.
	receiveLimitBytes = 1 << 20
)

// arrival is where a datagram came from.
type arrival struct {
	source netip.AddrPort
	zone   string // of the interface, for a client with a link-local address
	// Of multicast: the interface; whether it was sent to the group; and whether it
	// came by an interface that the listener does not use.
	index           int
	toGroup, unused bool
}

// socket is what a datagram endpoint reads from.
type socket interface {
	// read returns the next datagram that is for the listener.
	read(buffer []byte) (n int, from arrival, err error)
	// follow keeps the socket in step with the interfaces until ctx ends, and
	// apply changes which these are.
	follow(ctx context.Context)
	apply(Listener)
	// reply sends a datagram, and joinedOn says on which interfaces the group is
	// joined, by index.
	reply(b []byte, to netip.AddrPort) error
	joinedOn() map[int]string
	addr() net.Addr
	close()
}

// datagram serves multicast and udp: the client is called back.
type datagram struct {
	endpointBase
	socket  socket
	limits  *limits
	history *history
}

func (e *datagram) addr() net.Addr { return e.socket.addr() }

func (e *datagram) describe() (*settings, map[int]string) { return e.get(), e.socket.joinedOn() }

func (e *datagram) close() { e.socket.close() }

func (e *datagram) idle() { e.limits.evictAll() }

func (e *datagram) set(s settings) {
	e.endpointBase.set(s)
	e.socket.apply(s.Listener)
}

// serve reads datagrams until the socket is closed.
func (e *datagram) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		e.socket.follow(ctx)
	}()
	defer func() { cancel(); <-followed }()
	// One byte more than any datagram that is looked at; the rest of a longer one is
	// cut off by the kernel, as the C daemon cuts it off.
	buffer := make([]byte, xvmdiag.ProbeSize+1)
	for {
		n, from, err := e.socket.read(buffer)
		switch {
		case err == nil:
			e.receive(buffer[:n], from)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			e.daemon.drops.drop(e.get().Where, "any", "cannot read from the socket", "err", err)
			sleep(ctx, acceptRetry)
		}
	}
}

// receive begins to carry out the request in the packet, if it is one.
func (e *datagram) receive(packet []byte, from arrival) {
	l, d, source := e.get(), e.daemon, from.source.Addr().String()
	if len(packet) < xvm.RequestSize {
		d.drops.drop(l.Where, source, "the datagram is too short", "bytes", len(packet), "want_bytes", xvm.RequestSize)
		return
	}
	p := e.probe(l, packet, from)
	if from.unused {
		d.drops.drop(l.Where, source, "it came by an interface that the listener does not use", "interface", interfaceName(from.index))
		p.arrived(xvmdiag.OutcomeInterface)
		return
	}
	packet = bytes.Clone(packet[:xvm.RequestSize])
	key, err := verify(l.Listener, packet)
	if err != nil {
		d.drops.drop(l.Where, source, err.Error())
		p.refused(err)
		return
	}
	p.verified(key)
	r, err := xvm.ParseRequest(packet)
	if err == nil {
		err = callable(r)
	}
	if err != nil {
		d.drops.drop(l.Where, source, "the request makes no sense", "err", err)
		p.refused(err)
		return
	}
	if r.Hash != xvm.HashNone && e.history.replayed(packet) {
		d.drops.drop(l.Where, source, errReplay.Error())
		p.arrived(xvmdiag.OutcomeReplay)
		return
	}
	e.admit(l, key, r, from, p)
}

// admit carries a request out that was verified, unless its run is under way.
func (e *datagram) admit(l *settings, key Key, r xvm.Request, from arrival, p *probe) {
	d := e.daemon
	c := call{runOf(r.Op, r.Seq, r.Guest), netip.AddrPortFrom(zoned(r.Address.Unmap(), from.zone), r.Port)}
	if !e.history.begin(c) {
		d.log.Debug("request repeated while it is carried out", "listener", l.Where, "source", from.source.Addr().String())
		p.arrived(xvmdiag.OutcomeRepeated)
		return
	}
	ctx, cancel := context.WithCancel(d.work)
	source := plain(r.Address).String()
	place := e.limits.enter(source, cancel)
	if place == nil {
		cancel()
		e.history.end(c)
		d.drops.drop(l.Where, source, "too many requests at the same time")
		p.arrived(xvmdiag.OutcomeBusy)
		return
	}
	p.arrived(xvmdiag.OutcomeAccepted)
	d.requests.Go(func() {
		defer cancel()
		defer place.leave()
		defer e.history.end(c)
		out, err := e.handle(ctx, l, key, r, c, place)
		if err != nil {
			e.uncalled(c, place, source, err)
		}
		p.ended(out, err)
	})
}

// callable refuses to call back where no single client can be.
func callable(r xvm.Request) error {
	address := r.Address.Unmap()
	switch {
	case !address.IsValid():
		return errors.New("it names no address to call back")
	case address.IsUnspecified(), address.IsMulticast(), address == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("it asks to be called back at %v", address)
	case r.Port == 0:
		return errors.New("it names no port to call back")
	}
	return nil
}

// zoned adds the zone to an address that needs one.
func zoned(a netip.Addr, zone string) netip.Addr {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return a.WithZone(zone)
	}
	return a
}

func (e *datagram) handle(ctx context.Context, l *settings, key Key, r xvm.Request, c call, place *place) (answer, error) {
	done, err := e.history.admit(ctx, guarded(key, r), c.run)
	if err != nil {
		return answer{}, err
	}
	defer done()
	dialer := net.Dialer{Timeout: callBackLimit, KeepAlive: -1}
	conn, err := dialer.DialContext(ctx, "tcp", c.to.String())
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	// The next run of the client may share the number, and come as soon as it hears.
	over := func() { e.history.end(c) }
	s := session{daemon: e.daemon, conn: conn, place: place, history: e.history, done: over}
	return s.serve(l.cfg, key, r, Requester{Address: plain(r.Address)})
}

// uncalled logs why a call back came to nothing. A run that is, or was, answered by
// another of its packets is no trouble.
func (e *datagram) uncalled(c call, place *place, source string, err error) {
	evicted, _ := place.evicted()
	if errors.Is(err, errRepeated) || !evicted && (e.history.answered(c.run) || e.history.shared(c)) {
		e.daemon.log.Debug("late retransmission", "listener", e.get().Where, "source", source, "err", err)
		return
	}
	if evicted {
		e.dropped(place, source, err)
		return
	}
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial" && errors.Is(err, syscall.ECONNREFUSED):
		e.daemon.drops.drop(e.get().Where, source,
			"nobody accepts the call back: the client has given up, or a firewall of the guest refuses it", "call_back", c.to.String())
	case errors.As(err, &op) && op.Op == "dial":
		e.daemon.drops.drop(e.get().Where, source,
			"the client cannot be called back: see routes, and firewalls on both sides", "call_back", c.to.String(), "err", err)
	default:
		e.dropped(place, source, err)
	}
}

package fencevirt

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/vsock"

	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/xvm"
)

// acceptRetry is the pause after a connection could not be accepted, which is when
// file descriptors run out.
const acceptRetry = 100 * time.Millisecond

// stream serves tcp and vsock: the client connects.
type stream struct {
	endpointBase
	listener net.Listener
	limits   *limits
	history  *history
}

func (e *stream) addr() net.Addr { return e.listener.Addr() }

func (e *stream) close() { e.listener.Close() }

func (e *stream) idle() { e.limits.evictAll() }

// serve accepts connections until the listener is closed.
func (e *stream) serve(context.Context) {
	for {
		conn, err := e.listener.Accept()
		switch {
		case err == nil:
			e.enter(conn)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			e.daemon.drops.drop(e.get().Where, "any", "cannot accept a connection", "err", err)
			sleep(e.daemon.work, acceptRetry)
		}
	}
}

func (e *stream) enter(conn net.Conn) {
	from, source := peer(conn)
	ctx, cancel := context.WithCancel(e.daemon.work)
	place := e.limits.enter(source, func() { cancel(); conn.Close() })
	if place == nil {
		cancel()
		conn.Close()
		e.daemon.drops.drop(e.get().Where, source, "too many requests at the same time")
		return
	}
	e.daemon.requests.Go(func() {
		defer cancel()
		defer place.leave()
		defer conn.Close()
		if err := e.handle(ctx, conn, place, from); err != nil {
			e.dropped(place, source, err)
		}
	})
}

// handle serves one connection; ctx ends when it is evicted.
func (e *stream) handle(ctx context.Context, conn net.Conn, place *place, from Requester) error {
	l, d := e.get(), e.daemon
	if err := conn.SetDeadline(time.Now().Add(requestLimit)); err != nil {
		return err
	}
	var packet [xvm.RequestSize]byte
	if _, err := io.ReadFull(conn, packet[:]); err != nil {
		return errShort{err}
	}
	key, err := verify(l.Listener, packet[:])
	if err != nil {
		e.explain(conn, l, err)
		return err
	}
	r, err := xvm.ParseRequest(packet[:])
	if err != nil {
		return err
	}
	if r.Hash != xvm.HashNone && e.history.replayed(packet[:]) {
		return errReplay
	}
	if from.CID != 0 {
		from.Guest = d.guestOf(ctx, from.CID)
	}
	done, err := e.history.admit(ctx, guarded(key, r), runOf(r.Op, r.Seq, r.Guest))
	if err != nil {
		return err
	}
	defer done()
	s := session{daemon: d, conn: conn, place: place, history: e.history}
	_, err = s.serve(l.cfg, key, r, from)
	return err
}

// peer says who is at the other end.
func peer(conn net.Conn) (Requester, string) {
	switch a := conn.RemoteAddr().(type) {
	case *net.TCPAddr:
		address, _ := netip.AddrFromSlice(a.IP)
		from := Requester{Address: plain(address)}
		return from, from.Address.String()
	case *vsock.Addr:
		from := Requester{CID: a.ContextID}
		return from, from.String()
	}
	return Requester{}, conn.RemoteAddr().String()
}

// guestOf returns the guest that has the CID; the zero Guest when the hypervisor
// does not know it.
func (d *daemon) guestOf(ctx context.Context, cid uint32) hypervisor.Guest {
	porter, ok := d.answerer.host.(hypervisor.Porter)
	if !ok {
		return hypervisor.Guest{}
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	g, err := porter.GuestOfCID(ctx, cid)
	if err != nil {
		return hypervisor.Guest{}
	}
	return g
}

package xvm

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	wire "ringfence/internal/wire/xvm"
)

const testKey = "a key of the tests"

// daemon is a model of the other end: it does what the C daemon does, and keeps
// what it was asked and what it has carried out.
type daemon struct {
	t      *testing.T
	auth   wire.Hash
	answer []byte // what follows the handshake; nil: silence
	// lies makes it answer challenges without the key.
	lies bool
	// on runs a function where the daemon's sockets are to be; nil: here.
	on func(func())

	wg   sync.WaitGroup
	mu   sync.Mutex // guards what follows
	seen []wire.Request
	done []wire.Request
	open []io.Closer
}

// newDaemon returns a daemon that answers with success.
func newDaemon(t *testing.T) *daemon {
	d := &daemon{t: t, auth: wire.HashSHA256, answer: []byte{byte(wire.ResultOK)}}
	t.Cleanup(func() {
		d.mu.Lock()
		for _, c := range d.open {
			_ = c.Close()
		}
		d.mu.Unlock()
		d.wg.Wait()
	})
	return d
}

func (d *daemon) there(f func()) {
	if d.on == nil {
		f()
		return
	}
	d.on(f)
}

func (d *daemon) keep(c io.Closer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = append(d.open, c)
}

// requests returns what the daemon was asked, and what it has carried out.
func (d *daemon) requests() (seen, done []wire.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seen, d.done
}

// take notes a packet, if it is signed well.
func (d *daemon) take(packet []byte) (wire.Request, bool) {
	if err := wire.Verify(packet, []byte(testKey), wire.HashNone); err != nil {
		return wire.Request{}, false
	}
	r, err := wire.ParseRequest(packet)
	if err != nil {
		d.t.Errorf("a signed packet that is no request: %v", err)
		return r, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen = append(d.seen, r)
	return r, true
}

// carryOut proves and answers over a connection.
func (d *daemon) carryOut(conn net.Conn, r wire.Request) {
	defer conn.Close()
	if d.auth != wire.HashNone {
		var theirs, ours, got [wire.ChallengeSize]byte
		if _, err := io.ReadFull(conn, theirs[:]); err != nil {
			return
		}
		key := []byte(testKey)
		if d.lies {
			key = []byte("guessed")
		}
		reply := wire.Answer(d.auth, key, theirs)
		_, _ = conn.Write(append(reply[:], ours[:]...))
		if _, err := io.ReadFull(conn, got[:]); err != nil || !wire.Answers(d.auth, []byte(testKey), ours, got) {
			return
		}
	}
	d.mu.Lock()
	d.done = append(d.done, r)
	d.mu.Unlock()
	if d.answer == nil {
		_, _ = io.Copy(io.Discard, conn) // until the client has had enough
		return
	}
	_, _ = conn.Write(d.answer)
}

// listenTCP serves requests over TCP and returns the port.
func (d *daemon) listenTCP(address string) uint16 {
	var ln net.Listener
	var err error
	d.there(func() { ln, err = net.Listen("tcp", address) })
	if err != nil {
		d.t.Fatal(err)
	}
	d.keep(ln)
	d.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			d.keep(conn)
			var packet [wire.RequestSize]byte
			if _, err := io.ReadFull(conn, packet[:]); err != nil {
				_ = conn.Close()
				continue
			}
			if r, ok := d.take(packet[:]); ok {
				d.carryOut(conn, r)
			}
			_ = conn.Close()
		}
	})
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

// listenGroup takes packets to the group of IPv4 on an interface, and calls back.
func (d *daemon) listenGroup(name string) {
	var pc *net.UDPConn
	var err error
	d.there(func() {
		var on *net.Interface
		if on, err = net.InterfaceByName(name); err == nil {
			pc, err = net.ListenMulticastUDP("udp4", on, &net.UDPAddr{IP: net.ParseIP(wire.DefaultGroup4), Port: wire.DefaultPort})
		}
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.serve(pc, true)
}

// listenUDP takes packets to the address, and calls back where it calls.
func (d *daemon) listenUDP(address string, calls bool) {
	var pc net.PacketConn
	var err error
	d.there(func() { pc, err = net.ListenPacket("udp4", address) })
	if err != nil {
		d.t.Fatal(err)
	}
	d.serve(pc, calls)
}

func (d *daemon) serve(pc net.PacketConn, calls bool) {
	d.keep(pc)
	d.wg.Go(func() {
		var packet [wire.RequestSize + 1]byte
		for {
			n, _, err := pc.ReadFrom(packet[:])
			if err != nil {
				return
			}
			r, ok := d.take(packet[:n])
			if !ok || !calls {
				continue
			}
			var conn net.Conn
			d.there(func() {
				conn, err = net.DialTimeout("tcp", netip.AddrPortFrom(r.Address, r.Port).String(), time.Second)
			})
			if err != nil {
				continue
			}
			d.keep(conn)
			d.carryOut(conn, r)
		}
	})
}

// list is the answer with a list.
func list(guests ...wire.Entry) []byte {
	b := []byte{byte(wire.ResultList)}
	for _, g := range append(guests, wire.Entry{}) {
		b = g.Append(b)
	}
	return append(b, byte(wire.ResultFailed)) // as a C daemon with cpg ends
}

// noisy is the answer over a line.
func noisy(noise string, answer []byte) []byte {
	return bytes.Join([][]byte{[]byte(noise), []byte(wire.Magic), answer}, nil)
}

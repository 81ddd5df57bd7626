package fencevirt

import (
	"context"
	"net"
	"net/netip"
)

// udp is the socket of unicast requests.
type udp struct{ conn *net.UDPConn }

func (s *udp) read(buffer []byte) (int, arrival, error) {
	n, source, err := s.conn.ReadFromUDPAddrPort(buffer)
	return n, arrival{source: source, zone: source.Addr().Zone()}, err
}

func (s *udp) reply(b []byte, to netip.AddrPort) error {
	_, err := s.conn.WriteToUDPAddrPort(b, to)
	return err
}

func (s *udp) joinedOn() map[int]string { return nil }

func (s *udp) follow(context.Context) {}

func (s *udp) apply(Listener) {}

func (s *udp) addr() net.Addr { return s.conn.LocalAddr() }

func (s *udp) close() { s.conn.Close() }

package xvm

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// hopLimit is how many routers a packet may pass, plus one; that of the C client.
const hopLimit = 2

// openMulticast opens a socket that sends to the group from one local address,
// by the interface that has it.
func openMulticast(ctx context.Context, l local, group netip.Addr) (net.PacketConn, error) {
	set, network := multicast4, "udp4"
	if group.Is6() {
		set, network = multicast6, "udp6"
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if rawErr := raw.Control(func(fd uintptr) { err = set(int(fd), l, group) }); rawErr != nil {
			return rawErr
		}
		return err
	}}
	return lc.ListenPacket(ctx, network, ":0")
}

// multicast4 also joins the group, as the C client does: switches that watch joins
// then know this port. A refused join does not keep a packet from going out.
func multicast4(fd int, l local, group netip.Addr) error {
	mreq := &unix.IPMreq{Multiaddr: group.As4(), Interface: l.addr.As4()}
	_ = unix.SetsockoptIPMreq(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, mreq)
	if err := unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, l.addr.As4()); err != nil {
		return fmt.Errorf("choosing interface %s: %w", l.name, err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, hopLimit); err != nil {
		return fmt.Errorf("setting the TTL: %w", err)
	}
	return nil
}

// multicast6 chooses the interface, which the C client leaves to the routing
// table: there all packets leave by the same one, whatever address they bear.
func multicast6(fd int, l local, group netip.Addr) error {
	mreq := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(l.index)}
	_ = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, mreq)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, l.index); err != nil {
		return fmt.Errorf("choosing interface %s: %w", l.name, err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, hopLimit); err != nil {
		return fmt.Errorf("setting the hop limit: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 1); err != nil {
		return fmt.Errorf("sending to this machine, too: %w", err)
	}
	return nil
}

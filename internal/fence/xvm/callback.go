package xvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	wire "ringfence/internal/wire/xvm"
)

const (
	// portRetry is how long to wait for a port that another client uses.
	portRetry = 100 * time.Millisecond
	// resolveLimit bounds the look-up of the second way's name: meanwhile nobody looks
	// whether a daemon has called, though its connection is kept.
	resolveLimit = 2 * time.Second
)

// callBack asks by multicast until end, and by unicast as well from a third of the
// timeout on where a daemon's address is known. It returns the first connection
// that comes in; the listener is closed by then.
func (c *client) callBack(ctx context.Context, end time.Time) (stream, error) {
	begin := time.Now()
	ln, err := c.listen(ctx, end)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	var sent int
	var problems error
	for {
		n, err := c.announce(ctx)
		if c.host != "" && c.hasSecondWay() && time.Since(begin) >= c.timeout/3 {
			more, moreErr := c.announceTo(ctx, c.host)
			n, err = n+more, errors.Join(err, moreErr)
		}
		sent, problems = sent+n, err
		conn, err := accept(ln, earlier(end, time.Now().Add(c.retrans)))
		switch {
		case err == nil:
			c.debug("called back by %s", conn.RemoteAddr())
			return conn, nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, fmt.Errorf("waiting for the daemon's call on TCP port %d: %w", c.port, err)
		case !time.Now().Before(end):
			return nil, c.silence(sent, problems)
		}
	}
}

// silence says what was tried in vain.
func (c *client) silence(sent int, problems error) error {
	err := fmt.Errorf("%w: no daemon called back on TCP port %d after %d packets to %s, port %d: they or the call are filtered,"+
		" no daemon is there, or it has another group, another key or a stronger hash",
		errTimedOut, c.port, sent, c.group, c.port)
	return errors.Join(err, problems)
}

// listen waits for its port: one client at a time can be called back.
func (c *client) listen(ctx context.Context, end time.Time) (*net.TCPListener, error) {
	network := "tcp4"
	if c.group.Is6() {
		network = "tcp6"
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	for {
		ln, err := lc.Listen(ctx, network, ":"+strconv.Itoa(int(c.port)))
		if err == nil {
			return ln.(*net.TCPListener), nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().Add(portRetry).After(end) {
			return nil, fmt.Errorf("listening for the daemon's call on TCP port %d (is another fence_xvm waiting there?): %w", c.port, err)
		}
		c.debug("TCP port %d is in use; waiting for it", c.port)
		time.Sleep(portRetry)
	}
}

func accept(ln *net.TCPListener, until time.Time) (*net.TCPConn, error) {
	if err := ln.SetDeadline(until); err != nil {
		return nil, err
	}
	return ln.AcceptTCP()
}

// announce sends one packet to the group for each local address, as the C client
// does: which of them a daemon can reach is not known. It returns how many went
// out, and an error only where none did.
func (c *client) announce(ctx context.Context) (int, error) {
	locals, err := localAddresses(c.group.Is6())
	if err != nil {
		return 0, err
	}
	sent := 0
	var errs []error
	for _, l := range locals {
		err := c.multicastFrom(ctx, l)
		if err != nil {
			c.debug("no packet from %s: %v", l.addr, err)
			errs = append(errs, fmt.Errorf("sending from %s: %w", l.addr, err))
			continue
		}
		c.debug("packet from %s to %s, port %d", l.addr, c.group, c.port)
		sent++
	}
	if sent > 0 {
		return sent, nil
	}
	if len(locals) == 0 {
		return 0, fmt.Errorf("this machine has no address of the family of %s", c.group)
	}
	return 0, errors.Join(errs...)
}

func (c *client) multicastFrom(ctx context.Context, l local) error {
	packet, err := c.packet(wire.Request{Address: l.addr, Port: c.port})
	if err != nil {
		return err
	}
	conn, err := openMulticast(ctx, l, c.group)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	_, err = conn.WriteTo(packet, net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.group, c.port)))
	return err
}

// announceTo sends one packet to each address of a host, bearing the local
// address from which the way to it leads. The daemon need not be in the group.
func (c *client) announceTo(ctx context.Context, host string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveLimit)
	defer cancel()
	network, family := "udp4", "ip4"
	if c.group.Is6() {
		network, family = "udp6", "ip6"
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, family, host)
	if err != nil {
		return 0, fmt.Errorf("looking up %s: %w", host, err)
	}
	sent := 0
	var errs []error
	for _, a := range addrs {
		if err := c.unicast(ctx, network, netip.AddrPortFrom(a.Unmap(), c.port)); err != nil {
			errs = append(errs, err)
			continue
		}
		sent++
	}
	return sent, errors.Join(errs...)
}

func (c *client) unicast(ctx context.Context, network string, to netip.AddrPort) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	from := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")
	packet, err := c.packet(wire.Request{Address: from, Port: c.port})
	if err != nil {
		return err
	}
	if err := conn.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	if _, err := conn.Write(packet); err != nil {
		return err
	}
	c.debug("packet from %s to %s", from, to)
	return nil
}

// local is an address of this machine, and the interface that has it.
type local struct {
	addr  netip.Addr
	index int
	name  string
}

// localAddresses returns the addresses of a family that a daemon might call:
// not ::1 and not link-local ones of IPv6; 127.0.0.1 is one of them, for a daemon
// on this machine.
func localAddresses(v6 bool) ([]local, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var out []local
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("listing the addresses of %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			text, _, _ := strings.Cut(a.String(), "/")
			addr, err := netip.ParseAddr(text)
			if err != nil || addr.Is4() == v6 {
				continue
			}
			if v6 && (addr.IsLoopback() || addr.IsLinkLocalUnicast()) {
				continue
			}
			out = append(out, local{addr: addr, index: i.Index, name: i.Name})
		}
	}
	return out, nil
}

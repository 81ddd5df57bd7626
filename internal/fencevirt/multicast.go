package fencevirt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	// joinPoll bounds how long a change of interfaces goes unnoticed if the kernel
	// does not tell it; joinSettle gathers those that it tells.
	joinPoll   = 10 * time.Second
	joinSettle = 50 * time.Millisecond
	// rejoinEvery makes the kernel report its membership anew, since a bridge forgets
	// it after 260 s where nobody queries.
	rejoinEvery = time.Minute
)

// multicast is a socket that takes datagrams to a group on its interfaces, and
// unicast ones to its port. It is bound to the wildcard address, so it sees what
// others of this machine have joined too; what came by which interface decides.
type multicast struct {
	conn   net.PacketConn
	packet packetConn
	group  netip.Addr
	log    *slog.Logger
	kick   chan struct{}

	want     atomic.Pointer[Listener]
	selected atomic.Pointer[map[int]string] // by index

	mu     sync.Mutex // guards joined and told: new, and follow
	joined map[int]string
	told   map[string]string // errors that were logged, by interface
}

// packetConn is what IPv4 and IPv6 have in common.
type packetConn interface {
	JoinGroup(*net.Interface, net.Addr) error
	LeaveGroup(*net.Interface, net.Addr) error
	// receive returns the destination and the interface of a datagram.
	receive([]byte) (n int, to netip.Addr, index int, source net.Addr, err error)
}

func newMulticast(conn net.PacketConn, l Listener, log *slog.Logger) (*multicast, error) {
	m := &multicast{
		conn: conn, group: l.Address, log: log, kick: make(chan struct{}, 1),
		joined: map[int]string{}, told: map[string]string{},
	}
	var err error
	if l.Address.Is4() {
		p := ipv4.NewPacketConn(conn)
		m.packet, err = conn4{p}, p.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	} else {
		p := ipv6.NewPacketConn(conn)
		m.packet, err = conn6{p}, p.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	}
	if err != nil {
		return nil, fmt.Errorf("learn where datagrams arrive: %w", err)
	}
	m.want.Store(&l)
	m.selected.Store(&map[int]string{})
	return m, m.sync(false)
}

func (m *multicast) addr() net.Addr { return m.conn.LocalAddr() }

func (m *multicast) close() { m.conn.Close() }

func (m *multicast) apply(l Listener) {
	m.want.Store(&l)
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// read returns the next datagram to the group, or to an address of this machine.
func (m *multicast) read(buffer []byte) (int, arrival, error) {
	for {
		n, to, index, source, err := m.packet.receive(buffer)
		if err != nil {
			return 0, arrival{}, err
		}
		var from arrival
		if a, ok := source.(*net.UDPAddr); ok {
			from.source = a.AddrPort()
		}
		// A number: package net would remember what a name meant for a minute.
		from.zone, from.index, from.toGroup = strconv.Itoa(index), index, to == m.group
		_, selected := (*m.selected.Load())[index]
		switch {
		case from.toGroup && !selected:
			from.unused = true
		case to.IsMulticast() && to != m.group, to == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			continue // somebody else's
		}
		return n, from, nil
	}
}

func (m *multicast) reply(b []byte, to netip.AddrPort) error {
	_, err := m.conn.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}

func (m *multicast) joinedOn() map[int]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.joined)
}

func interfaceName(index int) string {
	if ifi, err := net.InterfaceByIndex(index); err == nil {
		return ifi.Name
	}
	return strconv.Itoa(index)
}

// follow keeps the membership in step with the interfaces.
func (m *multicast) follow(ctx context.Context) {
	rejoin, poll := time.NewTicker(rejoinEvery), time.NewTimer(joinPoll)
	defer rejoin.Stop()
	defer poll.Stop()
	changes, unsubscribe := linkChanges(m.log)
	defer func() { unsubscribe() }()
	for settling := false; ; {
		renew := false
		select {
		case <-ctx.Done():
			return
		case _, ok := <-changes:
			switch {
			case !ok:
				changes = nil // until the next poll
			case !settling: // a storm of changes does not put it off
				settling = true
				poll.Reset(joinSettle)
			}
			continue
		case <-m.kick:
		case <-rejoin.C:
			renew = true
		case <-poll.C:
		}
		if changes == nil {
			unsubscribe()
			changes, unsubscribe = linkChanges(m.log)
		}
		if err := m.sync(renew); err != nil {
			m.log.Warn("cannot list the interfaces", "err", err)
		}
		settling = false
		poll.Reset(joinPoll)
	}
}

// linkChanges subscribes to what the kernel tells of interfaces.
func linkChanges(log *slog.Logger) (<-chan netlink.LinkUpdate, func()) {
	changes, done := make(chan netlink.LinkUpdate), make(chan struct{})
	if err := netlink.LinkSubscribe(changes, done); err != nil {
		log.Debug("cannot follow the interfaces; they are polled", "err", err)
		return nil, func() {}
	}
	return changes, func() {
		close(done)
		for range changes {
		}
	}
}

// sync joins the group on every interface of the listener and leaves it on those
// that are no more; renew joins anew. What fails is tried again at the next time.
func (m *multicast) sync(renew bool) error {
	selected, err := selectInterfaces(m.want.Load().Interfaces)
	if err != nil {
		return err
	}
	m.selected.Store(&selected)
	group := &net.UDPAddr{IP: m.group.AsSlice()}
	m.mu.Lock()
	defer m.mu.Unlock()
	for index, name := range maps.Clone(m.joined) {
		if renew || selected[index] == "" {
			// An interface that is gone cannot be left; then there is nothing to leave.
			_ = m.packet.LeaveGroup(&net.Interface{Index: index}, group)
			delete(m.joined, index)
			if selected[index] == "" {
				m.log.Info("group left", "group", m.group.String(), "interface", name)
			}
		}
	}
	for index, name := range selected {
		if m.joined[index] != "" {
			continue
		}
		err := m.packet.JoinGroup(&net.Interface{Index: index}, group)
		if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			m.failed(name, err)
			continue
		}
		m.joined[index] = name
		delete(m.told, name)
		if !renew {
			m.log.Info("group joined", "group", m.group.String(), "interface", name)
		}
	}
	return nil
}

// failed logs each reason once for each interface.
func (m *multicast) failed(name string, err error) {
	if m.told[name] == err.Error() {
		return
	}
	m.told[name] = err.Error()
	if errors.Is(err, syscall.ENOBUFS) {
		err = fmt.Errorf("%w: raise net.ipv4.igmp_max_memberships, or name the interfaces in the configuration", err)
	}
	m.log.Warn("cannot join the group", "group", m.group.String(), "interface", name, "err", err)
}

// selectInterfaces returns those of the names, or all that are up and can
// multicast, by their index. Ports of bridges and the like are left out unless they
// are named: what arrives there belongs to the bridge.
func selectInterfaces(want []string) (map[int]string, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	selected, kinds := map[int]string{}, map[int]string{}
	for _, link := range links {
		kinds[link.Attrs().Index] = link.Type()
	}
	for _, link := range links {
		a := link.Attrs()
		usable := a.Flags&net.FlagUp != 0 && a.Flags&net.FlagMulticast != 0 && !slices.Contains(carriers, kinds[a.MasterIndex])
		if len(want) == 0 && usable || slices.Contains(want, a.Name) {
			selected[a.Index] = a.Name
		}
	}
	return selected, nil
}

// carriers are the kinds of interfaces that take what arrives at their ports.
var carriers = []string{"bridge", "bond", "team", "openvswitch"}

type conn4 struct{ *ipv4.PacketConn }

func (c conn4) receive(b []byte) (n int, to netip.Addr, index int, source net.Addr, err error) {
	n, cm, source, err := c.ReadFrom(b)
	if cm != nil {
		to, _ = netip.AddrFromSlice(cm.Dst)
		index = cm.IfIndex
	}
	return n, to.Unmap(), index, source, err
}

type conn6 struct{ *ipv6.PacketConn }

func (c conn6) receive(b []byte) (n int, to netip.Addr, index int, source net.Addr, err error) {
	n, cm, source, err := c.ReadFrom(b)
	if cm != nil {
		to, _ = netip.AddrFromSlice(cm.Dst)
		index = cm.IfIndex
	}
	return n, to, index, source, err
}

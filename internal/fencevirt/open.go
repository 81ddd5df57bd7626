package fencevirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"ringfence/internal/hypervisor"
)

// socketKey is the same for two listeners that one socket can serve, one after the
// other.
func (l Listener) socketKey() string {
	if l.Kind.isLine() {
		return fmt.Sprintf("%s %q %q", l.Kind, l.Dir, l.PortName)
	}
	return fmt.Sprintf("%s %v %d", l.Kind, l.Address, l.Port)
}

// open opens the listener's sockets.
func (d *daemon) open(s settings) (endpoint, error) {
	e, err := d.openSocket(s.Listener)
	if err != nil {
		return nil, s.errorf("%w%s", err, remedy(err))
	}
	e.set(s)
	return e, nil
}

func (d *daemon) openSocket(l Listener) (endpoint, error) {
	switch l.Kind {
	case KindMulticast:
		socket, err := d.openMulticast(l)
		if err != nil {
			return nil, err
		}
		return &datagram{endpointBase: endpointBase{daemon: d}, socket: socket, limits: newLimits(), history: newHistory(time.Now)}, nil
	case KindUDP:
		conn, err := net.ListenUDP(network("udp", l.Address), net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.Address, l.Port)))
		if err != nil {
			return nil, err
		}
		if err := conn.SetReadBuffer(receiveLimitBytes); err != nil {
			conn.Close()
			return nil, err
		}
		return &datagram{endpointBase: endpointBase{daemon: d}, socket: &udp{conn}, limits: newLimits(), history: newHistory(time.Now)}, nil
	case KindTCP:
		// Every wait for a client has a deadline, so that nothing needs keepalive.
		config := net.ListenConfig{KeepAlive: -1}
		listener, err := config.Listen(context.Background(), network("tcp", l.Address), netip.AddrPortFrom(l.Address, l.Port).String())
		if err != nil {
			return nil, err
		}
		return &stream{endpointBase: endpointBase{daemon: d}, listener: listener, limits: newLimits(), history: newHistory(time.Now)}, nil
	case KindVsock:
		listener, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, uint32(l.Port), nil)
		if err != nil {
			return nil, err
		}
		return &stream{endpointBase: endpointBase{daemon: d}, listener: listener, limits: newLimits(), history: newHistory(time.Now)}, nil
	default:
		porter, ok := d.answerer.host.(hypervisor.Porter)
		if !ok {
			return nil, errors.New("this hypervisor driver does not know the lines of its guests")
		}
		return newLines(d, porter), nil
	}
}

// checkInterfaces demands that the chosen interfaces exist now; later they may come
// and go.
func (l Listener) checkInterfaces() error {
	for _, name := range l.Interfaces {
		if _, err := net.InterfaceByName(name); err != nil {
			return l.errorf("interface %q does not exist; there are %s", name, strings.Join(interfaces(), ", "))
		}
	}
	return nil
}

func (d *daemon) openMulticast(l Listener) (*multicast, error) {
	address := netip.IPv4Unspecified()
	if l.Address.Is6() {
		address = netip.IPv6Unspecified()
	}
	var config net.ListenConfig
	conn, err := config.ListenPacket(context.Background(), family("udp", l.Address), netip.AddrPortFrom(address, l.Port).String())
	if err != nil {
		return nil, err
	}
	err = conn.(*net.UDPConn).SetReadBuffer(receiveLimitBytes)
	if err == nil {
		var m *multicast
		if m, err = newMulticast(conn, l, d.log); err == nil {
			return m, nil
		}
	}
	conn.Close()
	return nil, err
}

// network is that of the address; with :: it takes IPv4 too.
func network(name string, a netip.Addr) string {
	if a == netip.IPv6Unspecified() {
		return name
	}
	return family(name, a)
}

func family(name string, a netip.Addr) string {
	if a.Is4() {
		return name + "4"
	}
	return name + "6"
}

func interfaces() []string {
	var names []string
	all, _ := net.Interfaces() // for a message only
	for _, ifi := range all {
		names = append(names, ifi.Name)
	}
	slices.Sort(names)
	return names
}

// remedy is what a person can do.
func remedy(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "; another program, or a listener until now, has that port: stop it (fence_virtd?), or choose another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "; no interface of this host has that address: choose one of this host, or 0.0.0.0 or :: for all"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "; run as root, or choose a port above 1023"
	case errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.ENOENT):
		return "; this kernel lacks that kind of sockets: for vsock, load the modules vsock and vhost_vsock"
	}
	return ""
}

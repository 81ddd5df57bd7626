package fencevirt

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/wire/xvm"
)

// idOf is the UUID of a guest with a name of few letters.
func idOf(name string) cluster.GuestID {
	hex := fmt.Sprintf("%012x", name)
	return cluster.GuestID("00000000-0000-4000-8000-" + hex[len(hex)-12:])
}

// newHost has guests of these names; those that begin with "off" are off.
func newHost(t testing.TB, guests ...string) *mem.Driver {
	t.Helper()
	var all []mem.Guest
	for _, name := range guests {
		all = append(all, mem.Guest{ID: idOf(name), Name: name})
	}
	host := mem.New("hostboot-1", all...)
	for _, name := range guests {
		if strings.HasPrefix(name, "off") {
			continue
		}
		if _, err := host.On(context.Background(), idOf(name)); err != nil {
			t.Fatal(err)
		}
	}
	return host
}

// withPorts is a host whose guests have lines.
type withPorts struct {
	*mem.Driver

	mu    sync.Mutex // guards what follows
	ports map[cluster.GuestID][]hypervisor.Port
	cids  map[uint32]hypervisor.Guest
	fail  error
	asked int
}

func (h *withPorts) Ports(_ context.Context, id cluster.GuestID) ([]hypervisor.Port, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	return h.ports[id], h.fail
}

func (h *withPorts) GuestOfCID(_ context.Context, cid uint32) (hypervisor.Guest, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g, ok := h.cids[cid]; ok {
		return g, nil
	}
	return hypervisor.Guest{}, hypervisor.ErrNoGuest
}

const testKey = "fence-virt-go interop test key 01"

// strong is a key with the defaults of the C programs.
func strong(secret string, groups ...Group) Key {
	return Key{Name: "key", Secret: Secret(secret), Hash: xvm.HashSHA256, Auth: xvm.HashSHA256, Groups: groups}
}

func tcpListener(keys ...Key) Listener {
	return Listener{Kind: KindTCP, Where: "test:tcp", Address: loopback, Keys: keys}
}

func udpListener(keys ...Key) Listener {
	return Listener{Kind: KindUDP, Where: "test:udp", Address: loopback, Keys: keys}
}

// leaveBy sets the interface by which multicast leaves.
func leaveBy(conn net.PacketConn, name string) error {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	err4 := ipv4.NewPacketConn(conn).SetMulticastInterface(ifi)
	err6 := ipv6.NewPacketConn(conn).SetMulticastInterface(ifi)
	if err4 != nil && err6 != nil {
		return fmt.Errorf("multicast by %s: %w, %w", name, err4, err6)
	}
	return nil
}

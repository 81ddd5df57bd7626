package heartbeat

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// Resolver finds the addresses of a host name; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	resolveTimeout  = 2 * time.Second
	resolveInterval = 30 * time.Second // how long an answer is taken for new
	resolveRetry    = 2 * time.Second  // pause while a name was never found
	resolveQueue    = PeerLimit
)

// resolver keeps the addresses of peers that are given by name, so that no
// send ever waits for DNS. One goroutine asks; a name that cannot be found
// keeps its former address.
type resolver struct {
	config Config
	ipv4   bool // the family of the socket
	fault  func(kind, address, reason string)
	queue  chan string

	mu    sync.Mutex // guards names; no lookup happens under it
	names map[string]*resolved
}

// resolved is the state of one host name.
type resolved struct {
	addr  netip.Addr    // not valid: never found
	asked time.Duration // when the last lookup was asked for
}

func newResolver(config Config, fault func(kind, address, reason string)) *resolver {
	if config.Resolver == nil {
		config.Resolver = net.DefaultResolver
	}
	own, _ := netip.ParseAddr(config.Address) // checked by listen
	return &resolver{
		config: config, ipv4: own.Unmap().Is4(), fault: fault,
		queue: make(chan string, resolveQueue), names: map[string]*resolved{},
	}
}

var (
	errAddress    = errors.New("want host:port with a port from 1 to 65535")
	errUnresolved = errors.New("host name is not resolved yet")
)

// address returns where to send for host:port, without waiting.
func (r *resolver) address(hostPort string) (netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(hostPort)
	if err != nil {
		return netip.AddrPort{}, errAddress
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 || host == "" {
		return netip.AddrPort{}, errAddress
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		addr = r.lookup(host)
	}
	if !addr.IsValid() {
		return netip.AddrPort{}, errUnresolved
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}

// lookup returns the known address of a name, not valid if there is none, and
// asks for it when it is old.
func (r *resolver) lookup(host string) netip.Addr {
	now := r.config.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.names[host]
	if n == nil {
		if len(r.names) >= PeerLimit {
			clear(r.names) // mostly peers long gone; the others are asked anew
		}
		n = &resolved{asked: now - resolveInterval}
		r.names[host] = n
	}
	pause := resolveInterval
	if !n.addr.IsValid() {
		pause = resolveRetry
	}
	if now-n.asked >= pause {
		select {
		case r.queue <- host:
			n.asked = now
		default: // the queue is full: asked again in the next round
		}
	}
	return n.addr
}

// run answers the queue until ctx ends.
func (r *resolver) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case host := <-r.queue:
			r.resolve(ctx, host)
		}
	}
}

func (r *resolver) resolve(ctx context.Context, host string) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	found, err := r.config.Resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		r.fault(faultResolve, host, err.Error())
		return
	}
	for _, addr := range found {
		if addr = addr.Unmap(); addr.Is4() == r.ipv4 {
			r.set(host, addr)
			return
		}
	}
	r.fault(faultResolve, host, "no address of the family of this node's own")
}

func (r *resolver) set(host string, addr netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.names[host]; n != nil {
		n.addr = addr
	}
}

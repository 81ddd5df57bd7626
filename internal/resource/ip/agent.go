package ip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
)

// Options make an Agent.
type Options struct {
	Logger *slog.Logger
}

// Agent holds addresses. It is safe for concurrent use as resource.Agent says.
// It keeps nothing on disk: the kernel has the addresses.
type Agent struct {
	log  *slog.Logger
	send func(params) error // announceOnce, but in tests

	mu         sync.Mutex // guards the rest
	announcers map[string]*announcer
	closed     bool
}

var (
	_ resource.Agent   = (*Agent)(nil)
	_ resource.Watcher = (*Agent)(nil)
)

// New returns an Agent for the network namespace of this process.
func New(o Options) *Agent {
	return &Agent{log: o.Logger.With("component", "ip"), send: announceOnce, announcers: map[string]*announcer{}}
}

// Close ends the announcements and waits for them; addresses stay as they are.
// The Agent must not be used afterwards.
func (a *Agent) Close() error {
	a.mu.Lock()
	a.closed = true
	keys := slices.Collect(maps.Keys(a.announcers))
	a.mu.Unlock()
	for _, key := range keys {
		a.silence(key)
	}
	return nil
}

func parseCall(call resource.Call) (params, string, error) {
	p, err := parse(call.Resource)
	return p, string(call.Service) + "@" + call.Resource.Name, err
}

// Check implements resource.Agent.
func (a *Agent) Check(r cluster.Resource) error {
	_, err := parse(r)
	return err
}

// Start implements resource.Agent. When it returns nil the neighbours have
// been told once.
func (a *Agent) Start(ctx context.Context, call resource.Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, key, err := parseCall(call)
	if err != nil {
		return err
	}
	if status, err := probe(p); status != resource.StatusActive && status != resource.StatusInactive {
		return fmt.Errorf("stop it first: %w", err)
	}
	if err := add(p); err != nil {
		return err
	}
	if err := keepSecondaries(p); err != nil {
		a.log.Warn("stopping this address may take others of its subnet away", "interface", p.link, "err", err)
	}
	if status, err := probe(p); status != resource.StatusActive {
		return errors.Join(fmt.Errorf("%s was added to %s, but is not well there", p.prefix, p.link), err)
	}
	if err := a.send(p); err != nil {
		return err
	}
	a.announce(key, p)
	a.log.Info("started", "service", call.Service, "resource", call.Resource.Name, "address", p.prefix.String(), "interface", p.link)
	return nil
}

// Stop implements resource.Agent.
func (a *Agent) Stop(ctx context.Context, call resource.Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, key, err := parseCall(call)
	if err != nil {
		return err
	}
	a.silence(key)
	if err := removeAll(p.prefix.Addr()); err != nil {
		return err
	}
	left, err := look(p.prefix.Addr())
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%s is on %s again after it was removed: something else adds it", p.prefix.Addr(), left[0].link.Attrs().Name)
	}
	return nil
}

// Monitor implements resource.Agent.
func (a *Agent) Monitor(ctx context.Context, call resource.Call) (resource.Status, error) {
	if err := ctx.Err(); err != nil {
		return resource.StatusUnknown, err
	}
	p, _, err := parseCall(call)
	if err != nil {
		return resource.StatusUnknown, err
	}
	return probe(p)
}

// Watch implements resource.Watcher: it is told by the kernel when addresses or
// interfaces change, and looks.
func (a *Agent) Watch(ctx context.Context, call resource.Call) error {
	p, _, err := parseCall(call)
	if err != nil {
		return err
	}
	for {
		if err := a.watchOnce(ctx, p); err != nil {
			return err
		}
	}
}

// watchOnce watches until the resource is not active, or returns nil when the
// kernel's stream broke (it overflowed) and the caller must subscribe again.
func (a *Agent) watchOnce(ctx context.Context, p params) error {
	done := make(chan struct{})
	addrs, links := make(chan netlink.AddrUpdate), make(chan netlink.LinkUpdate)
	defer func() { drain(done, addrs, links) }()
	if err := netlink.AddrSubscribe(addrs, done); err != nil {
		close(addrs)
		close(links)
		return fmt.Errorf("watch addresses: %w: %w", errors.ErrUnsupported, err)
	}
	if err := netlink.LinkSubscribe(links, done); err != nil {
		close(links)
		return fmt.Errorf("watch interfaces: %w: %w", errors.ErrUnsupported, err)
	}
	for {
		// First after subscribing: what changes from here on is told.
		status, err := probe(p)
		if status != resource.StatusActive {
			return errors.Join(fmt.Errorf("%s is not active on %s any more: %s", p.prefix, p.link, name(status)), err)
		}
		ok := true
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, ok = <-addrs:
		case _, ok = <-links:
		}
		if !ok {
			return nil
		}
	}
}

func name(s resource.Status) string {
	if s == resource.StatusUnknown {
		return "unknown"
	}
	return string(s)
}

// drain ends the subscriptions and waits for their goroutines.
func drain(done chan struct{}, addrs <-chan netlink.AddrUpdate, links <-chan netlink.LinkUpdate) {
	close(done)
	for range addrs {
	}
	for range links {
	}
}

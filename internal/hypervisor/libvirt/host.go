package libvirt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	lv "ringfence/internal/libvirt"
)

const (
	// syncTimeout bounds the listing behind each new connection.
	syncTimeout = 10 * time.Second
	// lookTimeout bounds what an event makes the driver ask.
	lookTimeout = 5 * time.Second
	// pollInterval is the pause between two looks at something that libvirt does
	// not announce.
	pollInterval = 20 * time.Millisecond
)

// errUnclear: libvirt and the process of the guest do not fit together, now.
var errUnclear = errors.New("the state of the guest is unclear")

// host is one connection with the guests behind it.
type host struct {
	d        *Driver
	uri      lv.URI
	log      *slog.Logger
	options  lv.Options
	client   *lv.Client // reads; whatever may hang in a guest goes over act
	identify identifier

	mu      sync.Mutex // guards what follows
	up      bool       // connected, and the guests of that moment are known
	down    error      // why not, once that is known
	session uint64     // counts the connections
	guests  map[lv.UUID]*guest
	names   map[string]lv.UUID // that guests had when they were last seen
}

func (h *host) sessionNumber() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.session
}

// condition says whether the connection is up; no error and not up: not known yet.
func (h *host) condition() (up bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up, h.down
}

func (h *host) setCondition(up bool, down error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.up, h.down = up, down
}

// guest returns what is kept of a guest, which it makes.
func (h *host) guest(dom lv.Domain) *guest {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.guests[dom.UUID]
	if g == nil {
		g = &guest{h: h, id: cluster.GuestID(dom.UUID.String()), turn: make(chan struct{}, 1)}
		h.guests[dom.UUID] = g
	}
	if dom.Name != "" {
		g.setName(dom.Name)
		h.names[dom.Name] = dom.UUID
	}
	return g
}

// guessName and guessUUID return the domain that a guest was when it was last seen;
// the zero one for a guest that was not.
func (h *host) guessName(name string) lv.Domain {
	h.mu.Lock()
	defer h.mu.Unlock()
	id, ok := h.names[name]
	if !ok {
		return lv.Domain{}
	}
	return lv.Domain{Name: name, UUID: id}
}

func (h *host) guessUUID(id lv.UUID) lv.Domain {
	g := h.known(id)
	if g == nil {
		return lv.Domain{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return lv.Domain{Name: g.name, UUID: id}
}

// known returns what is kept of a guest, or nil.
func (h *host) known(id lv.UUID) *guest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.guests[id]
}

func (h *host) allKnown() []*guest {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*guest, 0, len(h.guests))
	for _, g := range h.guests {
		all = append(all, g)
	}
	return all
}

// release lets go of all processes.
func (h *host) release() {
	for _, g := range h.allKnown() {
		g.release()
	}
}

// follow takes the connection's events to its end. What they lead to is done per
// guest: one that hangs delays no other.
func (h *host) follow(ctx context.Context) {
	for {
		e, err := h.client.Next(ctx)
		if err != nil {
			return
		}
		switch e.Kind {
		case lv.Connected:
			h.connected(ctx)
		case lv.Lost:
			h.setCondition(false, e.Err)
			h.d.hub.breakAll()
			h.log.Warn("connection to libvirt is lost; its guests are unknown", "err", e.Err)
		default:
			if !h.isHost(e.Domain) {
				g := h.guest(e.Domain)
				g.enqueue(func(ctx context.Context) { g.event(ctx, e) })
			}
		}
	}
}

// connected takes stock behind a new connection.
func (h *host) connected(ctx context.Context) {
	h.mu.Lock()
	h.session++
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	active, err := h.client.List(ctx, lv.ListActive)
	if err != nil {
		h.setCondition(false, err)
		h.log.Warn("libvirt gives no listing", "err", err)
		return
	}
	seen := map[lv.UUID]bool{}
	for _, dom := range active {
		if !h.isHost(dom) {
			seen[dom.UUID] = true
			g := h.guest(dom)
			g.enqueue(func(ctx context.Context) { g.succeeded(ctx, dom); g.takeStock(ctx, dom) })
		}
	}
	for _, g := range h.allKnown() {
		runs := seen[uuidOf(g.id)]
		g.enqueue(func(ctx context.Context) { g.settleGap(ctx, runs) })
	}
	h.setCondition(true, nil)
	h.d.hub.breakAll() // who watches other connections lists anew
}

// isHost reports whether a domain is the host itself: Xen's Domain-0 is listed as
// a domain, and must never be taken for a guest.
func (h *host) isHost(dom lv.Domain) bool {
	return h.uri.Driver == "xen" && (dom.ID == 0 || dom.UUID == lv.UUID{} || dom.Name == "Domain-0")
}

// underWay returns the events of migrations that have begun.
func (h *host) underWay() []hypervisor.Event {
	var events []hypervisor.Event
	for _, g := range h.allKnown() {
		events = append(events, g.underWay()...)
	}
	return events
}

// act runs calls that may hang in a guest over a connection of their own: libvirtd
// reads only five calls of one connection at a time.
func (h *host) act(ctx context.Context, do func(c lv.Calls) error) error {
	s, err := lv.Open(ctx, h.uri, h.options)
	if err != nil {
		return fmt.Errorf("%w: %w", hypervisor.ErrUnavailable, err)
	}
	defer s.Close()
	return do(s.Calls)
}

// pause waits, or returns the error of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

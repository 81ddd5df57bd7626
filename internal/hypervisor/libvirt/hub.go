package libvirt

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"ringfence/internal/hypervisor"
)

const (
	// watchLimit is how many events a watcher may leave lying before it loses its
	// stream.
	watchLimit = 256
	// keptLimit bounds the events that are kept for the next watcher.
	keptLimit = 1024
)

// hub hands events to the watchers.
type hub struct {
	mu sync.Mutex // guards what follows
	// watchers are all streams; true: of Watch, false: of who looks on beside it.
	watchers map[chan hypervisor.Event]bool
	// kept are events that must not be lost for want of a watcher.
	kept []hypervisor.Event
}

// emit gives an event to every watcher. One that matters for ever, an end or a
// revert, is kept for the next watcher when none took it. Who looks on beside is no
// watcher: what it has heard hostd has not.
func (h *hub) emit(e hypervisor.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	taken := false
	for w, owns := range h.watchers {
		if h.give(w, e) && owns {
			taken = true
		}
	}
	forever := e.Kind == hypervisor.EventEnded || e.Reason == hypervisor.ReasonFromSnapshot
	if !taken && forever && len(h.kept) < keptLimit {
		h.kept = append(h.kept, e)
	}
}

// give reports whether the watcher has the event; one that has not read for long
// loses its stream.
func (h *hub) give(w chan hypervisor.Event, e hypervisor.Event) bool {
	select {
	case w <- e:
		return true
	default:
		h.drop(w)
		return false
	}
}

// add registers a watcher and gives it first, and, when it owns them, what was kept.
func (h *hub) add(owns bool, first []hypervisor.Event) chan hypervisor.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	if owns {
		first, h.kept = append(h.kept, first...), nil
	}
	w := make(chan hypervisor.Event, watchLimit+len(first))
	if h.watchers == nil {
		h.watchers = map[chan hypervisor.Event]bool{}
	}
	h.watchers[w] = owns
	for _, e := range first {
		h.give(w, e)
	}
	return w
}

func (h *hub) remove(w chan hypervisor.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(w)
}

// breakAll ends every stream: something may have been missed.
func (h *hub) breakAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		h.drop(w)
	}
}

func (h *hub) drop(w chan hypervisor.Event) {
	if _, ok := h.watchers[w]; ok {
		delete(h.watchers, w)
		close(w)
	}
}

// Watch implements hypervisor.Driver. It waits for a first connection. Every
// connection that is lost or comes back ends the stream, for events were missed.
func (d *Driver) Watch(ctx context.Context) (<-chan hypervisor.Event, error) {
	return d.watch(ctx, true)
}

// WatchBeside implements hypervisor.Bystander.
func (d *Driver) WatchBeside(ctx context.Context) (<-chan hypervisor.Event, error) {
	return d.watch(ctx, false)
}

func (d *Driver) watch(ctx context.Context, owns bool) (<-chan hypervisor.Event, error) {
	if err := d.awaitUp(ctx); err != nil {
		return nil, fmt.Errorf("watch guests: %w: %w", hypervisor.ErrUnavailable, err)
	}
	// What is on its way already is told once more to whoever comes now.
	var first []hypervisor.Event
	for _, h := range d.hosts {
		first = append(first, h.underWay()...)
	}
	w := d.hub.add(owns, first)
	context.AfterFunc(ctx, func() { d.hub.remove(w) })
	if d.ctx.Err() != nil {
		d.hub.remove(w)
	}
	return w, nil
}

// awaitUp returns when some connection is up and its guests are known, or why
// none is.
func (d *Driver) awaitUp(ctx context.Context) error {
	for {
		var why error
		waiting := false
		for _, h := range d.hosts {
			up, err := h.condition()
			if up && ctx.Err() == nil {
				return nil
			}
			waiting = waiting || err == nil
			why = errors.Join(why, err)
		}
		if !waiting {
			return why
		}
		if err := pause(ctx, pollInterval); err != nil {
			return err
		}
	}
}

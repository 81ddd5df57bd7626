package mem

import (
	"context"

	"ringfence/internal/hypervisor"
)

// watcher is one stream of events. Its channel is closed exactly when it is
// taken out of Driver.watchers.
type watcher struct {
	events chan hypervisor.Event
}

// Watch implements hypervisor.Driver.
func (d *Driver) Watch(ctx context.Context) (<-chan hypervisor.Event, error) {
	w := &watcher{events: make(chan hypervisor.Event, watchLimit)}
	err := d.call(ctx, Call{Op: OpWatch}, func() error {
		d.watchers[w] = struct{}{}
		return nil
	})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.drop(w)
	})
	return w.events, nil
}

// The functions below are called with d.mu held.

func (d *Driver) emit(e hypervisor.Event) {
	if d.quiet {
		d.held = append(d.held, e)
		return
	}
	d.deliver(e)
}

func (d *Driver) deliver(e hypervisor.Event) {
	for w := range d.watchers {
		select {
		case w.events <- e:
		default:
			d.drop(w)
		}
	}
}

func (d *Driver) breakStreams() {
	for w := range d.watchers {
		d.drop(w)
	}
}

func (d *Driver) drop(w *watcher) {
	if _, ok := d.watchers[w]; ok {
		delete(d.watchers, w)
		close(w.events)
	}
}

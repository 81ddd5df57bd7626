package mem

import (
	"context"

	"ringfence/internal/cluster"
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
		mu.Lock()
		defer mu.Unlock()
		d.dropWatcher(w)
	})
	return w.events, nil
}

// The functions below are called with mu held.

func (d *Driver) tell(g cluster.GuestID, life cluster.LifeID, kind hypervisor.EventKind, reason hypervisor.Reason) {
	d.emit(hypervisor.Event{Guest: g, Life: life, Kind: kind, Reason: reason})
}

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
			d.dropWatcher(w)
		}
	}
}

func (d *Driver) breakStreams() {
	for w := range d.watchers {
		d.dropWatcher(w)
	}
}

func (d *Driver) dropWatcher(w *watcher) {
	if _, ok := d.watchers[w]; ok {
		delete(d.watchers, w)
		close(w.events)
	}
}

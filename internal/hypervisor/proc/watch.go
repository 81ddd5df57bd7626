package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// watchLimit is how many events a watcher may lag behind before it loses its
// stream.
const watchLimit = 256

// teller owns what was told to watchers. It runs in one goroutine, which every
// other reaches through Driver.ask; it waits for nothing but file reads.
type teller struct {
	driver   *Driver
	told     map[cluster.GuestID]record // what the events so far add up to
	watchers map[*watcher]struct{}
}

// watcher is one stream. Its channel is closed when it leaves teller.watchers.
type watcher struct {
	events chan hypervisor.Event
	held   []hypervisor.Event // kept back while the host is quiet
}

func (d *Driver) tell() {
	t := &teller{driver: d, told: map[cluster.GuestID]record{}, watchers: map[*watcher]struct{}{}}
	for {
		select {
		case do := <-d.teller:
			do(t)
		case <-d.ctx.Done():
			for w := range t.watchers {
				t.drop(w)
			}
			return
		}
	}
}

// ask runs do in the teller's goroutine and waits for it.
func (d *Driver) ask(ctx context.Context, do func(*teller)) error {
	done := make(chan struct{})
	select {
	case d.teller <- func(t *teller) { do(t); close(done) }:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-d.ctx.Done():
		return d.ready(ctx)
	}
}

// Watch implements hypervisor.Driver.
func (d *Driver) Watch(ctx context.Context) (<-chan hypervisor.Event, error) {
	if err := d.ready(ctx); err != nil {
		return nil, err
	}
	w := &watcher{events: make(chan hypervisor.Event, watchLimit)}
	if err := d.ask(ctx, func(t *teller) { t.watchers[w] = struct{}{} }); err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() {
		_ = d.ask(context.Background(), func(t *teller) { t.drop(w) })
	})
	return w.events, nil
}

// observe tells what has changed on a guest's record. A call that changes a
// guest observes before it gives the lock back, so that no change is skipped.
func (d *Driver) observe(ctx context.Context, id cluster.GuestID) error {
	var err error
	if asked := d.ask(ctx, func(t *teller) { err = t.observe(id) }); asked != nil {
		return asked
	}
	return err
}

func (t *teller) observe(id cluster.GuestID) error {
	now, err := t.driver.load(id)
	if err != nil {
		return err
	}
	before := t.told[id]
	t.told[id] = now
	for _, e := range eventsBetween(before, now) {
		e.Guest = id
		t.emit(e)
	}
	t.follow(id, before, now)
	return nil
}

// follow starts what a change calls for beside its events.
func (t *teller) follow(id cluster.GuestID, before, now record) {
	d := t.driver
	guest, ok := d.config.guest(id)
	fresh := now.Life != before.Life || before.Ended || before.Arriving
	if ok && fresh && (now.here() || now.Saved) {
		d.group.Go(func() { d.attend(guest, now) })
	}
	if before.here() && (!now.here() || now.Life != before.Life) {
		d.cutChannel(id)
	}
	if before.Leaving && !now.Leaving && now.Reason != hypervisor.ReasonMigrated {
		d.group.Go(func() { d.tellPeer(id, before, d.dropAt) })
	}
	if before.Arriving && now.Ended {
		d.group.Go(func() { d.tellPeer(id, before, d.stayAt) })
	}
}

func (t *teller) emit(e hypervisor.Event) {
	quiet := t.driver.quiet()
	for w := range t.watchers {
		if quiet || len(w.held) > 0 {
			w.held = append(w.held, e)
			if len(w.held) > watchLimit {
				t.drop(w)
			}
			continue
		}
		t.send(w, e)
	}
}

func (t *teller) send(w *watcher, e hypervisor.Event) {
	select {
	case w.events <- e:
	default:
		t.drop(w)
	}
}

// release sends what was held back, unless the host is quiet still.
func (t *teller) release() {
	if t.driver.quiet() {
		return
	}
	for w := range t.watchers {
		held := w.held
		w.held = nil
		for _, e := range held {
			if _, ok := t.watchers[w]; ok {
				t.send(w, e)
			}
		}
	}
}

func (t *teller) drop(w *watcher) {
	if _, ok := t.watchers[w]; ok {
		delete(t.watchers, w)
		close(w.events)
	}
}

// SetQuiet makes every driver on the state directory hold its events back and
// give no listing, or tell again, first what was held back. Calls that name a
// guest go on. The supervisor of the lab uses it to show a host that says
// nothing.
func SetQuiet(stateDir string, quiet bool) error {
	path := filepath.Join(stateDir, quietFile)
	var err error
	if quiet {
		err = os.WriteFile(path, nil, 0o600)
	} else if err = os.Remove(path); errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("set host quiet=%v: %w", quiet, err)
	}
	return nil
}

// IsQuiet reports whether SetQuiet is in force.
func IsQuiet(stateDir string) bool {
	_, err := os.Stat(filepath.Join(stateDir, quietFile))
	return err == nil
}

func (d *Driver) quiet() bool { return IsQuiet(d.config.StateDir) }

// openChanges returns a file that becomes readable when something changes in
// the state directory.
func (d *Driver) openChanges() (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch the state directory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	dirs := []string{d.config.StateDir}
	for _, g := range d.config.Guests {
		dirs = append(dirs, d.guestDir(g.ID))
	}
	for _, dir := range dirs {
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
			f.Close()
			return nil, fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	return f, nil
}

// followChanges tells what drivers of other processes changed.
func (d *Driver) followChanges(changes *os.File) {
	stop := context.AfterFunc(d.ctx, func() { changes.Close() })
	defer stop()
	buffer := make([]byte, 16<<10)
	for {
		if _, err := changes.Read(buffer); err != nil {
			if d.ctx.Err() == nil {
				d.log.Error("cannot follow the state directory, changes by others go untold", "err", err)
			}
			changes.Close()
			return
		}
		for _, g := range d.config.Guests {
			if err := d.observe(d.ctx, g.ID); err != nil && d.ctx.Err() == nil {
				d.log.Error("cannot read the life of a guest", "guest", g.Name, "err", err)
			}
		}
		_ = d.ask(d.ctx, (*teller).release)
	}
}

package libvirt

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	lv "ringfence/internal/libvirt"
)

const (
	// patience is how long libvirt may take to answer Off, to tell of a job and to
	// end a process, before the process is killed without libvirt.
	patience = 4 * time.Second
	// endWait bounds the wait for the word of libvirt behind the end of a process.
	endWait = 5 * time.Second
	// toldWait bounds the wait until the watchers know what a call has done.
	toldWait = 3 * time.Second
	// killWait bounds the wait for a killed process.
	killWait = 5 * time.Second
)

// running finds a guest that runs in the named life, for a call that changes it.
func (d *Driver) running(ctx context.Context, id cluster.GuestID, life cluster.LifeID) (found, error) {
	f, err := d.find(ctx, id)
	if err == nil {
		err = f.runsIn(life)
	}
	return f, err
}

// runsIn returns nil when the guest runs here in that life.
func (f found) runsIn(life cluster.LifeID) error {
	switch {
	case f.guest.State == hypervisor.StateArriving, f.run == nil, f.guest.State == hypervisor.StateOff:
		return fmt.Errorf("guest %s is %s: %w", f.guest.ID, f.guest.State, hypervisor.ErrNotRunning)
	case f.guest.Life == "" || f.guest.Life != life:
		return fmt.Errorf("guest %s: %w", f.guest.ID, hypervisor.ErrOtherLife)
	}
	return nil
}

// On implements hypervisor.Driver.
func (d *Driver) On(ctx context.Context, id cluster.GuestID) (cluster.LifeID, error) {
	f, err := d.find(ctx, id)
	if err != nil {
		return "", err
	}
	if f.run != nil {
		return "", fmt.Errorf("guest %s is %s: %w", id, f.guest.State, hypervisor.ErrRunning)
	}
	var flags uint32
	if f.guest.State == hypervisor.StateSaved {
		flags = lv.CreateForceBoot
	}
	return f.start(ctx, func(c lv.Calls) (lv.Domain, error) { return c.Create(ctx, f.dom, flags) })
}

// start starts a guest and returns the life that it has then.
func (f found) start(ctx context.Context, create func(lv.Calls) (lv.Domain, error)) (cluster.LifeID, error) {
	var dom lv.Domain
	err := f.h.act(ctx, func(c lv.Calls) (err error) {
		dom, err = create(c)
		return err
	})
	var refused *lv.Error
	if errors.As(err, &refused) && (refused.Code == lv.CodeOperationInvalid || refused.Code == lv.CodeOperationFailed) {
		if guest, r, lookErr := f.h.look(ctx, f.dom); lookErr == nil && r != nil {
			return "", fmt.Errorf("guest %s is %s: %w", guest.ID, guest.State, hypervisor.ErrRunning)
		}
	}
	if err != nil {
		return "", fmt.Errorf("start guest %s: %w", f.guest.ID, err)
	}
	guest, r, err := f.h.look(ctx, dom)
	switch {
	case err != nil:
		return "", fmt.Errorf("guest %s was started, and its life is not known: %w", f.guest.ID, err)
	case r == nil:
		return "", fmt.Errorf("guest %s was started and has ended at once", f.guest.ID)
	}
	f.h.guest(dom).awaitTold(ctx, func() bool { return r.started || r.isOver() })
	return guest.Life, nil
}

// awaitTold waits until the worker has told what a call has done, so that whoever
// watches from now on is not told of it. told is called with the guest's lock.
func (g *guest) awaitTold(ctx context.Context, told func() bool) {
	ctx, cancel := context.WithTimeout(ctx, toldWait)
	defer cancel()
	for {
		done := false
		g.set(func() { done = told() })
		if done || pause(ctx, time.Millisecond) != nil {
			return
		}
	}
}

// Off implements hypervisor.Driver.
func (d *Driver) Off(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	look, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	f, err := d.find(look, id)
	if errors.Is(err, hypervisor.ErrUnavailable) && ctx.Err() == nil {
		if g, r := d.held(id, life); r != nil {
			if err = g.kill(ctx, r, err); err == nil {
				return nil
			}
			return fmt.Errorf("turn off guest %s: %w", id, err)
		}
	}
	if err != nil {
		return fmt.Errorf("turn off: %w", err)
	}
	if f.guest.State == hypervisor.StateArriving {
		return f.refuse(ctx, life)
	}
	if err := f.runsIn(life); err != nil {
		return fmt.Errorf("turn off: %w", err)
	}
	// From here on its end is what is told of it, not that a migration failed.
	f.h.guest(f.dom).set(func() { f.run.ending = true })
	// A process that is killed at the source proves nothing about the target.
	if _, err = f.abortLeaving(ctx); err == nil {
		err = f.destroy(ctx)
	}
	if err != nil {
		f.h.guest(f.dom).set(func() { f.run.ending = false })
		return fmt.Errorf("turn off guest %s: %w", id, err)
	}
	return nil
}

// refuse ends an arrival before it has switched over. The life that arrives is
// not ended by it.
func (f found) refuse(ctx context.Context, life cluster.LifeID) error {
	if f.guest.Life != life {
		return fmt.Errorf("turn off: guest %s arrives in another life: %w", f.guest.ID, hypervisor.ErrNotRunning)
	}
	if err := f.destroy(ctx); err != nil {
		return err
	}
	if f.run.stayed {
		return fmt.Errorf("turn off: the arrival of guest %s was refused: %w", f.guest.ID, hypervisor.ErrNotRunning)
	}
	return nil // it had switched over by then
}

// destroy ends a run, by libvirt or, where libvirt does not do it in time, by the
// process. It returns nil when the end was told: nothing of the run is left then.
func (f found) destroy(ctx context.Context) error {
	g, r := f.h.guest(f.dom), f.run
	asked := make(chan error, 1)
	bounded, cancel := context.WithTimeout(ctx, f.h.d.patience)
	defer cancel()
	go func() {
		asked <- f.h.act(bounded, func(c lv.Calls) error {
			if r.process != nil && r.process.Exited() {
				return nil // by now another run may have the name
			}
			return c.Destroy(bounded, f.dom, 0)
		})
	}()
	select {
	case err := <-asked:
		if err == nil || r.process != nil && r.process.Exited() {
			return g.awaitEnd(ctx, r)
		}
		return g.kill(ctx, r, err)
	case <-r.over:
		<-asked
		return g.ended(r)
	}
}

// kill ends a run without libvirt, since it did not do it for the reason why, and
// waits for libvirt to agree. The pidfd is that of the run, so no other can be hit.
func (g *guest) kill(ctx context.Context, r *run, why error) error {
	if r.process == nil {
		return why
	}
	g.h.log.Error("libvirt does not end a guest; its process is killed", "guest", g.id, "life", r.life, "process", r.pid, "err", why)
	if err := r.process.Signal(syscall.SIGKILL); err != nil && !r.isOver() {
		return errors.Join(err, why)
	}
	dead, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	// Once the end was told the process is let go of.
	if err := r.waitExit(dead); err != nil && !r.isOver() {
		return fmt.Errorf("process %d was killed and does not end, does its storage answer? %w", r.pid, errors.Join(err, why))
	}
	return g.awaitEnd(ctx, r)
}

// isOver reports whether the end of a run was told.
func (r *run) isOver() bool {
	select {
	case <-r.over:
		return true
	default:
		return false
	}
}

// awaitEnd waits until the end of a run was heard, judged and told.
func (g *guest) awaitEnd(ctx context.Context, r *run) error {
	ctx, cancel := context.WithTimeout(ctx, endWait+flushTimeout)
	defer cancel()
	select {
	case <-r.over:
		return g.ended(r)
	case <-ctx.Done():
		return fmt.Errorf("libvirt does not confirm the end: %w", ctx.Err())
	}
}

// ended judges an end that was handled.
func (g *guest) ended(r *run) error {
	switch {
	case r.stayed, r.reason.Ends():
		return nil
	case r.reason == hypervisor.ReasonMigrated, r.reason == hypervisor.ReasonSaved:
		return fmt.Errorf("it was %s meanwhile: %w", r.reason, hypervisor.ErrNotRunning)
	}
	return errors.New("it has ended, and it is not certain that nothing of it is left")
}

// held returns the process of a life that was seen last in a connection that does
// not answer.
func (d *Driver) held(id cluster.GuestID, life cluster.LifeID) (*guest, *run) {
	for _, h := range d.hosts {
		g := h.known(uuidOf(id))
		if g == nil {
			continue
		}
		g.mu.Lock()
		r := g.current
		ok := r != nil && r.life == life && life != "" && r.process != nil && !r.leaving && !r.left && !r.arriving
		g.mu.Unlock()
		if ok {
			return g, r
		}
	}
	return nil, nil
}

// Pause implements hypervisor.Driver.
func (d *Driver) Pause(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	return d.change(ctx, id, life, hypervisor.StatePaused, lv.Calls.Suspend)
}

// Unpause implements hypervisor.Driver.
func (d *Driver) Unpause(ctx context.Context, id cluster.GuestID, life cluster.LifeID) error {
	return d.change(ctx, id, life, hypervisor.StateRunning, lv.Calls.Resume)
}

// change brings a life into a state.
func (d *Driver) change(ctx context.Context, id cluster.GuestID, life cluster.LifeID, want hypervisor.GuestState, do func(lv.Calls, context.Context, lv.Domain) error) error {
	f, err := d.running(ctx, id, life)
	if err != nil || f.guest.State == want {
		return err
	}
	err = f.h.act(ctx, func(c lv.Calls) error { return do(c, ctx, f.dom) })
	after, r, lookErr := f.h.look(ctx, f.dom)
	switch {
	case lookErr == nil && (r == nil || r.life != life):
		return fmt.Errorf("guest %s has ended meanwhile: %w", id, hypervisor.ErrNotRunning)
	case err != nil:
		return fmt.Errorf("make guest %s %s: %w", id, want, err)
	case lookErr != nil:
		return lookErr
	case after.State != want:
		return fmt.Errorf("make guest %s %s: libvirt says done, and it is %s", id, want, after.State)
	}
	f.h.guest(f.dom).awaitTold(ctx, func() bool { return r.paused == (want == hypervisor.StatePaused) || r.isOver() })
	return nil
}

// Reboot implements hypervisor.Rebooter. A guest that libvirt does not know when
// it is off comes back from the configuration with which it ran.
func (d *Driver) Reboot(ctx context.Context, id cluster.GuestID, life cluster.LifeID) (cluster.LifeID, error) {
	f, err := d.running(ctx, id, life)
	if err != nil {
		return "", err
	}
	// With its passwords; libvirt leaves out the number of the run by itself.
	text, err := f.h.client.XML(ctx, f.dom, lv.XMLSecure|lv.XMLMigratable)
	if err != nil {
		return "", fmt.Errorf("reboot guest %s: %w", id, unavailable(err))
	}
	if err := d.Off(ctx, id, life); err != nil {
		return "", err
	}
	next, err := f.start(ctx, func(c lv.Calls) (lv.Domain, error) { return c.CreateXML(ctx, text, 0) })
	if err == nil || errors.Is(err, hypervisor.ErrRunning) {
		return next, err
	}
	d.log.Warn("guest does not start from the configuration with which it ran; trying the stored one", "guest", id, "err", err)
	next, onErr := d.On(ctx, id)
	if onErr != nil {
		return "", errors.Join(onErr, err)
	}
	return next, nil
}

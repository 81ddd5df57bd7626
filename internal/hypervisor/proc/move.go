package proc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// A migration hands one process tree from one host's state directory to
// another's. Who owns the life is said by the source's record alone until that
// gives it away, which is the commit: one rename of one file. Steps, each under
// the guest's locks of both hosts, with what a break after it leaves:
//
//	target: arriving                   stale; whoever looks next ends the arrival
//	source: leaving                    pending; abort, off or the mover end it
//	source: frozen; link, processes    the source's next call thaws: it stays
//	target: arriving, with the process the same
//	source: ended, migrated            the target's next call takes the life over
//	target: here, frozen; link         the target's next call thaws
//	target: thawed                     done

// MaxDowntime bounds the downtime of a migration: calls that change the guest
// wait for it.
const MaxDowntime = 10 * time.Second

// migration is the part of a record that only migrations use.
type migration struct {
	Peer     string `json:"peer,omitempty"` // state directory of the other end of the latest one
	Leaving  bool   `json:"leaving,omitempty"`
	Arriving bool   `json:"arriving,omitempty"`
	Frozen   bool   `json:"frozen,omitempty"` // for switch-over, by a mover that holds the lock, or died with it
	// Departures and Arrivals count those of this life that began here.
	Departures int `json:"departures,omitempty"`
	Arrivals   int `json:"arrivals,omitempty"`
	// Incoming is what arrives, from shortly before the commit.
	Incoming *incoming `json:"incoming,omitempty"`
}

// incoming is a life on its way.
type incoming struct {
	process
	Link      string            `json:"link"` // its name at the source
	Paused    bool              `json:"paused,omitempty"`
	PausedFor hypervisor.Reason `json:"paused_for,omitempty"`
}

// BeginMove begins the migration of the guest that runs here to another host of
// this machine: the guard there is asked, then the guest is arriving there and
// leaving here, and runs on. An error means that no migration has begun.
func (d *Driver) BeginMove(ctx context.Context, to *Driver, id cluster.GuestID) error {
	if err := d.beginMove(ctx, to, id); err != nil {
		return fmt.Errorf("migrate guest %s: %w", id, err)
	}
	return nil
}

func (d *Driver) beginMove(ctx context.Context, to *Driver, id cluster.GuestID) error {
	if err := d.mayMove(to, id); err != nil {
		return err
	}
	now, err := d.State(ctx, id)
	if err != nil {
		return err
	}
	known, err := d.load(id)
	if err != nil {
		return err
	}
	if now.Life == "" || now.State == hypervisor.StateArriving {
		return fmt.Errorf("it is %s: %w", now.State, hypervisor.ErrNotRunning)
	}
	if err := to.askGuard(ctx, guardQuestion{Guest: id, Life: now.Life, Claimed: known.Claimed, Why: hypervisor.ReasonMigrated}); err != nil {
		return fmt.Errorf("the target refuses: %w", err)
	}
	both, err := d.lockBoth(ctx, to, id)
	if err != nil {
		return err
	}
	defer both.unlock()
	switch {
	case !both.source.here() || both.source.Life != now.Life:
		return fmt.Errorf("life %s has ended meanwhile: %w", now.Life, hypervisor.ErrNotRunning)
	case both.source.Leaving:
		return errors.New("it migrates already")
	case both.source.Claimed != known.Claimed:
		return errors.New("it was claimed meanwhile; try again")
	case !both.target.Ended:
		return errors.New("the target has a life or an image of it")
	}
	return both.begin(ctx)
}

// Claim implements hypervisor.Mover.
func (d *Driver) Claim(ctx context.Context, id cluster.GuestID, life cluster.LifeID, c cluster.ClusterID) error {
	guest, unlock, err := d.change(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := d.running(ctx, guest, life)
	if err != nil || rec.Claimed == c {
		return err
	}
	if rec.Leaving {
		return fmt.Errorf("claim of guest %s: it migrates", guest.Name)
	}
	rec.Claimed = c
	return d.save(id, rec)
}

// mayMove checks what both hosts were told of the guest.
func (d *Driver) mayMove(to *Driver, id cluster.GuestID) error {
	here, ok := d.config.guest(id)
	there, known := to.config.guest(id)
	switch {
	case !ok || !known:
		return fmt.Errorf("want a guest that both hosts have: %w", hypervisor.ErrNoGuest)
	case d.config.Immobile || to.config.Immobile:
		return errors.New("guests of these hosts cannot migrate: their configuration says immobile")
	case d.config.StateDir == to.config.StateDir || here.Link == there.Link:
		return errors.New("want two hosts with a state directory and a name for the link each")
	case d.config.Cgroup != "" && d.config.Cgroup == to.config.Cgroup:
		return errors.New("want two hosts with a cgroup each")
	case here.Addr != there.Addr || here.MAC != there.MAC || here.ChannelDir != there.ChannelDir:
		return errors.New("want the same addr, mac and channel_dir at both hosts")
	}
	return nil
}

// ends is a guest at both ends of a migration, locked and settled.
type ends struct {
	from, to       *Driver
	here, there    Guest
	source, target record
	unlock         func()
}

// lockBoth takes the guest's locks in an order that is the same for everybody.
func (d *Driver) lockBoth(ctx context.Context, to *Driver, id cluster.GuestID) (*ends, error) {
	first, second := d, to
	if strings.Compare(d.config.StateDir, to.config.StateDir) > 0 {
		first, second = to, d
	}
	_, unlockFirst, err := first.change(ctx, id)
	if err != nil {
		return nil, err
	}
	_, unlockSecond, err := second.change(ctx, id)
	if err != nil {
		unlockFirst()
		return nil, err
	}
	both := &ends{from: d, to: to, unlock: func() { unlockSecond(); unlockFirst() }}
	both.here, _ = d.config.guest(id) // change has found them
	both.there, _ = to.config.guest(id)
	if both.source, err = d.settle(ctx, both.here); err == nil {
		both.target, err = to.settle(ctx, both.there)
	}
	if err != nil {
		both.unlock()
		return nil, err
	}
	return both, nil
}

// observe tells what has changed, at the target first.
func (e *ends) observe(ctx context.Context) error {
	return errors.Join(e.to.observe(ctx, e.there.ID), e.from.observe(ctx, e.here.ID))
}

func (e *ends) begin(ctx context.Context) error {
	arriving := record{Life: e.source.Life, Launches: e.target.Launches}
	if e.target.Life == e.source.Life {
		arriving.Departures, arriving.Arrivals = e.target.Departures, e.target.Arrivals
	}
	arriving.Arriving, arriving.Peer = true, e.from.config.StateDir
	arriving.Arrivals++
	if err := e.to.kill(ctx, e.there, e.target); err != nil { // what an earlier host boot left
		return err
	}
	if err := e.to.save(e.there.ID, arriving); err != nil {
		return err
	}
	e.source.Leaving, e.source.Peer = true, e.to.config.StateDir
	e.source.Departures++
	if err := e.from.save(e.here.ID, e.source); err != nil {
		return err
	}
	return e.observe(ctx)
}

// FinishMove switches a migration that BeginMove began over: the guest stands
// still for the downtime, then goes on at the target. With postcopy it fails
// there and then: it is at the target and paused, and Unpause recovers it. After
// an error before the commit the life stays here; after one behind it the next
// call at the target goes on.
func (d *Driver) FinishMove(ctx context.Context, to *Driver, id cluster.GuestID, downtime time.Duration, postcopy bool) error {
	if downtime < 0 || downtime > MaxDowntime {
		return fmt.Errorf("migrate guest %s: downtime %v: want 0 to %v", id, downtime, MaxDowntime)
	}
	both, err := d.lockBoth(ctx, to, id)
	if err != nil {
		return fmt.Errorf("migrate guest %s: %w", id, err)
	}
	defer both.unlock()
	if !both.underWay() {
		return fmt.Errorf("migrate guest %s: the migration has failed or was aborted", id)
	}
	if err := both.handOver(ctx, downtime, postcopy); err != nil {
		return fmt.Errorf("migrate guest %s: %w", id, errors.Join(err, both.stay()))
	}
	return errors.Join(both.take(ctx), both.observe(ctx))
}

// underWay reports whether both ends are of one migration.
func (e *ends) underWay() bool {
	return e.source.here() && e.source.Leaving && e.source.Peer == e.to.config.StateDir &&
		e.target.Arriving && e.target.Peer == e.from.config.StateDir && e.source.Life == e.target.Life
}

// handOver does everything up to the commit.
func (e *ends) handOver(ctx context.Context, downtime time.Duration, postcopy bool) error {
	e.source.Frozen = true
	if err := e.from.save(e.here.ID, e.source); err != nil {
		return err
	}
	if err := e.from.stop(ctx, e.here, e.source); err != nil {
		return err
	}
	select {
	case <-time.After(downtime):
	case <-ctx.Done():
		return ctx.Err()
	}
	alive, err := e.source.alive()
	if err != nil || !alive {
		return errors.Join(err, hypervisor.ErrNotRunning)
	}
	in := &incoming{process: e.source.process, Link: e.here.Link, Paused: e.source.Paused, PausedFor: e.source.PausedFor}
	if postcopy {
		in.Paused, in.PausedFor = true, hypervisor.ReasonFailed
	}
	e.target.Incoming = in
	if err := e.to.save(e.there.ID, e.target); err != nil {
		return err
	}
	given := record{Life: e.source.Life, Came: e.source.Came, Launches: e.source.Launches, Ended: true, Reason: hypervisor.ReasonMigrated}
	given.Peer, given.Departures, given.Arrivals = e.source.Peer, e.source.Departures, e.source.Arrivals
	return e.from.save(e.here.ID, given)
}

// stay undoes a hand-over that did not reach its commit.
func (e *ends) stay() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	_, err := e.from.settle(ctx, e.here) // frozen: it thaws and stays; ended: it ends
	if err == nil {
		_, err = e.to.settle(ctx, e.there)
	}
	return err
}

// take is what the target does behind the commit.
func (e *ends) take(ctx context.Context) error {
	if _, err := e.to.settle(ctx, e.there); err != nil {
		return fmt.Errorf("take guest %s over: %w", e.there.Name, err)
	}
	return nil
}

// settleArriving ends an arrival that comes to nothing and takes a life over
// that the source has given away. Called with the guest's lock.
func (d *Driver) settleArriving(ctx context.Context, guest Guest, rec record) (record, error) {
	standing, err := d.standing(guest.ID, rec)
	if err != nil || standing == standingComing {
		return rec, err
	}
	if standing == standingGone {
		return d.dropArrival(ctx, guest, rec)
	}
	in := rec.Incoming
	if err := adoptLink(in.Link, d.config.Bridge, guest.Link); err != nil {
		return rec, err
	}
	if err := d.pointChannel(guest); err != nil {
		return rec, err
	}
	rec.process, rec.Paused, rec.PausedFor, rec.Came = in.process, in.Paused, in.PausedFor, hypervisor.ReasonMigrated
	rec.Arriving, rec.Incoming, rec.Frozen = false, nil, true
	if err := d.save(guest.ID, rec); err != nil {
		return rec, err
	}
	return d.unfreeze(ctx, guest, rec)
}

// unfreeze lets a life go on that was frozen for a switch-over, unless it is
// paused: at its source, where the migration has failed with that, or at its
// target. Called with the guest's lock.
func (d *Driver) unfreeze(ctx context.Context, guest Guest, rec record) (record, error) {
	if !rec.Paused {
		// The link first: what the guest sends before it carries is lost, and a
		// lost question for an address is asked again after a whole second.
		if err := d.raiseLink(ctx, guest); err != nil {
			return rec, err
		}
		if err := rec.resume(ctx); err != nil {
			return rec, errors.Join(err, setLink(guest.Link, false))
		}
	}
	rec.Frozen, rec.Leaving = false, false
	if err := d.save(guest.ID, rec); err != nil {
		return rec, err
	}
	return rec, d.observe(ctx, guest.ID)
}

func (d *Driver) raiseLink(ctx context.Context, guest Guest) error {
	if !d.plugged(guest.ID) {
		return nil
	}
	if err := setLink(guest.Link, true); err != nil {
		return err
	}
	return awaitCarrier(ctx, guest.Link)
}

func (d *Driver) dropArrival(ctx context.Context, guest Guest, rec record) (record, error) {
	rec.Ended, rec.Arriving, rec.Incoming = true, false, nil
	if err := d.save(guest.ID, rec); err != nil {
		return rec, err
	}
	return rec, d.observe(ctx, guest.ID)
}

// standing says what an arrival's source makes of it.
type standing int

const (
	standingComing standing = iota // it is leaving there
	standingGiven                  // it was given away, to here
	standingGone                   // neither: the migration is over
)

// standing asks the source's record, which decides. It is sure only with the
// guest's lock: a migration that begins has told the target first.
func (d *Driver) standing(id cluster.GuestID, rec record) (standing, error) {
	source, err := loadPeer(id, rec)
	if err != nil {
		return standingComing, err
	}
	ours := source.Life == rec.Life && source.Peer == d.config.StateDir
	switch {
	case ours && source.here() && source.Leaving:
		return standingComing, nil
	case ours && source.Ended && source.Reason == hypervisor.ReasonMigrated && rec.Incoming != nil:
		return standingGiven, nil
	}
	return standingGone, nil
}

// stillComing reports whether a record that says arriving is true.
func (d *Driver) stillComing(id cluster.GuestID, rec record) (bool, error) {
	s, err := d.standing(id, rec)
	return s == standingComing, err
}

package proc

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// finishRetry is the pause before another attempt to remove what is left of a
// guest that ended.
const finishRetry = 100 * time.Millisecond

// Driver runs the guests of one host. See the package comment.
type Driver struct {
	config   Config
	log      *slog.Logger
	hostBoot string
	kernel   string // boot id of the kernel

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	group  sync.WaitGroup // all goroutines of the driver
	teller chan func(*teller)

	mu       sync.Mutex // guards what follows
	channels map[cluster.GuestID]*channelListener
	guard    io.Closer
}

var (
	_ hypervisor.Driver    = (*Driver)(nil)
	_ hypervisor.Channeler = (*Driver)(nil)
	_ hypervisor.Mover     = (*Driver)(nil)
)

// New returns a driver on the state directory of the Config, which it makes. It
// finds the guests that run already. An end that nobody saw is finished here
// and told to nobody. ctx bounds New alone.
func New(ctx context.Context, config Config, log *slog.Logger) (*Driver, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("configuration of the proc driver: %w", err)
	}
	if config.Cgroup != "" {
		if err := os.MkdirAll(config.Cgroup, 0o755); err != nil {
			return nil, fmt.Errorf("start proc driver: make cgroup: %w", err)
		}
	}
	for _, g := range config.Guests {
		if err := os.MkdirAll(filepath.Join(config.StateDir, guestsDir, string(g.ID)), 0o700); err != nil {
			return nil, fmt.Errorf("start proc driver: %w", err)
		}
	}
	hostBoot, err := hostBootOf(config.StateDir)
	if err != nil {
		return nil, err
	}
	kernel, err := kernelBoot()
	if err != nil {
		return nil, fmt.Errorf("start proc driver: %w", err)
	}
	d := &Driver{
		config: config, log: log.With("component", "proc"), hostBoot: hostBoot, kernel: kernel,
		teller: make(chan func(*teller)), channels: map[cluster.GuestID]*channelListener{},
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if err := d.start(ctx); err != nil {
		d.Close()
		return nil, fmt.Errorf("start proc driver: %w", err)
	}
	return d, nil
}

func (d *Driver) start(ctx context.Context) error {
	changes, err := d.openChanges()
	if err != nil {
		return err
	}
	d.group.Go(d.tell)
	d.group.Go(func() { d.followChanges(changes) })
	for _, g := range d.config.Guests {
		if err := d.settleNow(ctx, g); err != nil {
			return err
		}
		if err := d.observe(ctx, g.ID); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the driver's streams and channels. Its guests run on.
func (d *Driver) Close() {
	d.cancel()
	d.mu.Lock()
	for _, l := range d.channels {
		l.Close()
	}
	if d.guard != nil {
		d.guard.Close()
	}
	d.mu.Unlock()
	d.group.Wait()
}

// HostBoot implements hypervisor.Driver.
func (d *Driver) HostBoot(ctx context.Context) (string, error) {
	return d.hostBoot, d.ready(ctx)
}

// List implements hypervisor.Driver. A quiet host gives no listing, as a
// management layer that hangs: hostd would learn from it what events withhold.
func (d *Driver) List(ctx context.Context) ([]hypervisor.Guest, error) {
	if d.quiet() {
		return nil, fmt.Errorf("list guests: the host keeps quiet: %w", hypervisor.ErrUnavailable)
	}
	list := make([]hypervisor.Guest, 0, len(d.config.Guests))
	for _, g := range d.config.Guests {
		guest, err := d.State(ctx, g.ID)
		if err != nil {
			return nil, err
		}
		list = append(list, guest)
	}
	return list, d.ready(ctx)
}

// State implements hypervisor.Driver. It waits for no other call, except for
// the removal of a life that has just ended: off is said after that.
func (d *Driver) State(ctx context.Context, id cluster.GuestID) (hypervisor.Guest, error) {
	config, err := d.find(ctx, id)
	if err != nil {
		return hypervisor.Guest{}, err
	}
	guest := hypervisor.Guest{ID: id, Name: config.Name, State: hypervisor.StateOff}
	rec, err := d.load(id)
	if err == nil && !rec.Ended {
		rec, err = d.settleStale(ctx, config, rec)
	}
	if err != nil {
		return hypervisor.Guest{}, err
	}
	switch {
	case rec.Ended:
		return guest, nil
	case rec.Saved:
		guest.State = hypervisor.StateSaved
		return guest, nil
	case rec.Arriving:
		guest.State = hypervisor.StateArriving
	case rec.Paused:
		guest.State = hypervisor.StatePaused
	default:
		guest.State = hypervisor.StateRunning
	}
	guest.Life = rec.Life
	return guest, nil
}

// settleStale settles a record that is not true any more: the life has ended,
// or its migration to here has.
func (d *Driver) settleStale(ctx context.Context, guest Guest, rec record) (record, error) {
	var fresh bool
	var err error
	if rec.Arriving {
		fresh, err = d.stillComing(guest.ID, rec)
	} else {
		fresh, err = rec.alive()
	}
	if err != nil || fresh {
		return rec, err
	}
	if err := d.settleNow(ctx, guest); err != nil {
		return rec, err
	}
	return d.load(guest.ID)
}

// BootOf returns the boot of a life. A guest of this driver cannot reboot
// within its life, so a life has exactly one, the same whoever computes it.
func (d *Driver) BootOf(life cluster.LifeID) cluster.BootID {
	sum := sha256.Sum256([]byte("ringfence proc boot v1\x00" + string(life)))
	return cluster.BootID(uuidOf([16]byte(sum[:16])))
}

// Immobile says that a guest of this driver cannot migrate or be saved: a life
// that was here and does not run any more has ended. hostd asks for it.
func (d *Driver) Immobile() bool { return d.config.Immobile }

func (d *Driver) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.ctx.Err() != nil {
		return fmt.Errorf("proc driver was closed: %w", hypervisor.ErrUnavailable)
	}
	return nil
}

func (d *Driver) find(ctx context.Context, id cluster.GuestID) (Guest, error) {
	if err := d.ready(ctx); err != nil {
		return Guest{}, err
	}
	guest, ok := d.config.guest(id)
	if !ok {
		return Guest{}, fmt.Errorf("guest %.40q: %w", string(id), hypervisor.ErrNoGuest)
	}
	return guest, nil
}

// change begins a call that changes a guest: it holds the guest's lock.
func (d *Driver) change(ctx context.Context, id cluster.GuestID) (Guest, func(), error) {
	guest, err := d.find(ctx, id)
	if err != nil {
		return Guest{}, nil, err
	}
	unlock, err := d.lock(ctx, id)
	return guest, unlock, err
}

func (d *Driver) settleNow(ctx context.Context, guest Guest) error {
	unlock, err := d.lock(ctx, guest.ID)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = d.settle(ctx, guest)
	return err
}

// attend waits for the end of one life and finishes it, whoever started it.
func (d *Driver) attend(guest Guest, rec record) {
	if init, err := OpenProcess(rec.PID, rec.Start); err == nil {
		defer init.Close()
		if init.Wait(d.ctx) != nil {
			return
		}
	}
	for {
		now, err := d.load(guest.ID)
		if err == nil && (now.Ended || now.Life != rec.Life) {
			return // another call finished it
		}
		err = d.settleNow(d.ctx, guest)
		if err == nil || d.ctx.Err() != nil {
			return
		}
		d.log.Warn("cannot remove what is left of an ended guest", "guest", guest.Name, "life", rec.Life, "err", err)
		select {
		case <-time.After(finishRetry):
		case <-d.ctx.Done():
			return
		}
	}
}

// cgroupOf returns the cgroup of the guest's life of that number here.
func (d *Driver) cgroupOf(guest Guest, launch int) string {
	if d.config.Cgroup == "" {
		return ""
	}
	return filepath.Join(d.config.Cgroup, string(guest.ID)+"."+strconv.Itoa(launch))
}

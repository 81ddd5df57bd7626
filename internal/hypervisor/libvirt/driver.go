package libvirt

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"ringfence/internal/hypervisor"
	lv "ringfence/internal/libvirt"
)

// Driver runs the guests of one or several libvirt connections. See the package
// comment.
type Driver struct {
	config   Config
	log      *slog.Logger
	hostBoot string
	pid      func(int) (int, error) // see qemuProcesses
	patience time.Duration          // see the constant
	hosts    []*host
	hub      hub
	gate     gate
	channels channels

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	group   sync.WaitGroup // all goroutines of the driver
	closing sync.Mutex     // guards cancel against spawn
}

var (
	_ hypervisor.Driver    = (*Driver)(nil)
	_ hypervisor.Mover     = (*Driver)(nil)
	_ hypervisor.Finder    = (*Driver)(nil)
	_ hypervisor.Rebooter  = (*Driver)(nil)
	_ hypervisor.Bystander = (*Driver)(nil)
	_ hypervisor.Departer  = (*Driver)(nil)
	_ hypervisor.Checker   = (*Driver)(nil)
	_ hypervisor.Porter    = (*Driver)(nil)
	_ hypervisor.Channeler = (*Driver)(nil)
)

// New makes a driver and begins to connect; that libvirtd is not there is no
// error. The caller must Close it.
func New(config Config, log *slog.Logger) (*Driver, error) { return newDriver(config, log, seams{}) }

// seams are where tests come in; the zero value is what ships.
type seams struct {
	// pid translates a pid of libvirtd's namespace to one of this process's.
	pid func(int) (int, error)
	// dial reaches the daemon of a URI.
	dial map[string]func(ctx context.Context, network, address string) (net.Conn, error)
	// patience replaces the constant.
	patience time.Duration
}

func newDriver(config Config, log *slog.Logger, s seams) (*Driver, error) {
	if s.pid == nil {
		s.pid = func(pid int) (int, error) { return pid, nil }
	}
	uris, err := config.parse()
	if err != nil {
		return nil, fmt.Errorf("settings of the libvirt driver: %w", err)
	}
	boot, err := kernelBoot()
	if err != nil {
		return nil, err
	}
	d := &Driver{config: config, log: log.With("component", "libvirt"), hostBoot: boot, pid: s.pid, patience: cmp.Or(s.patience, patience)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	for _, uri := range uris {
		h := &host{
			d: d, uri: uri, log: d.log.With("uri", uri.String()), guests: map[lv.UUID]*guest{}, names: map[string]lv.UUID{},
			options: lv.Options{Log: log, Dial: s.dial[uri.String()]},
		}
		if h.identify, err = d.identifierOf(uri, h.sessionNumber); err != nil {
			d.Close()
			return nil, fmt.Errorf("settings of the libvirt driver: %s: %w", uri, err)
		}
		d.hosts = append(d.hosts, h)
	}
	for _, h := range d.hosts {
		h.client = lv.NewClient(h.uri, h.options)
		d.group.Go(func() { h.follow(d.ctx) })
	}
	return d, nil
}

// Close ends the driver's streams and connections. Guests run on.
func (d *Driver) Close() {
	d.closing.Lock()
	d.cancel()
	d.closing.Unlock()
	d.gate.close()
	d.channels.close()
	for _, h := range d.hosts {
		if h.client != nil {
			h.client.Close()
		}
	}
	d.group.Wait()
	for _, h := range d.hosts {
		h.release()
	}
	d.hub.breakAll()
}

// spawn runs do in a goroutine for which Close waits; false when it is too late.
func (d *Driver) spawn(do func()) bool {
	d.closing.Lock()
	defer d.closing.Unlock()
	if d.ctx.Err() != nil {
		return false
	}
	d.group.Go(do)
	return true
}

// Remote reports whether a connection leads to another machine. The lives that
// the driver tells then are good enough to name a guest, and no evidence of
// anything: nobody here sees the process.
func (d *Driver) Remote() bool {
	for _, h := range d.hosts {
		if isRemote(h.uri) {
			return true
		}
	}
	return false
}

// HostBoot implements hypervisor.Driver.
func (d *Driver) HostBoot(ctx context.Context) (string, error) {
	return d.hostBoot, ctx.Err()
}

// Check implements hypervisor.Checker: every connection shows its guests, for which
// it needs the driver of the hypervisor behind it.
func (d *Driver) Check(ctx context.Context) error {
	for _, h := range d.hosts {
		if _, err := h.client.List(ctx, lv.ListActive); err != nil {
			return fmt.Errorf("check %s: %w: %w", h.uri, hypervisor.ErrUnavailable, err)
		}
	}
	return nil
}

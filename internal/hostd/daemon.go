package hostd

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

// hostBootRetry is the pause before the hypervisor is asked again who it is.
const hostBootRetry = time.Second

// Config is what hostd is made of.
type Config struct {
	Host cluster.HostName
	// Key signs certificates and bindings.
	Key ed25519.PrivateKey
	// Journal is the Daemon's alone until Run has returned; the caller closes it.
	Journal *journal.Journal
	Driver  hypervisor.Driver
	Grants  Permissions
	Audit   AuditLog
	// Version is told to clusters.
	Version string
	// ChannelLimit bounds the connections of one guest over its own channel;
	// 0 means 16.
	ChannelLimit int
	Log          *slog.Logger
}

// Daemon is one hostd without what binds it to a machine: sockets and files.
// Run does the work, once; Handler is its API for clusters.
type Daemon struct {
	cfg      Config
	log      *slog.Logger
	hub      hub
	looks    looks
	inflight *inflight
	// What follows is set by Run before any request is let in.
	ctx      context.Context // of Run; orders outlive their callers
	hostBoot string
	keeper   *keeper
	actor    *actor
	guard    guard
}

// New makes a hostd; it does nothing before Run.
func New(cfg Config) *Daemon {
	if cfg.ChannelLimit <= 0 {
		cfg.ChannelLimit = channelLimit
	}
	return &Daemon{cfg: cfg, log: cfg.Log.With("component", "hostd"), inflight: newInflight()}
}

// Ready is closed when requests are let in: the lives of earlier boots are
// settled and the hypervisor was asked once what runs.
func (d *Daemon) Ready() <-chan struct{} { return d.inflight.opened }

// DropStreams ends every event stream, so that no client goes on with
// permissions that it had. Whoever changes the grants calls it.
func (d *Daemon) DropStreams() { d.hub.dropAll() }

// Run works until ctx ends and returns when everything that it started has
// ended, requests too. It lets nobody in before it is Ready.
func (d *Daemon) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	d.ctx = ctx
	closeDoor := sync.OnceFunc(d.inflight.close)
	defer closeDoor()
	var ok bool
	if d.hostBoot, ok = d.askHostBoot(ctx); !ok {
		return nil
	}
	lives := NewLives(LivesConfig{
		Journal: d.cfg.Journal, Host: d.cfg.Host, HostBoot: d.hostBoot, Run: rand.Text(), Key: d.cfg.Key,
		Permissions: d.cfg.Grants, Immobile: isImmobile(d.cfg.Driver), Log: d.cfg.Log,
	})
	if _, err := lives.Begin(); err != nil {
		return fmt.Errorf("settle the lives of earlier boots: %w", err)
	}
	d.keeper = newKeeper(lives, d.carry)
	d.actor = &actor{driver: d.cfg.Driver, keeper: d.keeper, log: d.log, audit: d.cfg.Audit, killing: map[Target]bool{}}
	keeperCtx, stopKeeper := context.WithCancel(context.WithoutCancel(ctx))
	var keeping sync.WaitGroup
	keeping.Go(func() { d.keeper.run(keeperCtx) })
	d.guard.keeper, d.guard.log = d.keeper, d.log
	if mover, ok := d.cfg.Driver.(hypervisor.Mover); ok {
		mover.SetGuard(d.guard.allow)
	}
	d.serve(ctx)
	closeDoor()
	d.actor.wg.Wait()
	stopKeeper()
	keeping.Wait()
	return nil
}

// serve runs everything that hands work to the keeper, but requests and kills.
func (d *Daemon) serve(ctx context.Context) {
	chans := &channels{daemon: d, open: map[cluster.GuestID]context.CancelFunc{}}
	chans.driver, _ = d.cfg.Driver.(hypervisor.Channeler)
	obs := &observer{driver: d.cfg.Driver, keeper: d.keeper, nudge: make(chan struct{}, 1), warn: d.warn}
	obs.listed = func(guests []hypervisor.Guest) {
		if chans.driver != nil {
			chans.sync(ctx, guests)
		}
	}
	d.actor.relist = obs.relist
	if err := obs.once(ctx); err != nil {
		d.warn("hypervisor gives no listing", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { obs.watch(ctx) })
	wg.Go(func() { obs.list(ctx) })
	d.log.Info("hostd is ready", "host", d.cfg.Host, "host_boot", d.hostBoot)
	d.inflight.open()
	<-ctx.Done()
	wg.Wait()
	chans.wg.Wait()
}

// carry takes the effects in the keeper's goroutine, without blocking it.
func (d *Daemon) carry(effects []Effect) {
	for _, e := range effects {
		switch {
		case e.Certificate != nil:
			event := encodeEvent(hostapi.EventCertificate, e.Certificate.Seq, e.Certificate)
			d.hub.publish(event, func(c cluster.ClusterID) bool { return c == e.Certificate.Cluster })
		case e.Absence != nil:
			event := encodeEvent(hostapi.EventAbsence, e.Absence.Seq, e.Absence)
			d.hub.publish(event, func(c cluster.ClusterID) bool { return c == e.Absence.Cluster })
		case e.Guest != nil:
			if event := encodeEvent(hostapi.EventGuest, 0, e.Guest); event != nil {
				d.hub.publish(event, func(c cluster.ClusterID) bool { return d.cfg.Grants.Allows(c, e.Guest.ID) })
			}
		case e.Asked != nil:
			event := encodeEvent(hostapi.EventArriving, 0, e.Asked.Arriving)
			d.hub.publish(event, func(c cluster.ClusterID) bool { return c == e.Asked.Cluster })
		case e.Answered != nil:
			d.guard.answer(*e.Answered)
		case e.Resolve != nil:
			d.actor.resolve(d.ctx, *e.Resolve)
		case e.Kill != nil:
			d.actor.kill(d.ctx, *e.Kill)
		}
	}
}

func (d *Daemon) warn(msg string, err error) { d.log.Warn(msg, "err", err) }

// askHostBoot asks until the hypervisor answers; false when ctx ended first.
func (d *Daemon) askHostBoot(ctx context.Context) (string, bool) {
	for ctx.Err() == nil {
		askCtx, cancel := context.WithTimeout(ctx, listTimeout)
		boot, err := d.cfg.Driver.HostBoot(askCtx)
		cancel()
		if err == nil && boot != "" {
			return boot, true
		}
		d.warn("hypervisor does not tell the boot id of the host; trying again", err)
		sleep(ctx, hostBootRetry)
	}
	return "", false
}

func isImmobile(d hypervisor.Driver) bool {
	i, ok := d.(immobile)
	return ok && i.Immobile()
}

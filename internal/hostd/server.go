package hostd

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

const (
	// hostBootRetry is the pause before the hypervisor is asked again who it is.
	hostBootRetry = time.Second
	// shutdownTimeout bounds finishing answers when hostd stops.
	shutdownTimeout = time.Second
)

// Config is what hostd is made of.
type Config struct {
	// Dir is the host directory, made by Init.
	Dir string
	// Listen is where the native API listens; "" is the address in Dir.
	Listen string
	Driver hypervisor.Driver
	Log    *slog.Logger
	// Version is told to clusters.
	Version string
	Limits  Limits
}

// Server is one hostd. New opens what it needs, Run does the work, once.
type Server struct {
	cfg      Config
	log      *slog.Logger
	files    *Files
	grants   atomic.Pointer[Grants]
	journal  *journal.Journal
	audit    *audit
	gate     *gate
	hub      hub
	looks    looks
	inflight inflight
	// What follows is set by Run before any request is served.
	ctx      context.Context // of Run; orders outlive their callers
	hostBoot string
	keeper   *keeper
	actor    *actor
}

// New reads the host directory and opens journal, audit log and listener. The
// caller must Run the server, or Close it.
func New(cfg Config) (_ *Server, err error) {
	s := &Server{cfg: cfg, log: cfg.Log.With("component", "hostd")}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.files, err = Load(cfg.Dir); err != nil {
		return nil, err
	}
	s.grants.Store(s.files.Grants)
	file, err := journal.OpenFile(filepath.Join(cfg.Dir, fileJournal))
	if err != nil {
		return nil, err
	}
	if s.journal, err = journal.Open(file, cfg.Log); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if s.audit, err = openAudit(filepath.Join(cfg.Dir, fileAudit), s.log); err != nil {
		return nil, err
	}
	address := cfg.Listen
	if address == "" {
		address = s.files.Address
	}
	ln, err := listenTCP(context.Background(), address)
	if err != nil {
		return nil, err
	}
	s.gate = newGate(ln, s.files.TLS, s.grants.Load, cfg.Limits, s.log, s.audit)
	return s, nil
}

// Close gives up what New opened. Run does it by itself.
func (s *Server) Close() error {
	var errs []error
	if s.gate != nil {
		errs = append(errs, s.gate.Close())
	}
	if s.journal != nil {
		errs = append(errs, s.journal.Close())
	}
	if s.audit != nil {
		if err := s.audit.file.Close(); !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Addr returns the address of the native API.
func (s *Server) Addr() net.Addr { return s.gate.Addr() }

// Allows reports whether a cluster may deal with a guest, now.
func (s *Server) Allows(c cluster.ClusterID, g cluster.GuestID) bool {
	return s.grants.Load().Allows(c, g)
}

// Reload reads the grants again. On an error the old ones stay. Streams end,
// so that no client goes on with permissions that it had.
func (s *Server) Reload() error {
	grants, err := loadGrants(filepath.Join(s.cfg.Dir, dirClusters))
	if err != nil {
		return fmt.Errorf("grants stay as they were: %w", err)
	}
	s.grants.Store(grants)
	s.hub.dropAll()
	s.log.Info("grants are read again", "clusters", len(grants.byID))
	return nil
}

// Run works until ctx ends and returns when everything that it started has
// ended. It serves nobody before the lives of earlier boots are settled and
// the hypervisor was asked once what runs.
func (s *Server) Run(ctx context.Context) error {
	auditCtx, stopAudit := context.WithCancel(context.WithoutCancel(ctx))
	var auditor sync.WaitGroup
	auditor.Go(func() { s.audit.run(auditCtx) })
	err := s.run(ctx)
	stopAudit()
	auditor.Wait()
	return errors.Join(err, s.gate.Close(), s.journal.Close())
}

func (s *Server) run(ctx context.Context) error {
	var ok bool
	if s.hostBoot, ok = s.askHostBoot(ctx); !ok {
		return nil
	}
	lives := NewLives(LivesConfig{
		Journal: s.journal, Host: s.files.Name, HostBoot: s.hostBoot, Key: s.files.Key,
		Permissions: s, Immobile: isImmobile(s.cfg.Driver), Log: s.cfg.Log,
	})
	if _, err := lives.Begin(); err != nil {
		return fmt.Errorf("settle the lives of earlier boots: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s.ctx = ctx
	s.keeper = newKeeper(lives, s.carry)
	s.actor = &actor{driver: s.cfg.Driver, keeper: s.keeper, log: s.log, audit: s.audit, killing: map[Target]bool{}}
	keeperCtx, stopKeeper := context.WithCancel(context.WithoutCancel(ctx))
	var keeping sync.WaitGroup
	keeping.Go(func() { s.keeper.run(keeperCtx) })
	s.serve(ctx)
	stopKeeper()
	keeping.Wait()
	return nil
}

// serve runs everything that hands work to the keeper.
func (s *Server) serve(ctx context.Context) {
	chans := &channels{server: s, open: map[cluster.GuestID]context.CancelFunc{}}
	chans.driver, _ = s.cfg.Driver.(hypervisor.Channeler)
	obs := &observer{driver: s.cfg.Driver, keeper: s.keeper, nudge: make(chan struct{}, 1), warn: s.warn}
	obs.listed = func(guests []hypervisor.Guest) {
		if chans.driver != nil {
			chans.sync(ctx, guests)
		}
	}
	s.actor.relist = obs.relist
	if err := obs.once(ctx); err != nil {
		s.warn("hypervisor gives no listing", err)
	}
	web := s.web(ctx, s.routes())
	web.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	var wg sync.WaitGroup
	wg.Go(func() { obs.watch(ctx) })
	wg.Go(func() { obs.list(ctx) })
	wg.Go(func() { s.gate.run(ctx) })
	wg.Go(func() { _ = web.Serve(s.gate) })
	s.log.Info("hostd serves", "host", s.files.Name, "address", s.gate.Addr(), "host_boot", s.hostBoot)
	<-ctx.Done()
	s.stopWeb(ctx, web)
	wg.Wait()
	chans.wg.Wait()
	s.inflight.close()
	s.actor.wg.Wait()
}

// stopWeb lets answers finish for a moment and then cuts what is left.
func (s *Server) stopWeb(ctx context.Context, web *http.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := web.Shutdown(ctx); err != nil {
		_ = web.Close()
	}
	_ = s.gate.Close()
}

// carry takes the effects in the keeper's goroutine, without blocking it.
func (s *Server) carry(effects []Effect) {
	for _, e := range effects {
		switch {
		case e.Certificate != nil:
			event := encodeEvent(hostapi.EventCertificate, e.Certificate.Seq, e.Certificate)
			s.hub.publish(event, func(c cluster.ClusterID) bool { return c == e.Certificate.Cluster })
		case e.Guest != nil:
			if event := encodeEvent(hostapi.EventGuest, 0, told(*e.Guest)); event != nil {
				s.hub.publish(event, func(c cluster.ClusterID) bool { return s.Allows(c, e.Guest.ID) })
			}
		case e.Kill != nil:
			s.actor.kill(s.ctx, *e.Kill)
		}
	}
}

func (s *Server) warn(msg string, err error) { s.log.Warn(msg, "err", err) }

// askHostBoot asks until the hypervisor answers; false when ctx ended first.
func (s *Server) askHostBoot(ctx context.Context) (string, bool) {
	for ctx.Err() == nil {
		askCtx, cancel := context.WithTimeout(ctx, listTimeout)
		boot, err := s.cfg.Driver.HostBoot(askCtx)
		cancel()
		if err == nil && boot != "" {
			return boot, true
		}
		s.warn("hypervisor does not tell the boot id of the host; trying again", err)
		sleep(ctx, hostBootRetry)
	}
	return "", false
}

func isImmobile(d hypervisor.Driver) bool {
	i, ok := d.(immobile)
	return ok && i.Immobile()
}

func baseContext(ctx context.Context) func(net.Listener) context.Context {
	return func(net.Listener) context.Context { return ctx }
}

// quietLog passes what http.Server complains about on as debug messages:
// clients cause them at will.
func quietLog(l *slog.Logger) *log.Logger {
	return slog.NewLogLogger(l.Handler(), slog.LevelDebug)
}

// inflight counts handlers, so that Run can wait for them.
type inflight struct {
	mu     sync.Mutex // guards closed and the start of each
	closed bool
	wg     sync.WaitGroup
}

func (i *inflight) enter() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return false
	}
	i.wg.Add(1)
	return true
}

func (i *inflight) leave() { i.wg.Done() }

func (i *inflight) close() {
	i.mu.Lock()
	i.closed = true
	i.mu.Unlock()
	i.wg.Wait()
}

// looks bounds the questions of each cluster to the hypervisor.
type looks struct {
	mu    sync.Mutex // guards rooms
	rooms map[cluster.ClusterID]chan struct{}
}

func (l *looks) take(ctx context.Context, c cluster.ClusterID) (done func(), err error) {
	l.mu.Lock()
	if l.rooms == nil {
		l.rooms = map[cluster.ClusterID]chan struct{}{}
	}
	room := l.rooms[c]
	if room == nil {
		room = make(chan struct{}, lookLimit)
		l.rooms[c] = room
	}
	l.mu.Unlock()
	select {
	case room <- struct{}{}:
		return func() { <-room }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

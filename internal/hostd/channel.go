package hostd

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

// bootKnower is an optional ability of a driver: it knows which boot runs in a
// life. "" is unknown.
type bootKnower interface {
	BootOf(life cluster.LifeID) cluster.BootID
}

// immobile is an optional ability of a driver: its guests can never migrate
// and never be saved, so a life that was here and is gone has ended.
type immobile interface {
	Immobile() bool
}

// channels keeps one HTTP server on the own channel of each guest that some
// cluster may deal with. Whoever speaks on it is that guest (rule P11).
type channels struct {
	server *Server
	driver hypervisor.Channeler
	mu     sync.Mutex // guards open and the start of serve
	open   map[cluster.GuestID]context.CancelFunc
	wg     sync.WaitGroup
}

// sync opens the channels of the guests that the hypervisor has and ends the
// others. A channel that failed is opened anew with the next listing.
func (c *channels) sync(ctx context.Context, guests []hypervisor.Guest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	want := map[cluster.GuestID]bool{}
	for _, g := range guests {
		if !c.server.grants.Load().anyone(g.ID) || ctx.Err() != nil {
			continue
		}
		want[g.ID] = true
		if c.open[g.ID] == nil {
			guestCtx, cancel := context.WithCancel(ctx)
			c.open[g.ID] = cancel
			c.wg.Go(func() { c.serve(guestCtx, g.ID, cancel) })
		}
	}
	for id, cancel := range c.open {
		if !want[id] {
			cancel()
		}
	}
}

func (c *channels) serve(ctx context.Context, id cluster.GuestID, cancel context.CancelFunc) {
	defer func() {
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.open, id)
	}()
	openCtx, opened := context.WithTimeout(ctx, listTimeout)
	ln, err := c.driver.Channel(openCtx, id)
	opened()
	if err != nil {
		c.server.log.Debug("channel of guest is not open", "guest", id, "err", err)
		return
	}
	web := c.server.web(ctx, c.server.channelRoutes(id))
	c.wg.Go(func() {
		<-ctx.Done()
		_ = web.Close()
	})
	err = web.Serve(&limitListener{Listener: ln, most: c.server.cfg.Limits.withDefaults().Channel})
	if !errors.Is(err, http.ErrServerClosed) {
		c.server.log.Debug("channel of guest ends", "guest", id, "err", err)
	}
}

// channelRoutes builds the API of one guest.
func (s *Server) channelRoutes(id cluster.GuestID) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/self", func(w http.ResponseWriter, r *http.Request) {
		self, err := s.self(r.Context(), id)
		s.reply(w, self, err)
	})
	mux.HandleFunc("POST /v1/bind", func(w http.ResponseWriter, r *http.Request) {
		var req hostapi.BindRequest
		err := readBody(r, &req)
		var binding cluster.Binding
		if err == nil {
			binding, err = s.bind(r.Context(), id, req)
		}
		entry := auditEntry{Cluster: req.Cluster, Name: string(req.Node), Remote: "channel", Action: "bind", Guest: id, Life: binding.Life, Outcome: string(cluster.OutcomeDone)}
		if err != nil {
			entry.Outcome, entry.Detail = "refused", err.Error()
		}
		s.audit.note(entry)
		s.log.Info("bind", "guest", id, "cluster", entry.Cluster, "node", entry.Name, "life", entry.Life, "outcome", entry.Outcome, "detail", entry.Detail)
		s.reply(w, binding, err)
	})
	return s.counted(mux)
}

// fresh asks the hypervisor for one guest and the boot that it runs.
func (s *Server) fresh(ctx context.Context, id cluster.GuestID) (hypervisor.Guest, cluster.BootID, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	guest, err := s.cfg.Driver.State(ctx, id)
	if err != nil {
		return guest, "", err
	}
	var boot cluster.BootID
	if driver, ok := s.cfg.Driver.(bootKnower); ok && guest.Life != "" {
		boot = driver.BootOf(guest.Life)
	}
	return guest, boot, nil
}

func (s *Server) self(ctx context.Context, id cluster.GuestID) (hostapi.Self, error) {
	guest, boot, err := s.fresh(ctx, id)
	return hostapi.Self{
		Host: s.files.Name, HostBoot: s.hostBoot, Guest: id, Name: guest.Name, Life: guest.Life, Boot: boot,
	}, err
}

func (s *Server) bind(ctx context.Context, id cluster.GuestID, req hostapi.BindRequest) (cluster.Binding, error) {
	guest, boot, err := s.fresh(ctx, id)
	if err != nil {
		return cluster.Binding{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	var binding cluster.Binding
	var refused error
	err = s.keeper.do(ctx, func(l *Lives) (effects []Effect) {
		binding, effects, refused = l.Bind(guest, boot, req)
		return effects
	})
	if err != nil {
		return cluster.Binding{}, err
	}
	return binding, refused
}

// web makes an HTTP server with every bound set.
func (s *Server) web(ctx context.Context, h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: headerLimitBytes, ErrorLog: quietLog(s.log), BaseContext: baseContext(ctx),
	}
}

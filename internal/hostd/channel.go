package hostd

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
	"ringfence/internal/wire/voter"
)

// channelLimit bounds the connections of one guest unless Config says another.
const channelLimit = 16

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
	daemon *Daemon
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
		if len(c.daemon.cfg.Grants.Clusters(g.ID)) == 0 || ctx.Err() != nil {
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
		c.daemon.log.Debug("channel of guest is not open", "guest", id, "err", err)
		return
	}
	web := HTTPServer(c.daemon.channelRoutes(id), c.daemon.log)
	c.wg.Go(func() {
		<-ctx.Done()
		_ = web.Close()
	})
	err = web.Serve(&limitListener{Listener: ln, most: c.daemon.cfg.ChannelLimit})
	if !errors.Is(err, http.ErrServerClosed) {
		c.daemon.log.Debug("channel of guest ends", "guest", id, "err", err)
	}
}

// channelRoutes builds the API of one guest.
func (d *Daemon) channelRoutes(id cluster.GuestID) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/self", func(w http.ResponseWriter, r *http.Request) {
		self, err := d.self(r.Context(), id)
		d.reply(w, self, err)
	})
	mux.HandleFunc("POST /v1/bind", func(w http.ResponseWriter, r *http.Request) {
		var req hostapi.BindRequest
		err := readBody(r, &req)
		var binding cluster.Binding
		if err == nil {
			binding, err = d.bind(r.Context(), id, req)
		}
		entry := AuditEntry{Cluster: req.Cluster, Name: string(req.Node), Remote: "channel", Action: "bind", Guest: id, Life: binding.Life, Outcome: string(cluster.OutcomeDone)}
		if err != nil {
			entry.Outcome, entry.Detail = "refused", err.Error()
		}
		d.cfg.Audit.Note(entry)
		d.log.Info("bind", "guest", id, "cluster", entry.Cluster, "node", entry.Name, "life", entry.Life, "outcome", entry.Outcome, "detail", entry.Detail)
		d.reply(w, binding, err)
	})
	mux.HandleFunc("POST /v1/reset", func(w http.ResponseWriter, r *http.Request) {
		reply, err := d.postReset(r, id)
		d.reply(w, reply, err)
	})
	mux.HandleFunc("POST "+voter.Path, func(w http.ResponseWriter, r *http.Request) { d.postVoter(w, r, id) })
	return d.counted(mux)
}

// fresh asks the hypervisor for one guest and the boot that it runs.
func (d *Daemon) fresh(ctx context.Context, id cluster.GuestID) (hypervisor.Guest, cluster.BootID, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	guest, err := d.cfg.Driver.State(ctx, id)
	if err != nil {
		return guest, "", err
	}
	var boot cluster.BootID
	if driver, ok := d.cfg.Driver.(bootKnower); ok && guest.Life != "" {
		boot = driver.BootOf(guest.Life)
	}
	return guest, boot, nil
}

func (d *Daemon) self(ctx context.Context, id cluster.GuestID) (hostapi.Self, error) {
	guest, boot, err := d.fresh(ctx, id)
	return hostapi.Self{
		Host: d.cfg.Host, HostBoot: d.hostBoot, Guest: id, Name: guest.Name, Life: guest.Life, Boot: boot,
	}, err
}

func (d *Daemon) bind(ctx context.Context, id cluster.GuestID, req hostapi.BindRequest) (cluster.Binding, error) {
	guest, boot, err := d.fresh(ctx, id)
	if err != nil {
		return cluster.Binding{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	var binding cluster.Binding
	var refused error
	err = d.keeper.do(ctx, func(l *Lives) []Effect {
		refused = l.mayBind(guest, boot, req)
		return nil
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return cluster.Binding{}, err
	}
	carried, err := d.claim(ctx, guest, req.Cluster)
	if err != nil {
		return cluster.Binding{}, err
	}
	err = d.keeper.do(ctx, func(l *Lives) (effects []Effect) {
		binding, effects, refused = l.Bind(guest, boot, req, carried)
		return effects
	})
	if err != nil {
		return cluster.Binding{}, err
	}
	return binding, refused
}

// claim has the hypervisor keep the claim with the life. It comes before a binding
// is signed: what the cluster starts in that life then goes nowhere without it.
func (d *Daemon) claim(ctx context.Context, guest hypervisor.Guest, c cluster.ClusterID) (carried bool, err error) {
	mover, ok := d.cfg.Driver.(hypervisor.Mover)
	if !ok {
		return false, nil
	}
	err = mover.Claim(ctx, guest.ID, guest.Life, c)
	if errors.Is(err, hypervisor.ErrNoClaims) {
		return false, nil
	}
	return err == nil, err
}

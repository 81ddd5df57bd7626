package hostd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

const (
	// headerTimeout bounds reading a request's header.
	headerTimeout = 5 * time.Second
	// requestTimeout bounds a whole request, longer than any order takes; the
	// event stream sets deadlines of its own.
	requestTimeout = 30 * time.Second
	// idleTimeout bounds the pause between two requests of a connection.
	idleTimeout = time.Minute
	// writeTimeout bounds writing one answer or one event.
	writeTimeout = 5 * time.Second
	// headerLimitBytes bounds a request's header.
	headerLimitBytes = 16 << 10
	// lookLimit bounds the looks at the hypervisor that one cluster has under
	// way; more wait for their turn.
	lookLimit = 8
)

// handler answers one request of a known caller with a value or an error.
type handler func(r *http.Request, who Caller) (any, error)

// Handler returns the native API of clusters. A request's context says whose it
// is (WithCaller); nobody else is served. Requests wait until the Daemon is
// Ready and fail once Run has ended.
func (d *Daemon) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/host", d.answer("host", d.getHost))
	mux.Handle("GET /v1/guests", d.answer("guests", d.getGuests))
	mux.Handle("GET /v1/guests/{id}", d.answer("guest", d.getGuest))
	mux.Handle("POST /v1/guests/{id}/{action}", d.answer("", d.postOrder))
	mux.Handle("POST /v1/ack", d.answer("ack", d.postAck))
	mux.Handle("POST /v1/places", d.answer("places", d.postPlaces))
	mux.HandleFunc("GET /v1/events", d.getEvents)
	return d.counted(mux)
}

// counted lets Run wait for the handlers that it has let in, and ends their
// contexts with its own.
func (d *Daemon) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := d.inflight.enter(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer d.inflight.leave()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(d.ctx, cancel)()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// HTTPServer makes a server with every bound set, for requests of hostd's API.
func HTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: headerLimitBytes, ErrorLog: quietLog(log),
	}
}

// quietLog passes what http.Server complains about on as debug messages:
// clients cause them at will.
func quietLog(l *slog.Logger) *log.Logger {
	return slog.NewLogLogger(l.Handler(), slog.LevelDebug)
}

// whose says who sends a request.
func whose(r *http.Request) (Caller, error) {
	who, ok := r.Context().Value(callerKey{}).(Caller)
	if !ok {
		return Caller{Remote: r.RemoteAddr}, &Refusal{hostapi.CodeForbidden, "no certificate"}
	}
	if who.Refused != "" {
		return who, &Refusal{hostapi.CodeForbidden, who.Refused}
	}
	return who, nil
}

// answer wraps a handler: who asks, what comes back, what the audit log says
// of refusals. Actions write their own entries.
func (d *Daemon) answer(action string, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := whose(r)
		var body any
		if err == nil {
			body, err = h(r, who)
		}
		var refused *Refusal
		if action != "" && errors.As(err, &refused) {
			d.cfg.Audit.Note(AuditEntry{Cluster: who.Cluster, Name: who.Name, Remote: who.Remote, Action: action, Outcome: "refused", Detail: refused.Message})
		}
		d.reply(w, body, err)
	})
}

// reply writes the answer or the refusal.
func (d *Daemon) reply(w http.ResponseWriter, body any, err error) {
	status := http.StatusOK
	if err != nil {
		status, body = refusalOf(err)
	}
	data, err := json.Marshal(body)
	if err == nil && len(data) > hostapi.BodyLimitBytes {
		err = fmt.Errorf("answer of %d bytes, at most %d are allowed", len(data), hostapi.BodyLimitBytes)
	}
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"code":"internal","message":"the answer is too long"}`)
		d.log.Error("answer cannot be sent", "err", err)
	}
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		d.log.Debug("no write deadline", "err", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(data); err != nil {
		d.log.Debug("answer is not taken", "err", err)
	}
}

func refusalOf(err error) (int, hostapi.Error) {
	var refused *Refusal
	if !errors.As(err, &refused) {
		return http.StatusServiceUnavailable, hostapi.Error{Code: hostapi.CodeInternal, Message: err.Error()}
	}
	status := http.StatusConflict
	switch refused.Code {
	case hostapi.CodeBadRequest:
		status = http.StatusBadRequest
	case hostapi.CodeForbidden:
		status = http.StatusForbidden
	}
	return status, hostapi.Error{Code: refused.Code, Message: refused.Message}
}

// readBody decodes a bounded JSON body.
func readBody(r *http.Request, to any) error {
	if err := hostapi.Decode(http.MaxBytesReader(nil, r.Body, hostapi.BodyLimitBytes), to); err != nil {
		return &Refusal{hostapi.CodeBadRequest, fmt.Sprintf("body: %v", err)}
	}
	return nil
}

func (d *Daemon) getHost(*http.Request, Caller) (any, error) {
	return hostapi.Host{Name: d.cfg.Host, HostBoot: d.hostBoot, Version: d.cfg.Version}, nil
}

// look bounds what one cluster asks of the hypervisor at the same time.
func (d *Daemon) look(ctx context.Context, who Caller, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	done, err := d.looks.take(ctx, who.Cluster)
	if err != nil {
		return fmt.Errorf("too many questions of cluster %s are under way: %w", who.Cluster, err)
	}
	defer done()
	return f(ctx)
}

func (d *Daemon) getGuests(r *http.Request, who Caller) (any, error) {
	var listed []hypervisor.Guest
	err := d.look(r.Context(), who, func(ctx context.Context) (err error) {
		listed, err = d.cfg.Driver.List(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	var seen []hypervisor.Guest
	for _, g := range listed {
		if d.cfg.Grants.Allows(who.Cluster, g.ID) {
			seen = append(seen, g)
		}
	}
	return d.told(r.Context(), seen)
}

func (d *Daemon) getGuest(r *http.Request, who Caller) (any, error) {
	id := cluster.GuestID(r.PathValue("id"))
	if !d.cfg.Grants.Allows(who.Cluster, id) {
		return nil, forbidden(who.Cluster)
	}
	var guest hypervisor.Guest
	err := d.look(r.Context(), who, func(ctx context.Context) (err error) {
		guest, err = d.cfg.Driver.State(ctx, id)
		return err
	})
	if errors.Is(err, hypervisor.ErrNoGuest) {
		return nil, forbidden(who.Cluster)
	}
	if err != nil {
		return nil, err
	}
	out, err := d.told(r.Context(), []hypervisor.Guest{guest})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// told adds to the hypervisor's word what hostd knows.
func (d *Daemon) told(ctx context.Context, guests []hypervisor.Guest) ([]hostapi.Guest, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	out := make([]hostapi.Guest, 0, len(guests))
	err := d.keeper.do(ctx, func(l *Lives) []Effect {
		for _, g := range guests {
			out = append(out, l.Told(g))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// postOrder carries out an order and writes it to the audit log.
func (d *Daemon) postOrder(r *http.Request, who Caller) (any, error) {
	o := Order{Action: r.PathValue("action"), Guest: cluster.GuestID(r.PathValue("id"))}
	reply, err := d.order(r, who, &o)
	entry := AuditEntry{
		Cluster: who.Cluster, Name: who.Name, Remote: who.Remote, Action: o.Action, Guest: o.Guest, Life: o.Life,
		Incarnation: o.Incarnation, Epoch: o.Epoch, Decision: o.Decision, Outcome: string(reply.Outcome), Detail: reply.Detail,
	}
	if err != nil {
		entry.Outcome, entry.Detail = "refused", err.Error()
	}
	d.cfg.Audit.Note(entry)
	d.log.Info("order", "cluster", who.Cluster, "action", entry.Action, "guest", entry.Guest, "life", entry.Life,
		"epoch", entry.Epoch, "decision", entry.Decision, "outcome", entry.Outcome, "detail", entry.Detail)
	return reply, err
}

func (d *Daemon) order(r *http.Request, who Caller, o *Order) (hostapi.Reply, error) {
	if !d.cfg.Grants.Allows(who.Cluster, o.Guest) {
		return hostapi.Reply{}, forbidden(who.Cluster)
	}
	if err := readBody(r, &o.Order); err != nil {
		return hostapi.Reply{}, err
	}
	if o.Cluster != who.Cluster {
		return hostapi.Reply{}, &Refusal{hostapi.CodeForbidden, fmt.Sprintf("the certificate is of cluster %s, the order of another", who.Cluster)}
	}
	if err := o.Check(); err != nil {
		return hostapi.Reply{}, err
	}
	return d.actor.order(d.ctx, *o)
}

func (d *Daemon) postAck(r *http.Request, who Caller) (any, error) {
	var ack hostapi.Ack
	if err := readBody(r, &ack); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), settleTimeout)
	defer cancel()
	var failed error
	if err := d.keeper.do(ctx, func(l *Lives) []Effect { failed = l.Ack(who.Cluster, ack); return nil }); err != nil {
		return nil, err
	}
	return struct{}{}, failed
}

// postPlaces takes the word of a cluster on a life that is to arrive here.
func (d *Daemon) postPlaces(r *http.Request, who Caller) (any, error) {
	var placed hostapi.Placed
	if err := readBody(r, &placed); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), settleTimeout)
	defer cancel()
	var reply hostapi.PlacedReply
	var failed error
	err := d.keeper.do(ctx, func(l *Lives) (effects []Effect) {
		reply, effects, failed = l.Placed(who.Cluster, placed)
		return effects
	})
	if err != nil {
		return nil, err
	}
	return reply, failed
}

package hostd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
type handler func(r *http.Request, who caller) (any, error)

// routes builds the native API of clusters.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/host", s.answer("host", s.getHost))
	mux.Handle("GET /v1/guests", s.answer("guests", s.getGuests))
	mux.Handle("GET /v1/guests/{id}", s.answer("guest", s.getGuest))
	mux.Handle("POST /v1/guests/{id}/{action}", s.answer("", s.postOrder))
	mux.Handle("POST /v1/ack", s.answer("ack", s.postAck))
	mux.HandleFunc("GET /v1/events", s.getEvents)
	return s.counted(mux)
}

// counted lets Run wait for the handlers that it has let in.
func (s *Server) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.inflight.enter() {
			http.Error(w, errStopped.Error(), http.StatusServiceUnavailable)
			return
		}
		defer s.inflight.leave()
		next.ServeHTTP(w, r)
	})
}

type connKey struct{}

// who names the caller again for each request: permissions may have changed
// since the handshake.
func (s *Server) who(r *http.Request) (caller, error) {
	conn, ok := r.Context().Value(connKey{}).(*knownConn)
	if !ok {
		return caller{remote: r.RemoteAddr}, &Refusal{hostapi.CodeForbidden, "no certificate"}
	}
	id, err := s.grants.Load().identify(conn.certificates().PeerCertificates)
	if err != nil || id != conn.who.cluster {
		return conn.who, &Refusal{hostapi.CodeForbidden, "this host does not allow the cluster any more"}
	}
	return conn.who, nil
}

// answer wraps a handler: who asks, what comes back, what the audit log says
// of refusals. Actions write their own entries.
func (s *Server) answer(action string, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := s.who(r)
		var body any
		if err == nil {
			body, err = h(r, who)
		}
		var refused *Refusal
		if action != "" && errors.As(err, &refused) {
			s.audit.note(auditEntry{Cluster: who.cluster, Name: who.name, Remote: who.remote, Action: action, Outcome: "refused", Detail: refused.Message})
		}
		s.reply(w, body, err)
	})
}

// reply writes the answer or the refusal.
func (s *Server) reply(w http.ResponseWriter, body any, err error) {
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
		s.log.Error("answer cannot be sent", "err", err)
	}
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		s.log.Debug("no write deadline", "err", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(data); err != nil {
		s.log.Debug("answer is not taken", "err", err)
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
	if err := strictJSON(http.MaxBytesReader(nil, r.Body, hostapi.BodyLimitBytes), to); err != nil {
		return &Refusal{hostapi.CodeBadRequest, fmt.Sprintf("body: %v", err)}
	}
	return nil
}

func (s *Server) getHost(*http.Request, caller) (any, error) {
	return hostapi.Host{Name: s.files.Name, HostBoot: s.hostBoot, Version: s.cfg.Version}, nil
}

// look bounds what one cluster asks of the hypervisor at the same time.
func (s *Server) look(ctx context.Context, who caller, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	done, err := s.looks.take(ctx, who.cluster)
	if err != nil {
		return fmt.Errorf("too many questions of cluster %s are under way: %w", who.cluster, err)
	}
	defer done()
	return f(ctx)
}

func (s *Server) getGuests(r *http.Request, who caller) (any, error) {
	var listed []hypervisor.Guest
	err := s.look(r.Context(), who, func(ctx context.Context) (err error) {
		listed, err = s.cfg.Driver.List(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := []hostapi.Guest{}
	for _, g := range listed {
		if s.Allows(who.cluster, g.ID) {
			out = append(out, told(g))
		}
	}
	return out, nil
}

func (s *Server) getGuest(r *http.Request, who caller) (any, error) {
	id := cluster.GuestID(r.PathValue("id"))
	if !s.Allows(who.cluster, id) {
		return nil, forbidden(who.cluster)
	}
	var guest hypervisor.Guest
	err := s.look(r.Context(), who, func(ctx context.Context) (err error) {
		guest, err = s.cfg.Driver.State(ctx, id)
		return err
	})
	if errors.Is(err, hypervisor.ErrNoGuest) {
		return nil, forbidden(who.cluster)
	}
	return told(guest), err
}

func told(g hypervisor.Guest) hostapi.Guest {
	return hostapi.Guest{ID: g.ID, Name: g.Name, State: string(g.State), Life: g.Life}
}

// postOrder carries out an order and writes it to the audit log.
func (s *Server) postOrder(r *http.Request, who caller) (any, error) {
	o := Order{Action: r.PathValue("action"), Guest: cluster.GuestID(r.PathValue("id"))}
	reply, err := s.order(r, who, &o)
	entry := auditEntry{
		Cluster: who.cluster, Name: who.name, Remote: who.remote, Action: o.Action, Guest: o.Guest, Life: o.Life,
		Incarnation: o.Incarnation, Epoch: o.Epoch, Decision: o.Decision, Outcome: string(reply.Outcome), Detail: reply.Detail,
	}
	if err != nil {
		entry.Outcome, entry.Detail = "refused", err.Error()
	}
	s.audit.note(entry)
	s.log.Info("order", "cluster", who.cluster, "action", entry.Action, "guest", entry.Guest, "life", entry.Life,
		"epoch", entry.Epoch, "decision", entry.Decision, "outcome", entry.Outcome, "detail", entry.Detail)
	return reply, err
}

func (s *Server) order(r *http.Request, who caller, o *Order) (hostapi.Reply, error) {
	if !s.Allows(who.cluster, o.Guest) {
		return hostapi.Reply{}, forbidden(who.cluster)
	}
	if err := readBody(r, &o.Order); err != nil {
		return hostapi.Reply{}, err
	}
	if o.Cluster != who.cluster {
		return hostapi.Reply{}, &Refusal{hostapi.CodeForbidden, fmt.Sprintf("the certificate is of cluster %s, the order of another", who.cluster)}
	}
	if err := o.Check(); err != nil {
		return hostapi.Reply{}, err
	}
	return s.actor.order(s.ctx, *o)
}

func (s *Server) postAck(r *http.Request, who caller) (any, error) {
	var ack hostapi.Ack
	if err := readBody(r, &ack); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), settleTimeout)
	defer cancel()
	var failed error
	if err := s.keeper.do(ctx, func(l *Lives) []Effect { failed = l.Ack(who.cluster, ack); return nil }); err != nil {
		return nil, err
	}
	return struct{}{}, failed
}

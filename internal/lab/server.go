package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor/proc"
)

func (s *supervisor) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, s.serveStatus)
	mux.HandleFunc("POST "+pathExec, s.serveExec)
	for verb, do := range s.verbs() {
		mux.HandleFunc("POST "+pathVerb+verb, func(w http.ResponseWriter, r *http.Request) { s.serveVerb(w, r, do) })
	}
	return mux
}

// verbs maps each verb to what it does with its request.
func (s *supervisor) verbs() map[string]func(context.Context, request) error {
	return map[string]func(context.Context, request) error{
		verbHostPowerOn: s.hostPowerOn,
		verbHostPowerLoss: func(ctx context.Context, r request) error {
			if err := s.eachHost(r, func(*host) error { return nil }); err != nil {
				return err
			}
			return s.powerLoss(ctx, r.Hosts)
		},
		verbKillHostd: func(ctx context.Context, r request) error {
			return s.eachHost(r, func(h *host) error { return h.killHostd(ctx) })
		},
		verbStartHostd: func(_ context.Context, r request) error {
			return s.eachHost(r, func(h *host) error {
				h.verb.Lock()
				defer h.verb.Unlock()
				return h.startHostd()
			})
		},
		verbQuiet: func(_ context.Context, r request) error {
			return s.eachHost(r, func(h *host) error { return proc.SetQuiet(s.layout.stateDir(h.name), r.On) })
		},
		verbPowerOn: func(ctx context.Context, r request) error {
			return s.eachNode(ctx, r, func(g guest) error { return g.start(ctx) })
		},
		verbPowerOff: s.withLife((*proc.Driver).Off),
		verbPause:    s.withLife((*proc.Driver).Pause),
		verbUnpause:  s.withLife((*proc.Driver).Unpause),
		verbKill:     s.withDriver((*proc.Driver).Kill),
		verbSave:     s.withDriver((*proc.Driver).Save),
		verbRestore:  s.withDriver((*proc.Driver).Restore),
		verbMigrate:  s.migrate,
		verbCut:      s.setLinks(false),
		verbSplit: func(ctx context.Context, r request) error {
			return s.eachNode(ctx, r, func(g guest) error { return g.split(ctx, true) })
		},
		verbHeal: func(ctx context.Context, r request) error {
			return errors.Join(s.setLinks(true)(ctx, r), s.eachNode(ctx, r, func(g guest) error { return g.split(ctx, false) }))
		},
		verbCutHost: func(_ context.Context, r request) error {
			return s.eachHost(r, func(h *host) error { return h.setAddr(removeHostAddr) })
		},
		verbHealHost: func(_ context.Context, r request) error {
			return s.eachHost(r, func(h *host) error { return h.setAddr(addHostAddr) })
		},
		verbDown: func(context.Context, request) error {
			s.once.Do(func() { close(s.down) })
			return nil
		},
	}
}

func (s *supervisor) hostPowerOn(ctx context.Context, r request) error {
	return s.eachHost(r, func(h *host) error {
		if err := h.powerOn(ctx); err != nil || !r.Guests {
			return err
		}
		g, err := s.find(ctx, homeOf(h.name))
		if err != nil || g.host != h {
			return err // it is elsewhere
		}
		return g.start(ctx)
	})
}

// withLife makes a verb of a call that names the present life of a guest.
func (s *supervisor) withLife(do func(*proc.Driver, context.Context, cluster.GuestID, cluster.LifeID) error) func(context.Context, request) error {
	return func(ctx context.Context, r request) error {
		return s.eachNode(ctx, r, func(g guest) error {
			driver, life, err := g.running(ctx)
			if err != nil {
				return err
			}
			return do(driver, ctx, g.id, life)
		})
	}
}

// withDriver makes a verb of a call that names a guest.
func (s *supervisor) withDriver(do func(*proc.Driver, context.Context, cluster.GuestID) error) func(context.Context, request) error {
	return func(ctx context.Context, r request) error {
		return s.eachNode(ctx, r, func(g guest) error {
			driver, err := g.host.powered()
			if err != nil {
				return err
			}
			return do(driver, ctx, g.id)
		})
	}
}

func (s *supervisor) setLinks(up bool) func(context.Context, request) error {
	return s.withDriver(func(d *proc.Driver, ctx context.Context, id cluster.GuestID) error { return d.SetLink(ctx, id, up) })
}

// eachHost checks all names before it does anything.
func (s *supervisor) eachHost(r request, do func(*host) error) error {
	var hosts []*host
	for _, name := range r.Hosts {
		if err := checkHost(name); err != nil {
			return err
		}
		hosts = append(hosts, s.hosts[name])
	}
	return each(hosts, do)
}

// eachNode checks all names before it does anything.
func (s *supervisor) eachNode(ctx context.Context, r request, do func(guest) error) error {
	var guests []guest
	for _, node := range r.Nodes {
		g, err := s.find(ctx, node)
		if err != nil {
			return err
		}
		guests = append(guests, g)
	}
	return each(guests, do)
}

func each[T any](all []T, do func(T) error) error {
	if len(all) == 0 {
		return errors.New("name at least one")
	}
	var faults []error
	for _, one := range all {
		faults = append(faults, do(one))
	}
	return errors.Join(faults...)
}

func (s *supervisor) serveStatus(w http.ResponseWriter, r *http.Request) {
	status := Status{Dir: s.layout.Dir, Cgroups: s.spec.Cgroup != ""}
	for _, name := range Hosts() {
		onHost, err := s.hosts[name].status(r.Context())
		if err != nil {
			refuse(w, http.StatusInternalServerError, err)
			return
		}
		status.Hosts = append(status.Hosts, onHost)
	}
	for _, node := range Nodes() {
		onNode, err := s.nodeStatus(r.Context(), node)
		if err != nil {
			refuse(w, http.StatusInternalServerError, err)
			return
		}
		status.Nodes = append(status.Nodes, onNode)
	}
	answer(w, http.StatusOK, status)
}

func (s *supervisor) nodeStatus(ctx context.Context, node cluster.NodeName) (NodeStatus, error) {
	g, err := s.find(ctx, node)
	if err != nil {
		return NodeStatus{}, err
	}
	return g.status(ctx)
}

// serveVerb carries a verb out to its end, also when the client goes away.
func (s *supervisor) serveVerb(w http.ResponseWriter, r *http.Request, do func(context.Context, request) error) {
	body, err := readRequest(w, r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), verbTimeout)
	defer cancel()
	s.log.Info("verb", "path", r.URL.Path, "nodes", body.Nodes, "hosts", body.Hosts, "on", body.On)
	if err := do(ctx, body); err != nil {
		s.log.Warn("verb failed", "path", r.URL.Path, "err", err)
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

func readRequest(w http.ResponseWriter, r *http.Request) (request, error) {
	var body request
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, requestLimitBytes))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		return request{}, fmt.Errorf("read request: %w", err)
	}
	return body, nil
}

func refuse(w http.ResponseWriter, code int, err error) {
	answer(w, code, failure{Message: err.Error()})
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client has gone: nothing to do
}

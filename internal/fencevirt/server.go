package fencevirt

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// stopLimit is how long requests that are being carried out may go on when the
// server stops. What they would have found out is unknown then.
const stopLimit = 2 * time.Second

// Server is the daemon of one host. Its methods may be called at any time from any
// goroutine.
type Server struct {
	daemon   *daemon
	follow   *follower
	stopWork context.CancelFunc
	stop     chan struct{} // closed by Close
	stopping sync.Once
	ended    chan struct{} // closed at the end of Run
	serving  sync.WaitGroup

	mu        sync.Mutex // guards what follows
	endpoints map[string]endpoint
	serve     func(endpoint) // nil before Run
	closed    bool
}

// New opens every listener of the configuration, or none and says why. Close or Run
// must follow.
func New(cfg Config, host Host, log *slog.Logger) (*Server, error) {
	log = log.With("component", "fencevirt")
	work, stopWork := context.WithCancel(context.Background())
	d := &daemon{challenges: newChallenges(), drops: newDrops(log, time.Now), reports: newReportLimit(time.Now), log: log, work: work}
	s := &Server{
		daemon: d, stopWork: stopWork, stop: make(chan struct{}), ended: make(chan struct{}), endpoints: map[string]endpoint{},
	}
	s.follow = newFollower(host, log, s.tell)
	d.answerer = &answerer{host: host, follow: s.follow, log: log, drops: d.drops, power: newTurns[cluster.GuestID]()}
	if err := s.Reload(cfg); err != nil {
		stopWork()
		return nil, err
	}
	return s, nil
}

// Reload takes another configuration. Listeners that stay keep their sockets,
// connections and memory; new ones are opened before others are closed. With an
// error nothing has changed.
func (s *Server) Reload(cfg Config) error {
	if err := Validate(cfg); err != nil {
		return err
	}
	for _, l := range cfg.Listeners {
		if err := l.checkInterfaces(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("reload: the server is closed")
	}
	next, opened := map[string]endpoint{}, map[string]endpoint{}
	for _, l := range cfg.Listeners {
		key := l.socketKey()
		if e := s.endpoints[key]; e != nil {
			next[key] = e
			continue
		}
		e, err := s.daemon.open(settings{l, cfg})
		if err != nil {
			for _, e := range opened {
				e.close()
			}
			return err
		}
		next[key], opened[key] = e, e
	}
	for _, l := range cfg.Listeners {
		next[l.socketKey()].set(settings{l, cfg})
	}
	s.follow.setMap(cfg.Guests)
	before := s.endpoints
	s.endpoints = next
	for key, e := range before {
		if next[key] == nil {
			e.close()
		}
	}
	for _, e := range opened {
		e.guests(s.follow.seen())
		if s.serve != nil {
			s.serve(e)
		}
	}
	return nil
}

// tell tells the endpoints which guests there are.
func (s *Server) tell(guests []hypervisor.Guest) {
	for _, e := range s.all() {
		e.guests(guests)
	}
}

func (s *Server) all() map[string]endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.endpoints)
}

// Addrs returns where the listeners with sockets of their own listen.
func (s *Server) Addrs() []net.Addr {
	var addrs []net.Addr
	for _, e := range s.all() {
		if a := e.addr(); a != nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// Run serves until ctx ends or Close is called. It is called once. When it returns,
// nothing of the server is left.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return nil
	case s.serve != nil:
		s.mu.Unlock()
		return errors.New("run: the server runs already")
	}
	s.serve = func(e endpoint) { s.serving.Go(func() { e.serve(ctx) }) }
	for _, e := range s.endpoints {
		s.serve(e)
	}
	s.mu.Unlock()
	s.serving.Go(func() { s.follow.run(ctx) })
	defer close(s.ended)
	select {
	case <-ctx.Done():
	case <-s.stop:
	}
	s.shut()
	cancel()
	s.finish()
	return nil
}

// shut closes the sockets, and every connection that waits for its client.
func (s *Server) shut() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, e := range s.all() {
		e.close()
		e.idle()
	}
}

// finish waits for what goes on, for stopLimit, and then ends it.
func (s *Server) finish() {
	late := time.AfterFunc(stopLimit, s.stopWork)
	defer late.Stop()
	s.serving.Wait()
	for _, e := range s.all() {
		e.idle() // those that came in meanwhile
	}
	s.daemon.requests.Wait()
	s.stopWork()
}

// Close ends the server, and returns when Run has, if it was called. It may be
// called again.
func (s *Server) Close() error {
	s.mu.Lock()
	ran := s.serve != nil
	s.closed = true
	s.mu.Unlock()
	s.stopping.Do(func() { close(s.stop) })
	if ran {
		<-s.ended
		return nil
	}
	s.shut()
	s.stopWork()
	return nil
}

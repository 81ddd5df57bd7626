package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
)

// shutdownTimeout bounds finishing answers when hostd stops.
const shutdownTimeout = time.Second

// Config is what a Server is made of.
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

// Server is hostd on this machine. New opens what it needs, Run does the work,
// once.
type Server struct {
	cfg     Config
	log     *slog.Logger
	files   *Files
	grants  atomic.Pointer[Grants]
	journal *journal.Journal
	audit   *audit
	gate    *gate
	daemon  *hostd.Daemon
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
	s.daemon = hostd.New(hostd.Config{
		Host: s.files.Name, Key: s.files.Key, Journal: s.journal, Driver: cfg.Driver, Grants: s, Audit: s.audit,
		Version: cfg.Version, ChannelLimit: cfg.Limits.Channel, Log: cfg.Log,
	})
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

// Clusters returns the clusters that may deal with a guest, now.
func (s *Server) Clusters(g cluster.GuestID) []cluster.ClusterID { return s.grants.Load().Clusters(g) }

// Reload reads the grants again. On an error the old ones stay. Streams end,
// so that no client goes on with permissions that it had.
func (s *Server) Reload() error {
	grants, err := loadGrants(filepath.Join(s.cfg.Dir, dirClusters))
	if err != nil {
		return fmt.Errorf("grants stay as they were: %w", err)
	}
	s.grants.Store(grants)
	s.daemon.DropStreams()
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
	return errors.Join(err, s.noteStop(), s.gate.Close(), s.journal.Close())
}

// noteStop writes down that guests go on unseen from here: what a restart of the
// host would else say of their lives does not hold (interleaving C-10).
func (s *Server) noteStop() error {
	if err := s.journal.Append(journal.Entry{Watch: journal.WatchStopped}); err != nil {
		return fmt.Errorf("note that hostd was stopped: %w", err)
	}
	return nil
}

func (s *Server) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		defer stop()
		ended <- s.daemon.Run(ctx)
	}()
	select {
	case <-s.daemon.Ready():
		s.serve(ctx)
	case <-ctx.Done():
	}
	return <-ended
}

// serve lets clusters in until ctx ends.
func (s *Server) serve(ctx context.Context) {
	web := hostd.HTTPServer(s.identified(s.daemon.Handler()), s.log)
	web.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	var wg sync.WaitGroup
	wg.Go(func() { s.gate.run(ctx) })
	wg.Go(func() { _ = web.Serve(s.gate) })
	s.log.Info("hostd serves", "host", s.files.Name, "address", s.gate.Addr())
	<-ctx.Done()
	s.stopWeb(ctx, web)
	wg.Wait()
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

type connKey struct{}

// identified names the caller again for each request: permissions may have
// changed since the handshake.
func (s *Server) identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(connKey{}).(*knownConn); ok {
			r = r.WithContext(hostd.WithCaller(r.Context(), s.caller(conn)))
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) caller(conn *knownConn) hostd.Caller {
	who := conn.who
	id, err := s.grants.Load().identify(conn.certificates().PeerCertificates)
	if err != nil || id != who.Cluster {
		who.Refused = "this host does not allow the cluster any more"
	}
	return who
}

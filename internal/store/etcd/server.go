// Package etcd is the decision store on an embedded etcd voter. The node's
// wiring starts one in every node that votes; it serves store.Store without a
// network hop and changes the set of voters.
//
// Invariant: an answer is never better than the truth. What may have been
// committed is ErrUnknown, only what certainly was not is ErrUnavailable or
// ErrConflict; and where etcd would end the process, it ends with a reason.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// Server is a running voter. It is safe for concurrent use.
type Server struct {
	log     *slog.Logger
	etcd    *embed.Etcd
	server  *etcdserver.EtcdServer
	client  *clientv3.Client // for watches only
	fatal   *fatality
	lock    *os.File
	ready   chan struct{}   // closed once quorum has answered
	ctx     context.Context // ends when Close begins
	cancel  context.CancelFunc
	tasks   sync.WaitGroup // supervise, compactLoop and watches
	mu      sync.Mutex     // guards closed and adding to tasks
	closed  bool
	closing sync.Once
	stopErr error
}

var _ store.Store = (*Server)(nil)

// Start runs a voter. It returns once the member listens and takes part in its
// cluster, without waiting for quorum: nodes that start one by one get
// ErrUnavailable from the Store until enough of them are there (see Ready). A
// voter that joins (New false, nothing in DataDir) needs one running voter.
// ctx bounds only the start; a failed Start leaves the process fit for nothing
// but reporting the error.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	lock, err := prepareDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	log := cfg.Logger.With("component", "store")
	fatal := newFatality(cfg.Contained)
	e, err := startEtcd(ctx, cfg, log, fatal)
	if err != nil {
		lock.Close()
		return nil, err
	}
	s := &Server{
		log: log, etcd: e, server: e.Server, fatal: fatal, lock: lock,
		client: v3client.New(e.Server), ready: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	fatal.arm(cfg.OnFatal)
	s.tasks.Go(s.supervise)
	s.tasks.Go(s.awaitReady)
	s.tasks.Go(s.compactLoop)
	return s, nil
}

// startEtcd starts etcd in a goroutine of its own, which stays behind if etcd
// calls for the end of the process meanwhile.
func startEtcd(ctx context.Context, cfg Config, log *slog.Logger, fatal *fatality) (*embed.Etcd, error) {
	ec := cfg.embedded()
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(log, fatal))
	type result struct {
		etcd *embed.Etcd
		err  error
	}
	started := make(chan result, 1)
	go func() {
		// etcd meets some kinds of damaged files with a nil dereference.
		defer func() {
			if p := recover(); p != nil {
				started <- result{nil, fmt.Errorf("etcd failed on its files, which may be damaged: %v; "+
					"if so, move them away, remove this voter and let it join anew", p)}
			}
		}()
		e, err := embed.StartEtcd(ec)
		started <- result{e, err}
	}()
	select {
	case r := <-started:
		if r.err != nil {
			return nil, startError(cfg, r.err)
		}
		if ctx.Err() != nil {
			r.etcd.Close()
			return nil, fmt.Errorf("start store: %w", ctx.Err())
		}
		return r.etcd, nil
	case <-fatal.failed:
		return nil, fmt.Errorf("start store in %s: %w", cfg.DataDir, fatal.err)
	}
}

// startError says what a person can do about a start that failed.
func startError(cfg Config, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "listen" {
		ports := strconv.Itoa(cfg.PeerPort)
		if cfg.ClientPort != 0 {
			ports += " or " + strconv.Itoa(cfg.ClientPort)
		}
		where := net.JoinHostPort(cfg.Address, ports)
		if op.Addr != nil {
			where = op.Addr.String()
		}
		switch {
		case errors.Is(err, unix.EADDRINUSE):
			return fmt.Errorf("store cannot listen on %s: address already in use; "+
				"stop the other program, or give this node another peer_port in cluster.json: %w", where, err)
		case errors.Is(err, unix.EADDRNOTAVAIL):
			return fmt.Errorf("store cannot listen on %s: this machine has no such address; "+
				"correct the node's address in the configuration: %w", where, err)
		}
		return fmt.Errorf("store cannot listen on %s: %w", where, err)
	}
	if _, statErr := os.Stat(filepath.Join(cfg.DataDir, "member", "wal")); !cfg.New && statErr != nil {
		return fmt.Errorf("store cannot join by the voters %s: %w", initialCluster(cfg.InitialCluster), err)
	}
	return fmt.Errorf("start store in %s: %w", cfg.DataDir, err)
}

// Ready is closed once this voter has had an answer of a quorum. (etcd's own
// notion of ready can lag 6 s behind.)
func (s *Server) Ready() <-chan struct{} { return s.ready }

func (s *Server) awaitReady() {
	for s.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(s.ctx, OpTimeout)
		_, err := s.read(ctx, &pb.RangeRequest{Key: []byte{0}, CountOnly: true})
		cancel()
		if err == nil {
			close(s.ready)
			return
		}
		select {
		case <-s.ctx.Done():
		case <-s.fatal.failed:
			return
		case <-time.After(retryPause):
		}
	}
}

// ErrRemoved goes to OnFatal when this voter was taken out of the cluster. Its
// data directory is void.
var ErrRemoved = errors.New("this voter was removed from the cluster")

// supervise reports when etcd ends by itself.
func (s *Server) supervise() {
	select {
	case <-s.ctx.Done():
	case <-s.server.StopNotify():
		s.fatal.report(ErrRemoved) // there is no other reason for it
	case err := <-s.etcd.Err():
		if s.ctx.Err() == nil {
			s.fatal.report(fmt.Errorf("store cannot serve its peers: %w", err))
		}
	}
}

// compactLoop keeps the history short. The raft leader does it for all.
func (s *Server) compactLoop() {
	tick := time.NewTicker(compactInterval)
	defer tick.Stop()
	for compacted := int64(0); ; {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		target := s.server.KV().Rev() - keepRevisions
		if !s.isLeader() || target < compacted+compactSlack {
			continue
		}
		if err := s.Compact(s.ctx, cluster.Revision(target)); err != nil {
			s.log.Debug("compaction failed", "err", err, "revision", target)
		}
		compacted = target
	}
}

// Compact forgets the history below rev, on all voters.
func (s *Server) Compact(ctx context.Context, rev cluster.Revision) error {
	ctx, cancel := context.WithTimeout(ctx, OpTimeout)
	defer cancel()
	if _, err := s.server.Compact(ctx, &pb.CompactionRequest{Revision: int64(rev)}); err != nil {
		return fmt.Errorf("compact history at revision %d: %w", rev, err)
	}
	return nil
}

// Close ends all watches, hands over the raft lead if it is here, and stops
// the voter. It takes at most CloseTimeout; if etcd is not done by then, that
// is the error and the data directory stays locked.
func (s *Server) Close() error {
	s.closing.Do(func() { s.stopErr = s.stop() })
	return s.stopErr
}

func (s *Server) stop() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.tasks.Wait()
		s.client.Close()
		s.handOverAndStop()
		s.etcd.Close()
	}()
	select {
	case <-done:
		return s.lock.Close()
	case <-time.After(CloseTimeout):
		return fmt.Errorf("close store: etcd did not stop in %s", CloseTimeout)
	}
}

// handOverAndStop gives the raft lead away, so that the others need no
// election, and stops raft. etcd by itself would insist on the hand-over for
// 6 s, which is in vain when all stop at once.
func (s *Server) handOverAndStop() {
	done := make(chan error, 1)
	go func() { done <- s.server.TryTransferLeadershipOnShutdown() }()
	select {
	case err := <-done:
		done <- err
	case <-time.After(handOverTimeout):
	}
	s.server.HardStop() // ends the hand-over too
	if err := <-done; err != nil {
		s.log.Info("raft lead not handed over", "err", err)
	}
}

// isClosed says whether Close has been called.
func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

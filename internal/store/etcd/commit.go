package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
	"go.etcd.io/raft/v3"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// Load implements store.Store.
func (s *Server) Load(ctx context.Context, prefix string) ([]cluster.KV, cluster.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, OpTimeout)
	defer cancel()
	from, end := keyRange(prefix)
	resp, err := s.read(ctx, &pb.RangeRequest{Key: from, RangeEnd: end})
	if err != nil {
		return nil, 0, fmt.Errorf("load %q: %w", prefix, err)
	}
	kvs := make([]cluster.KV, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		kvs = append(kvs, cluster.KV{Key: string(kv.Key), Value: kv.Value, Rev: cluster.Revision(kv.ModRevision)})
	}
	return kvs, cluster.Revision(resp.Header.Revision), nil
}

// read makes a linearizable read. It may be repeated, so it waits for a raft
// leader and outlasts a change of it.
func (s *Server) read(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	for {
		if err := s.usable(ctx); err != nil {
			return nil, err
		}
		if err := s.awaitLeader(ctx); err != nil {
			return nil, err
		}
		resp, err := s.server.Range(ctx, req)
		if err == nil {
			return resp, nil
		}
		if !errors.Is(err, etcderrors.ErrLeaderChanged) {
			return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
	}
}

// keyRange returns etcd's range for all keys under prefix.
func keyRange(prefix string) (from, end []byte) {
	if prefix == "" {
		return []byte{0}, []byte{0}
	}
	return []byte(prefix), []byte(clientv3.GetPrefixRangeEnd(prefix))
}

// Commit implements store.Store. Without a raft leader it waits for one, which
// is certain to write nothing; from then on only etcd's answer is certain.
func (s *Server) Commit(ctx context.Context, tx store.Tx) (cluster.Revision, error) {
	if err := store.CheckTx(tx); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, OpTimeout)
	defer cancel()
	if err := s.usable(ctx); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	if err := s.awaitLeader(ctx); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	resp, err := s.propose(ctx, txnRequest(tx))
	if err != nil {
		return 0, fmt.Errorf("commit: %w: %w", outcome(err, len(tx.Writes) > 0), err)
	}
	if !resp.Succeeded {
		return 0, fmt.Errorf("commit of %d guards: %w", len(tx.Guards), store.ErrConflict)
	}
	return cluster.Revision(resp.Header.Revision), nil
}

// propose hands a transaction to raft and waits for its answer. A transaction
// that was on its way to a leader that died is never answered: once there is a
// new leader, which carries out at once what it has inherited, propose gives
// up after answerGrace.
func (s *Server) propose(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	changed := s.server.LeaderChangedNotify()
	var watcher sync.WaitGroup
	defer watcher.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watcher.Go(func() {
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(answerGrace):
			cancel()
		case <-ctx.Done():
		}
	})
	return s.server.Txn(ctx, req)
}

// outcome says what a failed transaction may have done.
func outcome(err error, writes bool) error {
	switch {
	case !writes:
		return store.ErrUnavailable
	case errors.Is(err, etcderrors.ErrRequestTooLarge):
		return store.ErrRefused
	case errors.Is(err, etcderrors.ErrTooManyRequests), errors.Is(err, raft.ErrProposalDropped):
		// Refused before it was proposed, or by this very member's raft.
		return store.ErrUnavailable
	}
	// ErrNoSpace too: the transaction that fills the quota is carried out.
	return store.ErrUnknown
}

func txnRequest(tx store.Tx) *pb.TxnRequest {
	req := &pb.TxnRequest{}
	for _, g := range tx.Guards {
		req.Compare = append(req.Compare, &pb.Compare{
			Result: pb.Compare_EQUAL, Target: pb.Compare_MOD, Key: []byte(g.Key),
			TargetUnion: &pb.Compare_ModRevision{ModRevision: int64(g.Rev)},
		})
	}
	for _, w := range tx.Writes {
		op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: []byte(w.Key), Value: w.Value},
		}}
		if w.Delete {
			op.Request = &pb.RequestOp_RequestDeleteRange{
				RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(w.Key)},
			}
		}
		req.Success = append(req.Success, op)
	}
	return req
}

// usable returns why no call can be made now.
func (s *Server) usable(ctx context.Context) error {
	switch {
	case s.isClosed():
		return store.ErrClosed
	case ctx.Err() != nil:
		return errors.Join(store.ErrUnavailable, ctx.Err())
	}
	select {
	case <-s.fatal.failed:
		return errors.Join(store.ErrUnavailable, s.fatal.err)
	default:
		return nil
	}
}

// awaitLeader waits until this voter knows a raft leader.
func (s *Server) awaitLeader(ctx context.Context) error {
	for {
		changed := s.server.LeaderChangedNotify()
		if s.server.Lead() != 0 {
			return nil
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
			return store.ErrClosed
		case <-s.fatal.failed:
			return errors.Join(store.ErrUnavailable, s.fatal.err)
		case <-ctx.Done():
			return fmt.Errorf("%w: no quorum of voters", store.ErrUnavailable)
		}
	}
}

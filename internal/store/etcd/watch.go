package etcd

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// A watch keeps at most this much for a reader that lags; beyond it ends with
// ErrCompacted after what it kept. etcd's client by itself would keep all.
const (
	backlogBatches = 2 * keepRevisions
	backlogBytes   = 16 << 20
)

// endGrace is how long Close waits for each reader to take its ErrClosed; a
// reader that does not sees only that the channel is closed.
const endGrace = 200 * time.Millisecond

// Watch implements store.Store.
func (s *Server) Watch(ctx context.Context, prefix string, from cluster.Revision) <-chan store.Batch {
	out := make(chan store.Batch, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		out <- store.Batch{Err: store.ErrClosed}
		close(out)
		return out
	}
	p := &pump{server: s, prefix: prefix, from: from, out: out}
	s.tasks.Go(func() { p.run(ctx) })
	return out
}

// pump carries one watch from etcd to its reader. Its goroutine owns it.
type pump struct {
	server  *Server
	prefix  string
	from    cluster.Revision
	out     chan store.Batch
	backlog []store.Batch
	bytes   int // of the backlog's values
}

func (p *pump) run(ctx context.Context) {
	defer close(p.out)
	etcdCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	in := p.server.client.Watch(etcdCtx, p.prefix, p.options()...)
	for in != nil || len(p.backlog) > 0 {
		var out chan store.Batch // nil, so never ready, while there is no backlog
		var next store.Batch
		if len(p.backlog) > 0 {
			out, next = p.out, p.backlog[0]
		}
		select {
		case out <- next:
			p.backlog = p.backlog[1:]
			p.bytes -= size(next)
		case resp, ok := <-in:
			if err := p.take(resp, ok); err != nil {
				if ctx.Err() != nil {
					return
				}
				cancel()
				in = nil // what is kept is still delivered, then the error
				p.backlog = append(p.backlog, store.Batch{Err: err})
			}
		case <-ctx.Done():
			return
		case <-p.server.ctx.Done():
			p.end(ctx)
			return
		}
	}
}

// end tells a reader that is there that the store was closed.
func (p *pump) end(ctx context.Context) {
	select {
	case p.out <- store.Batch{Err: store.ErrClosed}:
	case <-ctx.Done():
	case <-time.After(endGrace):
	}
}

func (p *pump) options() []clientv3.OpOption {
	// Revision 0 would mean "from now" to etcd.
	return []clientv3.OpOption{clientv3.WithRev(max(int64(p.from), 1)), clientv3.WithPrefix()}
}

// take adds a response to the backlog. An error ends the watch.
func (p *pump) take(resp clientv3.WatchResponse, ok bool) error {
	switch {
	case resp.CompactRevision != 0:
		return fmt.Errorf("watch %q: revision %d: %w, up to %d", p.prefix, p.from, store.ErrCompacted, resp.CompactRevision)
	case !ok:
		return fmt.Errorf("watch %q: %w: etcd ended it", p.prefix, store.ErrUnavailable)
	case resp.Err() != nil:
		return fmt.Errorf("watch %q: %w: %w", p.prefix, store.ErrUnavailable, resp.Err())
	}
	for _, batch := range batches(resp.Events) {
		p.backlog = append(p.backlog, batch)
		p.bytes += size(batch)
	}
	if len(p.backlog) > backlogBatches || p.bytes > backlogBytes {
		return fmt.Errorf("watch %q: reader is %d batches behind: %w", p.prefix, len(p.backlog), store.ErrCompacted)
	}
	return nil
}

// batches splits events, which etcd delivers in order and never divides within
// a revision, by revision. Watches share the events, so values are copied.
func batches(events []*clientv3.Event) []store.Batch {
	var all []store.Batch
	for _, e := range events {
		rev := cluster.Revision(e.Kv.ModRevision)
		if n := len(all); n == 0 || all[n-1].Rev != rev {
			all = append(all, store.Batch{Rev: rev})
		}
		last := &all[len(all)-1]
		last.Changes = append(last.Changes, store.Change{
			KV:      cluster.KV{Key: string(e.Kv.Key), Value: bytes.Clone(e.Kv.Value), Rev: rev},
			Deleted: e.Type == mvccpb.Event_DELETE,
		})
	}
	return all
}

func size(b store.Batch) int {
	n := 0
	for _, c := range b.Changes {
		n += len(c.KV.Key) + len(c.KV.Value)
	}
	return n
}

package node

import (
	"context"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
)

// late is a way to the store on which changes are seen late, as by a voter whose
// disk is slow. What is committed is judged at once.
type late struct {
	*mem.Client
	g *guest
}

func (l late) Watch(ctx context.Context, prefix string, from cluster.Revision) <-chan store.Batch {
	type dated struct {
		store.Batch
		at time.Time
	}
	in, queue, out := l.Client.Watch(ctx, prefix, from), make(chan dated, 10_000), make(chan store.Batch)
	w := l.g.w
	w.wg.Go(func() {
		defer close(queue)
		for b := range in {
			w.mu.Lock()
			lag := l.g.lag
			w.mu.Unlock()
			queue <- dated{b, time.Now().Add(lag)}
		}
	})
	w.wg.Go(func() {
		defer close(out)
		for b := range queue {
			time.Sleep(time.Until(b.at))
			select {
			case out <- b.Batch:
			case <-ctx.Done():
			}
		}
	})
	return out
}

// A leader that sees the store later than views are refreshed decides on views that
// do not stand any more. It beats and plans, so that nobody took its place: the
// silent one was never fenced.
func TestALeaderThatSeesTheStoreLateIsReplaced(t *testing.T) {
	play(t, func(w *world) {
		before := w.leader()
		victim := cluster.NodeName("n3")
		if before.Node == victim {
			victim = "n2"
		}
		w.mu.Lock()
		w.guests[before.Node].lag = 2500 * time.Millisecond
		w.mu.Unlock()
		time.Sleep(5 * time.Second)
		w.kill(victim, false)
		time.Sleep(20 * time.Second)
		kvs, _, err := w.store.Client("look").Load(w.ctx, cluster.KeyEnded(cluster.BootID(victim+"-b1")))
		if after := w.leader(); err != nil || len(kvs) != 1 || after.Node == before.Node {
			t.Errorf("%s is not proved dead, and %s leads (error %v)", victim, after.Node, err)
		}
		time.Sleep(20 * time.Second)
		if after := w.leader(); after.Epoch != before.Epoch+1 {
			t.Errorf("the lead went from epoch %d to %d", before.Epoch, after.Epoch)
		}
	})
}

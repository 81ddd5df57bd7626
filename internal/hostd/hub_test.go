package hostd

import (
	"fmt"
	"testing"

	"ringfence/internal/cluster"
)

// A client that falls behind is dropped; the others miss nothing.
func TestASlowStreamIsDroppedAndOthersMissNothing(t *testing.T) {
	var h hub
	slow, healthy := newStream(alpha), newStream(alpha)
	foreign := newStream(beta)
	for _, s := range []*stream{slow, healthy, foreign} {
		h.add(s)
	}
	var got int
	for i := range 3 * streamBuffer {
		h.publish(fmt.Append(nil, i), func(c cluster.ClusterID) bool { return c == alpha })
		if string(<-healthy.out) == fmt.Sprint(i) {
			got++
		}
	}
	if got != 3*streamBuffer {
		t.Errorf("the healthy stream got %d events in order, want %d", got, 3*streamBuffer)
	}
	select {
	case <-slow.gone:
	default:
		t.Error("the slow stream is still there")
	}
	if len(slow.out) != streamBuffer || len(foreign.out) != 0 {
		t.Errorf("queued: slow %d, another cluster %d", len(slow.out), len(foreign.out))
	}
	h.drop(healthy)
	h.add(healthy)
	if len(h.streams) != 1 {
		t.Errorf("%d streams, want the one of the other cluster: a dropped stream does not come back", len(h.streams))
	}
}

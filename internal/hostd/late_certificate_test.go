package hostd

import (
	"testing"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

// The journal, and the claim in it, is lost; the life goes on, is seen here
// again and then ends under this hostd's eyes. The cluster that may act on the
// guest asks for off: done must come with a certificate, for without one the
// node counts it as unknown, for ever.
func TestAnEndSeenAfterTheJournalWasLostCanBeProved(t *testing.T) {
	b := newBench(t, true)
	b.claimed()
	b.storage = &journal.Memory{} // lost
	b.run(boots1, true)
	b.list(hypervisor.StateRunning, lifeA)
	b.event(ended, lifeA, hypervisor.ReasonCrashed)
	for epoch := cluster.Epoch(1); epoch < 4; epoch++ {
		reply, _, err := b.carry(order(hostapi.ActionOff, epoch, "fence/b1", lifeA), Result{Err: hypervisor.ErrNotRunning})
		if err != nil {
			t.Fatal(err)
		}
		if reply.Outcome != offDone || reply.Certificate == nil {
			t.Errorf("attempt %d: %q, certificate %v: no attempt will ever be evidence", epoch, reply.Outcome, reply.Certificate)
		}
	}
}

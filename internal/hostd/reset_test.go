package hostd

import (
	"context"
	"errors"
	"testing"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
)

// What the hypervisor could not do, or the journal does not take, is no end.
func TestAResetIsCertifiedOnlyWhenItsEndIsDurable(t *testing.T) {
	b := newBench(t, true)
	b.claimed()
	if reply, _ := b.SettleReset(Target{g1, lifeA}, context.DeadlineExceeded); reply.Outcome != cluster.OutcomeUnknown {
		t.Errorf("outcome %q of an off that timed out, want unknown", reply.Outcome)
	}
	b.wantUnknown(journal.Here)
	b.storage.SetFail(errors.New("disk full"))
	reply, effects := b.SettleReset(Target{g1, lifeA}, nil)
	if b.told = append(b.told, effects...); reply.Outcome != cluster.OutcomeUnknown {
		t.Errorf("outcome %q without a journal, want unknown", reply.Outcome)
	}
	if got := b.certificates(); len(got) > 0 {
		t.Errorf("certified before it was durable: %+v", got)
	}
	b.storage.SetFail(nil)
	b.told = append(b.told, b.Flush()...)
	b.wantEnded(cluster.CauseDestroyed)
}

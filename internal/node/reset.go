package node

import (
	"context"
	"time"
)

// Timings of a reset.
const (
	// resetTimeout bounds one call of Config.Reset: longer than a host takes to
	// destroy a guest.
	resetTimeout = 30 * time.Second
	// resetRetry is the pause before a reset that did not happen is tried again.
	resetRetry = 5 * time.Second
)

// reset ends this machine because it must stop what it runs and cannot (rule
// P20). It is hygiene: nothing is recovered on the strength of it, only of the
// host's certificate or of what else proves the end. It returns only when the
// machine still runs, and then peers must fence it.
func (n *Node) reset(ctx context.Context, why string) {
	log := n.Log.With("component", "reset", "reason", why)
	if n.Reset == nil {
		log.Error("this node should reset itself, but self-reset is off: peers must fence it")
		return
	}
	log.Error("this node resets itself")
	ctx, cancel := n.Clock.WithTimeout(ctx, resetTimeout)
	defer cancel()
	if err := n.Reset(ctx, why); err != nil {
		log.Error("this node could not reset itself: peers must fence it", "err", err)
	}
}

// mayReset resets this machine and returns only when it still runs: after a
// pause, and with true, when it is worth trying again.
func (n *Node) mayReset(ctx context.Context, why string) (again bool) {
	n.reset(ctx, why)
	if n.Reset == nil {
		return false
	}
	n.sleep(ctx, resetRetry)
	return true
}

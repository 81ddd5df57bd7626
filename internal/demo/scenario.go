package demo

import (
	"context"
	"slices"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/trace"
	"ringfence/internal/hypervisor"
	"ringfence/internal/lab"
)

// scenario is one thing that goes wrong, and how it is put right again. Those of
// one number are played one after another.
type scenario struct {
	number   int
	cast     cast
	title    string
	what     string // said while it happens; %s is the victim
	baseline time.Duration
	goal     time.Duration // of DESIGN section 9; bench shows it
	cold     bool          // everything loses power; the gap counts from its return
	inPlace  bool          // the service comes back where it was: no evidence is needed
	calm     bool          // nothing may fail over: the service stays as it is
	sign     string        // of a calm one: the kind of event by which the cluster notices it
	lasts    time.Duration // how long from the fault on it is watched at least before it is repaired

	// fault injects it and returns when.
	fault func(ctx context.Context, s *stage, victim cluster.NodeName) (time.Duration, error)
	// repair undoes what still stands after the recovery.
	repair func(ctx context.Context, s *stage, victim cluster.NodeName) error
}

// outage is how long everything is without power in the cold start.
const outage = 300 * time.Millisecond

func scenarios() []scenario {
	return slices.Concat(failures(), pauses(), migrations(), splits())
}

// failures are what three guests survive that stay where they are.
func failures() []scenario {
	return []scenario{
		{
			number: 1, cast: trio, title: "guest killed, host tells", what: "killing guest %s",
			baseline: baselineGuestEnds, goal: 300 * time.Millisecond,
			fault: func(ctx context.Context, s *stage, victim cluster.NodeName) (time.Duration, error) {
				at := trace.Now()
				return at, s.lab.Kill(ctx, victim)
			},
			repair: powerOn,
		},
		{
			number: 2, cast: trio, title: "guest dies, host keeps quiet", what: "killing guest %s, of which its host tells nobody",
			baseline: baselineGuestEnds, goal: 2 * time.Second,
			fault: func(ctx context.Context, s *stage, victim cluster.NodeName) (time.Duration, error) {
				if err := setQuiet(ctx, s, victim, true); err != nil {
					return 0, err
				}
				at := trace.Now()
				return at, s.lab.Kill(ctx, victim)
			},
			repair: func(ctx context.Context, s *stage, victim cluster.NodeName) error {
				if err := setQuiet(ctx, s, victim, false); err != nil {
					return err
				}
				return powerOn(ctx, s, victim)
			},
		},
		{
			number: 3, cast: trio, title: "guest cut off the network", what: "cutting guest %s off the network",
			baseline: baselineCutOff, goal: 2500 * time.Millisecond,
			fault: func(ctx context.Context, s *stage, victim cluster.NodeName) (time.Duration, error) {
				at := trace.Now()
				return at, s.lab.Cut(ctx, victim)
			},
			repair: func(ctx context.Context, s *stage, victim cluster.NodeName) error {
				if err := s.lab.Heal(ctx, victim); err != nil {
					return err
				}
				return powerOn(ctx, s, victim)
			},
		},
		{
			number: 4, cast: trio, title: "service process killed", what: "killing the service's process on %s",
			baseline: baselineProcessEnds, goal: 300 * time.Millisecond, inPlace: true,
			fault: func(ctx context.Context, s *stage, victim cluster.NodeName) (time.Duration, error) {
				at := trace.Now()
				_, err := s.ringfence(ctx, string(victim), killVerb)
				return at, err
			},
		},
		{
			number: 5, cast: trio, title: "cold start after power loss", what: "taking the power from all hosts, then giving it back",
			baseline: baselineColdStart, goal: 4 * time.Second, cold: true,
			fault: coldStart,
		},
	}
}

func setQuiet(ctx context.Context, s *stage, victim cluster.NodeName, quiet bool) error {
	host, err := lab.HostOf(victim)
	if err != nil {
		return err
	}
	return s.lab.Quiet(ctx, host, quiet)
}

// powerOn starts a guest that the cluster does not start itself: one that it did
// not fence.
func powerOn(ctx context.Context, s *stage, victim cluster.NodeName) error {
	err := s.lab.PowerOn(ctx, victim)
	if err == nil {
		return nil
	}
	guest, statusErr := s.guest(ctx, victim)
	if statusErr == nil && guest.State == hypervisor.StateRunning {
		return nil // the cluster was faster: it fenced that guest
	}
	return err
}

func coldStart(ctx context.Context, s *stage, _ cluster.NodeName) (time.Duration, error) {
	if err := s.lab.HostPowerLoss(ctx, lab.Hosts()...); err != nil {
		return 0, err
	}
	select {
	case <-time.After(outage):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	at := trace.Now()
	return at, s.lab.HostPowerOn(ctx, true, lab.Hosts()...)
}

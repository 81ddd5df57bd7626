package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/trace"
)

const (
	// shortPause is less than pause_grace, longPause more.
	shortPause = time.Second
	longPause  = 10 * time.Second
	// calmTime is for how long it is watched that nothing happens: longer than
	// it takes from silence to a fence decision.
	calmTime = 2500 * time.Millisecond
)

// pauses are those of a guest by its host, below pause_grace and above it.
func pauses() []scenario {
	return []scenario{
		{
			number: 6, cast: trio, title: "guest paused for 1 s", what: "pausing guest %s for 1 s",
			goal: shortPause + 300*time.Millisecond, calm: true, lasts: shortPause + calmTime,
			fault: func(ctx context.Context, s *stage, victim cluster.NodeName) (time.Duration, error) {
				at := trace.Now()
				return at, errors.Join(s.lab.Pause(ctx, victim), pause(ctx, shortPause), s.lab.Unpause(ctx, victim))
			},
		},
		pausedLong(),
	}
}

// pausedLong is never undone: the cluster has that life destroyed, and it is the
// cluster that starts the guest anew.
func pausedLong() scenario {
	var paused cluster.LifeID
	return scenario{
		number: 6, cast: trio, title: "guest paused for 10 s", what: "pausing guest %s for 10 s",
		goal: 4500 * time.Millisecond, lasts: longPause,
		fault: func(ctx context.Context, s *stage, victim cluster.NodeName) (time.Duration, error) {
			status, err := s.guest(ctx, victim)
			if err != nil {
				return 0, err
			}
			paused = status.Life
			at := trace.Now()
			return at, s.lab.Pause(ctx, victim)
		},
		repair: func(ctx context.Context, s *stage, victim cluster.NodeName) error {
			status, err := s.guest(ctx, victim)
			if err == nil && status.Life == paused {
				err = fmt.Errorf("the life of %s that was paused has not ended: %s", victim, status.State)
			}
			return err
		},
	}
}

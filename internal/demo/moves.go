package demo

import (
	"context"
	"fmt"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/trace"
	"ringfence/internal/lab"
)

// How a guest of the demo migrates.
const (
	migrationTime = 500 * time.Millisecond
	downtime      = 300 * time.Millisecond
)

// migrations are that of a guest, and its end where it is then.
func migrations() []scenario {
	return []scenario{
		{
			number: 7, cast: duo, title: "guest migrates", what: "migrating guest %s to another host",
			goal: downtime + 300*time.Millisecond, calm: true, sign: "places", lasts: migrationTime + downtime + calmTime,
			fault: func(ctx context.Context, s *stage, victim cluster.NodeName) (time.Duration, error) {
				at := trace.Now()
				return at, s.lab.Migrate(ctx, victim, witnessHost(), lab.Migration{Duration: migrationTime, Downtime: downtime})
			},
		},
		{
			number: 7, cast: duo, title: "migrated guest killed, host tells", what: "killing guest %s where it is now",
			goal: 1200 * time.Millisecond,
			fault: func(ctx context.Context, s *stage, victim cluster.NodeName) (time.Duration, error) {
				guest, err := s.guest(ctx, victim)
				if err == nil && guest.Host != witnessHost() {
					err = fmt.Errorf("%s is on %s, not where it migrated to", victim, guest.Host)
				}
				if err != nil {
					return 0, err
				}
				at := trace.Now()
				return at, s.lab.Kill(ctx, victim)
			},
			repair: powerOn,
		},
	}
}

// splits are the end of the link between two guests, and then of one's way to
// the witness.
func splits() []scenario {
	return []scenario{
		{
			number: 8, cast: duo, title: "link between the guests cut", what: "cutting the link between the two guests; %s has the service",
			goal: 200 * time.Millisecond, calm: true, sign: "silent", lasts: calmTime,
			fault: func(ctx context.Context, s *stage, _ cluster.NodeName) (time.Duration, error) {
				at := trace.Now()
				return at, s.lab.Split(ctx, s.nodes()...)
			},
		},
		{
			number: 8, cast: duo, title: "owner cut off the witness too", what: "cutting guest %s off the witness as well",
			goal: 2500 * time.Millisecond,
			fault: func(ctx context.Context, s *stage, victim cluster.NodeName) (time.Duration, error) {
				at := trace.Now()
				return at, s.lab.Cut(ctx, victim)
			},
			repair: func(ctx context.Context, s *stage, victim cluster.NodeName) error {
				if err := s.lab.Heal(ctx, s.nodes()...); err != nil {
					return err
				}
				return powerOn(ctx, s, victim)
			},
		},
	}
}

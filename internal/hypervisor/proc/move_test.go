package proc

import (
	"context"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor/hypervisortest"
)

// newPair describes two hosts that have the same two guests.
func newPair(t *testing.T) (source, target Config) {
	t.Helper()
	source = newConfig(t)
	target = source
	target.StateDir = filepath.Join(t.TempDir(), "state")
	target.Guests = slices.Clone(source.Guests)
	for i := range target.Guests {
		target.Guests[i].Link = "vethb" + strconv.Itoa(i)
	}
	if source.Cgroup != "" {
		var err error
		if target.Cgroup, err = OwnCgroup(filepath.Base(source.Cgroup) + "-target"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { removeHost(t, target) })
	return source, target
}

func move(ctx context.Context, from, to *Driver, id cluster.GuestID) error {
	if err := from.BeginMove(ctx, to, id); err != nil {
		return err
	}
	return from.FinishMove(ctx, to, id, 0, false)
}

func testMoverConformance(t *testing.T) {
	hypervisortest.RunMover(t, func(t *testing.T) hypervisortest.MoverFixture {
		source, target := newPair(t)
		from, to := newDriver(t, source), newDriver(t, target)
		// An administrator's drivers, as beside those of two hostds.
		adminFrom, adminTo := newDriver(t, source), newDriver(t, target)
		return hypervisortest.MoverFixture{
			Source: newFixture(t, from), Target: newFixture(t, to),
			Begin: func(t *testing.T, id cluster.GuestID) error { return adminFrom.BeginMove(t.Context(), adminTo, id) },
			Finish: func(t *testing.T, id cluster.GuestID) error {
				return adminFrom.FinishMove(t.Context(), adminTo, id, 0, false)
			},
			Fail: func(t *testing.T, id cluster.GuestID, postcopy bool) error {
				if postcopy {
					return adminFrom.FinishMove(t.Context(), adminTo, id, 0, true)
				}
				guest, err := adminFrom.State(t.Context(), id)
				if err != nil {
					return err
				}
				return adminFrom.Abort(t.Context(), id, guest.Life)
			},
			Back: func(t *testing.T, id cluster.GuestID) error { return move(t.Context(), adminTo, adminFrom, id) },
			Save: func(t *testing.T, id cluster.GuestID) error { return adminFrom.Save(t.Context(), id) },
			Restore: func(t *testing.T, id cluster.GuestID) error {
				return adminFrom.Restore(t.Context(), id)
			},
		}
	})
}

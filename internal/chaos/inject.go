package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/lab"
)

// execTimeout bounds a command inside of a guest, which may be paused meanwhile.
const execTimeout = 5 * time.Second

// errNotNow: the fault makes no sense as things are, e.g. a guest that is off
// cannot be paused.
var errNotNow = errors.New("not possible now")

// inject does what the fault says, waits until it is time or ctx ends, and undoes
// it. An error of the lab in the middle is normal: the cluster may fence a guest
// while it is paused.
func (r *run) inject(waitCtx context.Context, f Fault) error {
	// What was begun is done to its end, so that it can be undone.
	ctx := context.WithoutCancel(waitCtx)
	hold := func(done error, undo func(context.Context) error) error {
		if done == nil {
			_ = sleep(waitCtx, f.Hold)
		}
		return errors.Join(done, undo(ctx))
	}
	l := r.bed.Lab()
	switch f.Kind {
	case Kill, KillQuiet, CutGuest, Pause, Save, KillDaemon, StallDaemon, KillProgram:
		return r.hitNode(ctx, f, hold)
	case Migrate, MigrateFail, PostcopyFail:
		return r.migrate(ctx, f, hold)
	case CutHost:
		return hold(l.CutHost(ctx, f.Host), func(ctx context.Context) error { return l.HealHost(ctx, f.Host) })
	case KillHostd:
		return hold(l.KillHostd(ctx, f.Host), func(ctx context.Context) error { return l.StartHostd(ctx, f.Host) })
	case PowerLoss:
		return hold(l.HostPowerLoss(ctx, f.Host), func(ctx context.Context) error { return l.HostPowerOn(ctx, false, f.Host) })
	}
	return fmt.Errorf("no fault %q", f.Kind)
}

// holding waits behind what was done and undoes it, also when doing failed half
// way.
type holding func(done error, undo func(context.Context) error) error

// hitNode is inject for faults of one guest. Guests that are off afterwards are
// started by the operator.
func (r *run) hitNode(ctx context.Context, f Fault, hold holding) error {
	l := r.bed.Lab()
	now, err := r.guest(ctx, f.Node)
	if err != nil {
		return err
	}
	if now.State != hypervisor.StateRunning {
		return fmt.Errorf("%w: %s is %s", errNotNow, f.Node, now.State)
	}
	switch f.Kind {
	case Kill:
		return l.Kill(ctx, f.Node)
	case KillQuiet:
		err := errors.Join(l.Quiet(ctx, now.Host, true), l.Kill(ctx, f.Node))
		return hold(err, func(ctx context.Context) error { return l.Quiet(ctx, now.Host, false) })
	case CutGuest:
		return hold(l.Cut(ctx, f.Node), func(ctx context.Context) error { return l.Heal(ctx, f.Node) })
	case Pause:
		return hold(l.Pause(ctx, f.Node), r.unpause(f.Node))
	case Save:
		return hold(l.Save(ctx, f.Node), func(ctx context.Context) error { return l.Restore(ctx, f.Node) })
	case KillDaemon:
		return r.signalDaemon(ctx, f.Node, "KILL")
	case StallDaemon:
		return hold(r.signalDaemon(ctx, f.Node, "STOP"), func(ctx context.Context) error { return r.signalDaemon(ctx, f.Node, "CONT") })
	}
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	if err := r.bed.KillServices(ctx, f.Node); err != nil {
		return fmt.Errorf("%w: %w", errNotNow, err)
	}
	return nil
}

func (r *run) migrate(ctx context.Context, f Fault, hold holding) error {
	now, err := r.guest(ctx, f.Node)
	if err != nil {
		return err
	}
	if now.State != hypervisor.StateRunning || now.Host == f.Host {
		return fmt.Errorf("%w: %s is %s on %s", errNotNow, f.Node, now.State, now.Host)
	}
	err = r.bed.Lab().Migrate(ctx, f.Node, f.Host, lab.Migration{
		Duration: f.Duration, Downtime: f.Downtime, Fail: f.Kind == MigrateFail, PostcopyFail: f.Kind == PostcopyFail,
	})
	if f.Kind != PostcopyFail {
		return err
	}
	return hold(err, r.unpause(f.Node))
}

func (r *run) unpause(node cluster.NodeName) func(context.Context) error {
	return func(ctx context.Context) error { return r.bed.Lab().Unpause(ctx, node) }
}

// guest returns what the lab knows of a node's guest.
func (r *run) guest(ctx context.Context, node cluster.NodeName) (lab.NodeStatus, error) {
	status, err := r.bed.Lab().Status(ctx)
	if err != nil {
		return lab.NodeStatus{}, err
	}
	for _, n := range status.Nodes {
		if n.Name == node {
			return n, nil
		}
	}
	return lab.NodeStatus{}, fmt.Errorf("the lab has no node %s", node)
}

// signalDaemon sends a signal to the daemon of a node and nobody else: the
// voter is in its process, the services are not.
func (r *run) signalDaemon(ctx context.Context, node cluster.NodeName, signal string) error {
	const script = `for p in /proc/[0-9]*; do
	case "$(tr '\0' ' ' <"$p/cmdline" 2>/dev/null)" in "$1 "*) kill -s "$0" "${p#/proc/}" && found=yes;; esac
done
test -n "$found"`
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	_, err := r.bed.Lab().Output(ctx, string(node), "sh", "-c", script, signal, strings.Join(r.bed.DaemonCommand(node), " "))
	if err != nil {
		return fmt.Errorf("%w: no daemon: %w", errNotNow, err)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

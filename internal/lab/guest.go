package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/proc"
)

// durationLimit bounds how long a migration may run before it switches over.
const durationLimit = 30 * time.Second

// guest is a node's guest, at the host where it is.
type guest struct {
	host *host
	node cluster.NodeName
	id   cluster.GuestID
}

// find returns the node's guest where it runs or is paused; else where it is
// saved; else at the host on which it starts.
func (s *supervisor) find(ctx context.Context, node cluster.NodeName) (guest, error) {
	home, err := HostOf(node)
	if err != nil {
		return guest{}, err
	}
	g := guest{host: s.hosts[home], node: node, id: s.layout.GuestID(node)}
	for _, name := range Hosts() {
		at := guest{host: s.hosts[name], node: node, id: g.id}
		if name != home && !s.spec.Movable {
			continue
		}
		state, err := at.state(ctx)
		if err != nil {
			return guest{}, err
		}
		switch state.State {
		case hypervisor.StateRunning, hypervisor.StatePaused:
			return at, nil
		case hypervisor.StateSaved:
			g = at
		}
	}
	return g, nil
}

// state is off on a host without power.
func (g guest) state(ctx context.Context) (hypervisor.Guest, error) {
	driver, err := g.host.powered()
	if err != nil {
		return hypervisor.Guest{ID: g.id, Name: string(g.node), State: hypervisor.StateOff}, nil
	}
	return driver.State(ctx, g.id)
}

// running returns the driver and the present life of the guest.
func (g guest) running(ctx context.Context) (*proc.Driver, cluster.LifeID, error) {
	driver, err := g.host.powered()
	if err != nil {
		return nil, "", err
	}
	state, err := driver.State(ctx, g.id)
	if err == nil && state.Life == "" {
		err = fmt.Errorf("guest %s: %w", g.node, hypervisor.ErrNotRunning)
	}
	return driver, state.Life, err
}

func (g guest) start(ctx context.Context) error {
	driver, err := g.host.powered()
	if err != nil {
		return err
	}
	_, err = driver.On(ctx, g.id)
	return err
}

// split sets whether the guest is cut off the other split ones. One without a
// life has no link; that it shall not be split is no error.
func (g guest) split(ctx context.Context, on bool) error {
	_, _, err := g.running(ctx)
	if !on && errors.Is(err, hypervisor.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	return isolate(linkOf(g.host.name, g.node), on)
}

func (g guest) status(ctx context.Context) (NodeStatus, error) {
	layout := g.host.supervisor.layout
	status := NodeStatus{Name: g.node, Host: g.host.name, Addr: layout.NodeAddr(g.node), Guest: g.id, State: hypervisor.StateOff}
	driver, err := g.host.powered()
	if err != nil {
		return status, nil
	}
	state, err := driver.State(ctx, g.id)
	if err != nil {
		return status, err
	}
	allowed, err := driver.LinkAllowed(ctx, g.id)
	status.State, status.Life, status.Cut = state.State, state.Life, !allowed
	if state.Life != "" {
		status.Boot = driver.BootOf(state.Life)
		// The link goes a moment before the life: then nothing is split.
		status.Split, _ = isolated(linkOf(g.host.name, g.node))
	}
	return status, err
}

// migrate is the verb.
func (s *supervisor) migrate(ctx context.Context, r request) error {
	if len(r.Nodes) != 1 || len(r.Hosts) != 1 {
		return errors.New("name one node and the host to which it shall migrate")
	}
	if err := checkHost(r.Hosts[0]); err != nil {
		return err
	}
	if r.Duration < 0 || r.Duration > durationLimit || r.Downtime < 0 || r.Downtime > proc.MaxDowntime {
		return fmt.Errorf("duration %v, downtime %v: want 0 to %v, and 0 to %v", r.Duration, r.Downtime, durationLimit, proc.MaxDowntime)
	}
	g, err := s.find(ctx, r.Nodes[0])
	if err != nil {
		return err
	}
	from, life, err := g.running(ctx)
	if err != nil {
		return err
	}
	to, err := s.hosts[r.Hosts[0]].powered()
	if err != nil {
		return err
	}
	if err := from.BeginMove(ctx, to, g.id); err != nil {
		return err
	}
	select {
	case <-time.After(r.Duration):
	case <-ctx.Done():
	}
	if r.Failure == failBefore {
		return from.Abort(ctx, g.id, life)
	}
	err = from.FinishMove(ctx, to, g.id, r.Downtime, r.Failure == failAfter)
	if err == nil {
		return nil
	}
	// What has not switched over must not stay half way.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	aborted := from.Abort(ctx, g.id, life)
	if errors.Is(aborted, hypervisor.ErrNotRunning) {
		aborted = nil
	}
	return errors.Join(err, aborted)
}

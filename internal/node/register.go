package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// BootFor returns the id under which a run of the operating system takes part:
// its own boot id, or, after a clean leave in the same run, that id with a
// number, since a tombstone is never taken back. Everything was verified
// stopped before such a leave, so coming back cannot revive anything.
func BootFor(s *cluster.State, osBoot cluster.BootID) cluster.BootID {
	boot := osBoot
	for n := 2; s.Ended[boot].Value.Evidence == cluster.EvidenceLeave; n++ {
		boot = cluster.BootID(fmt.Sprintf("%s.%d", osBoot, n))
	}
	return boot
}

// register makes this boot known to the cluster, or finds it registered by an
// earlier run of the daemon.
func (n *Node) register(ctx context.Context) error {
	for ctx.Err() == nil {
		done, err := n.tryRegister(ctx)
		if done || err != nil {
			return err
		}
		n.sleep(ctx, commitRetry)
	}
	return ctx.Err()
}

func (n *Node) tryRegister(ctx context.Context) (done bool, err error) {
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-n.Mirror.Ready():
	}
	s, _ := n.Mirror.Snapshot()
	if _, ended := s.Ended[n.Self.ID]; ended {
		if err := n.stopLeftovers(ctx, &s); err != nil && ctx.Err() == nil {
			n.Log.Error("not everything could be stopped", "component", "doom", "err", err)
			if n.mayReset(ctx, fmt.Sprintf("this boot has a tombstone and could not stop everything: %v", err)) {
				return false, nil
			}
		}
		return false, ErrDoomed
	}
	record, joined := s.Nodes[n.Self.Node]
	if !joined || record.Value.Removing {
		return false, fmt.Errorf("%w (node %s)", ErrRemoved, n.Self.Node)
	}
	if known, ok := s.Boots[n.Self.ID]; ok {
		if known.Value.Node != n.Self.Node {
			return false, fmt.Errorf("boot %s is registered by node %s: two nodes share one operating system, or its boot id was copied", n.Self.ID, known.Value.Node)
		}
		if known.Value.Life == "" && n.Self.Life != "" {
			return n.noteLife(ctx, known)
		}
		if known.Value.Phase == cluster.PhaseLeaving {
			n.Leave() // an earlier run of the daemon began it
		}
		n.Log.Info("boot is registered already: services are taken over", "component", "register")
		return true, nil
	}
	boot := n.Self
	boot.Phase = cluster.PhaseJoining
	guards := []cluster.Guard{ // with the node's record: no boot registers behind a removal
		{Key: cluster.KeyBoot(boot.ID)}, {Key: cluster.KeyEnded(boot.ID)}, {Key: cluster.KeyNode(boot.Node), Rev: record.Rev},
	}
	for id, former := range s.Boots {
		if former.Value.Node == boot.Node {
			boot.Predecessors = append(boot.Predecessors, id)
			if former.Value.Life == boot.Life {
				boot = withPlaces(boot, former.Value)
			}
			guards = append(guards, cluster.Guard{Key: cluster.KeyBoot(id), Rev: former.Rev})
		}
	}
	slices.Sort(boot.Predecessors)
	_, err = n.commit(ctx, store.Tx{Guards: guards, Writes: []cluster.Write{cluster.Put(cluster.KeyBoot(boot.ID), boot)}})
	if err != nil {
		n.Log.Debug("boot not registered yet", "component", "register", "err", err)
		return false, nil
	}
	n.Log.Info("boot registered", "component", "register", "life", boot.Life, "places", boot.Places)
	return true, nil
}

// withPlaces adds the places of an earlier boot in the same life: a migration may
// be under way, or may have ended since the host bound this one (rule P5). The
// transaction compares that record, so that none is missed.
func withPlaces(boot, former cluster.Boot) cluster.Boot {
	for _, place := range former.Places {
		if arrival, has := former.Arrivals[place]; has || !slices.Contains(boot.Places, place) {
			boot = boot.Arrive(place, arrival)
		}
	}
	return boot
}

// noteLife adds life and place to a boot that was registered while its host
// could not be asked, so that the host's word counts for it. It is the same run
// of the operating system, so that it is in the life that the host has bound.
func (n *Node) noteLife(ctx context.Context, known cluster.Rec[cluster.Boot]) (done bool, err error) {
	next := known.Value
	next.Life, next.Guest, next.Binding = n.Self.Life, n.Self.Guest, n.Self.Binding
	next.Places, next.Arrivals = n.Self.Places, n.Self.Arrivals
	_, err = n.commit(ctx, store.Tx{
		Guards: []cluster.Guard{{Key: cluster.KeyBoot(next.ID), Rev: known.Rev}, {Key: cluster.KeyEnded(next.ID)}},
		Writes: []cluster.Write{cluster.Put(cluster.KeyBoot(next.ID), next)},
	})
	if err != nil {
		n.Log.Debug("life not noted yet", "component", "register", "err", err)
	}
	return false, nil // looked at again
}

// stopLeftovers stops what an earlier run of the daemon on this boot may have
// left running, when the boot must not go on (rules P7, P19): hygiene, not
// evidence. An error names what may still be active.
func (n *Node) stopLeftovers(ctx context.Context, s *cluster.State) error {
	ctx, cancel := n.Clock.WithTimeout(ctx, doomStop)
	defer cancel()
	defs := slices.Clone(n.mayFind(s))
	for _, owner := range s.Owners {
		if owner.Value.Boot == n.Self.ID { // as it was ordered, wherever the configuration went
			defs = append(defs, owner.Value.Definition)
		}
	}
	var left []error
	for _, def := range defs {
		if found := n.Executor.Probe(ctx, def); found != "" {
			left = append(left, fmt.Errorf("service %s: %s", def.Name, found))
		}
	}
	return errors.Join(left...)
}

// mayFind returns the services that may be active here: none on a witness, which
// has no agents and is never given any.
func (n *Node) mayFind(s *cluster.State) []cluster.ServiceConfig {
	if s.Nodes[n.Self.Node].Value.Witness {
		return nil
	}
	return s.Config.Value.Services
}

// probeLoop looks for every service under every configuration before anything
// new may start (rule P24), and makes this boot a member after the first round.
func (n *Node) probeLoop(ctx context.Context) error {
	next := n.Clock.Now() + autostartAgain // when to look again for what starts by itself
	return n.each(ctx, func(ctx context.Context, now time.Duration) (time.Duration, error) {
		s, _ := n.Mirror.Snapshot()
		probe := s.Probes[n.Self.Node].Value
		due := probe.Boot != n.Self.ID || probe.Config != s.Config.Rev || len(probe.Active) > 0
		if !due && now >= next {
			due, next = !maps.Equal(n.autostart(&s), probe.Autostart), now+autostartAgain
		}
		if due {
			if !n.probe(ctx, &s) {
				return probeRetry, nil
			}
			s, _ = n.Mirror.Snapshot()
		}
		if boot := s.Boots[n.Self.ID]; boot.Value.Phase == cluster.PhaseJoining {
			return n.becomeMember(ctx, boot), nil
		}
		probe = s.Probes[n.Self.Node].Value
		if len(probe.Autostart) > 0 {
			next = min(next, now+autostartRetry)
		}
		if len(probe.Active) > 0 {
			return probeRetry, nil
		}
		return max(next-n.Clock.Now(), time.Millisecond), nil
	})
}

// Timings of probes.
const (
	// probeRetry is the pause before a probe that failed is made again.
	probeRetry = 2 * time.Second
	// autostartAgain is how often a node looks for what starts by itself, since
	// that may be installed at any time; autostartRetry while there is something,
	// since a person may have repaired it.
	autostartAgain = time.Minute
	autostartRetry = 5 * time.Second
)

// autostart says which services this machine would start by itself, of those
// that may run here: elsewhere the same program may serve something else.
func (n *Node) autostart(s *cluster.State) map[cluster.ServiceName]string {
	if n.Autostart == nil {
		return nil
	}
	var mine []cluster.ServiceConfig
	for _, def := range n.mayFind(s) {
		if slices.Contains(s.Config.Value.Candidates(def), n.Self.Node) {
			mine = append(mine, def)
		}
	}
	return n.Autostart(mine)
}

// probe looks for the services that this boot does not own and writes down what
// may be active. It returns false when it could not be written.
func (n *Node) probe(ctx context.Context, s *cluster.State) bool {
	probe := cluster.Probe{Node: n.Self.Node, Boot: n.Self.ID, Config: s.Config.Rev, Autostart: n.autostart(s)}
	joining := s.Boots[n.Self.ID].Value.Phase == cluster.PhaseJoining
	for _, def := range n.mayFind(s) {
		// What is owned may be given to this boot at any moment, unless it is
		// still joining: the executor alone may touch it then. What nobody owns
		// is not given to anybody before this probe is written (plan's probed).
		owner := s.Owners[def.Name].Value.Boot
		if owner == n.Self.ID || owner != "" && !joining {
			continue
		}
		if found := n.Executor.Probe(ctx, def); found != "" {
			if probe.Active == nil {
				probe.Active = map[cluster.ServiceName]string{}
			}
			probe.Active[def.Name] = found
		}
	}
	_, err := n.commit(ctx, store.Tx{
		Guards: []cluster.Guard{{Key: cluster.KeyConfig, Rev: s.Config.Rev}, {Key: cluster.KeyEnded(n.Self.ID)}},
		Writes: []cluster.Write{cluster.Put(cluster.KeyProbe(n.Self.Node), probe)},
	})
	if err != nil && !errors.Is(err, store.ErrConflict) {
		n.Log.Debug("probe not written", "component", "probe", "err", err)
	}
	return err == nil
}

func (n *Node) becomeMember(ctx context.Context, boot cluster.Rec[cluster.Boot]) time.Duration {
	next := boot.Value
	next.Phase = cluster.PhaseMember
	_, err := n.commit(ctx, store.Tx{
		Guards: []cluster.Guard{{Key: cluster.KeyBoot(next.ID), Rev: boot.Rev}, {Key: cluster.KeyEnded(next.ID)}},
		Writes: []cluster.Write{cluster.Put(cluster.KeyBoot(next.ID), next)},
	})
	if err != nil {
		return commitRetry
	}
	n.Log.Info("member of the cluster", "component", "register")
	return 0
}

package node

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// playWitness is play with n3 as a witness, and db allowed on every node.
func playWitness(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put(cluster.KeyNode("n3"), cluster.Node{Name: "n3", Address: "192.0.2.1", BeatPort: 7002, Witness: true})
		for _, n := range []cluster.NodeName{"n1", "n2", "n3"} {
			w.boot(n)
		}
		time.Sleep(3 * time.Second)
		w.guests["n3"].agent.blind = map[string]time.Duration{"db": 0} // it has no agents: looking would fail
		w.configure(service("db"))
		time.Sleep(3 * time.Second)
		w.want("db starts on n1, generation 1")
		f(w)
	})
}

func TestTwoGuestsAndAWitnessRecoverFromASilentDeath(t *testing.T) {
	playWitness(t, func(w *world) {
		w.kill("n1", false)
		w.after("db starts on n2, generation 2", 5*time.Second)
		w.want("db dies with n1; db starts on n2, generation 2")
		w.kill("n2", false)
		w.after("db starts on n1", 5*time.Second) // it was fenced, and was started anew
	})
}

func TestAWitnessAloneTakesNothing(t *testing.T) {
	playWitness(t, func(w *world) {
		w.kill("n1", true)
		w.after("db starts on n2, generation 2", 5*time.Second)
		w.kill("n2", true)
		w.story()
		time.Sleep(time.Minute)
		w.want("")
	})
}

func TestASilentWitnessIsLeftAlone(t *testing.T) {
	playWitness(t, func(w *world) {
		w.kill("n3", false)
		time.Sleep(time.Minute)
		s, _ := w.guests["n1"].node.Mirror.Snapshot()
		if len(s.Fences) != 0 || len(s.Ended) != 0 {
			t.Errorf("a silent witness led to fences %v, tombstones %v", s.Fences, s.Ended)
		}
		w.configure(service("db"), service("web", "n2"))
		w.after("web starts on n2", 5*time.Second)
	})
}

func TestRaftsLeadGoesToAWitnessFirst(t *testing.T) {
	// Members a (here), b and c, and witnesses v and w.
	for _, c := range []struct {
		rule   string
		here   cluster.NodeName
		owners []cluster.NodeName // who owns a service
		off    []cluster.NodeName // silent for this node
		ended  []cluster.NodeName
		want   cluster.NodeName
	}{
		{"an owner gives it to a witness, not to an idle node", "c", []cluster.NodeName{"c"}, nil, nil, "v"},
		{"an idle node gives it to a witness too", "a", []cluster.NodeName{"c"}, nil, nil, "v"},
		{"a witness keeps it", "w", []cluster.NodeName{"c"}, nil, nil, ""},
		{"a witness that is not heard is passed over", "c", []cluster.NodeName{"c"}, []cluster.NodeName{"v"}, nil, "w"},
		{"a witness that has left is passed over", "c", []cluster.NodeName{"c"}, nil, []cluster.NodeName{"v"}, "w"},
		{"without witnesses an owner gives it to an idle node", "c", []cluster.NodeName{"a", "c"}, []cluster.NodeName{"v", "w"}, nil, "b"},
		{"without witnesses an idle node keeps it", "a", []cluster.NodeName{"c"}, []cluster.NodeName{"v", "w"}, nil, ""},
		{"an owner keeps it where nobody is better", "a", []cluster.NodeName{"a", "b", "c"}, []cluster.NodeName{"v", "w"}, nil, ""},
	} {
		s := cluster.State{
			Nodes: map[cluster.NodeName]cluster.Rec[cluster.Node]{}, Boots: map[cluster.BootID]cluster.Rec[cluster.Boot]{},
			Ended: map[cluster.BootID]cluster.Rec[cluster.Ended]{}, Owners: map[cluster.ServiceName]cluster.Rec[cluster.Owner]{},
		}
		for _, name := range []cluster.NodeName{"a", "b", "c", "v", "w"} {
			s.Nodes[name] = cluster.Rec[cluster.Node]{Value: cluster.Node{Name: name, Witness: name > "c"}}
			s.Boots[cluster.BootID(name)] = cluster.Rec[cluster.Boot]{Value: cluster.Boot{ID: cluster.BootID(name), Node: name, Phase: cluster.PhaseMember}}
		}
		for _, name := range c.owners {
			s.Owners[cluster.ServiceName("of-"+name)] = cluster.Rec[cluster.Owner]{Value: cluster.Owner{Boot: cluster.BootID(name)}}
		}
		for _, name := range c.ended {
			s.Ended[cluster.BootID(name)] = cluster.Rec[cluster.Ended]{}
		}
		n := &Node{Config: Config{Self: cluster.Boot{ID: cluster.BootID(c.here), Node: c.here}}}
		n.pulse.verdict.Silent = map[cluster.BootID]cluster.Silence{}
		for _, name := range c.off {
			n.pulse.verdict.Silent[cluster.BootID(name)] = cluster.SilenceSuspect
		}
		if got := n.steerTarget(&s); got != c.want {
			t.Errorf("%s: from %s to %q, want %q", c.rule, c.here, got, c.want)
		}
	}
}

// lateMark marks the node's record for removal right before the first commit of a boot.
type lateMark struct {
	store.Store
	w    *world
	done bool
}

func (s *lateMark) Commit(ctx context.Context, tx store.Tx) (cluster.Revision, error) {
	if !s.done {
		s.done = true
		s.w.put(cluster.KeyNode("n1"), cluster.Node{Name: "n1", Removing: true})
	}
	return s.Store.Commit(ctx, tx)
}

func TestNoBootRegistersBehindTheMarkOfARemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := New(Config{
			Self: cluster.Boot{ID: "b", Node: "n1"}, Store: &lateMark{Store: w.store.Client("n1"), w: w},
			Clock: clock.New(w.start), Log: slog.New(slog.DiscardHandler),
		})
		w.wg.Go(func() { _ = n.Mirror.Run(w.ctx) })
		if err := n.register(w.ctx); !errors.Is(err, ErrRemoved) {
			t.Errorf("a boot registers behind the mark: %v", err)
		}
		if s, _ := n.Mirror.Snapshot(); len(s.Boots) != 0 {
			t.Errorf("boots on record: %v", s.Boots)
		}
	})
}

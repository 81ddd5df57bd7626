package node

import (
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostclient"
	"ringfence/internal/store/mem"
)

// pause stops a guest at this instant: its clock, its beats, its way to the
// store. Its host tells of it.
func (w *world) pause(name cluster.NodeName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.guests[name]
	g.clock.stop()
	g.client.SetFault(mem.Cut())
	w.note("%s is paused", name)
	w.hostOf(name).tell(g)
}

func (w *world) unpause(name cluster.NodeName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.guests[name]
	if !g.alive {
		w.note("%s is gone and cannot go on", name)
		return
	}
	g.client.SetFault(mem.Fault{})
	w.note("%s goes on", name)
	g.clock.resume()
	w.hostOf(name).tell(g)
}

func TestAShortPauseChangesNothing(t *testing.T) {
	for _, name := range []cluster.NodeName{"n1", "n2", "n3"} { // the owner, the leader among them
		for _, length := range []time.Duration{time.Second, 2700 * time.Millisecond} {
			t.Run(string(name)+" for "+length.String(), func(t *testing.T) {
				play(t, func(w *world) {
					epoch := w.leader().Epoch
					w.pause(name)
					time.Sleep(length)
					w.unpause(name)
					time.Sleep(20 * time.Second)
					w.want(string(name) + " is paused; " + string(name) + " goes on")
					if now := w.leader().Epoch; now != epoch && length <= time.Second { // a planner that stands still for 3 s is replaced (O-8)
						t.Errorf("the lead changed from epoch %d to %d", epoch, now)
					}
				})
			})
		}
	}
}

func TestAPauseLongerThanTheGraceIsFenced(t *testing.T) {
	play(t, func(w *world) {
		w.pause("n1")
		took := w.after("db starts on n2", 10*time.Second)
		if took < 2900*time.Millisecond || took > 4*time.Second { // the last beat came up to an interval before
			t.Errorf("recovered after %v, want it just behind 3 s", took)
		}
		w.want("n1 is paused; n1 is switched off; db dies with n1; db starts on n2, generation 2")
		// The guest comes back, in a new life: a member that owns nothing.
		time.Sleep(5 * time.Second)
		if boot := w.member("n1"); boot.ID != "n1-b2" || boot.Life != "h1:2:1" {
			t.Errorf("n1 is a member as %+v", boot)
		}
		w.want("")
		if started := w.hosts["h1"].started; started != 1 {
			t.Errorf("its guest was started %d times", started)
		}
	})
}

// member returns the boot as which a node is a member now.
func (w *world) member(name cluster.NodeName) cluster.Boot {
	s, _ := w.guests["n2"].node.Mirror.Snapshot()
	for id, boot := range s.Boots {
		_, ended := s.Ended[id]
		if !ended && boot.Value.Node == name && boot.Value.Phase == cluster.PhaseMember {
			return boot.Value
		}
	}
	return cluster.Boot{}
}

func TestAFencedGuestThatDoesNotStartIsTriedAgain(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		w.hosts["h1"].refuses = 4
		w.mu.Unlock()
		w.pause("n1")
		time.Sleep(10 * time.Second)
		if boot := w.member("n1"); boot.ID != "" {
			t.Fatalf("n1 is a member as %+v, though its host did not start it", boot)
		}
		time.Sleep(30 * time.Second)
		if boot := w.member("n1"); boot.ID != "n1-b2" {
			t.Errorf("n1 is a member as %+v", boot)
		}
	})
}

func TestAFencedGuestThatAPersonStartsIsNotStartedTwice(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		w.hosts["h1"].refuses = 1
		w.mu.Unlock()
		w.pause("n1")
		w.after("db starts on n2", 10*time.Second)
		w.boot("n1")
		time.Sleep(time.Minute)
		if boot := w.member("n1"); boot.ID != "n1-b2" || w.hosts["h1"].started != 0 {
			t.Errorf("n1 is a member as %+v, started %d times by order", boot, w.hosts["h1"].started)
		}
	})
}

func TestWhatIsToStayOffStaysOff(t *testing.T) {
	play(t, func(w *world) {
		w.put(cluster.KeyConfig, cluster.Config{
			Name: "test", AfterFence: cluster.AfterFenceStayOff, Nodes: []cluster.NodeConfig{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}},
			Services: []cluster.ServiceConfig{service("db", "n1", "n2")},
		})
		time.Sleep(time.Second)
		w.pause("n1")
		time.Sleep(time.Minute)
		if boot := w.member("n1"); boot.ID != "" {
			t.Errorf("n1 is a member as %+v", boot)
		}
	})
}

func TestTheGraceIsConfigured(t *testing.T) {
	play(t, func(w *world) {
		w.put(cluster.KeyConfig, cluster.Config{
			Name: "test", PauseGrace: 20 * time.Second, Nodes: []cluster.NodeConfig{{Name: "n1", PauseGrace: 8 * time.Second}, {Name: "n2"}, {Name: "n3"}},
			Services: []cluster.ServiceConfig{service("db", "n1", "n2")},
		})
		time.Sleep(time.Second)
		w.pause("n1")
		if took := w.after("db starts on n2", 30*time.Second); took < 7900*time.Millisecond || took > 9*time.Second {
			t.Errorf("recovered after %v, want it just behind 8 s", took)
		}
	})
}

// A host that cannot be asked any more does not say that its guest is paused.
func TestAPauseOfWhichNobodyTellsIsSilence(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		for link := range w.hosts["h1"].feeds {
			delete(w.hosts["h1"].feeds, link) // the streams stay up and tell nothing
		}
		w.mu.Unlock()
		w.pause("n1")
		if took := w.after("db starts on n2", 10*time.Second); took > 2*time.Second {
			t.Errorf("recovered after %v, want the plain limits", took)
		}
	})
}

// The stream broke and comes back while the guest is paused: the pause is known.
func TestAPauseIsKnownOnANewStream(t *testing.T) {
	play(t, func(w *world) {
		w.pause("n1")
		w.breakStreams("h1")
		time.Sleep(2 * time.Second)
		w.unpause("n1")
		time.Sleep(10 * time.Second)
		w.want("n1 is paused; n1 goes on")
	})
}

// breakStreams ends every stream of a host; each node comes back at once.
func (w *world) breakStreams(name cluster.HostName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, feed := range w.hosts[name].feeds {
		feed <- hostclient.Event{}
	}
}

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
		w.unpause("n1")
		time.Sleep(20 * time.Second)
		w.want("n1 is gone and cannot go on")
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

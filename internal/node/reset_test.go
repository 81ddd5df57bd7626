package node

import (
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
)

func (w *world) resetsOf(name cluster.NodeName) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.guests[name].resets
}

// agentOf changes how the agent of a guest behaves.
func (w *world) agentOf(name cluster.NodeName, change func(a *fakeAgent)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w.guests[name].agent)
}

// A doomed boot that cannot stop what it runs has its host destroy it, and the
// host's certificate moves the service (P20, Q-4). The fence method fails here.
func TestADoomedBootThatCannotStopResetsItself(t *testing.T) {
	play(t, func(w *world) {
		w.agentOf("n1", func(a *fakeAgent) { a.failStop = true })
		w.mu.Lock()
		w.hosts["h1"].deaf = true // to orders; the guest's own channel works
		w.mu.Unlock()
		began := w.now()
		w.put(cluster.KeyFence("n1-b1"), cluster.Fence{Boot: "n1-b1", Node: "n1", Reason: cluster.FenceSilent, Epoch: 1, Attempt: 1, Executor: "n2"})
		w.after("db starts on n2, generation 2", time.Minute)
		w.want("n1 resets itself; db dies with n1; db starts on n2, generation 2")
		if took := w.now() - began; took < doomStop {
			t.Errorf("reset after %v, before the %v that a stop may take", took, doomStop)
		}
		if why := w.resetsOf("n1"); len(why) != 1 || !strings.Contains(why[0], "service db") {
			t.Errorf("resets: %q, want one that names db", why)
		}
	})
}

// The host does not answer when a doomed boot asks for its reset first: it asks
// again, else its services would run on for as long as nobody else can end it
// (P20). So does one that finds its tombstone at the start of its daemon.
func TestADoomedBootAsksAgainToBeReset(t *testing.T) {
	for name, doom := range map[string]func(w *world){
		"fence decision": func(w *world) {
			w.put(cluster.KeyFence("n1-b1"), cluster.Fence{Boot: "n1-b1", Node: "n1", Reason: cluster.FenceSilent, Epoch: 1, Attempt: 1, Executor: "n2"})
		},
		"tombstone": func(w *world) {
			g := w.guests["n1"]
			g.cancel()
			time.Sleep(50 * time.Millisecond)
			w.put(cluster.KeyEnded("n1-b1"), cluster.Ended{Boot: "n1-b1", Node: "n1", Evidence: cluster.EvidenceOperator, Detail: "by test"})
			w.daemon(g)
		},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(w *world) {
				w.put(cluster.KeyStandby("n2"), cluster.Standby{Node: "n2", By: "test"})
				w.agentOf("n1", func(a *fakeAgent) { a.failStop = true })
				w.mu.Lock()
				w.hosts["h1"].silent, w.hosts["h1"].deaf = true, true
				w.mu.Unlock()
				doom(w)
				time.Sleep(2 * time.Minute)
				if why := w.resetsOf("n1"); len(why) < 2 {
					t.Fatalf("%d resets while the host is silent, want it tried again", len(why))
				}
				w.mu.Lock()
				w.hosts["h1"].silent = false
				w.mu.Unlock()
				w.after("db dies with n1", time.Minute)
			})
		})
	}
}

// What a boot with a tombstone finds running, and cannot stop, ends the same way.
func TestABootWithATombstoneThatCannotStopResetsItself(t *testing.T) {
	play(t, func(w *world) {
		w.put(cluster.KeyStandby("n2"), cluster.Standby{Node: "n2", By: "test"})
		w.agentOf("n1", func(a *fakeAgent) { a.failStop = true })
		w.mu.Lock()
		g := w.guests["n1"]
		w.hosts["h1"].deaf = true // else it is fenced for answering after its tombstone, maybe before it has tried to stop
		w.mu.Unlock()
		g.cancel()
		time.Sleep(50 * time.Millisecond)
		w.put(cluster.KeyEnded("n1-b1"), cluster.Ended{Boot: "n1-b1", Node: "n1", Evidence: cluster.EvidenceOperator, Detail: "by test"})
		w.daemon(g)
		time.Sleep(time.Minute)
		if why := w.resetsOf("n1"); len(why) != 1 {
			t.Errorf("resets: %q, want one", why)
		}
	})
}

// Who can stop in time is not reset: a doomed boot, and one without the store.
func TestANodeThatStopsIsNotReset(t *testing.T) {
	for name, trouble := range map[string]func(w *world){
		"doomed": func(w *world) {
			w.put(cluster.KeyFence("n1-b1"), cluster.Fence{Boot: "n1-b1", Node: "n1", Reason: cluster.FenceSilent, Epoch: 1, Attempt: 1, Executor: "n2"})
		},
		"store lost": func(w *world) { w.isolate("n1") },
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(w *world) {
				w.mu.Lock()
				w.hosts["h1"].deaf = true
				w.mu.Unlock()
				w.agentOf("n1", func(a *fakeAgent) { a.slowStop = 20 * time.Second })
				trouble(w)
				time.Sleep(5 * time.Minute)
				if story := w.story(); !strings.Contains(story, "db stops on n1") {
					t.Errorf("story: %s", story)
				}
				if why := w.resetsOf("n1"); len(why) != 0 {
					t.Errorf("resets: %q, want none", why)
				}
			})
		})
	}
}

// A minority node whose stop hangs gives it the time that the configuration
// gives to stops, then resets itself; where the host is silent it asks again
// (Q-5, I5). A store that comes back in time ends the matter.
func TestANodeWithoutTheStoreThatCannotStopResetsItself(t *testing.T) {
	play(t, func(w *world) {
		w.agentOf("n1", func(a *fakeAgent) { a.slowStop = time.Hour })
		w.mu.Lock()
		w.hosts["h1"].silent, w.hosts["h1"].deaf = true, true
		w.mu.Unlock()
		w.isolate("n1")
		stop := service("db").Resources[0].StopTimeout
		time.Sleep(storeBudget + stop)
		if why := w.resetsOf("n1"); len(why) != 0 {
			t.Fatalf("reset before the stop had its time: %q", why)
		}
		time.Sleep(budgetMargin + 30*time.Second)
		if why := w.resetsOf("n1"); len(why) < 2 {
			t.Fatalf("%d resets while the host is silent, want it tried again", len(why))
		}
		w.want("")
		w.mu.Lock()
		w.hosts["h1"].silent = false
		w.mu.Unlock()
		w.after("db starts on n2", time.Minute)
		w.want("n1 resets itself; db dies with n1; db starts on n2, generation 2")
	})
}

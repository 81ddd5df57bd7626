package node

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
)

func tx(writes ...cluster.Write) store.Tx { return store.Tx{Writes: writes} }

// play runs f in a bubble with three booted guests and the service db on n1, n2.
func play(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, n := range []cluster.NodeName{"n1", "n2", "n3"} {
			w.boot(n)
		}
		time.Sleep(3 * time.Second)
		w.configure(service("db", "n1", "n2"))
		time.Sleep(3 * time.Second)
		w.want("db starts on n1, generation 1")
		f(w)
	})
}

func (w *world) want(story string) {
	w.t.Helper()
	if got := w.story(); got != story {
		w.t.Fatalf("story:\n got  %s\n want %s", got, story)
	}
}

// after waits until the journal's last entry begins with text and returns how
// long that took, at most limit.
func (w *world) after(text string, limit time.Duration) time.Duration {
	w.t.Helper()
	began := time.Now()
	for time.Since(began) < limit {
		w.mu.Lock()
		done := len(w.journal) > 0 && strings.HasPrefix(w.journal[len(w.journal)-1], text)
		w.mu.Unlock()
		if done {
			return time.Since(began)
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("%q did not come within %v; story: %s", text, limit, w.story())
	return 0
}

func TestAHostsWordMovesAServiceWithoutWaitingForSilence(t *testing.T) {
	play(t, func(w *world) {
		w.kill("n1", true)
		took := w.after("db starts on n2, generation 2", time.Second)
		if took >= 600*time.Millisecond {
			t.Errorf("took %v of virtual time: something waited for silence", took)
		}
		w.want("db dies with n1; db starts on n2, generation 2")
	})
}

func TestASilentDeathGoesThroughFencing(t *testing.T) {
	play(t, func(w *world) {
		w.kill("n1", false)
		took := w.after("db starts on n2, generation 2", 5*time.Second)
		if took < 1100*time.Millisecond { // the last beat came up to an interval before
			t.Errorf("took %v: recovered before n1 could be lost", took)
		}
		w.want("db dies with n1; db starts on n2, generation 2")
	})
}

func TestACutOffNodeIsSwitchedOffBeforeItsServiceMoves(t *testing.T) {
	play(t, func(w *world) {
		w.isolate("n1")
		w.after("db starts on n2", 5*time.Second)
		w.want("n1 is switched off; db dies with n1; db starts on n2, generation 2")
	})
}

// isolate cuts a guest off everything: beats, store and hosts.
func (w *world) isolate(name cluster.NodeName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[name] = true
	w.guests[name].client.SetFault(mem.Cut())
}

func TestWithoutAnAnswerFromTheHostNothingIsRecovered(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		w.hosts["h1"].silent = true
		w.mu.Unlock()
		w.isolate("n1")
		time.Sleep(12 * time.Second)
		w.want("")
		// The cut-off node gives up by itself once its budget is over: I5.
		w.after("db stops on n1", 10*time.Second)
		time.Sleep(time.Minute)
		w.want("db stops on n1")
		w.mu.Lock()
		w.hosts["h1"].silent = false
		w.mu.Unlock()
		w.after("db starts on n2", 5*time.Second)
		w.want("n1 is switched off; db starts on n2, generation 2")
	})
}

func TestAnEndedProcessIsRestartedInPlaceThenMoved(t *testing.T) {
	play(t, func(w *world) {
		w.crash("n1", "db")
		w.after("db starts on n1, generation 1", time.Second)
		w.want("db crashes on n1; db starts on n1, generation 1")
		w.crash("n1", "db")
		w.after("db starts on n2", time.Second)
		w.want("db crashes on n1; db starts on n2, generation 2")
	})
}

func TestAStopThatFailsFencesTheNode(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		w.guests["n1"].agent.failStop = true
		w.mu.Unlock()
		w.put(cluster.KeyStandby("n1"), cluster.Standby{Node: "n1", By: "test"})
		w.after("db starts on n2", 10*time.Second)
		w.want("n1 is switched off; db dies with n1; db starts on n2, generation 2")
	})
}

func TestAFailedStartGoesToAnotherNode(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		w.guests["n2"].agent.failStart = true
		w.mu.Unlock()
		w.put(cluster.KeyWish("db"), cluster.Wish{Service: "db", MoveTo: "n2", By: "test"})
		w.after("db starts on n1, generation 3", 10*time.Second)
		w.want("db stops on n1; db fails to start on n2; db starts on n1, generation 3")
	})
}

func TestARestartOfTheDaemonTakesOverWhatRuns(t *testing.T) {
	play(t, func(w *world) {
		g := w.guests["n1"]
		g.cancel()
		time.Sleep(300 * time.Millisecond)
		w.daemon(g)
		time.Sleep(20 * time.Second)
		w.want("")
		w.crash("n1", "db")
		w.after("db starts on n1, generation 1", time.Second)
	})
}

func TestACleanLeaveMovesServicesAndIsNoFence(t *testing.T) {
	play(t, func(w *world) {
		g := w.guests["n1"]
		g.node.Leave()
		w.after("db starts on n2", 5*time.Second)
		w.want("db stops on n1; db starts on n2, generation 2")
		time.Sleep(time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if !errors.Is(g.err, ErrLeft) {
			t.Errorf("run ended with %v, want ErrLeft", g.err)
		}
	})
}

func TestADoomedBootStopsAndEnds(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		w.hosts["h1"].silent = true
		w.mu.Unlock()
		w.put(cluster.KeyFence("n1-b1"), cluster.Fence{Boot: "n1-b1", Node: "n1", Reason: cluster.FenceSilent, Epoch: 1, Attempt: 1, Executor: "n2"})
		w.after("db starts on n2", 5*time.Second)
		time.Sleep(5 * time.Second)
		w.want("db stops on n1; db starts on n2, generation 2") // a verified stop report moves it (P15); the boot stays doomed
		if err := w.guests["n1"].err; !errors.Is(err, ErrDoomed) {
			t.Errorf("run ended with %v, want ErrDoomed", err)
		}
	})
}

func TestTheWholeClusterColdStarts(t *testing.T) {
	play(t, func(w *world) {
		for _, n := range []cluster.NodeName{"n1", "n2", "n3"} {
			w.kill(n, false)
		}
		time.Sleep(time.Second)
		for i, n := range []cluster.NodeName{"n1", "n2", "n3"} {
			w.mu.Lock()
			former := guest{name: n, life: w.guests[n].life}
			w.mu.Unlock()
			w.hosts[[]cluster.HostName{"h1", "h2", "h3"}[i]].certify(&former, cluster.CauseHostRestarted)
			w.boot(n)
		}
		w.after("db starts on", 5*time.Second)
		if got := w.story(); got != "db dies with n1; db starts on n1, generation 2" && got != "db dies with n1; db starts on n2, generation 2" {
			t.Errorf("story: %s", got)
		}
	})
}

func TestAForgedCertificateEndsNothing(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		h, g := w.hosts["h1"], w.guests["n1"]
		right := h.key
		h.key = w.hosts["h2"].key // signs with another host's key
		w.mu.Unlock()
		h.certify(g, cluster.CauseCrashed)
		time.Sleep(5 * time.Second)
		w.want("")
		w.mu.Lock()
		h.key = right
		w.mu.Unlock()
	})
}

func TestAHeartbeatOutageAloneFencesNobody(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		for n := range w.guests {
			w.cut[n] = true // UDP is blocked everywhere, the store is not
		}
		w.mu.Unlock()
		time.Sleep(time.Minute)
		w.want("")
	})
}

func TestALeaderThatDiesIsReplaced(t *testing.T) {
	play(t, func(w *world) {
		s, _ := w.guests["n2"].node.Mirror.Snapshot()
		leader := s.Leader.Value
		w.kill(leader.Node, false)
		time.Sleep(5 * time.Second)
		other := cluster.NodeName("n2")
		if leader.Node == "n2" {
			other = "n3"
		}
		s, _ = w.guests[other].node.Mirror.Snapshot()
		if s.Leader.Value.Node == leader.Node || s.Leader.Value.Epoch <= leader.Epoch {
			t.Errorf("leader is still %+v", s.Leader.Value)
		}
		if len(s.Ended) != 1 {
			t.Errorf("tombstones: %v, want the one of %s", s.Ended, leader.Node)
		}
	})
}

func TestAStopOrderInterruptsASlowStart(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		w.guests["n2"].agent.slow = 50 * time.Second
		w.mu.Unlock()
		w.put(cluster.KeyWish("db"), cluster.Wish{Service: "db", MoveTo: "n2", By: "test"})
		time.Sleep(5 * time.Second)
		w.put(cluster.KeyWish("db"), cluster.Wish{Service: "db", MoveTo: "n1", By: "test"})
		w.after("db starts on n1, generation 3", 5*time.Second)
		w.want("db stops on n1; db starts on n1, generation 3")
	})
}

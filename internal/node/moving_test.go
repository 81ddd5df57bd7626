package node

import (
	"testing"
	"time"

	"ringfence/internal/cluster"
)

// move begins or ends the announcement that a guest is moving.
func (w *world) move(name cluster.NodeName, moving bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.guests[name]
	g.moving = moving
	w.hostOf(name).tell(g)
}

func (w *world) leader() cluster.Leader {
	kvs, _, err := w.store.Client("look").Load(w.ctx, cluster.KeyLeader)
	if err != nil || len(kvs) != 1 {
		w.t.Fatalf("no leader: %v", err)
	}
	var s cluster.State
	if err := s.Apply(kvs[0], false, 0); err != nil {
		w.t.Fatal(err)
	}
	return s.Leader.Value
}

// The guest stands still for 8 s in its migration: nobody suspects it.
func TestAnAnnouncedMigrationIsWaitedOut(t *testing.T) {
	play(t, func(w *world) {
		w.move("n1", true)
		time.Sleep(time.Second)
		w.pause("n1")
		time.Sleep(8 * time.Second)
		w.unpause("n1")
		w.move("n1", false)
		time.Sleep(20 * time.Second)
		w.want("n1 is paused; n1 goes on")
	})
}

func TestANoticeThatNeverEndsIsCapped(t *testing.T) {
	play(t, func(w *world) {
		w.move("n1", true)
		w.isolate("n1")
		for range 5 { // renewed again and again
			time.Sleep(5 * time.Second)
			w.move("n1", false)
			w.move("n1", true)
		}
		w.want("db stops on n1") // by its own budget
		time.Sleep(4900 * time.Millisecond)
		w.want("")
		if took := w.after("db starts on n2", 5*time.Second); took > time.Second {
			t.Errorf("fenced %v behind the cap", took)
		}
	})
}

func TestANoticeIsVoidWithItsStream(t *testing.T) {
	play(t, func(w *world) {
		w.move("n1", true)
		w.isolate("n1")
		time.Sleep(10 * time.Second)
		w.want("")
		w.mu.Lock()
		w.hosts["h1"].silent = true
		w.mu.Unlock()
		w.breakStreams("h1")
		time.Sleep(2 * time.Second)
		kvs, _, err := w.store.Client("look").Load(w.ctx, cluster.KeyFence("n1-b1"))
		if err != nil || len(kvs) != 1 {
			t.Errorf("no fence decision, though the host is silent: %v", err)
		}
	})
}

func TestAnotherNodeLeadsWhileTheLeadersGuestMoves(t *testing.T) {
	play(t, func(w *world) {
		first := w.leader()
		w.move(first.Node, true)
		time.Sleep(time.Second)
		second := w.leader()
		if second.Node == first.Node || second.Epoch != first.Epoch+1 {
			t.Fatalf("leader was %+v, is %+v", first, second)
		}
		var third cluster.NodeName
		for _, name := range []cluster.NodeName{"n1", "n2", "n3"} {
			if name != first.Node && name != second.Node {
				third = name
			}
		}
		w.move(third, true) // the only one that does not move leads: it stays so
		time.Sleep(time.Second)
		w.kill(second.Node, true)
		time.Sleep(3 * time.Second) // and when it dies, one that moves is better than none
		if last := w.leader(); last.Epoch != second.Epoch+1 {
			t.Errorf("leader was %+v, is %+v", second, last)
		}
	})
}

// A guest that moves does not lead raft, also where everybody owns a service.
func TestRaftIsSteeredOffAMovingGuest(t *testing.T) {
	play(t, func(w *world) {
		w.configure(service("db", "n1"), service("web", "n2"), service("mail", "n2"), service("dns", "n3"))
		time.Sleep(5 * time.Second)
		n2 := w.guests["n2"].node
		s, _ := n2.Mirror.Snapshot()
		if target := n2.steerTarget(&s); target != "" {
			t.Errorf("handed to %s, which is no better", target)
		}
		w.move("n2", true)
		w.move("n1", true)
		time.Sleep(time.Second)
		if target := n2.steerTarget(&s); target != "n3" {
			t.Errorf("handed to %q, want n3", target)
		}
	})
}

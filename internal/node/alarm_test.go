package node

import (
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store/mem"
)

// contradictions returns what stands in the store.
func (w *world) contradictions() map[cluster.BootID]cluster.Contradiction {
	var s cluster.State
	kvs, _, err := w.store.Client("look").Load(w.ctx, cluster.Prefix)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, kv := range kvs {
		if err := s.Apply(kv, false, 0); err != nil {
			w.t.Fatal(err)
		}
	}
	out := map[cluster.BootID]cluster.Contradiction{}
	for id, rec := range s.Contras {
		out[id] = rec.Value
	}
	return out
}

// A host lies that n1 has ended. Nobody else may take db yet, so that the false
// word has done no harm when it is found out (P11, C-11).
func lie(w *world) {
	w.put(cluster.KeyStandby("n2"), cluster.Standby{Node: "n2", By: "test"})
	time.Sleep(time.Second)
	w.mu.Lock()
	g := w.guests["n1"]
	w.hosts["h1"].deaf = true
	w.mu.Unlock()
	w.hosts["h1"].certify(g, cluster.CauseCrashed)
}

func (w *world) unstandby(name cluster.NodeName) {
	if _, err := w.store.Client("setup").Commit(w.ctx, tx(cluster.Remove(cluster.KeyStandby(name)))); err != nil {
		w.t.Fatal(err)
	}
}

// The boot reads its own tombstone: it says so, stops, verified, and only then
// its service moves.
func TestABootThatReadsItsOwnTombstoneContradictsIt(t *testing.T) {
	play(t, func(w *world) {
		w.agentOf("n1", func(a *fakeAgent) { a.slowStop = 10 * time.Second })
		lie(w)
		time.Sleep(2 * time.Second)
		w.unstandby("n2")
		time.Sleep(5 * time.Second)
		w.want("")
		got := w.contradictions()["n1-b1"]
		if got.Evidence != cluster.EvidenceCertificate || len(got.Hosts) != 1 || got.Hosts[0] != "h1" {
			t.Errorf("contradiction %+v, want one of the certificate by h1", got)
		}
		w.after("db starts on n2, generation 2", time.Minute)
		w.want("db stops on n1; db starts on n2, generation 2")
	})
}

// The boot cannot reach the store, but its beats answer nonces that its peers
// drew after the tombstone: they say so, and fence it. Once it is back, and has
// stopped, its service moves.
func TestBeatsThatAnswerAfterATombstoneContradictIt(t *testing.T) {
	play(t, func(w *world) {
		w.guests["n1"].client.SetFault(mem.Cut())
		lie(w)
		time.Sleep(2 * time.Second)
		w.unstandby("n2")
		time.Sleep(5 * time.Second)
		w.want("")
		got := w.contradictions()["n1-b1"]
		if got.By == "n1" || !strings.Contains(got.How, "nonce") {
			t.Errorf("contradiction %+v, want one by a peer", got)
		}
		s, _ := w.guests["n3"].node.Mirror.Snapshot()
		if fence := s.Fences["n1-b1"].Value; fence.Reason != cluster.FenceContradict || fence.Attempt < 2 {
			t.Errorf("fence decision %+v, want attempts because it answers", fence)
		}
		w.guests["n1"].client.SetFault(mem.Fault{})
		w.after("db starts on n2, generation 2", time.Minute)
		w.want("db stops on n1; db starts on n2, generation 2")
	})
}

// The host whose word was false proves no other end.
func TestAHostThatLiedEndsNobodyElse(t *testing.T) {
	play(t, func(w *world) {
		lie(w)
		w.after("db stops on n1", time.Minute)
		w.unstandby("n2")
		w.after("db starts on n2", time.Minute)
		w.mu.Lock()
		w.hosts["h1"].deaf = false
		w.mu.Unlock()
		w.put(cluster.KeyBoot("n2-b1"), func() cluster.Boot { // n2 lives on h1 as well
			s, _ := w.guests["n3"].node.Mirror.Snapshot()
			b := s.Boots["n2-b1"].Value
			b.Places = []cluster.HostName{"h1"}
			return b
		}())
		w.boot("n1")
		time.Sleep(3 * time.Second)
		w.story()
		w.hosts["h1"].certify(w.guests["n2"], cluster.CauseCrashed)
		time.Sleep(time.Minute)
		w.want("")
	})
}

// What a leave leaves behind, or a death that is one, raises no alarm.
func TestNoAlarmWhereNothingLived(t *testing.T) {
	play(t, func(w *world) {
		w.guests["n1"].node.Leave()
		w.after("db starts on n2", time.Minute)
		w.kill("n2", true)
		time.Sleep(time.Second)
		w.boot("n2")
		w.after("db starts on n2", time.Minute)
		w.kill("n2", false)
		time.Sleep(time.Minute)
		if got := w.contradictions(); len(got) != 0 {
			t.Errorf("contradictions %+v", got)
		}
	})
}

package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store/mem"
)

// n2 cannot look at web and so probes again every 2 s. Its snapshot says that
// nobody owns db; while it looks at web, db is given to n2 and starts there.
func TestAProbeNeverStopsWhatTheBootHasComeToOwn(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		w.guests["n2"].agent.blind = map[string]time.Duration{"web": 900 * time.Millisecond}
		w.mu.Unlock()
		w.configure(service("web", "n2"), service("db", "n1", "n2"))
		time.Sleep(5 * time.Second)
		w.put(cluster.KeyWish("db"), cluster.Wish{Service: "db", Stopped: true, By: "test"})
		time.Sleep(3 * time.Second)
		w.want("db stops on n1")
		for range 40 { // whatever the phase of the probe is
			w.put(cluster.KeyWish("db"), cluster.Wish{Service: "db", MoveTo: "n2", By: "test"})
			time.Sleep(2900 * time.Millisecond)
			if story := w.story(); strings.Contains(story, "stops on n2") {
				t.Fatalf("nobody ordered db to stop on n2: %s", story)
			}
			w.put(cluster.KeyWish("db"), cluster.Wish{Service: "db", Stopped: true, By: "test"})
			time.Sleep(200 * time.Millisecond)
			w.story()
			time.Sleep(137 * time.Millisecond)
		}
	})
}

// The daemon of n1 was down when its boot got a fence decision, or a tombstone
// by an operator's word. Its next run must stop what the earlier one left
// running (P19, P7, I5).
func TestADoomedBootStopsWhatAnEarlierRunStarted(t *testing.T) {
	for name, write := range map[string]func(w *world){
		"fence": func(w *world) {
			w.put(cluster.KeyFence("n1-b1"), cluster.Fence{Boot: "n1-b1", Node: "n1", Reason: cluster.FenceSilent, Epoch: 1, Attempt: 1, Executor: "n2"})
		},
		"tombstone": func(w *world) {
			w.put(cluster.KeyEnded("n1-b1"), cluster.Ended{Boot: "n1-b1", Node: "n1", Evidence: cluster.EvidenceOperator, Detail: "by test"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(w *world) {
				w.mu.Lock()
				w.hosts["h1"].silent = true
				g := w.guests["n1"]
				w.mu.Unlock()
				// The world cannot show two runs at once, so nobody else may take db.
				w.put(cluster.KeyStandby("n2"), cluster.Standby{Node: "n2", By: "test"})
				g.cancel()
				time.Sleep(50 * time.Millisecond)
				write(w)
				w.daemon(g)
				time.Sleep(10 * time.Second)
				w.mu.Lock()
				story := fmt.Sprint(w.journal)
				w.mu.Unlock()
				if !strings.Contains(story, "db stops on n1") {
					t.Errorf("n1 said %v and left db running for ever; story: %s", g.err, story)
				}
			})
		})
	}
}

// Guests that left cleanly and were then powered off leave certificates that
// nobody needs. They must not push out the one that is needed.
func TestCertificatesOfOldLivesDoNotPushOutANeededOne(t *testing.T) {
	play(t, func(w *world) {
		for i := range pendingLimit + 1 {
			old := guest{name: "n1", life: cluster.LifeID(fmt.Sprintf("h1:%d:9", 1000+i))}
			w.hosts["h1"].certify(&old, cluster.CauseShutdown)
			if i%50 == 0 {
				time.Sleep(time.Second)
			}
		}
		time.Sleep(10 * time.Second)
		w.story()
		for _, n := range []cluster.NodeName{"n2", "n3"} { // the store is away for a moment, and says so
			w.guests[n].client.SetFault(mem.Fault{Commit: mem.CommitLost})
		}
		w.kill("n1", true)
		time.Sleep(200 * time.Millisecond)
		w.mu.Lock()
		w.hosts["h1"].silent = true // and the host cannot be asked again
		w.mu.Unlock()
		for _, n := range []cluster.NodeName{"n2", "n3"} {
			w.guests[n].client.SetFault(mem.Fault{})
		}
		w.after("db starts on n2", time.Minute)
	})
}

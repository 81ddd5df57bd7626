package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
)

// The first run of the daemon in this boot found no channel to its host (udev
// was late) and registered the boot without its life. The next run has the
// channel, and the host's binding. From then on the host's word must count.
func TestALifeThatIsKnownLaterIsNoted(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		g := w.guests["n1"]
		w.mu.Unlock()
		g.cancel()
		w.put(cluster.KeyBoot("n1-b1"), cluster.Boot{ID: "n1-b1", Node: "n1", Phase: cluster.PhaseMember, Machine: "m"})
		w.daemon(g) // its Self has life, guest and place
		time.Sleep(3 * time.Second)
		w.kill("n1", true)
		w.after("db starts on n2", time.Minute)
	})
}

// The daemon dies in the middle of a leave and is started again in the same
// boot. The node is healthy and stops what it was to stop: nobody may shoot it.
func TestALeaveThatWasInterruptedIsCompleted(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		g := w.guests["n1"]
		g.agent.slowStop = 5 * time.Second
		w.mu.Unlock()
		g.node.Leave()
		time.Sleep(2 * time.Second)
		g.cancel()
		time.Sleep(100 * time.Millisecond)
		w.daemon(g)
		time.Sleep(20 * time.Second)
		w.mu.Lock()
		story := fmt.Sprint(w.journal)
		w.mu.Unlock()
		if strings.Contains(story, "switched off") {
			t.Errorf("n1 was fenced in the middle of its leave (its daemon said: %v); story: %s", g.err, story)
		}
	})
}

package node

import (
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
)

// What a machine would start by itself is not placed there, and its first start
// waits everywhere, until somebody repairs it; a machine that may not run it has
// no say, and what runs goes on (P24).
func TestWhatAMachineWouldStartByItselfIsNotPlacedThere(t *testing.T) {
	play(t, func(w *world) {
		would := func(name cluster.NodeName, services ...cluster.ServiceName) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.guests[name].would = services
		}
		would("n2", "db", "web")
		would("n3", "web")
		w.configure(service("db", "n1", "n2"), service("web", "n1", "n2"))
		time.Sleep(time.Minute)
		w.want("")
		would("n2", "db")
		w.after("web starts on n1", time.Minute)
		w.want("web starts on n1, generation 1")
		w.kill("n1", true)
		w.after("web starts on n2, generation 2", time.Minute)
		time.Sleep(time.Minute)
		if story := w.story(); strings.Contains(story, "db starts") {
			t.Errorf("db was placed where the machine would start it by itself: %s", story)
		}
		would("n2")
		w.after("db starts on n2, generation 2", time.Minute)
	})
}

// A unit may be enabled at any time, and nothing else tells of it.
func TestAMachineLooksAgainForWhatItWouldStart(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		w.guests["n2"].would = []cluster.ServiceName{"db"}
		w.mu.Unlock()
		time.Sleep(autostartAgain + 5*time.Second)
		s, _ := w.guests["n3"].node.Mirror.Snapshot()
		if s.Probes["n2"].Value.Autostart["db"] == "" {
			t.Error("n2 did not find what was enabled while it ran")
		}
		rev := s.Probes["n2"].Rev
		time.Sleep(10 * time.Minute)
		s, _ = w.guests["n3"].node.Mirror.Snapshot()
		if s.Probes["n2"].Rev != rev {
			t.Error("the probe is written again though nothing has changed")
		}
	})
}

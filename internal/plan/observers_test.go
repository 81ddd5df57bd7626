package plan

import (
	"strings"
	"testing"

	"ringfence/internal/cluster"
)

func scene(t *testing.T, script string) (*world, string) {
	t.Helper()
	w := newWorld()
	for _, line := range strings.Split(script, "\n") {
		args := strings.Fields(line)
		if len(args) == 0 {
			continue
		}
		verbs[args[0]](w, args[1:])
	}
	for _, f := range w.faults {
		t.Error(f)
	}
	return w, strings.Join(w.story, "\n")
}

// All three guests were started cold and nothing proves their old boots ended
// (power loss on a host whose lives are unknown after it). The new boots are
// the only observers there are; old ones see nothing and must not count.
func TestOldBootsAreNoObservers(t *testing.T) {
	w, story := scene(t, `
cluster n1@h1 n2@h2 n3@h3
service db nodes=n1,n2
settle
boot n1 host=h1
boot n2 host=h2
boot n3 host=h3
member n1
member n2
member n3
probe n1
probe n2
probe n3
leader n2`)
	// What the new boots' detectors write: every old boot and then n1-b2 is silent.
	for _, by := range []cluster.NodeName{"n2", "n3"} {
		silent := map[cluster.BootID]cluster.Silence{"n1-b1": "lost", "n1-b2": "lost"}
		if by == "n2" {
			silent["n3-b1"] = "lost"
		} else {
			silent["n2-b1"] = "lost"
		}
		w.put(cluster.KeyView(by), cluster.View{Node: by, Boot: w.boot(by), Silent: silent})
	}
	w.settle()
	for _, boot := range []cluster.BootID{"n1-b1", "n1-b2"} {
		if _, doomed := w.state.Fences[boot]; !doomed {
			t.Errorf("boot %s is lost by every node that runs, yet is never fenced: recovery is blocked\n%s", boot, story)
		}
	}
}

// A verified stop report moves a service (P15), whoever gave it: also a boot
// that is doomed or silent by now and can never be fenced.
func TestAVerifiedStopReportOfADoomedBootMovesTheService(t *testing.T) {
	w, _ := scene(t, `
cluster n1 n2 n3
service db nodes=n1,n2
settle
silent n1 lost by=n2,n3
leader n2
deaf n1
plan
report db stopped
attempt n1 unknown
settle`)
	if o := w.state.Owners["db"].Value; o.Node != "n2" {
		t.Errorf("db stays with %s though that verified it stopped; no fence method can ever end that boot\n%s", o.Boot, strings.Join(w.story, "\n"))
	}
}

// n3 hears n2 no more and has lost the store: its last view stays as it was.
// n2 has answered that view; n1 abstains for a moment (or joins). I6.
func TestAStaleViewAloneFencesNobody(t *testing.T) {
	w, _ := scene(t, `
cluster n1@h1 n2@h2 n3@h3
service db nodes=n2,n1
settle
silent n2 lost by=n3
appeal n2 to=n3
settle
wait 30s
silent n2 abstain by=n1
settle`)
	if _, doomed := w.state.Fences["n2-b1"]; doomed {
		t.Errorf("n2 is fenced on a view of 30 s ago that it has answered:\n%s", strings.Join(w.story, "\n"))
	}
}

package detect

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
)

const ms = time.Millisecond

func peers(boots ...cluster.BootID) map[cluster.BootID]Peer {
	out := map[cluster.BootID]Peer{}
	for _, b := range boots {
		out[b] = Peer{Limits: HostAware()}
	}
	return out
}

// run ticks every interval up to to, with the given boots beating.
func run(d *Detector, from, to time.Duration, watch map[cluster.BootID]Peer, beating ...cluster.BootID) Verdict {
	var v Verdict
	for now := from; now <= to; now += Interval {
		for _, b := range beating {
			d.Heard(b, now)
		}
		v = d.Tick(now, watch)
	}
	return v
}

func TestSilenceGrowsToSuspectAndLostAtItsLimits(t *testing.T) {
	for _, limits := range []Limits{HostAware(), HostBlind()} {
		watch := map[cluster.BootID]Peer{"a": {Limits: limits}}
		var d Detector
		d.Tick(0, watch)
		for now := Interval; now < limits.Lost+300*ms; now += Interval {
			got := d.Tick(now, watch).Silent["a"]
			want := cluster.Silence("")
			if now >= limits.Suspect {
				want = cluster.SilenceSuspect
			}
			if now >= limits.Lost {
				want = cluster.SilenceLost
			}
			if got != want {
				t.Errorf("limits %v, silent for %v: got %q, want %q", limits, now, got, want)
			}
		}
	}
}

func TestABeatEndsSilence(t *testing.T) {
	var d Detector
	run(&d, 0, 2*time.Second, peers("a", "b"), "b")
	d.Heard("a", 2050*ms)
	got := d.Tick(2100*ms, peers("a", "b"))
	if diff := cmp.Diff(Verdict{}, got); diff != "" {
		t.Errorf("after a beat (-want +got):\n%s", diff)
	}
}

func TestANewPeerGetsAFullWindow(t *testing.T) {
	var d Detector
	run(&d, 0, 5*time.Second, peers("a"), "a")
	got := run(&d, 5100*ms, 5600*ms, peers("a", "new"), "a")
	if len(got.Silent) != 0 {
		t.Errorf("new peer accused after 0.5 s: %v", got.Silent)
	}
}

func TestAnObserverWithAGapAbstainsForAFullWindow(t *testing.T) {
	watch := peers("a", "b")
	var d Detector
	run(&d, 0, time.Second, watch, "b")
	got := d.Tick(time.Second+GapLimit+ms, watch)
	if !got.Abstain || len(got.Silent) != 0 {
		t.Errorf("right after a gap: got %+v, want abstention and no accusation", got)
	}
	got = run(&d, 1400*ms, 1800*ms, watch, "b")
	if len(got.Silent) != 0 {
		t.Errorf("inside the fresh window: accused %v", got.Silent)
	}
	got = run(&d, 1900*ms, 2600*ms, watch, "b")
	if got.Abstain || got.Silent["a"] != cluster.SilenceLost {
		t.Errorf("after the window: got %+v, want a lost and no abstention", got)
	}
}

func TestAGapAsLongAsTheLimitIsNone(t *testing.T) {
	var d Detector
	d.Tick(0, peers("a"))
	if d.Tick(GapLimit, peers("a")).Abstain {
		t.Error("abstained after a pause of exactly the limit")
	}
}

func TestStrangersAndOldBeatsChangeNothing(t *testing.T) {
	var d Detector
	run(&d, 0, time.Second, peers("a"), "a")
	d.Heard("stranger", time.Second)
	d.Heard("a", 500*ms)
	if at := d.ears["a"].heard; at != time.Second {
		t.Errorf("an old beat moved the clock back to %v", at)
	}
	if _, known := d.ears["stranger"]; known {
		t.Error("a boot that is no peer is remembered")
	}
}

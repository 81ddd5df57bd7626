package node

import (
	"context"
	"crypto/ed25519"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/detect"
	"ringfence/internal/hostclient"
	"ringfence/internal/store/mem"
	"ringfence/internal/wire/hostapi"
)

// moves is what a fakeHost knows of lives that come and go, guarded by the
// world's mutex.
type moves struct {
	seq      uint64
	arrivals map[cluster.LifeID]cluster.Arrival // lives that are to arrive
	away     map[cluster.LifeID]bool            // lives that have left, or did not arrive
	placed   []hostapi.Placed
}

// asks lets the host ask for the guest's life and returns the nodes' first word.
func (h *fakeHost) asks(g *guest) hostapi.Placed {
	h.w.t.Helper()
	h.w.mu.Lock()
	h.seq += 100
	a := hostapi.Arriving{Guest: cluster.GuestID("guest-" + g.name), Life: g.life, Arrival: cluster.Arrival{Run: "run", Number: h.seq}}
	if h.arrivals == nil {
		h.arrivals = map[cluster.LifeID]cluster.Arrival{}
	}
	h.arrivals[g.life] = a.Arrival
	delete(h.away, g.life)
	h.placed = nil
	h.publish(hostclient.Event{Arriving: &a})
	h.w.mu.Unlock()
	time.Sleep(6 * time.Second)
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for _, p := range h.placed {
		if p.Arrival == a.Arrival {
			return p
		}
	}
	return hostapi.Placed{}
}

// moved lets the life run at another host now.
func (h *fakeHost) moved(g *guest, to *fakeHost) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	delete(h.lives, g.life)
	delete(to.arrivals, g.life)
	to.lives[g.life] = g
	if h.away == nil {
		h.away = map[cluster.LifeID]bool{}
	}
	h.away[g.life] = true
	h.publish(hostclient.Event{Absence: h.absence(g.life, false)})
}

// absence signs that a life is not here.
func (h *fakeHost) absence(life cluster.LifeID, final bool) *cluster.Absence {
	host, _, _ := strings.Cut(string(life), ":")
	h.seq++
	a := cluster.Absence{
		Cluster: "c", Guest: cluster.GuestID("guest-n" + host[1:]), Life: life, Host: h.name, HostBoot: "hb",
		Run: "run", Seq: h.seq, Final: final, Why: "played",
	}
	a.Signature = ed25519.Sign(h.key, a.SigningBytes())
	return &a
}

// refuse is what off gets for a life that does not run here, with the mutex held.
func (h *fakeHost) refuse(life cluster.LifeID) *cluster.Absence {
	_, arriving := h.arrivals[life]
	if h.silent || !arriving && !h.away[life] {
		return nil
	}
	return h.absence(life, true)
}

// Placed implements Host.
func (l *fakeLink) Placed(_ context.Context, p hostapi.Placed) (hostapi.PlacedReply, error) {
	l.h.w.mu.Lock()
	defer l.h.w.mu.Unlock()
	l.h.placed = append(l.h.placed, p)
	if l.h.away[p.Life] {
		return hostapi.PlacedReply{Absence: l.h.absence(p.Life, false)}, nil
	}
	return hostapi.PlacedReply{}, nil
}

// places returns where the newest record of a boot says that it may be.
func (w *world) places(id cluster.BootID) []cluster.HostName {
	s, _ := w.guests["n2"].node.Mirror.Snapshot()
	return slices.Sorted(slices.Values(s.Boots[id].Value.Places))
}

func (w *world) wantPlaces(id cluster.BootID, want ...cluster.HostName) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.places(id)); diff != "" {
		w.t.Errorf("places (-want +got):\n%s", diff)
	}
}

// The target is written down before the host hears that it may begin; what the
// source signs takes it out; then only the target's word ends the boot.
func TestAPlaceIsWrittenDownBeforeTheLifeComes(t *testing.T) {
	play(t, func(w *world) {
		g := w.guests["n1"]
		placed := w.hosts["h2"].asks(g)
		if placed.Revision == 0 || !placed.Member || placed.Refused != "" {
			t.Fatalf("the nodes say %+v", placed)
		}
		w.wantPlaces("n1-b1", "h1", "h2")
		w.hosts["h1"].moved(g, w.hosts["h2"])
		time.Sleep(time.Second)
		w.wantPlaces("n1-b1", "h2")
		w.hosts["h1"].certify(g, cluster.CauseCrashed) // C-1, C-2: it takes the exit for the end
		time.Sleep(10 * time.Second)
		w.want("")
		w.mu.Lock()
		g.die()
		w.mu.Unlock()
		w.hosts["h2"].certify(g, cluster.CauseCrashed)
		w.after("db starts on n2", time.Second)
	})
}

// A node that goes silent while it migrates: both hosts are asked, and the word
// of the source alone recovers nothing (C-3, L-1).
func TestFencingAsksEveryPlace(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		play(t, func(w *world) {
			g := w.guests["n1"]
			w.hosts["h2"].asks(g)
			w.mu.Lock()
			w.hosts["h2"].silent = deaf
			w.mu.Unlock()
			w.kill("n1", false)
			if deaf {
				time.Sleep(time.Minute)
				w.want("db dies with n1")
				w.mu.Lock()
				w.hosts["h2"].silent = false
				w.mu.Unlock()
			}
			w.after("db starts on n2", 10*time.Second)
		})
	}
}

// A life runs at the target, and its source's host is dead: nothing is recovered
// when the guest goes silent, although the target's host says it is off, until
// the source has spoken.
func TestADeadSourceIsNoAbsence(t *testing.T) {
	play(t, func(w *world) {
		g := w.guests["n1"]
		w.hosts["h2"].asks(g)
		w.mu.Lock()
		w.hosts["h1"].silent = true
		w.hosts["h2"].lives[g.life] = g
		delete(w.hosts["h2"].arrivals, g.life)
		g.die()
		w.mu.Unlock()
		time.Sleep(time.Minute)
		w.want("db dies with n1")
		w.wantPlaces("n1-b1", "h1", "h2")
		w.mu.Lock()
		w.hosts["h1"].silent = false
		delete(w.hosts["h1"].lives, g.life)
		w.hosts["h1"].away = map[cluster.LifeID]bool{g.life: true}
		w.mu.Unlock()
		w.after("db starts on n2", 10*time.Second)
	})
}

func TestWhoMayNotMove(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(w *world, g *guest)
		want  string // part of the refusal; "" lets it come though it has no boot
	}{
		{"C-3: it is being fenced", func(w *world, _ *guest) {
			w.hosts["h1"].silent = true
			w.put(cluster.KeyFence("n1-b1"), cluster.Fence{Boot: "n1-b1", Node: "n1", Reason: cluster.FenceSilent, Epoch: 1, Attempt: 1, Executor: "n2"})
		}, "is being fenced"},
		{"C-6, P7: its boot has ended", func(w *world, _ *guest) {
			w.kill("n1", false)
			w.put(cluster.KeyEnded("n1-b1"), cluster.Ended{Boot: "n1-b1", Node: "n1", Evidence: cluster.EvidenceOperator})
		}, "has ended (operator)"},
		{"C-6: the node runs in another life", func(_ *world, g *guest) { g.life = "h1:77:1" }, "has not registered in this life"},
		{"a guest that is no node", func(_ *world, g *guest) { g.name, g.life = "n7", "h7:1:1" }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			play(t, func(w *world) {
				g := &guest{w: w, name: "n1", life: w.guests["n1"].life}
				c.setup(w, g)
				placed := w.hosts["h3"].asks(g)
				switch {
				case c.want == "" && (placed.Revision == 0 || placed.Member || placed.Refused != ""):
					t.Errorf("the nodes say %+v, want that it may come", placed)
				case c.want != "" && !strings.Contains(placed.Refused, c.want):
					t.Errorf("the nodes say %+v, want %q", placed, c.want)
				}
				w.wantPlaces("n1-b1", "h1")
			})
		})
	}
}

func TestWithoutQuorumNoPlaceIsPromised(t *testing.T) {
	play(t, func(w *world) {
		w.mu.Lock()
		for _, g := range w.guests {
			g.client.SetFault(mem.Cut())
		}
		w.mu.Unlock()
		if placed := w.hosts["h2"].asks(w.guests["n1"]); placed.Revision != 0 {
			t.Errorf("the nodes say %+v", placed)
		}
	})
}

// An absence counts only from that host, for this cluster, and with its key.
func TestAForgedAbsenceTakesNoPlaceOut(t *testing.T) {
	for name, forge := range map[string]func(w *world, a *cluster.Absence){
		"another key": func(w *world, a *cluster.Absence) { a.Signature = ed25519.Sign(w.hosts["h3"].key, a.SigningBytes()) },
		"another host's": func(w *world, a *cluster.Absence) {
			a.Host = "h3"
			a.Signature = ed25519.Sign(w.hosts["h3"].key, a.SigningBytes())
		},
		"another cluster": func(w *world, a *cluster.Absence) {
			a.Cluster = "d"
			a.Signature = ed25519.Sign(w.hosts["h1"].key, a.SigningBytes())
		},
		"an older arrival": func(w *world, a *cluster.Absence) {
			a.Host, a.Seq = "h2", 3
			a.Signature = ed25519.Sign(w.hosts["h2"].key, a.SigningBytes())
		},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(w *world) {
				g := w.guests["n1"]
				w.hosts["h2"].asks(g)
				w.mu.Lock()
				a := w.hosts["h1"].absence(g.life, false)
				forge(w, a)
				from := w.hosts["h1"]
				if a.Host == "h2" {
					from = w.hosts["h2"]
				}
				from.publish(hostclient.Event{Absence: a})
				w.mu.Unlock()
				time.Sleep(5 * time.Second)
				w.wantPlaces("n1-b1", "h1", "h2")
			})
		})
	}
}

// A life that came past a guard is asked for where it is seen, also by a fence
// that was decided before.
func TestAStrayLifeGetsItsPlace(t *testing.T) {
	play(t, func(w *world) {
		g := w.guests["n1"]
		w.mu.Lock()
		w.hosts["h3"].publish(hostclient.Event{Guest: &hostapi.Guest{ID: "guest-n1", Name: "n1", State: "running", Life: g.life}})
		w.mu.Unlock()
		time.Sleep(time.Second)
		w.wantPlaces("n1-b1", "h1", "h3")
	})
}

// The first boot of a life registers while the life migrates, with the binding of
// the host that it has left: nobody knew of the boot when the target asked. Where it
// is seen is a place as soon as it is known, else no word of that host would count,
// and a source that restarts would end a boot that lives.
func TestABootThatRegistersBehindAMigrationGetsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.boot("n2")
		w.boot("n3")
		time.Sleep(3 * time.Second)
		g := &guest{w: w, name: "n1", life: "h1:1:1"} // that n1 begins
		if placed := w.hosts["h2"].asks(g); placed.Revision == 0 || placed.Member {
			t.Fatalf("the nodes say %+v", placed)
		}
		w.mu.Lock()
		w.hosts["h2"].publish(hostclient.Event{Guest: &hostapi.Guest{ID: "guest-n1", Name: "n1", State: "running", Life: g.life, Arrival: w.hosts["h2"].arrivals[g.life]}})
		w.mu.Unlock()
		time.Sleep(time.Second)
		w.boot("n1") // it was bound at h1
		time.Sleep(3 * time.Second)
		w.wantPlaces("n1-b1", "h1", "h2")
	})
}

// A host that shows a life still and has signed that it is not there: its word is
// asked for once, and not with each change of the store.
func TestAStaleSightIsNoPlaceForLong(t *testing.T) {
	play(t, func(w *world) {
		g := w.guests["n1"]
		h3 := w.hosts["h3"]
		w.mu.Lock()
		h3.away = map[cluster.LifeID]bool{g.life: true}
		h3.publish(hostclient.Event{Guest: &hostapi.Guest{ID: "guest-n1", Name: "n1", State: "arriving", Life: g.life}})
		w.mu.Unlock()
		time.Sleep(3 * time.Second)
		w.wantPlaces("n1-b1", "h1")
		w.mu.Lock()
		asked := len(h3.placed)
		w.mu.Unlock()
		w.configure(service("db", "n1", "n2"), service("web", "n2"))
		time.Sleep(10 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if again := len(h3.placed) - asked; again > 0 {
			t.Errorf("it was written down %d times more", again)
		}
	})
}

// A place that has lost the life with its host stays on record (P6), and says
// nothing any more: the word of the host where the guest is counts all the same.
func TestAPlaceThatHasLostALifeVoidsNoWord(t *testing.T) {
	play(t, func(w *world) {
		g := w.guests["n1"]
		w.hosts["h2"].asks(g)
		w.mu.Lock()
		h1, h2 := w.hosts["h1"], w.hosts["h2"]
		delete(h1.lives, g.life)
		h2.lives[g.life] = g
		lost := h1.absence(g.life, true)
		lost.Restarted = true
		lost.Signature = ed25519.Sign(h1.key, lost.SigningBytes())
		h1.publish(hostclient.Event{Absence: lost})
		w.mu.Unlock()
		time.Sleep(time.Second)
		w.wantPlaces("n1-b1", "h1", "h2")
		w.mu.Lock()
		h1.silent = true
		h2.publish(hostclient.Event{Guest: &hostapi.Guest{ID: "guest-n1", State: "paused", Life: g.life}})
		w.mu.Unlock()
		w.breakStreams("h1")
		time.Sleep(time.Second)
		n2 := w.guests["n2"].node
		if !n2.HostSays("n1-b1").Paused {
			t.Error("the word of host h2 that the guest is paused counts nothing")
		}
		n2.Mirror.Read(func(s *cluster.State) {
			if got := n2.pulse.peerOf(s, s.Boots["n1-b1"].Value).Limits; got != detect.HostAware() {
				t.Errorf("limits %+v, though the host where it is can be asked", got)
			}
		})
	})
}

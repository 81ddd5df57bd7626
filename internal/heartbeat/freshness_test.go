package heartbeat

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/beat"
)

// run is one daemon run of a node in a model network without sockets.
type run struct {
	*freshness
	name    cluster.NodeName
	boot    cluster.BootID
	session uint64
	counter uint64
	nonces  *uint64 // shared source of fresh numbers
}

func newRun(name cluster.NodeName, boot cluster.BootID, session uint64, nonces *uint64) *run {
	return &run{freshness: newFreshness(), name: name, boot: boot, session: session, nonces: nonces}
}

// beatTo opens a round and returns its datagram for one peer.
func (r *run) beatTo(peer cluster.NodeName) beat.Beat {
	*r.nonces++
	r.begin([]Peer{{Node: peer}}, *r.nonces, time.Duration(*r.nonces))
	r.counter++
	return beat.Beat{
		Node: r.name, Boot: r.boot, Session: r.session, Counter: r.counter,
		Nonce: *r.nonces, Echo: r.echo(peer),
	}
}

func (r *run) refuses(b beat.Beat) string {
	_, refusal := r.admit(b, time.Duration(*r.nonces))
	return refusal
}

// talk lets two runs exchange rounds and returns every beat of a, with the
// refusals that b gave them.
func talk(a, b *run, rounds int) (said []beat.Beat, refusals []string) {
	for range rounds {
		toB, toA := a.beatTo(b.name), b.beatTo(a.name)
		said = append(said, toB)
		refusals = append(refusals, b.refuses(toB))
		a.refuses(toA)
	}
	return said, refusals
}

func TestNodesHearEachOtherFromTheThirdRoundOn(t *testing.T) {
	var nonces uint64
	a, b := newRun("a", "a1", 1, &nonces), newRun("b", "b1", 2, &nonces)
	_, got := talk(a, b, 4)
	want := []string{reasonUnproven, "", "", ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReplayIsRefused(t *testing.T) {
	var nonces uint64
	a, b := newRun("a", "a1", 1, &nonces), newRun("b", "b1", 2, &nonces)
	said, _ := talk(a, b, 5)
	for i, old := range said {
		if got := b.refuses(old); got != reasonReplay {
			t.Errorf("replay of beat %d: %q, want %q", i, got, reasonReplay)
		}
	}
}

func TestLateBeatOfTheSameSessionIsRefused(t *testing.T) {
	var nonces uint64
	a, b := newRun("a", "a1", 1, &nonces), newRun("b", "b1", 2, &nonces)
	talk(a, b, 3)
	first, second := a.beatTo("b"), a.beatTo("b")
	if got := b.refuses(second); got != "" {
		t.Fatalf("beat in order refused: %s", got)
	}
	if got := b.refuses(first); got != reasonReplay {
		t.Errorf("overtaken beat: %q, want %q", got, reasonReplay)
	}
}

func TestNewSessionOfTheSameBootIsAcceptedOnceItAnswers(t *testing.T) {
	var nonces uint64
	b := newRun("b", "b1", 2, &nonces)
	talk(newRun("a", "a1", 1, &nonces), b, 5)
	_, got := talk(newRun("a", "a1", 77, &nonces), b, 3)
	if diff := cmp.Diff([]string{reasonUnproven, "", ""}, got); diff != "" {
		t.Error(diff)
	}
}

// The former daemon run's beats carry answers that are still remembered; they
// must not bring that run back.
func TestFormerSessionCannotComeBack(t *testing.T) {
	var nonces uint64
	b := newRun("b", "b1", 2, &nonces)
	said, _ := talk(newRun("a", "a1", 1, &nonces), b, 5)
	fresh := newRun("a", "a1", 77, &nonces)
	talk(fresh, b, 3)
	for i, old := range said {
		if got := b.refuses(old); got != reasonUnproven {
			t.Errorf("beat %d of the former session: %q, want %q", i, got, reasonUnproven)
		}
	}
	if got := b.refuses(fresh.beatTo("b")); got != "" {
		t.Errorf("present session refused after the replays: %s", got)
	}
}

func TestReceiverThatForgotEverythingRefusesReplays(t *testing.T) {
	var nonces uint64
	said, _ := talk(newRun("a", "a1", 1, &nonces), newRun("b", "b1", 2, &nonces), 5)
	restarted := newRun("b", "b1", 3, &nonces)
	restarted.beatTo("a")
	for i, old := range said {
		if got := restarted.refuses(old); got != reasonUnproven {
			t.Errorf("beat %d: %q, want %q", i, got, reasonUnproven)
		}
	}
}

// Replays of an old session must not keep the peer's present session from
// getting its nonce back.
func TestReplaysDoNotSuppressEchoes(t *testing.T) {
	var nonces uint64
	a, b := newRun("a", "a1", 1, &nonces), newRun("b", "b1", 2, &nonces)
	talk(a, b, 3)
	echoed := 0
	for range 10 {
		b.refuses(beat.Beat{Node: "a", Boot: "a1", Session: 99, Counter: 1, Nonce: 4242})
		now := a.beatTo("b")
		b.refuses(now)
		b.refuses(beat.Beat{Node: "a", Boot: "a1", Session: 99, Counter: 1, Nonce: 4242})
		if b.beatTo("a").Echo == now.Nonce {
			echoed++
		}
	}
	if echoed != 5 {
		t.Errorf("the present session got %d of 10 nonces back, want every second", echoed)
	}
}

func TestOneWayPathIsSeenByTheMissingEcho(t *testing.T) {
	var nonces uint64
	a, b := newRun("a", "a1", 1, &nonces), newRun("b", "b1", 2, &nonces)
	talk(a, b, 3)
	for range nonceMemory + 1 { // b's beats are lost from here on
		b.beatTo("a")
		if got := b.refuses(a.beatTo("b")); got != "" {
			t.Fatalf("beat of a known session refused: %s", got)
		}
	}
	answered, refusal := b.admit(a.beatTo("b"), 0)
	if refusal != "" || answered.round != 0 {
		t.Errorf("got answered %v, refusal %q; want heard, and nothing of ours answered", answered, refusal)
	}
}

func TestTwoBootsOfOneNodeAreHeardSideBySide(t *testing.T) {
	var nonces uint64
	b := newRun("b", "b1", 9, &nonces)
	first, second := newRun("a", "a1", 1, &nonces), newRun("a", "a2", 2, &nonces)
	talk(first, b, 3)
	talk(second, b, 3)
	for _, r := range []*run{first, second} {
		if got := b.refuses(r.beatTo("b")); got != "" {
			t.Errorf("boot %s: %s", r.boot, got)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var nonces uint64
	b := newRun("b", "b1", 9, &nonces)
	for i := range 10 * bootLimit {
		talk(newRun("a", cluster.BootID(fmt.Sprint("boot", i)), uint64(100+i), &nonces), b, 3)
	}
	boots := b.peers["a"].boots
	if len(boots) != bootLimit {
		t.Errorf("%d boots remembered, want %d", len(boots), bootLimit)
	}
	for i := range bootLimit {
		if late := cluster.BootID(fmt.Sprint("boot", 10*bootLimit-1-i)); boots[late] == nil {
			t.Errorf("boot %s was forgotten before those silent for longer", late)
		}
	}
}

func TestOnlyPeersOfTheLastRoundAreHeard(t *testing.T) {
	var nonces uint64
	a, b := newRun("a", "a1", 1, &nonces), newRun("b", "b1", 2, &nonces)
	talk(a, b, 3)
	b.beatTo("c")
	if got := b.refuses(a.beatTo("b")); got != reasonStranger {
		t.Errorf("got %q, want %q", got, reasonStranger)
	}
}

func TestFaultsAreLoggedAtMostOnceInAnInterval(t *testing.T) {
	f := newFaults()
	var lines []uint64
	for i := range 101 {
		if since, due := f.note(faultRefused, "bad", time.Duration(i)*100*time.Millisecond); due {
			lines = append(lines, since)
		}
	}
	if diff := cmp.Diff([]uint64{1, 50, 50}, lines); diff != "" {
		t.Error(diff)
	}
	if got := f.stats().Refused["bad"]; got != 101 {
		t.Errorf("counted %d, want 101", got)
	}
}

package hostd

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

var errTimeout = errors.New("timed out")

func order(action string, epoch cluster.Epoch, decision string, life cluster.LifeID) Order {
	return Order{Action: action, Guest: g1, Order: hostapi.Order{Cluster: alpha, Incarnation: 1, Epoch: epoch, Decision: decision, Life: life}}
}

// carry admits and settles as the actor does. asked says whether the
// hypervisor was asked.
func (b *bench) carry(o Order, res Result) (reply hostapi.Reply, asked bool, err error) {
	early, _, err := b.Admit(o)
	if early != nil || err != nil {
		return deref(early), false, err
	}
	reply, effects, err := b.Settle(o, res)
	b.told = append(b.told, effects...)
	return reply, true, err
}

func code(err error) string {
	var refused *Refusal
	if errors.As(err, &refused) {
		return refused.Code
	}
	return ""
}

// The outcomes of off, by what the hypervisor says and what hostd has seen.
func TestOutcomesOfOff(t *testing.T) {
	seen := func(b *bench) { b.claimed() }
	never := func(*bench) {}
	over := func(b *bench) { b.claimed(); b.event(ended, lifeA, hypervisor.ReasonCrashed) }
	done, not, unknown := cluster.OutcomeDone, cluster.OutcomePending, cluster.OutcomeUnknown
	for _, c := range []struct {
		name     string
		immobile bool
		before   func(*bench)
		err      error
		want     cluster.Outcome // pending: refused as other_life
		cert     bool
	}{
		{"verified off is done", false, seen, nil, done, true},
		{"verified off is done for a life not seen before", false, never, nil, done, true},
		{"an ended life is done without asking", false, over, errTimeout, done, true},
		{"a timeout is unknown", true, seen, errTimeout, unknown, false},
		{"a hypervisor that does not answer is unknown", true, seen, hypervisor.ErrUnavailable, unknown, false},
		{"no such guest is unknown", true, seen, hypervisor.ErrNoGuest, unknown, false},
		{"C-2: not running is unknown", false, seen, hypervisor.ErrNotRunning, unknown, false},
		{"not running is unknown for a life never seen, also where guests cannot leave", true, never, hypervisor.ErrNotRunning, unknown, false},
		{"not running is the end of a life seen here where guests cannot leave", true, seen, hypervisor.ErrNotRunning, done, true},
		{"another life is the end of a life seen here where guests cannot leave", true, seen, hypervisor.ErrOtherLife, done, true},
		{"another life is refused", false, seen, hypervisor.ErrOtherLife, not, false},
		{"another life is refused for a life never seen", true, never, hypervisor.ErrOtherLife, not, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.immobile)
			c.before(b)
			reply, _, err := b.carry(order(hostapi.ActionOff, 1, "d1", lifeA), Result{Err: c.err})
			if c.want == not {
				if code(err) != hostapi.CodeOtherLife {
					t.Errorf("reply %+v, error %v, want a refusal", reply, err)
				}
				return
			}
			if err != nil || reply.Outcome != c.want || (reply.Certificate != nil) != c.cert {
				t.Errorf("reply %+v, error %v", reply, err)
			}
			if c.want == done {
				b.wantStatus(journal.Ended)
			}
		})
	}
}

// The hypervisor's own event may come before off returns: one certificate.
func TestOffAndItsEventMakeOneCertificate(t *testing.T) {
	b := newBench(t, false)
	b.claimed()
	o := order(hostapi.ActionOff, 1, "d1", lifeA)
	if reply, _, err := b.Admit(o); reply != nil || err != nil {
		t.Fatalf("%+v %v", reply, err)
	}
	b.event(ended, lifeA, hypervisor.ReasonDestroyed)
	reply, effects, err := b.Settle(o, Result{})
	b.told = append(b.told, effects...)
	if err != nil || reply.Outcome != offDone || reply.Certificate == nil {
		t.Errorf("reply %+v, error %v", reply, err)
	}
	b.wantEnded(cluster.CauseFenced)
}

// O-6: calls of an old leader arrive late.
func TestAnOlderLeadershipIsRefusedAlsoAfterARestart(t *testing.T) {
	b := newBench(t, true)
	b.claimed()
	if _, _, err := b.carry(order(hostapi.ActionPause, 6, "d1", lifeA), Result{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, action := range []string{hostapi.ActionOff, hostapi.ActionPause, hostapi.ActionUnpause} {
			_, asked, err := b.carry(order(action, 5, "d2", lifeA), Result{})
			if asked || code(err) != hostapi.CodeStaleEpoch {
				t.Errorf("%s of epoch 5 after 6: asked %v, error %v", action, asked, err)
			}
		}
		older := order(hostapi.ActionOff, 9, "d3", lifeA)
		older.Incarnation = 0
		if _, asked, err := b.carry(older, Result{}); asked || code(err) != hostapi.CodeStaleEpoch {
			t.Errorf("older incarnation: asked %v, error %v", asked, err)
		}
		b.run(boots1, true)
	}
	if _, asked, _ := b.carry(order(hostapi.ActionOff, 6, "d4", lifeA), Result{}); !asked {
		t.Error("the same epoch is refused")
	}
}

// P8: the epoch is durable before the hypervisor is asked.
func TestNothingIsDoneWhenTheEpochCannotBeWritten(t *testing.T) {
	b := newBench(t, true)
	b.claimed()
	b.storage.SetFail(syscall.ENOSPC)
	reply, asked, err := b.carry(order(hostapi.ActionOff, 1, "d1", lifeA), Result{})
	if asked || err != nil || reply.Outcome != cluster.OutcomeNotDone {
		t.Errorf("asked %v, reply %+v, error %v", asked, reply, err)
	}
}

// P9: off worked, but the journal takes nothing: not done yet, and not lost.
func TestOffIsUnknownUntilItsEndIsDurable(t *testing.T) {
	b := newBench(t, true)
	b.claimed()
	if reply, _, err := b.Admit(order(hostapi.ActionOff, 1, "d1", lifeA)); reply != nil || err != nil {
		t.Fatal(reply, err)
	}
	b.storage.SetFail(syscall.ENOSPC)
	reply, _, err := b.Settle(order(hostapi.ActionOff, 1, "d1", lifeA), Result{})
	if err != nil || reply.Outcome != cluster.OutcomeUnknown {
		t.Errorf("reply %+v, error %v", reply, err)
	}
	b.storage.SetFail(nil)
	b.list(hypervisor.StateOff, "")
	b.wantEnded(cluster.CauseFenced)
}

// O-6: a late off cannot hit the successor, and a repeated on starts nothing.
func TestARepeatedDecisionIsNotCarriedOutAgain(t *testing.T) {
	b := newBench(t, true)
	on := order(hostapi.ActionOn, 1, "start it", "")
	first, asked, err := b.carry(on, Result{Life: lifeA})
	if !asked || err != nil || first.Outcome != offDone || first.Life != lifeA {
		t.Fatalf("asked %v, reply %+v, error %v", asked, first, err)
	}
	b.event(ended, lifeA, hypervisor.ReasonShutdown)
	b.run(boots1, true)
	again, asked, err := b.carry(on, Result{Life: lifeB})
	if asked || err != nil {
		t.Errorf("asked %v, error %v", asked, err)
	}
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("second answer (-first +second):\n%s", diff)
	}
	other := order(hostapi.ActionPause, 1, "start it", lifeA)
	if _, asked, err := b.carry(other, Result{}); asked || code(err) != hostapi.CodeBadRequest {
		t.Errorf("the decision's name for something else: asked %v, error %v", asked, err)
	}
}

// The events of a guest that dies at once may come before on returns.
func TestAGuestThatDiesAtOnceIsNotTakenForATombstone(t *testing.T) {
	b := newBench(t, true)
	on := order(hostapi.ActionOn, 1, "d1", "")
	if reply, _, err := b.Admit(on); reply != nil || err != nil {
		t.Fatal(reply, err)
	}
	b.event(start, lifeA, hypervisor.ReasonBooted)
	b.event(ended, lifeA, hypervisor.ReasonCrashed)
	reply, effects, err := b.Settle(on, Result{Life: lifeA})
	b.told = append(b.told, effects...)
	if err != nil || reply.Outcome != offDone || reply.Life != lifeA || len(b.kills()) > 0 {
		t.Errorf("reply %+v, error %v, kills %v", reply, err, b.kills())
	}
}

// hostd dies between asking the hypervisor and writing the result.
func TestADecisionBegunAndNotFinishedStaysUnknown(t *testing.T) {
	b := newBench(t, true)
	on := order(hostapi.ActionOn, 1, "d1", "")
	if reply, _, err := b.Admit(on); reply != nil || err != nil {
		t.Fatal(reply, err)
	}
	b.run(boots1, true)
	reply, asked, err := b.carry(on, Result{Life: lifeA})
	if asked || err != nil || reply.Outcome != cluster.OutcomeUnknown {
		t.Errorf("asked %v, reply %+v, error %v", asked, reply, err)
	}
}

// off may be repeated for ever: it names the life.
func TestOffIsTriedAgainAfterUnknown(t *testing.T) {
	b := newBench(t, false)
	b.claimed()
	o := order(hostapi.ActionOff, 1, "d1", lifeA)
	if reply, _, _ := b.carry(o, Result{Err: errTimeout}); reply.Outcome != cluster.OutcomeUnknown {
		t.Errorf("reply %+v", reply)
	}
	if reply, asked, _ := b.carry(o, Result{}); !asked || reply.Outcome != offDone {
		t.Errorf("asked %v, reply %+v", asked, reply)
	}
	if reply, asked, _ := b.carry(o, Result{Err: errTimeout}); asked || reply.Outcome != offDone || reply.Certificate == nil {
		t.Errorf("asked %v, reply %+v", asked, reply)
	}
}

func TestOutcomesOfPauseAndOn(t *testing.T) {
	for _, c := range []struct {
		name   string
		action string
		res    Result
		want   cluster.Outcome
		code   string
	}{
		{"paused is done", hostapi.ActionPause, Result{}, offDone, ""},
		{"another life is refused", hostapi.ActionUnpause, Result{Err: hypervisor.ErrOtherLife}, cluster.OutcomeNotDone, hostapi.CodeOtherLife},
		{"not running is not done", hostapi.ActionPause, Result{Err: hypervisor.ErrNotRunning}, cluster.OutcomeNotDone, ""},
		{"a timeout is unknown", hostapi.ActionPause, Result{Err: errTimeout}, cluster.OutcomeUnknown, ""},
		{"running already is not done", hostapi.ActionOn, Result{Err: hypervisor.ErrRunning}, cluster.OutcomeNotDone, ""},
		{"a start without a life is unknown", hostapi.ActionOn, Result{}, cluster.OutcomeUnknown, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, true)
			b.claimed()
			life := lifeA
			if c.action == hostapi.ActionOn {
				life = ""
			}
			reply, _, err := b.carry(order(c.action, 1, "d", life), c.res)
			if reply.Outcome != c.want || code(err) != c.code {
				t.Errorf("reply %+v, error %v", reply, err)
			}
		})
	}
	b := newBench(t, true)
	b.claimed()
	b.event(ended, lifeA, hypervisor.ReasonCrashed)
	reply, asked, _ := b.carry(order(hostapi.ActionUnpause, 1, "d", lifeA), Result{})
	if asked || reply.Outcome != cluster.OutcomeNotDone || reply.Certificate == nil {
		t.Errorf("an ended life: asked %v, reply %+v", asked, reply)
	}
}

func TestOrdersThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Order)
		code string
		says string
	}{
		{"off without life", func(o *Order) { o.Life = "" }, hostapi.CodeBadRequest, "must name the life"},
		{"on with life", func(o *Order) { o.Action = hostapi.ActionOn }, hostapi.CodeBadRequest, "names none"},
		{"another action", func(o *Order) { o.Action = "reboot" }, hostapi.CodeBadRequest, "want off, on, pause or unpause"},
		{"no decision", func(o *Order) { o.Decision = "" }, hostapi.CodeBadRequest, "decision:"},
		{"a long decision", func(o *Order) { o.Decision = strings.Repeat("d", 257) }, hostapi.CodeBadRequest, "decision:"},
		{"a long life", func(o *Order) { o.Life = cluster.LifeID(strings.Repeat("l", 257)) }, hostapi.CodeBadRequest, "life:"},
		{"no epoch", func(o *Order) { o.Epoch = 0 }, hostapi.CodeBadRequest, "epoch:"},
		{"a guest that is not granted", func(o *Order) { o.Guest = "00000000-0000-4000-8000-000000000009" }, hostapi.CodeForbidden, "no such guest"},
		{"a life of another guest", func(o *Order) { o.Guest = g2 }, hostapi.CodeOtherLife, "belongs to guest"},
		{"a guest of another cluster", func(o *Order) { o.Cluster = beta }, hostapi.CodeForbidden, "belongs to cluster alpha"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, true)
			b.permits[beta] = []cluster.GuestID{g1, g2}
			b.claimed()
			o := order(hostapi.ActionOff, 1, "d", lifeA)
			c.edit(&o)
			_, asked, err := b.carry(o, Result{})
			if asked || code(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("asked %v, error %v", asked, err)
			}
			b.wantStatus(journal.Here)
		})
	}
}

package executor_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
)

func TestStopIsInReverseOrderAndReportedWhenVerified(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.own(stop(1))
		r.want("stops", "stop app, stop ip", "stopped")
		if got := r.exec.Active(); len(got) != 0 {
			t.Errorf("active %v, want nothing", got)
		}
	})
}

func TestStopAllReturnsOnlyWhenAllIsVerifiedStopped(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.agent.set(func(a *fakeAgent) { a.stopTakes = 10 * time.Second })
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		if got := r.exec.Active(); !slices.Equal(got, []cluster.ServiceName{"web"}) {
			t.Errorf("active %v, want web", got)
		}
		if err := r.exec.StopAll(context.Background(), "test"); err != nil {
			t.Errorf("StopAll: %v", err)
		}
		if r.agent.anyActive() {
			t.Error("StopAll returned while something runs")
		}
		r.want("stopped", "stop app, stop ip", "stopped")
	})
}

func TestAStopThatFailsIsReportedAndTriedAgain(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.agent.set(func(a *fakeAgent) { a.stopErr["app"] = errors.New("stuck") })
		r.own(stop(1))
		r.after(time.Second)
		r.want("the other resource is stopped all the same", "stop app, stop ip", "stop failed")
		if got := r.exec.Active(); !slices.Equal(got, []cluster.ServiceName{"web"}) {
			t.Errorf("active %v, want web: it may be", got)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		err := r.exec.StopAll(ctx, "test")
		if err == nil || !strings.Contains(err.Error(), "service web") || !strings.Contains(err.Error(), "stuck") {
			t.Errorf("StopAll: %v, want an error that names web and why", err)
		}
		r.agent.set(func(a *fakeAgent) { a.stopErr["app"] = nil; a.calls = nil })
		r.reports()
		r.after(5 * time.Second)
		r.want("tried again until it is verified", "stop app, stop ip", "stopped")
	})
}

func TestOwnershipTakenAwayStopsAtOnce(t *testing.T) {
	cases := []struct {
		rule string
		take func(r *rig)
	}{
		{"another boot owns it", func(r *rig) { r.own(elsewhere(2)) }},
		{"nobody owns it", func(r *rig) { r.own(cluster.Owner{Service: "web", Generation: 1}) }},
		{"the owner record is gone", func(r *rig) {
			_, err := r.leader.Commit(context.Background(), store.Tx{Writes: []cluster.Write{cluster.Remove(cluster.KeyOwner("web"))}})
			if err != nil {
				r.t.Fatal(err)
			}
		}},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			inBubble(t, func(r *rig) {
				r.own(run(1))
				r.want("runs", "start ip#1, start app#1", "running")
				c.take(r)
				r.want("stopped, and nothing is said about what is not ours", "stop app, stop ip", "")
			})
		})
	}
}

func TestOwnershipTakenAwayDuringASlowStartStopsAtOnce(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.agent.set(func(a *fakeAgent) { a.startTakes["app"] = 50 * time.Second })
		r.own(run(1))
		r.after(time.Second)
		r.want("starting", "start ip#1, start app#1", "starting")
		r.own(elsewhere(2))
		r.want("stopped", "stop app, stop ip", "")
	})
}

func TestANewGenerationStartsOnlyAfterTheFormerIsStopped(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.own(run(2))
		r.after(time.Second)
		r.want("generation 2 has its own ticket", "stop app, stop ip, start ip#2, start app#2", "running")
	})
}

func TestStopUsesTheDefinitionItWasStartedWith(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		order := stop(1)
		order.Definition.Resources = order.Definition.Resources[:1]
		order.Definition.Resources[0].Name = "other"
		r.own(order)
		r.want("by the former definition", "stop app, stop ip", "stopped")
	})
}

func TestAHeldServiceIsStoppedAndGoesOnWithANewGeneration(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.exec.Hold("store lost")
		r.want("held", "stop app, stop ip", "stopped")
		r.exec.Hold("")
		r.after(time.Minute)
		r.want("released: this generation has said its last word", "", "")
		r.own(run(2))
		r.want("the next one runs", "start ip#2, start app#2", "running")
	})
}

func TestNothingRunsAfterItsLastWordThoughTheMirrorLagsBehind(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.client.SetFault(mem.Fault{StallWatches: true}) // the node reads nothing, but writes
		r.exec.Hold("store lost")
		r.after(time.Second)
		r.want("held", "stop app, stop ip", "stopped")
		r.own(elsewhere(2)) // the leader takes it by its word
		r.exec.Hold("")
		r.after(time.Second)
		r.want("released before its own report came back", "", "")
	})
}

func TestNothingIsReportedOnceAnotherOwnsTheService(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.client.SetFault(mem.Fault{StallWatches: true})
		r.own(elsewhere(2))
		r.exec.Hold("store lost")
		r.after(time.Minute)
		r.want("stopped, and its word would be on another's service", "stop app, stop ip", "")
	})
}

func TestNothingNewStartsWhileHeld(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.exec.Hold("store lost")
		r.own(run(1))
		r.after(time.Minute)
		r.want("no start, and no answer that would bring the next order at once", "", "")
		r.exec.Hold("")
		r.want("released", "start ip#1, start app#1", "running")
	})
}

func TestTheLatchNeverOpens(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.exec.Latch("leaving")
		r.exec.Latch("again")
		r.want("stopped", "stop app, stop ip", "stopped")
		r.exec.Hold("held")
		r.exec.Hold("")
		r.own(run(2))
		r.after(time.Minute)
		r.want("no start, of whatever generation, and no answer", "", "")
		r.own(stop(2))
		r.want("an order to stop is answered", "stop app, stop ip", "stopped")
		if err := r.exec.StopAll(context.Background(), "leaving"); err != nil {
			t.Errorf("StopAll: %v", err)
		}
	})
}

func TestAReportIsRetriedUntilItIsCommitted(t *testing.T) {
	cases := []struct {
		rule  string
		fault mem.Fault
	}{
		{"unavailable", mem.Fault{Unavailable: true}},
		{"lost", mem.Fault{Commit: mem.CommitLost}},
		{"late", mem.Fault{Commit: mem.CommitLate}},
		{"unacknowledged", mem.Fault{Commit: mem.CommitUnacknowledged}},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			inBubble(t, func(r *rig) {
				r.own(run(1))
				r.want("runs", "start ip#1, start app#1", "running")
				r.own(stop(1)) // reported stopped before the fault
				r.want("stops", "stop app, stop ip", "stopped")
				r.own(run(2))
				r.want("runs", "start ip#2, start app#2", "running")
				r.client.SetFault(c.fault)
				r.own(stop(2))
				r.after(20 * time.Second)
				r.client.SetFault(mem.Fault{})
				r.after(time.Second)
				if got := r.state().Reports["web"].Value; got.State != cluster.ReportStopped || got.Generation != 2 {
					t.Errorf("report %+v, want generation 2 stopped", got)
				}
			})
		})
	}
}

// A report that was overtaken must not arrive after its successor: the leader
// would wait for ever for a word that was said already.
func TestAnOvertakenReportNeverReplacesItsSuccessor(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.end()
		other := r.server.Client("n1-second-link")
		two := &twoLinks{late: r.server.Client("n1-late-link"), Store: other}
		r.daemon("n1", func(store.Store) store.Store { return two })
		two.late.SetFault(mem.Fault{Commit: mem.CommitLate})
		r.own(run(1))
		r.after(time.Second)
		r.want("runs", "start ip#1, start app#1", "running")
		r.own(stop(1))
		r.after(time.Second)
		r.want("stops", "stop app, stop ip", "stopped")
		two.late.SetFault(mem.Fault{})
		r.after(time.Minute)
		if got := r.state().Reports["web"].Value.State; got != cluster.ReportStopped {
			t.Errorf("report %q, want stopped", got)
		}
	})
}

// twoLinks sends the first try of every report on a link where it is late, as
// a request that is stuck in a store leader's queue.
type twoLinks struct {
	store.Store
	late *mem.Client
	last string
}

func (l *twoLinks) Commit(ctx context.Context, tx store.Tx) (cluster.Revision, error) {
	if key := tx.Writes[0].Key; key == cluster.KeyReport("web") && l.last != string(tx.Writes[0].Value) {
		l.last = string(tx.Writes[0].Value)
		return l.late.Commit(ctx, tx)
	}
	return l.Store.Commit(ctx, tx)
}

func TestProbeCountsAnythingButVerifiedInactiveAsActive(t *testing.T) {
	cases := []struct {
		rule    string
		setup   func(a *fakeAgent)
		calls   string
		clean   bool
		mention string
	}{
		{"inactive", func(*fakeAgent) {}, "", true, ""},
		{"active is stopped, verified", func(a *fakeAgent) { a.active["app"] = true }, "stop app, stop ip", true, ""},
		{"failed is stopped", func(a *fakeAgent) { a.status = resource.StatusFailed }, "stop app, stop ip", true, ""},
		{"an error counts as active", func(a *fakeAgent) { a.monitorErr = errors.New("no answer") }, "stop app, stop ip", true, ""},
		{"an error counts as active whatever the status beside it", func(a *fakeAgent) {
			a.status, a.monitorErr = resource.StatusInactive, errors.New("no answer")
		}, "stop app, stop ip", true, ""},
		{"active and not stoppable is said", func(a *fakeAgent) {
			a.active["ip"], a.stopErr["ip"] = true, errors.New("stuck")
		}, "stop app, stop ip", false, "resource ip: stop: stuck"},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			inBubble(t, func(r *rig) {
				r.agent.set(c.setup)
				found := r.exec.Probe(context.Background(), web())
				r.want(c.rule, c.calls, "")
				if (found == "") != c.clean || !strings.Contains(found, c.mention) {
					t.Errorf("found %q", found)
				}
			})
		})
	}
}

func TestProbeOfAnAgentThatDoesNotExistCountsAsActive(t *testing.T) {
	inBubble(t, func(r *rig) {
		def := web()
		def.Resources[0].Agent = "absent"
		if found := r.exec.Probe(context.Background(), def); !strings.Contains(found, `no agent "absent"`) {
			t.Errorf("found %q", found)
		}
	})
}

func TestAStopDoesNotWaitForTheStartsOfOthers(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.agent.set(func(a *fakeAgent) { a.startTakes["slow"] = 50 * time.Second })
		for i := range 64 {
			order := run(1)
			order.Service = cluster.ServiceName(strings.Repeat("s", i+1))
			order.Definition.Name = order.Service
			order.Definition.Resources = order.Definition.Resources[:1]
			order.Definition.Resources[0].Name = "slow"
			r.own(order)
		}
		r.agent.take()
		r.own(stop(1))
		if r.agent.anyActive() {
			t.Error("web still runs: its stop waits behind slow starts")
		}
		r.agent.take()
		r.after(10 * time.Minute)
	})
}

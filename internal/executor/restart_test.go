package executor_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
)

func TestAResourceThatEndsIsRestartedAtOnceUnderTheSameTicket(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		ticket := r.state().Tickets["web"].Rev
		r.agent.kill("app")
		synctest.Wait() // no time passes
		r.want("only from the failed resource on", "stop app, start app#1", "running")
		if got := r.state().Tickets["web"].Rev; got != ticket {
			t.Errorf("ticket of revision %d, want the one of revision %d", got, ticket)
		}
		if got := r.state().Reports["web"].Value.Restarts; got != 1 {
			t.Errorf("%d restarts reported, want 1", got)
		}
		r.agent.kill("ip")
		r.want("what comes after it too", "stop app, stop ip, start ip#1, start app#1", "running")
	})
}

func TestRestartsInPlaceAreLimitedWithinTheWindow(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1)) // two within a minute
		r.want("runs", "start ip#1, start app#1", "running")
		for range 3 { // one in 40 s is allowed for ever
			r.agent.kill("app")
			r.want("restart", "stop app, start app#1", "running")
			r.after(40 * time.Second)
		}
		r.agent.kill("app")
		r.want("second within the window", "stop app, start app#1", "running")
		r.agent.kill("app")
		r.want("third within the window", "stop app, stop ip", "failed")
		if got := r.state().Reports["web"].Value.Detail; got == "" {
			t.Error("the report does not say why")
		}
	})
}

func TestARestartThatFailsEndsTheGeneration(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.agent.set(func(a *fakeAgent) { a.startErr["app"] = errors.New("disk full") })
		r.agent.kill("app")
		r.after(time.Second)
		r.want("stopped, verified, then reported", "stop app, start app#1, stop app, stop ip", "failed")
	})
}

func TestAStopThatFailsDuringARestartIsReportedAsSuch(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.agent.set(func(a *fakeAgent) { a.stopErr["app"] = errors.New("stuck") })
		r.agent.kill("app")
		r.after(time.Second)
		r.want("never started over what may be active", "stop app, stop app, stop ip", "stop failed")
	})
}

func TestARestartInPlaceNeedsNoStore(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.client.SetFault(mem.Cut())
		r.agent.kill("app")
		r.after(5 * time.Second)
		r.want("the ticket stands", "stop app, start app#1", "")
		r.client.SetFault(mem.Fault{})
		r.after(time.Second)
		r.want("told when the store is back", "", "running")
	})
}

func TestNoRestartBehindALatch(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.agent.set(func(a *fakeAgent) {
			a.onStop = func() { a.onStop = nil; go r.exec.Latch("in the middle of a restart") }
		})
		r.agent.kill("app")
		r.after(time.Second)
		r.agent.set(func(a *fakeAgent) { a.calls = nil })
		if r.agent.anyActive() {
			t.Error("something runs behind a closed latch")
		}
		if got := r.state().Reports["web"].Value.State; got != cluster.ReportStopped {
			t.Errorf("report %q, want stopped", got)
		}
	})
}

func TestARestartOfTheDaemonIsNoStopOrder(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.end()
		r.want("the daemon ends", "", "")
		r.daemon("n1", nil)
		r.after(time.Minute)
		r.want("the next run takes over", "", "running")
		r.agent.kill("app")
		r.want("and supervises", "stop app, start app#1", "running")
		r.own(stop(1))
		r.want("and stops", "stop app, stop ip", "stopped")
	})
}

func TestADaemonThatEndsInTheMiddleOfAStartStopsNothing(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.agent.set(func(a *fakeAgent) { a.startTakes["app"] = 30 * time.Second })
		r.own(run(1))
		r.after(time.Second)
		r.want("starting", "start ip#1, start app#1", "starting")
		r.end()
		r.want("the daemon ends", "", "")
		r.daemon("n1", nil)
		r.after(time.Minute)
		r.want("the next run repairs what is not active", "stop app, start app#1", "running")
	})
}

func TestADaemonThatEndsDuringATakeOverStopsNothing(t *testing.T) {
	for range 20 { // the order in which it notices is random
		inBubble(t, func(r *rig) {
			r.own(run(1))
			r.want("runs", "start ip#1, start app#1", "running")
			r.end()
			r.agent.set(func(a *fakeAgent) { a.onMonitor = func() { r.cancel() } })
			r.daemon("n1", nil)
			r.after(time.Second)
			if got := r.agent.take(); got != "" {
				t.Fatalf("agents were told %q", got)
			}
		})
	}
}

func TestAStopOrderForAnEarlierRunsGenerationIsCarriedOut(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		r.end()
		r.own(stop(1))
		r.daemon("n1", nil)
		r.want("stopped without having started it", "stop app, stop ip", "stopped")
		r.after(time.Minute)
		r.want("once", "", "")
	})
}

// The report of a daemon that has died may still be under way. Its successor
// must not run what that report will say is stopped.
func TestALateReportOfAnEarlierRunCannotDisownWhatRuns(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		first := r.client
		first.SetFault(mem.Fault{Commit: mem.CommitLate})
		r.exec.Hold("store lost")
		r.after(time.Second)
		r.want("stopped, and the report is under way", "stop app, stop ip", "")
		r.end()
		r.daemon("n1-again", nil)
		r.after(time.Second)
		r.want("taken over and repaired", "stop app, stop ip, start ip#1, start app#1", "running")
		first.SetFault(mem.Fault{})
		r.after(time.Second)
		if got := r.state().Reports["web"].Value.State; got == cluster.ReportStopped && r.agent.anyActive() {
			t.Error("reported stopped while it runs: the leader will start it elsewhere")
		}
	})
}

// And when that report arrives before the successor acts, it is binding, though
// the successor does not see it yet.
func TestAnEarlierRunsLastWordIsBinding(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1))
		r.want("runs", "start ip#1, start app#1", "running")
		first := r.client
		first.SetFault(mem.Fault{Commit: mem.CommitLate})
		r.exec.Hold("store lost")
		r.after(time.Second)
		r.want("stopped, and the report is under way", "stop app, stop ip", "")
		r.end()
		commits := r.server.Client("n1-again-commits")
		commits.SetFault(mem.Fault{Unavailable: true})
		r.daemon("n1-again", func(store.Store) store.Store { return commits })
		r.client.SetFault(mem.Fault{StallWatches: true})
		first.SetFault(mem.Fault{})
		commits.SetFault(mem.Fault{})
		r.after(time.Second)
		r.want("the last word has arrived and is not seen", "", "stopped")
		r.client.SetFault(mem.Fault{})
		r.after(time.Minute)
		r.want("it is seen", "", "")
	})
}

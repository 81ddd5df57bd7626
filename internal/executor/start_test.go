package executor_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
)

func TestTicketStandsBeforeTheFirstAgentRuns(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.own(run(1)) // the fake agent looks for the ticket at every start
		r.want("resources start in order", "start ip#1, start app#1", "running")
		want := cluster.Ticket{Service: "web", Generation: 1, Node: "n1", Boot: "b1", Epoch: 1}
		if got := r.state().Tickets["web"].Value; got != want {
			t.Errorf("ticket %+v, want %+v", got, want)
		}
	})
}

func TestNoStartOnceTheStoreSaysOtherwise(t *testing.T) {
	cases := []struct {
		rule   string
		happen func(r *rig)
	}{
		{"the boot has a tombstone", func(r *rig) {
			r.put(cluster.KeyEnded("b1"), cluster.Ended{Boot: "b1", Evidence: cluster.EvidenceFenced})
		}},
		{"the boot is to be fenced", func(r *rig) {
			r.put(cluster.KeyFence("b1"), cluster.Fence{Boot: "b1", Reason: cluster.FenceSilent})
		}},
		{"another boot is the owner", func(r *rig) { r.own(elsewhere(2)) }},
	}
	for _, c := range cases {
		t.Run(c.rule+" and the node knows", func(t *testing.T) {
			inBubble(t, func(r *rig) {
				r.client.SetFault(mem.Fault{Unavailable: true})
				r.own(run(1))
				c.happen(r)
				r.client.SetFault(mem.Fault{})
				r.after(time.Minute)
				r.want(c.rule, "", "")
			})
		})
		t.Run(c.rule+" and the node does not know", func(t *testing.T) {
			inBubble(t, func(r *rig) {
				r.client.SetFault(mem.Fault{Unavailable: true})
				r.own(run(1))
				r.client.SetFault(mem.Fault{Unavailable: true, StallWatches: true})
				c.happen(r)
				r.client.SetFault(mem.Fault{StallWatches: true}) // it can write, and sees nothing
				r.after(time.Minute)
				r.want(c.rule, "", "")
				r.client.SetFault(mem.Fault{})
				r.after(time.Minute)
				r.want(c.rule+", seen at last", "", "")
			})
		})
	}
}

func TestNoStartUnderAnEpochThatIsNotTheNewest(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.client.SetFault(mem.Fault{Unavailable: true})
		r.own(run(1))
		r.client.SetFault(mem.Fault{Unavailable: true, StallWatches: true})
		r.put(cluster.KeyLeader, cluster.Leader{Node: "n8", Boot: "b8", Epoch: 2})
		r.client.SetFault(mem.Fault{StallWatches: true})
		r.after(time.Minute)
		r.want("the new leader is not known here", "", "")
		r.client.SetFault(mem.Fault{})
		r.after(time.Second)
		r.want("it is known now, and the order stands", "start ip#1, start app#1", "running")
		if got := r.state().Tickets["web"].Value.Epoch; got != 2 {
			t.Errorf("ticket of epoch %d, want 2", got)
		}
	})
}

func TestTicketOfUnknownOutcomeStartsOnceWhateverTheTruth(t *testing.T) {
	cases := []struct {
		truth string
		fault mem.CommitFault
	}{
		{"not committed", mem.CommitLost},
		{"committed", mem.CommitUnacknowledged},
		{"committed late", mem.CommitLate},
	}
	for _, c := range cases {
		t.Run(c.truth, func(t *testing.T) {
			inBubble(t, func(r *rig) {
				r.client.SetFault(mem.Fault{Commit: c.fault})
				order := run(1)
				order.Definition.Restarts = 0 // a start that is taken for a failure ends the service
				r.own(order)
				r.after(170 * time.Millisecond)
				calls := ""
				if c.fault == mem.CommitUnacknowledged {
					calls = "start ip#1, start app#1"
				}
				if got := r.agent.take(); got != calls {
					t.Errorf("while unknown: agents were told %q, want %q", got, calls)
				}
				r.client.SetFault(mem.Fault{})
				r.after(5 * time.Second)
				rest := "start ip#1, start app#1"
				if calls != "" {
					rest = ""
				}
				if got := r.agent.take(); got != rest {
					t.Errorf("afterwards: agents were told %q, want %q", got, rest)
				}
				if got := r.state().Reports["web"].Value; got.State != cluster.ReportRunning || got.Restarts != 0 {
					t.Errorf("report %+v, want running without restarts", got)
				}
			})
		})
	}
}

// stashed keeps the first ticket that is committed for later, and says that its
// outcome is unknown.
type stashed struct {
	store.Store
	mu sync.Mutex
	tx *store.Tx
}

func (s *stashed) Commit(ctx context.Context, tx store.Tx) (cluster.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tx == nil && tx.Writes[0].Key == cluster.KeyTicket("web") {
		s.tx = &tx
		return 0, store.ErrUnknown
	}
	return s.Store.Commit(ctx, tx)
}

// I2: evidence is newer than the last start ticket, or it is none. Found by the
// simulator, seed 10461.
func TestATicketThatArrivesBehindTheWordOnItsStartIsVoid(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.end()
		var link *stashed
		r.daemon("n1", func(s store.Store) store.Store { link = &stashed{Store: s}; return link })
		r.own(run(1))
		r.after(5 * time.Second)
		before := r.state()
		if _, err := r.leader.Commit(t.Context(), *link.tx); err == nil {
			t.Errorf("the ticket stands anew behind the report of revision %d", before.Reports["web"].Rev)
		}
		if got := r.state().Tickets["web"].Rev; got != before.Tickets["web"].Rev {
			t.Errorf("the ticket is of revision %d, want %d", got, before.Tickets["web"].Rev)
		}
	})
}

// heldBack hands out the answers of commits only when told to.
type heldBack struct {
	store.Store
	mu     sync.Mutex
	answer chan struct{} // nil: at once
}

func (h *heldBack) Commit(ctx context.Context, tx store.Tx) (cluster.Revision, error) {
	rev, err := h.Store.Commit(ctx, tx)
	h.mu.Lock()
	answer := h.answer
	h.mu.Unlock()
	if answer != nil {
		<-answer
	}
	return rev, err
}

func TestNothingStartsBehindALatchThatClosesWhileTheTicketIsCommitted(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.end()
		slow := &heldBack{answer: make(chan struct{})}
		r.daemon("n1", func(st store.Store) store.Store { slow.Store = st; return slow })
		r.own(run(1))
		if r.state().Tickets["web"].Value.Generation != 1 {
			t.Fatal("the ticket is not on its way")
		}
		stopped := make(chan error, 1)
		go func() { stopped <- r.exec.StopAll(context.Background(), "test") }()
		synctest.Wait()
		close(slow.answer)
		r.after(time.Second)
		if err := <-stopped; err != nil {
			t.Errorf("StopAll: %v", err)
		}
		if got := r.agent.take(); got != "stop app, stop ip" {
			t.Errorf("agents were told %q, want no start and a verified stop", got)
		}
		if got := r.state().Reports["web"].Value.State; got != cluster.ReportStopped {
			t.Errorf("report %q, want stopped", got)
		}
	})
}

func TestNoTicketOnceTheLatchIsClosed(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.client.SetFault(mem.Fault{Unavailable: true})
		r.own(run(1))
		r.exec.Latch("test")
		r.client.SetFault(mem.Fault{})
		r.after(time.Second)
		r.want("latched while the store was down", "", "")
		if got := r.state().Tickets["web"]; got.Rev != 0 {
			t.Errorf("a ticket was taken behind a closed latch: %+v", got.Value)
		}
	})
}

func TestAFailedStartIsStoppedVerifiedBeforeItIsReported(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.agent.set(func(a *fakeAgent) {
			a.startErr["app"] = errors.New("no licence")
			a.stopErr["ip"] = errors.New("address stuck")
		})
		r.own(run(1))
		r.after(time.Second)
		r.want("the stop is not verified: not failed yet", "start ip#1, start app#1, stop app, stop ip", "stop failed")
		r.agent.set(func(a *fakeAgent) { a.stopErr["ip"] = nil })
		r.after(5 * time.Second)
		r.want("verified now", "stop app, stop ip", "failed")
		if r.agent.anyActive() {
			t.Error("something is left")
		}
		r.after(time.Minute)
		r.want("a failed generation is never tried again", "", "")
	})
}

func TestAFailedStartIsNotReportedWhileItsStopIsUnderWay(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.agent.set(func(a *fakeAgent) { a.startErr["app"], a.stopTakes = errors.New("no licence"), 10*time.Second })
		r.own(run(1))
		r.after(19 * time.Second)
		r.want("not verified yet", "start ip#1, start app#1, stop app, stop ip", "starting")
		r.after(2 * time.Second)
		r.want("verified", "", "failed")
	})
}

func TestNoFurtherResourceStartsOnceTheLatchIsClosed(t *testing.T) {
	for range 30 { // the order in which the worker notices is random
		inBubble(t, func(r *rig) {
			r.agent.set(func(a *fakeAgent) { a.onStart = func() { r.exec.Latch("test") } })
			r.own(run(1))
			r.want("latched while ip started", "start ip#1, stop app, stop ip", "stopped")
		})
	}
}

func TestAStartThatOutlastsItsTimeoutIsAFailedStart(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.agent.set(func(a *fakeAgent) { a.startTakes["app"] = 2 * time.Minute })
		r.own(run(1))
		r.after(time.Minute + time.Second)
		r.want("timed out", "start ip#1, start app#1, stop app, stop ip", "failed")
	})
}

func TestAnAgentThatDoesNotExistIsAFailedStart(t *testing.T) {
	inBubble(t, func(r *rig) {
		order := run(1)
		order.Definition.Resources[1].Agent = "absent"
		r.own(order)
		r.after(time.Second)
		r.want("what was started is stopped", "start ip#1, stop ip", "stop failed")
	})
}

func TestAStopOrderEndsASlowStartAtOnce(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.agent.set(func(a *fakeAgent) { a.startTakes["ip"] = 50 * time.Second })
		r.own(run(1))
		r.after(5 * time.Second)
		r.want("under way", "start ip#1", "starting")
		r.own(stop(1))
		r.want("stopped at once, and app never started", "stop app, stop ip", "stopped")
	})
}

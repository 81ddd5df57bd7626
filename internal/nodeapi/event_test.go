package nodeapi

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/mirror"
)

// story applies writes one by one and returns the texts of the events.
type story struct {
	state cluster.State
	log   *EventLog
	rev   cluster.Revision
	now   time.Duration
}

func (s *story) tell(writes ...cluster.Write) []string {
	_, from, _, _ := s.log.from(0)
	for _, w := range writes {
		s.rev++
		before := s.state.Only(w.Key)
		kv := cluster.KV{Key: w.Key, Value: w.Value, Rev: s.rev}
		if err := s.state.Apply(kv, w.Delete, s.now); err != nil {
			panic(err)
		}
		s.log.OnChange(&before, &s.state, mirror.Change{KV: kv, Deleted: w.Delete})
	}
	events, _, _, _ := s.log.from(from)
	var out []string
	for _, e := range events {
		out = append(out, e.Text)
	}
	return out
}

func TestEventsTellAFailover(t *testing.T) {
	s := &story{log: NewEventLog(time.Now)}
	boot := func(n cluster.NodeName, p cluster.Phase) cluster.Write {
		return cluster.Put(cluster.KeyBoot(bootOf(n)), cluster.Boot{ID: bootOf(n), Node: n, Phase: p, Life: cluster.LifeID("life-" + n), Places: []cluster.HostName{"h1"}})
	}
	view := func(boots map[cluster.BootID]cluster.Silence) cluster.Write {
		return cluster.Put(cluster.KeyView("n2"), cluster.View{Node: "n2", Boot: "boot-n2", Silent: boots})
	}
	owner := func(n cluster.NodeName, g cluster.Generation, want cluster.Want, why string) cluster.Write {
		return cluster.Put(cluster.KeyOwner("web"), cluster.Owner{Service: "web", Node: n, Boot: bootOf(n), Generation: g, Want: want, Reason: why})
	}
	report := func(n cluster.NodeName, g cluster.Generation, state cluster.ReportState, detail string) cluster.Write {
		return cluster.Put(cluster.KeyReport("web"), cluster.Report{Service: "web", Node: n, Boot: bootOf(n), Generation: g, State: state, Detail: detail})
	}
	fence := func(attempt int) cluster.Write {
		return cluster.Put(cluster.KeyFence("boot-n1"), cluster.Fence{Boot: "boot-n1", Node: "n1", Reason: cluster.FenceSilent, Detail: "lost by n2, 1 of 1 observers", Attempt: attempt, Executor: "n2"})
	}
	suspect := map[cluster.BootID]cluster.Silence{"boot-n1": cluster.SilenceSuspect}
	lost := map[cluster.BootID]cluster.Silence{"boot-n1": cluster.SilenceLost}
	got := s.tell(
		boot("n1", cluster.PhaseJoining), boot("n1", cluster.PhaseMember), boot("n2", cluster.PhaseMember),
		cluster.Put(cluster.KeyLeader, cluster.Leader{Node: "n2", Boot: "boot-n2", Epoch: 2}),
		owner("n1", 1, cluster.WantRun, "nobody owns it"),
		cluster.Put(cluster.KeyTicket("web"), cluster.Ticket{Service: "web", Node: "n1", Generation: 1}),
		report("n1", 1, cluster.ReportStarting, ""), report("n1", 1, cluster.ReportRunning, ""), report("n1", 1, cluster.ReportRunning, ""),
		view(suspect), view(suspect), view(nil), view(lost),
		cluster.Put(cluster.KeyAppeal("boot-n1"), cluster.Appeal{Node: "n1", Boot: "boot-n1", Answers: map[cluster.NodeName]cluster.Revision{"n2": 9}}),
		cluster.Put(cluster.KeyAppeal("boot-n1"), cluster.Appeal{Node: "n1", Boot: "boot-n1", Answers: map[cluster.NodeName]cluster.Revision{"n2": 10}}),
		fence(1),
		cluster.Put(cluster.KeyFenceReport("boot-n1"), cluster.FenceReport{Boot: "boot-n1", Attempt: 1, Executor: "n2", Outcome: cluster.OutcomeUnknown, Detail: "host h1: no answer"}),
		fence(2),
		cluster.Put(cluster.KeyCertificate("life-n1", "h1"), cluster.DeathCertificate{Life: "life-n1", Host: "h1", Cause: cluster.CauseFenced}),
		cluster.Put(cluster.KeyEnded("boot-n1"), cluster.Ended{Boot: "boot-n1", Node: "n1", Evidence: cluster.EvidenceFenced, Detail: "host h1, its no. 3"}),
		view(nil),
		owner("n2", 2, cluster.WantRun, "boot boot-n1 of n1 has ended (fenced)"),
		owner("n2", 2, cluster.WantStop, "stopped by ann"),
		report("n2", 2, cluster.ReportStopFailed, "resource main: killed, still there"),
		cluster.Put(cluster.KeyOwner("web"), cluster.Owner{Service: "web", Generation: 2, Reason: "stopped by ann"}),
		cluster.Remove(cluster.KeyBoot("boot-n1")), cluster.Remove(cluster.KeyFence("boot-n1")),
	)
	want := []string{
		"n1 has booted on host h1 and looks what is active (boot boot-n1)",
		"n1 is a member and may run services",
		"n2 has booted on host h1 and looks what is active (boot boot-n2)",
		"n2 leads now, epoch 2",
		"web is given to n1, generation 1: nobody owns it",
		"n1 opens the start of web, generation 1",
		"web is starting on n1",
		"web is running on n1",
		"n2 does not hear n1 (suspect)",
		"n2 hears n1 again",
		"n2 does not hear n1 (lost)",
		"n1 is not heard by n2 but answers through the store: it is alive, check the heartbeat network",
		"n1 is to be fenced, silent: lost by n2, 1 of 1 observers; attempt 1 by n2",
		"fencing n1, attempt 1 by n2: unknown (host h1: no answer)",
		"fencing n1 goes on: attempt 2 by n2",
		"host h1 certifies that the guest of n1 has ended: fenced",
		"n1 has ended, by fenced: host h1, its no. 3 (boot boot-n1)",
		"web is given to n2, generation 2: boot boot-n1 of n1 has ended (fenced)",
		"web shall stop on n2: stopped by ann",
		"web could not be stopped on n2, which must be fenced: resource main: killed, still there",
		"web is given to nobody: stopped by ann",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEventsTellWhatOperatorsDo(t *testing.T) {
	s := &story{log: NewEventLog(time.Now)}
	s.tell(cluster.Put(cluster.KeyMeta, cluster.Meta{Name: "demo"}))
	got := s.tell(
		cluster.Put(cluster.KeyConfig, cluster.Config{Nodes: make([]cluster.NodeConfig, 3), Services: make([]cluster.ServiceConfig, 1)}),
		cluster.Put(cluster.KeyToken("abc"), cluster.Token{ID: "abc"}),
		cluster.Put(cluster.KeyToken("abc"), cluster.Token{ID: "abc", Node: "n4"}),
		cluster.Remove(cluster.KeyToken("abc")),
		cluster.Put(cluster.KeyNode("n4"), cluster.Node{Name: "n4", Address: "192.0.2.4"}),
		cluster.Put(cluster.KeyNode("n4"), cluster.Node{Name: "n4", Address: "192.0.2.4", Member: 7}),
		cluster.Put(cluster.KeyHost("h1"), cluster.Host{Name: "h1", Address: "192.0.2.9:1"}),
		cluster.Remove(cluster.KeyHost("h1")),
		cluster.Put(cluster.KeyWish("web"), cluster.Wish{Service: "web", Stopped: true, By: "ann"}),
		cluster.Remove(cluster.KeyWish("web")),
		cluster.Put(cluster.KeyWish("web"), cluster.Wish{Service: "web", MoveTo: "n2", By: "ann"}),
		cluster.Remove(cluster.KeyWish("web")),
		cluster.Put(cluster.KeyFailure("web", "n2"), cluster.Failure{Service: "web", Node: "n2", Count: 2, Detail: "exit status 1"}),
		cluster.Remove(cluster.KeyFailure("web", "n2")),
		cluster.Put(cluster.KeyProbe("n2"), cluster.Probe{Node: "n2", Active: map[cluster.ServiceName]string{"web": "a process is there"}}),
	)
	want := []string{
		"a new configuration is applied: 3 nodes, 1 service",
		"join token abc was made", "join token abc was used by n4",
		"n4 is admitted, at 192.0.2.4", "n4 is announced to the voters",
		"host h1 is enrolled, at 192.0.2.9:1", "host h1 was removed",
		"web is wished stopped, by ann", "web may run again",
		"web is wished to move to n2, by ann", "the move of web to n2 is over",
		"web avoids n2, which failed to run it (2 times): exit status 1", "web may run on n2 again: its failures are cleared",
		"web may be active on n2, which does not own it: a process is there",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEventLogForgetsTheOldest(t *testing.T) {
	s := &story{log: NewEventLog(time.Now)}
	for i := range eventLimit + 5 {
		s.tell(cluster.Put(cluster.KeyNode(cluster.NodeName(fmt.Sprintf("n%d", i))), cluster.Node{Name: "n"}))
	}
	events, next, missed, _ := s.log.from(0)
	if len(events) != eventLimit || missed != 5 || next != eventLimit+5 || events[0].Revision != 6 {
		t.Errorf("%d events, %d missed, next %d, first at %d", len(events), missed, next, events[0].Revision)
	}
	if events, _, missed, _ = s.log.from(next); len(events) != 0 || missed != 0 {
		t.Errorf("behind the last: %d events, %d missed", len(events), missed)
	}
}

func TestEveryKindOfRecordGivesAnEvent(t *testing.T) {
	for _, w := range []cluster.Write{
		cluster.Put(cluster.KeyConfig, cluster.Config{}),
		cluster.Put(cluster.KeyLeader, cluster.Leader{}),
		cluster.Put(cluster.KeyNode("x"), cluster.Node{}),
		cluster.Put(cluster.KeyHost("x"), cluster.Host{}),
		cluster.Put(cluster.KeyBoot("x"), cluster.Boot{}),
		cluster.Put(cluster.KeyEnded("x"), cluster.Ended{}),
		cluster.Put(cluster.KeyCertificate("x", "h"), cluster.DeathCertificate{}),
		cluster.Put(cluster.KeyView("x"), cluster.View{Abstain: true}),
		cluster.Put(cluster.KeyAppeal("x"), cluster.Appeal{}),
		cluster.Put(cluster.KeyFence("x"), cluster.Fence{}),
		cluster.Put(cluster.KeyFenceReport("x"), cluster.FenceReport{}),
		cluster.Put(cluster.KeyPowerOn("x"), cluster.PowerOn{}),
		cluster.Put(cluster.KeyPowerOnReport("x"), cluster.PowerOnReport{}),
		cluster.Put(cluster.KeyOwner("x"), cluster.Owner{Boot: "b"}),
		cluster.Put(cluster.KeyTicket("x"), cluster.Ticket{}),
		cluster.Put(cluster.KeyReport("x"), cluster.Report{State: cluster.ReportRunning}),
		cluster.Put(cluster.KeyProbe("x"), cluster.Probe{Active: map[cluster.ServiceName]string{"s": "there"}}),
		cluster.Put(cluster.KeyFailure("x", "n"), cluster.Failure{}),
		cluster.Put(cluster.KeyStandby("x"), cluster.Standby{}),
		cluster.Put(cluster.KeyWish("x"), cluster.Wish{Stopped: true}),
		cluster.Put(cluster.KeyToken("x"), cluster.Token{}),
	} {
		s := &story{log: NewEventLog(time.Now)}
		if len(s.tell(w)) != 1 {
			t.Errorf("%s gives no event", w.Key)
		}
	}
}

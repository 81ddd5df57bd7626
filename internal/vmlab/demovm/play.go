package demovm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/judge"
	"ringfence/internal/demo/trace"
	"ringfence/internal/nodeapi"
	"ringfence/internal/vmlab"
)

const (
	recoverTimeout = 2 * time.Minute
	// steadyAnswers in a row mean that the service is back.
	steadyAnswers = 5
	// settleTime is for how long the service is watched before a fault.
	settleTime = 500 * time.Millisecond
	// crashTimeout is how long a guest is asked to crash its kernel: it cannot answer.
	crashTimeout = 500 * time.Millisecond
)

// scenario is one thing that goes wrong.
type scenario struct {
	number int
	title  string
	what   string // said while it happens; %s is the victim
	// evidence is a word of the evidence that the cluster must have acted on.
	evidence string
	// fault makes it go wrong.
	fault func(ctx context.Context, s *stage, victim *node) error
	// repair puts right what the cluster does not by itself; nil: nothing.
	repair func(s *stage, victim *node)
}

func scenarios() []scenario {
	return []scenario{
		{
			number: 1, title: "QEMU killed, host tells", what: "killing the QEMU of guest %s", evidence: "certificate",
			fault: func(_ context.Context, _ *stage, victim *node) error {
				victim.host.Run("bash", "-c", fmt.Sprintf("kill -KILL $(cat /run/libvirt/qemu/%s.pid)", victim.name))
				return nil
			},
			// A cluster that fenced it too was faster, and has started it.
			repair: func(_ *stage, victim *node) {
				const start = "virsh -c qemu:///system start %[1]s || virsh -c qemu:///system domstate %[1]s | grep -q running"
				victim.host.Run("bash", "-c", fmt.Sprintf(start, victim.name))
			},
		},
		{
			// Nobody is told: to the host this guest runs.
			number: 2, title: "kernel crashes, host keeps quiet", what: "crashing the kernel of guest %s; its QEMU runs on", evidence: "fenced",
			fault: func(ctx context.Context, _ *stage, victim *node) error {
				ctx, cancel := context.WithTimeout(ctx, crashTimeout)
				defer cancel()
				err := victim.give(ctx, "/proc/sysrq-trigger", "c")
				if err == nil {
					return fmt.Errorf("%s survived the crash of its kernel", victim.name)
				}
				return nil
			},
		},
		{
			number: 3, title: "guest cut off the network", what: "cutting guest %s off the network", evidence: "fenced",
			fault: func(_ context.Context, _ *stage, victim *node) error {
				victim.host.Run("ip", "link", "set", vmlab.Tap(string(victim.name)), "down")
				return nil
			},
		},
	}
}

// result is one scenario, played once.
type result struct {
	scenario
	victim   cluster.NodeName
	evidence string
	verdict  judge.Verdict
	lines    int // of the journal
	fault    error
}

func (r result) ok() bool {
	return r.fault == nil && r.verdict.Recovered && len(r.verdict.Overlaps) == 0
}

// play plays one scenario on a whole cluster and leaves a whole one.
func (s *stage) play(ctx context.Context, sc scenario) (result, error) {
	r := result{scenario: sc}
	if err := errors.Join(s.awaitGood(ctx), s.records.Begin(), pause(ctx, settleTime)); err != nil {
		return r, err
	}
	before, err := s.status(ctx)
	if err != nil {
		return r, err
	}
	web, _ := before.Service(serviceName)
	i := slices.IndexFunc(s.nodes, func(n *node) bool { return n.name == web.Node })
	if i < 0 {
		return r, fmt.Errorf("%s runs nowhere", serviceName)
	}
	victim := s.nodes[i]
	r.victim = victim.name
	former, _ := s.records.Answering()
	s.say("%d  "+sc.what, sc.number, victim.name)
	at := trace.Now()
	if err := sc.fault(ctx, s, victim); err != nil {
		return r, fmt.Errorf("scenario %d: %w", sc.number, err)
	}
	r.fault = s.awaitOther(ctx, former)
	if sc.repair != nil {
		sc.repair(s, victim)
	}
	r.evidence = s.evidence(ctx, victim.name, before.Revision)
	r.fault = errors.Join(r.fault, s.awaitGood(ctx))
	return s.judge(r, judge.Window{Fault: at, End: trace.Now()})
}

func (s *stage) judge(r result, w judge.Window) (result, error) {
	record, err := s.records.Record()
	if err := errors.Join(err, s.journal.fault()); err != nil {
		return r, err
	}
	record.Nodes = map[string]cluster.NodeName{}
	for _, n := range s.nodes {
		record.Nodes[n.mac] = n.name
	}
	r.verdict, r.lines = judge.Judge(record, w), len(record.Journal)
	switch after := r.verdict.After; {
	case r.fault != nil:
	case !slices.ContainsFunc(record.Journal, func(e trace.Entry) bool { return e.Identity == after }):
		r.fault = fmt.Errorf("the journal has no line of %v, which answered", after)
	case !slices.ContainsFunc(record.Claims, func(c trace.Claim) bool { return record.Nodes[c.MAC] == after.Node }):
		r.fault = fmt.Errorf("the sniffer heard no claim of the address by %s, which took it over", after.Node)
	case !strings.Contains(r.evidence, r.scenario.evidence):
		r.fault = fmt.Errorf("the evidence is %q, not %q", r.evidence, r.scenario.evidence)
	}
	s.say("   %s", r.sentence())
	return r, nil
}

func (r result) sentence() string {
	switch {
	case r.fault != nil:
		return "failed: " + r.fault.Error()
	case len(r.verdict.Overlaps) > 0:
		return "OVERLAP: " + r.verdict.Overlaps[0].Text
	case !r.verdict.Recovered:
		return "not recovered"
	}
	return fmt.Sprintf("the service was away for %.2f s, is back on %s; evidence: %s", r.verdict.Gap.Seconds(), r.verdict.After.Node, r.evidence)
}

// awaitGood waits until the cluster is whole and the service answers. Starved of
// time by a guest that boots, a node may be taken for lost and the service move once
// more: that counts as its absence, and is waited out.
func (s *stage) awaitGood(ctx context.Context) error {
	err := s.await(ctx, "the cluster to be whole", s.whole)
	return errors.Join(err, s.awaitAnswers(ctx, func() bool { return s.records.Steadily() >= steadyAnswers }))
}

// awaitOther waits until another process of the service answers steadily.
func (s *stage) awaitOther(ctx context.Context, former trace.Identity) error {
	return s.awaitAnswers(ctx, func() bool {
		now, inRow := s.records.Answering()
		return now != former && inRow >= steadyAnswers
	})
}

// awaitAnswers waits until the answers of the service are as they must be.
func (s *stage) awaitAnswers(ctx context.Context, good func() bool) error {
	for end := time.Now().Add(recoverTimeout); time.Now().Before(end); {
		if good() {
			return nil
		}
		if err := errors.Join(s.records.Fault(), pause(ctx, askInterval)); err != nil {
			return err
		}
	}
	return fmt.Errorf("the service did not answer steadily within %v", recoverTimeout)
}

// evidence returns what the cluster says proved the end of the victim's boot.
func (s *stage) evidence(ctx context.Context, victim cluster.NodeName, since cluster.Revision) string {
	for _, n := range s.nodes {
		if n.name == victim {
			continue // it began anew and knows nothing of before
		}
		out, err := n.ask(ctx, "events", "--json", "--since", strconv.FormatInt(int64(since), 10))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(out) {
			var e nodeapi.Event
			if json.Unmarshal(line, &e) == nil && e.Kind == "ended" && e.Node == victim {
				_, by, _ := strings.Cut(e.Text, ", by ")
				kind, _, _ := strings.Cut(by, ":")
				return kind
			}
		}
	}
	return "none recorded"
}

// writeTable says how everything went.
func writeTable(w io.Writer, results []result, took time.Duration) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "\n\tSCENARIO, REAL GUESTS\tSERVICE AWAY\tOVERLAP\tEVIDENCE\tRECOVERED\n")
	for _, r := range results {
		overlap, where := "none", "NO"
		if len(r.verdict.Overlaps) > 0 {
			overlap = "YES: " + r.verdict.Overlaps[0].Text
		}
		if r.verdict.Recovered {
			where = "on " + string(r.verdict.After.Node)
		}
		fmt.Fprintf(t, "%d\t%s\t%.2f s\t%s\t%s\t%s\n", r.number, r.title, r.verdict.Gap.Seconds(), overlap, r.evidence, where)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, `
Judged from outside alone: a client asked each %v, a sniffer listened between the hosts, and the
service wrote each 10 ms through a port of its guest that no fault of the network touches.
Guests are emulated, without KVM: their programs run many times slower than on a real host.
%.0f s in all.
`, askInterval, took.Seconds())
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/judge"
	"ringfence/internal/demo/record"
	"ringfence/internal/demo/trace"
	"ringfence/internal/nodeapi"
)

const (
	// recoverTimeout is how long a scenario waits for the service.
	recoverTimeout = 45 * time.Second
	// steadyAnswers is how many answers in a row mean that the service is back.
	steadyAnswers = 5
	// settleTime is for how long the service is watched before a fault, so that
	// every witness knows who ran it, and at the end of a scenario.
	settleTime = 300 * time.Millisecond
)

// stage is where scenarios play: a lab with a whole cluster, and observers.
type stage struct {
	*installer
	records *record.Recorder
}

// Result is one scenario, played once.
type Result struct {
	Scenario int    `json:"scenario"`
	Title    string `json:"title"`
	// Victim is whom the fault hit; empty when it hit all.
	Victim cluster.NodeName `json:"victim,omitempty"`
	// RaftLeader says whether the victim led the store's consensus.
	RaftLeader bool `json:"raft_leader"`
	// Calm: what was done must change nothing; the service stays where it is.
	Calm bool `json:"calm,omitempty"`
	// Gap is the longest time without a successful answer to the client,
	// JournalGap the longest without a line of the service.
	Gap        time.Duration   `json:"gap_ns"`
	JournalGap time.Duration   `json:"journal_gap_ns"`
	Overlaps   []judge.Overlap `json:"overlaps"`
	// Recovered: the service came back, or, if Calm, was never run by another
	// process.
	Recovered bool `json:"recovered"`
	// On is where the service is at the end.
	On       cluster.NodeName `json:"on,omitempty"`
	Evidence string           `json:"evidence"`
	// Baseline is 0 where it was not measured.
	Baseline time.Duration `json:"baseline_ns"`
	// Lines, Questions and Claims count what the verdict rests on: lines of the
	// journal, questions of the client, claims of the address.
	Lines     int `json:"journal_lines"`
	Questions int `json:"client_questions"`
	Claims    int `json:"address_claims"`
	// Fault says what kept the scenario from being played to its end, or what
	// the cluster did though nothing was to happen.
	Fault string `json:"fault,omitempty"`
}

// OK reports whether the service recovered and never ran twice.
func (r Result) OK() bool { return r.Recovered && len(r.Overlaps) == 0 && r.Fault == "" }

// play plays one scenario on a whole cluster and leaves a whole one. An error
// means that it could not be played; that something did not recover is a Result.
func (s *stage) play(ctx context.Context, sc scenario) (Result, error) {
	r := Result{Scenario: sc.number, Title: sc.title, Calm: sc.calm, Baseline: sc.baseline, Overlaps: []judge.Overlap{}}
	if err := errors.Join(s.records.Begin(), pause(ctx, settleTime)); err != nil {
		return r, err
	}
	before, err := s.status(ctx)
	if err != nil {
		return r, err
	}
	web, _ := before.Service(serviceName)
	victim := web.Node
	if !sc.cold {
		r.Victim, r.RaftLeader = victim, before.RaftLeader == victim
	}
	former, _ := s.records.Answering()
	what := sc.what
	if !sc.cold {
		what = fmt.Sprintf(sc.what, victim)
	}
	s.say(fmt.Sprintf("%d  %s", sc.number, what))
	at, err := sc.fault(ctx, s, victim)
	if err != nil {
		return r, fmt.Errorf("scenario %d: %w", sc.number, err)
	}
	if !sc.calm {
		if err := s.awaitOther(ctx, former); err != nil {
			r.Fault = err.Error()
		}
	}
	if err := pause(ctx, at+sc.lasts-trace.Now()); err != nil {
		return r, err
	}
	return s.finish(ctx, sc, r, judge.Window{Fault: at, Cold: sc.cold}, before)
}

// finish puts everything right again, and judges once it is.
func (s *stage) finish(ctx context.Context, sc scenario, r Result, w judge.Window, before nodeapi.Status) (Result, error) {
	r.Evidence = s.evidence(ctx, sc, r.Victim, before.Revision)
	var faults []error
	if sc.calm {
		faults = append(faults, s.undisturbed(ctx, sc, before))
	}
	if sc.repair != nil {
		faults = append(faults, sc.repair(ctx, s, r.Victim))
	}
	faults = append(faults, s.await(ctx, "the cluster to be whole again", s.whole), pause(ctx, settleTime))
	w.End = trace.Now()
	recorded, err := whose(s.records.Record())
	if err != nil {
		return r, err
	}
	v := judge.Judge(recorded, w)
	r.Gap, r.JournalGap, r.Recovered, r.On = v.Gap, v.JournalGap, v.Recovered, v.After.Node
	if sc.calm {
		r.Recovered = v.Stayed
	}
	r.Overlaps = append(r.Overlaps, v.Overlaps...)
	r.Lines, r.Questions, r.Claims = len(recorded.Journal), len(recorded.Answers), len(recorded.Claims)
	faults = append(faults, blind(recorded, v))
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if err := errors.Join(faults...); err != nil {
		r.Fault = strings.TrimPrefix(r.Fault+"; "+err.Error(), "; ")
	}
	s.say("   " + r.sentence())
	return r, nil
}

// blind is an error if a witness cannot have seen what happened: its silence
// would prove nothing.
func blind(record judge.Record, v judge.Verdict) error {
	switch {
	case !v.Recovered:
		return nil
	case !slices.ContainsFunc(record.Journal, func(e trace.Entry) bool { return e.Identity == v.After }):
		return fmt.Errorf("the journal has no line of %v, which answered", v.After)
	case v.After.Node != v.Before.Node && !slices.ContainsFunc(record.Claims, func(c trace.Claim) bool { return record.Nodes[c.MAC] == v.After.Node }):
		return fmt.Errorf("the sniffer heard no claim of the address by %s, which took it over", v.After.Node)
	}
	return nil
}

// sentence says in short how it went.
func (r Result) sentence() string {
	switch {
	case r.Fault != "":
		return "failed: " + r.Fault
	case len(r.Overlaps) > 0:
		return "OVERLAP: " + r.Overlaps[0].Text
	case !r.Recovered:
		return "not recovered"
	case r.Calm:
		return fmt.Sprintf("the service was away for %s and stayed on %s; evidence: %s", seconds(r.Gap), r.On, r.Evidence)
	}
	return fmt.Sprintf("the service was away for %s, is back on %s; evidence: %s", seconds(r.Gap), r.On, r.Evidence)
}

// awaitSteady waits until the service answers steadily.
func (s *stage) awaitSteady(ctx context.Context) error { return s.awaitOther(ctx, trace.Identity{}) }

// awaitOther waits until another process of the service answers steadily.
func (s *stage) awaitOther(ctx context.Context, former trace.Identity) error {
	deadline := time.Now().Add(recoverTimeout)
	for time.Now().Before(deadline) {
		now, inRow := s.records.Answering()
		if now != former && inRow >= steadyAnswers {
			return nil
		}
		if err := s.records.Fault(); err != nil {
			return err
		}
		if err := pause(ctx, lookInterval); err != nil {
			return err
		}
	}
	return fmt.Errorf("the service did not come back within %v", recoverTimeout)
}

// evidence returns what the cluster says proved the end of the boots that the
// fault ended.
func (s *stage) evidence(ctx context.Context, sc scenario, victim cluster.NodeName, since cluster.Revision) string {
	switch {
	case sc.inPlace:
		return "none needed: restarted in place"
	case sc.calm:
		return "none needed: nothing failed over"
	}
	// A daemon that has just started tells no events of before: another may.
	found, err := "none recorded", error(nil)
	for _, node := range s.nodes() {
		events, askErr := s.eventsOf(ctx, node, since)
		if text := evidenceIn(events, victim); text != "" {
			return text
		}
		err = cmp.Or(err, askErr)
	}
	if err != nil {
		found += ": " + err.Error()
	}
	return found
}

// undisturbed is an error if the cluster did anything about its nodes or the
// owner of the service since then, or did not notice what was done.
func (s *stage) undisturbed(ctx context.Context, sc scenario, before nodeapi.Status) error {
	status, err := s.status(ctx)
	if err != nil {
		return err
	}
	was, _ := before.Service(serviceName)
	is, _ := status.Service(serviceName)
	if is.Node != was.Node || is.Generation != was.Generation {
		return fmt.Errorf("%s went from %s, generation %d, to %s, generation %d", serviceName, was.Node, was.Generation, is.Node, is.Generation)
	}
	events, err := s.eventsOf(ctx, status.Node, before.Revision)
	if err != nil {
		return err
	}
	return disturbance(events, sc.sign)
}

// disturbance is an error that names the first event that ends a boot, is meant
// to, or gives the service to another; or the sign that is not there.
func disturbance(events []nodeapi.Event, sign string) error {
	if sign != "" && !slices.ContainsFunc(events, func(e nodeapi.Event) bool { return e.Kind == sign }) {
		return fmt.Errorf("the cluster noticed nothing: there is no event of the kind %q", sign)
	}
	for _, e := range events {
		switch e.Kind {
		case "fence", "ended", "certificate", "registered", "owner", "released":
			return fmt.Errorf("nothing was to happen, but: %s", e.Text)
		}
	}
	return nil
}

// evidenceIn finds the evidence in the events, "" for none; an empty victim means
// all.
func evidenceIn(events []nodeapi.Event, victim cluster.NodeName) string {
	var kinds []string
	count := map[string]int{}
	for _, e := range events {
		if e.Kind != "ended" || victim != "" && e.Node != victim {
			continue
		}
		_, by, _ := strings.Cut(e.Text, ", by ")
		kind, _, _ := strings.Cut(by, ":")
		if kind == "" {
			continue
		}
		if count[kind]++; count[kind] == 1 {
			kinds = append(kinds, kind)
		}
	}
	for i, kind := range kinds {
		if count[kind] > 1 {
			kinds[i] = fmt.Sprintf("%s (%d nodes)", kind, count[kind])
		}
	}
	return strings.Join(kinds, ", ")
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"ringfence/internal/demo"
	"ringfence/internal/demo/judge"
	"ringfence/internal/demo/trace"
	"ringfence/internal/lab"
)

// MaxDuration bounds a run: what is recorded is judged as one.
const MaxDuration = time.Hour

const (
	services = 5
	// recoverTimeout is how long everything may take to be whole again behind
	// the last fault: fencing, restarts, the operator's patience and an election
	// one after the other, on a machine that has other things to do.
	recoverTimeout = 2 * time.Minute
	// settleTime is for how long all is watched at the end.
	settleTime = time.Second
	// judgeInterval is how often the records are judged while faults go on.
	judgeInterval = 10 * time.Second
)

// Options say what to play.
type Options struct {
	Duration time.Duration // of the faults; set-up and recovery come on top
	Seed     uint64
	Dir      string // of the lab; short, since paths of sockets are
	Exe      string // the shipped binary
	Logs     string // where logs and records are kept when it goes wrong,
	Keep     bool   // or always
	Out      io.Writer
}

// run is one run under way.
type run struct {
	Options
	bed   *demo.Bed
	began time.Time // of the faults
	start time.Duration

	config *clients

	mu     sync.Mutex // guards what follows, and Out
	busy   map[string]bool
	played []played
}

// played is a fault that was injected, by trace's clock.
type played struct {
	Fault    Fault
	From, To time.Duration
	Err      string `json:",omitempty"`
	skipped  bool
}

// Run plays and judges. An error means that it could not be played to its end;
// what went wrong with the cluster is in the Report.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Duration < time.Second || o.Duration > MaxDuration {
		return Report{}, fmt.Errorf("chaos for %v: want 1s to %v", o.Duration, MaxDuration)
	}
	r := &run{Options: o, busy: map[string]bool{}}
	began := time.Now()
	r.began = began
	var report Report
	err := demo.OnBed(ctx, o.Dir, o.Exe, services, func(step string) { r.say("%s", step) }, func(b *demo.Bed) (err error) {
		r.bed = b
		report, err = r.play(ctx)
		if ctx.Err() == nil && (err != nil || !report.OK() || r.Keep) {
			err = errors.Join(err, r.keepLogs(report))
		}
		return err
	})
	return report, err
}

// play injects the faults, waits until all is whole again, and judges.
func (r *run) play(ctx context.Context) (Report, error) {
	faults := schedule(r.Seed, r.Duration)
	r.say("%d faults in %v, seed %d", len(faults), r.Duration, r.Seed)
	r.mu.Lock()
	r.began, r.start = time.Now(), trace.Now()
	r.mu.Unlock()
	workCtx, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop()
	op := newOperator(r)
	workers.Go(func() { op.work(workCtx) })
	r.config = newClients(r.bed, r.Seed)
	if err := r.config.begin(workCtx, &workers); err != nil {
		return Report{}, err
	}
	clean, err := r.faults(workCtx, faults)
	var lacks string
	if clean && err == nil && ctx.Err() == nil {
		r.say("no more faults; waiting for the cluster to be whole")
		lacks = r.awaitWhole(workCtx)
		_ = sleep(workCtx, settleTime)
	}
	stop()
	workers.Wait()
	if ctx.Err() != nil {
		return Report{}, ctx.Err()
	}
	if err != nil {
		return Report{}, err
	}
	report, err := r.judge()
	report.Lacks, report.Confirmed = lacks, op.confirmed
	if lacks != "" && op.refused != "" {
		report.Lacks += "; the operator was last refused: " + op.refused
	}
	return report, err
}

// faults plays all faults; it ends early and says false with an overlap.
func (r *run) faults(ctx context.Context, faults []Fault) (clean bool, err error) {
	ctx, stop := context.WithCancel(ctx)
	var under sync.WaitGroup
	defer under.Wait()
	defer stop()
	judged := time.Now()
	for _, f := range faults {
		if err := sleep(ctx, f.At-time.Since(r.began)); err != nil {
			return true, nil // the caller knows of it
		}
		under.Go(func() { r.one(ctx, f) })
		if time.Since(judged) < judgeInterval {
			continue
		}
		if clean, err := r.clean(); err != nil || !clean {
			return clean, err
		}
		judged = time.Now()
	}
	_ = sleep(ctx, r.Duration-time.Since(r.began))
	return r.clean()
}

// one plays one fault, unless another has its hands on the same thing.
func (r *run) one(ctx context.Context, f Fault) {
	p := played{Fault: f, From: trace.Now()}
	if !r.claim(f) {
		p.skipped, p.Err, p.To = true, "another fault is there", p.From
	} else {
		r.say("%s", f)
		err := r.inject(ctx, f)
		r.release(f)
		p.To = trace.Now()
		if err != nil {
			p.Err, p.skipped = err.Error(), errors.Is(err, errNotNow)
			r.say("  %s: %.200s", f, strings.ReplaceAll(p.Err, "\n", "; "))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.played = append(r.played, p)
}

// things are what a fault has its hands on. The power of a host is everybody's.
func things(f Fault) []string {
	if f.Kind == PowerLoss {
		out := []string{string(f.Host)}
		for _, node := range lab.Nodes() {
			out = append(out, string(node))
		}
		return out
	}
	var out []string
	for _, name := range []string{string(f.Node), string(f.Host)} {
		if name != "" {
			out = append(out, name)
		}
	}
	return out
}

func (r *run) claim(f Fault) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, thing := range things(f) {
		if r.busy[thing] {
			return false
		}
	}
	for _, thing := range things(f) {
		r.busy[thing] = true
	}
	return true
}

func (r *run) release(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, thing := range things(f) {
		delete(r.busy, thing)
	}
}

func (r *run) free(thing string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.busy[thing]
}

// awaitWhole says what is still missing at the end of its patience.
func (r *run) awaitWhole(ctx context.Context) string {
	deadline := time.Now().Add(recoverTimeout)
	lacks := "no node answers"
	for time.Now().Before(deadline) && ctx.Err() == nil {
		lacks = r.lacks(ctx)
		if lacks == "" {
			return ""
		}
		_ = sleep(ctx, lookInterval)
	}
	return fmt.Sprintf("not whole %v after the last fault: %s", recoverTimeout, lacks)
}

func (r *run) lacks(ctx context.Context) string {
	seen, err := r.ask(ctx)
	if err != nil {
		return err.Error()
	}
	if lacks := r.bed.Lacks(seen.status); lacks != "" {
		return lacks
	}
	return r.bed.Answering()
}

// clean judges what was recorded so far.
func (r *run) clean() (bool, error) {
	for _, name := range r.bed.Services() {
		record, err := r.bed.Record(name)
		record.Claims = upTo(record)
		if err != nil || len(judge.Overlaps(record)) > 0 {
			return false, err
		}
	}
	return true, nil
}

// upTo returns the claims up to the last line of the journal: who claims an
// address is about to write, and until then no line says that the owner changed.
func upTo(record judge.Record) []trace.Claim {
	var last time.Duration
	for _, e := range record.Journal {
		last = max(last, e.At)
	}
	var out []trace.Claim
	for _, c := range record.Claims {
		if c.At <= last {
			out = append(out, c)
		}
	}
	return out
}

// say tells a step with the time since the faults began.
func (r *run) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.Out, "%7.1f s  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

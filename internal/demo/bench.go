package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/cli"
	"ringfence/internal/cluster"
	"ringfence/internal/demo/judge"
)

// idleTime is how long the idle cluster is watched.
const idleTime = 30 * time.Second

// benchCase is a scenario with what is to be true of its victim.
type benchCase struct {
	scenario
	label string
	// leader says whether the victim shall lead the store's consensus; nil
	// means as it happens.
	leader *bool
	goal   time.Duration
}

func benchCases() []benchCase {
	yes, no := true, false
	var out []benchCase
	for _, sc := range scenarios() {
		switch sc.number {
		case 1:
			out = append(out, benchCase{sc, ", victim is not the raft leader", &no, sc.goal}, benchCase{sc, ", victim is the raft leader", &yes, 1200 * time.Millisecond})
		case 2:
			out = append(out, benchCase{sc, ", victim is not the raft leader", &no, sc.goal}, benchCase{sc, ", victim is the raft leader", &yes, sc.goal})
		default:
			out = append(out, benchCase{sc, "", nil, sc.goal})
		}
	}
	return out
}

// benchFlags are the flags of the hidden `ringfence bench`.
type benchFlags struct {
	runs int
	out  string
}

func (d Deps) benchCommand() *cobra.Command {
	var f benchFlags
	c := &cobra.Command{
		Use: "bench", Hidden: true, Short: "Measure the demo's scenarios, memory and idle CPU", Args: noArgs,
		Long:    "Play the demo's scenarios again and again and write what they took, the memory and the idle CPU of each node, to a document. `make bench` runs it.",
		Example: "  ringfence bench --runs 20 --out doc/performance.md",
		RunE: func(c *cobra.Command, _ []string) error {
			if f.runs < 1 || f.runs > runsLimit {
				return cli.UsageError(c, fmt.Errorf("--runs %d: want 1 to %d", f.runs, runsLimit))
			}
			return d.runBench(c.Context(), f)
		},
	}
	c.Flags().IntVar(&f.runs, "runs", 20, "how often to play each scenario")
	c.Flags().StringVar(&f.out, "out", "", "file to write; none means standard output")
	return c
}

func (d Deps) runBench(ctx context.Context, f benchFlags) error {
	b := bench{began: time.Now(), runs: f.runs, machine: readMachine(), cases: benchCases()}
	b.results = make([][]Result, len(b.cases))
	b.command = "ringfence bench --runs " + strconv.Itoa(f.runs)
	p := newProgress(d.Err)
	for _, part := range byCast(scenarios()) {
		err := onStage(ctx, p, part[0].cast, demoDir(false), false, func(s *stage) error { return b.run(ctx, s) })
		if err != nil {
			return err
		}
	}
	b.loadAfter = loadAverage()
	if f.out == "" {
		_, err := fmt.Fprint(d.Out, b.document())
		return err
	}
	former, err := os.ReadFile(f.out)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(f.out, []byte(b.document()+notOfBench(string(former))), 0o644)
}

// bench is what is measured.
type bench struct {
	began     time.Time
	runs      int
	command   string
	machine   machine
	loadAfter string
	cgroups   bool
	cases     []benchCase
	results   [][]Result // of each case
	leftOut   int        // went well, but the victim was not as it should be
	overlaps  []judge.Overlap
	idle      []nodeUse
	revision  cluster.Revision
}

// run plays the cases of this stage, and watches the trio when it is idle.
func (b *bench) run(ctx context.Context, s *stage) error {
	start := s.records.Offset()
	status, err := s.lab.Status(ctx)
	if err != nil {
		return err
	}
	b.cgroups = status.Cgroups
	for run := range b.runs {
		s.say(fmt.Sprintf("run %d of %d", run+1, b.runs))
		for i, c := range b.cases {
			if c.cast != s.cast {
				continue
			}
			r, err := b.play(ctx, s, c)
			if err != nil {
				return err
			}
			b.results[i] = append(b.results[i], r)
		}
	}
	entries, err := s.records.Journal(start)
	if err != nil {
		return err
	}
	b.overlaps = append(b.overlaps, judge.Overlaps(judge.Record{Journal: entries})...)
	if s.cast != trio {
		return nil
	}
	return b.watchIdle(ctx, s)
}

// arrangeLimit is how often a case is played until its victim was as it shall
// be: leaders of the store hand over to nodes without services by themselves.
const arrangeLimit = 10

// moveLimit is how often a service is moved for one case.
const moveLimit = 5

// play arranges the victim and plays one case.
func (b *bench) play(ctx context.Context, s *stage, c benchCase) (Result, error) {
	for range arrangeLimit {
		if err := s.arrange(ctx, c.leader); err != nil {
			return Result{}, err
		}
		r, err := s.play(ctx, c.scenario)
		if err == nil && r.Fault != "" {
			err = errors.New(r.Fault)
		}
		// One that went wrong counts, whoever led.
		if err != nil || !r.OK() || c.leader == nil || r.RaftLeader == *c.leader {
			return r, err
		}
		b.leftOut++
		s.say("   the raft leader had changed meanwhile: once more")
	}
	return Result{}, fmt.Errorf("scenario %d%s: the raft leader changed each time, %d times", c.number, c.label, arrangeLimit)
}

// arrange moves the service so that its node leads the store's consensus, or
// does not.
func (s *stage) arrange(ctx context.Context, leader *bool) error {
	if leader == nil {
		return nil
	}
	var moved error
	for attempt := 0; ; attempt++ {
		status, err := s.status(ctx)
		if err != nil {
			return err
		}
		web, _ := status.Service(serviceName)
		if status.RaftLeader != "" && (web.Node == status.RaftLeader) == *leader {
			return nil
		}
		if attempt == moveLimit {
			return errors.Join(moved, fmt.Errorf("the raft leader is %q and the service on %q: it did not stay put", status.RaftLeader, web.Node))
		}
		to := status.RaftLeader
		if !*leader || to == "" {
			to = s.nodes()[slices.IndexFunc(s.nodes(), func(n cluster.NodeName) bool { return n != status.RaftLeader })]
		}
		// It may come while the store changes its leader, and be refused.
		_, moved = s.ringfence(ctx, string(status.Node), "service", "move", serviceName, string(to))
		if err := s.await(ctx, "the service to run", s.whole); err != nil {
			return err
		}
	}
}

// watchIdle measures what nodes use while nothing happens.
func (b *bench) watchIdle(ctx context.Context, s *stage) error {
	s.say(fmt.Sprintf("watching the idle cluster for %v", idleTime))
	status, err := s.status(ctx)
	if err != nil {
		return err
	}
	b.revision = status.Revision
	before, err := s.use(ctx)
	if err != nil {
		return err
	}
	if err := pause(ctx, idleTime); err != nil {
		return err
	}
	after, err := s.use(ctx)
	if err != nil {
		return err
	}
	for i, node := range s.nodes() {
		b.idle = append(b.idle, usedBetween(node, before[i], after[i]))
	}
	return nil
}

package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/cli"
	"ringfence/internal/demo/judge"
	"ringfence/internal/demo/record"
	"ringfence/internal/lab"
)

// runsLimit bounds --runs and bench.
const runsLimit = 1000

// demoFlags are the flags of `ringfence demo`.
type demoFlags struct {
	numbers []int
	runs    int
	asJSON  bool
	keep    bool
}

func (d Deps) demoCommand() *cobra.Command {
	var f demoFlags
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show on this machine how a cluster survives failures",
		Long: `Start three hosts and three guests on this machine, in namespaces of their own,
make them a cluster that runs one service, and let six things go wrong; then two
more in a cluster of two guests and a witness:

  1  a guest is killed, and its host tells
  2  a guest dies while its host keeps quiet
  3  a guest is cut off the network
  4  the service's process is killed
  5  all hosts lose power, and get it back
  6  a guest is paused by its host, for 1 s and for 10 s
  7  a guest migrates to another host, and is killed there
  8  two guests are cut off each other, and one of them off the witness too

For each it prints how long the service was away, whether it ever ran twice, and
which evidence allowed the recovery. Where nothing may happen, it fails if anything
does. It takes about a minute, needs no root, adds nothing to the machine's own
network and leaves nothing behind.`,
		Example: `  ringfence demo
  ringfence demo --scenario 1,3
  ringfence demo --keep`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			chosen, err := choose(f.numbers)
			if err == nil && (f.runs < 1 || f.runs > runsLimit) {
				err = fmt.Errorf("--runs %d: want 1 to %d", f.runs, runsLimit)
			}
			if err != nil {
				return cli.UsageError(c, err)
			}
			return d.runDemo(c.Context(), f, chosen)
		},
	}
	c.Flags().IntSliceVar(&f.numbers, "scenario", nil, "play only these, e.g. 1,3 (default all)")
	c.Flags().IntVar(&f.runs, "runs", 1, "how often to play each")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON; its fields are stable")
	c.Flags().BoolVar(&f.keep, "keep", false, "leave the lab running at the end, for `ringfence lab`")
	// It fails only for a flag that does not exist.
	_ = c.RegisterFlagCompletionFunc("scenario", cobra.FixedCompletions(numbersOf(scenarios()), cobra.ShellCompDirectiveNoFileComp))
	return c
}

// numbersOf returns the numbers that --scenario takes.
func numbersOf(all []scenario) (out []string) {
	for _, sc := range all {
		out = append(out, strconv.Itoa(sc.number))
	}
	return slices.Compact(out)
}

func choose(numbers []int) ([]scenario, error) {
	all := scenarios()
	if len(numbers) == 0 {
		return all, nil
	}
	most := all[len(all)-1].number
	var chosen []scenario
	for _, n := range numbers {
		if n < 1 || n > most {
			return nil, fmt.Errorf("--scenario %d: want numbers from 1 to %d, separated by commas", n, most)
		}
		for _, sc := range all {
			if sc.number == n {
				chosen = append(chosen, sc)
			}
		}
	}
	return chosen, nil
}

// byCast parts the scenarios into those that can be played on one stage, in
// their order.
func byCast(chosen []scenario) (parts [][]scenario) {
	for i, sc := range chosen {
		if i == 0 || sc.cast != chosen[i-1].cast {
			parts = append(parts, nil)
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], sc)
	}
	return parts
}

// errNotWell is the exit code; the table has said what went wrong.
func errNotWell() error { return errors.New("not everything recovered as it must") }

func (d Deps) runDemo(ctx context.Context, f demoFlags, chosen []scenario) error {
	p := newProgress(d.Err)
	var setUp time.Duration
	var results []Result
	var overlaps []judge.Overlap
	parts := byCast(chosen)
	var kept bool
	var err error
	for i := 0; i < len(parts) && err == nil; i++ {
		began := time.Now()
		kept = f.keep && i == len(parts)-1
		err = onStage(ctx, p, parts[i][0].cast, demoDir(f.keep), kept, func(s *stage) error {
			setUp += time.Since(began)
			s.say("the cluster runs; now things go wrong")
			played, found, err := s.playAll(ctx, parts[i], f.runs)
			results, overlaps = append(results, played...), append(overlaps, found...)
			return err
		})
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; the lab is gone")
	}
	if err != nil && len(results) == 0 {
		return err
	}
	report := newReport(setUp, time.Since(p.began), results, overlaps)
	report.OK = report.OK && err == nil
	return errors.Join(err, d.writeReport(report, f.asJSON, kept))
}

func (d Deps) writeReport(report Report, asJSON, kept bool) error {
	write := report.write
	if asJSON {
		write = report.writeJSON
	}
	err := write(d.Out)
	if kept && !asJSON {
		fmt.Fprintf(d.Out, "The lab goes on: `ringfence lab status`, `ringfence lab exec n1 -- ringfence status`, `ringfence lab down`.\n")
	}
	if !report.OK {
		err = errors.Join(err, errNotWell())
	}
	return err
}

// playAll plays the scenarios and judges the whole run.
func (s *stage) playAll(ctx context.Context, chosen []scenario, runs int) ([]Result, []judge.Overlap, error) {
	start := s.records.Offset()
	var results []Result
	for range runs {
		for _, sc := range chosen {
			r, err := s.play(ctx, sc)
			if err != nil {
				return results, nil, err
			}
			results = append(results, r)
			if r.Fault != "" {
				return results, nil, nil // what comes after it would prove nothing
			}
		}
	}
	// The windows of the scenarios leave nothing out, but a line of one of them
	// could stand behind the first of the next.
	entries, err := s.records.Journal(start)
	return results, judge.Overlaps(judge.Record{Journal: entries}), err
}

// onStage starts a lab in dir with a cluster and observers, runs play on it, and
// takes everything down again. With keep the lab stays unless ctx has ended.
func onStage(ctx context.Context, p *progress, c cast, dir string, keep bool, play func(*stage) error) (err error) {
	exe, err := executable()
	if err != nil {
		return err
	}
	p.say(c.String())
	o := options(dir, exe, !keep, c, p.say)
	l, err := lab.Up(ctx, o)
	if err != nil {
		return err
	}
	s := &stage{
		installer: &installer{place: place{Layout: l.Layout, cast: c, exe: exe}, lab: l, say: p.say},
	}
	s.records = record.New(s.journal())
	defer func() {
		if !keep || ctx.Err() != nil {
			err = errors.Join(err, l.Down(context.WithoutCancel(ctx)))
		}
	}()
	return s.observed(ctx, play)
}

// observed runs play between the start and the end of the observers.
func (s *stage) observed(ctx context.Context, play func(*stage) error) error {
	watchCtx, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() { watched <- s.records.Watch(watchCtx, s.observers(s.observeCommand())) }()
	defer func() {
		stop()
		<-watched // what it says is in the records
	}()
	if err := s.records.AwaitReady(ctx); err != nil {
		return err
	}
	if err := s.awaitSteady(ctx); err != nil {
		return err
	}
	return play(s)
}

// demoDir is not the lab's own directory, so that a demo and a lab can run side
// by side; a demo that shall be kept is the lab. It is the same for every demo
// of a user: what a killed one leaves the next removes.
func demoDir(keep bool) string {
	if keep || os.Getenv("RINGFENCE_LAB") != "" {
		return lab.DefaultDir()
	}
	return filepath.Join("/tmp", "ringfence-demo-"+strconv.Itoa(os.Getuid()))
}

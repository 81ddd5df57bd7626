package demovm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"ringfence/internal/demo/judge"
	"ringfence/internal/demo/trace"
	"ringfence/internal/libvirt/libvirtlab"
	"ringfence/internal/vmlab"
)

// Demo starts everything, plays the scenarios, and ends everything with the test.
func Demo(t testing.TB) {
	libvirtlab.Need(t)
	dir, err := vmlab.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := vmlab.FindKernel(dir)
	if errors.Is(err, vmlab.ErrNoKernel) {
		t.Skip("SKIPPED: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s := newStage(t, kernel, func(format string, args ...any) {
		fmt.Fprintf(t.Output(), "%6.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	})
	t.Cleanup(func() {
		for _, n := range s.nodes {
			n.disconnect()
			if t.Failed() {
				t.Logf("the console of %s says:\n%s", n.name, tail(n.guest.Output()))
				log, _ := os.ReadFile(n.host.Path("files", "hostd.log"))
				t.Logf("the hostd of %s says:\n%s", n.host.Name, tail(string(log)))
			}
		}
	})
	ctx := t.Context()
	if err := s.install(ctx); err != nil {
		t.Fatal(err)
	}
	watchCtx, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() { watched <- s.records.Watch(watchCtx, s.observe) }()
	defer func() {
		stop()
		<-watched // what it says is in the records
	}()
	if err := s.records.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	s.playAll(ctx, began)
}

// playAll plays the scenarios, and judges them and the whole run.
func (s *stage) playAll(ctx context.Context, began time.Time) {
	if err := s.awaitOther(ctx, trace.Identity{}); err != nil {
		s.t.Fatal(err)
	}
	s.say("the cluster runs; now things go wrong")
	start := s.records.Offset()
	var results []result
	for _, sc := range scenarios() {
		r, err := s.play(ctx, sc)
		if err != nil {
			s.t.Fatal(err)
		}
		results = append(results, r)
		if !r.ok() {
			s.t.Errorf("scenario %d: %s", r.number, r.sentence())
			break // what comes after it would prove nothing
		}
	}
	entries, err := s.records.Journal(start)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, o := range judge.Overlaps(judge.Record{Journal: entries}) {
		s.t.Errorf("OVERLAP in the whole run, %s: %s", o.Rule, o.Text)
	}
	if err := writeTable(s.t.Output(), results, time.Since(began)); err != nil {
		s.t.Fatal(err)
	}
}

// tail is the end of a log.
func tail(text string) string { return text[max(0, len(text)-8000):] }

package chaos

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/judge"
	"ringfence/internal/demo/trace"
	"ringfence/internal/nodeapi"
)

// shortRun is how long faults go on in `make test`.
const shortRun = 30 * time.Second

// shortSeed is the seed of the short run among the other tests: what fails there
// is to come from a change of the code, not from other faults.
const shortSeed = 7

// TestChaos plays with the shipped binary. `make chaos` sets how long.
// RINGFENCE_CHAOS_KEEP keeps the logs also of a run in which all went well.
func TestChaos(t *testing.T) {
	o := Options{Duration: shortRun, Seed: shortSeed, Out: t.Output(), Keep: os.Getenv("RINGFENCE_CHAOS_KEEP") != ""}
	if os.Getenv("RINGFENCE_TEST_LONG") == "" && os.Getenv("RINGFENCE_CHAOS") == "" {
		t.Skip("SKIPPED: plays a cluster for a minute; `make test` and `make chaos` do")
	}
	needNamespaces(t)
	if text := os.Getenv("RINGFENCE_CHAOS"); text != "" {
		duration, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("DURATION: %v", err)
		}
		o.Duration = duration
	}
	if os.Getenv("RINGFENCE_CHAOS") != "" {
		o.Seed = rand.Uint64N(1e6)
	}
	if text := os.Getenv("RINGFENCE_CHAOS_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("SEED: %v", err)
		}
		o.Seed = seed
	}
	dir, err := os.MkdirTemp("", "rc-") // short: paths of sockets are
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	o.Dir, o.Exe = filepath.Join(dir, "lab"), filepath.Join(dir, "ringfence")
	o.Logs = filepath.Join(os.TempDir(), "ringfence-chaos-"+strconv.FormatUint(o.Seed, 10))
	if out, err := exec.Command("go", "build", "-o", o.Exe, "ringfence/cmd/ringfence").CombinedOutput(); err != nil {
		t.Fatalf("build the shipped binary: %v\n%s", err, out)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := Run(ctx, o)
	if len(report.Services) > 0 {
		_ = report.Write(o.Out)
	}
	if left, dirErr := os.ReadDir(dir); dirErr != nil || len(left) != 1 {
		t.Errorf("left behind in %s: %v (%v), want the binary alone", dir, left, dirErr)
	}
	if ctx.Err() != nil {
		t.Fatal("interrupted; the lab is gone")
	}
	if err != nil || !report.OK() {
		t.Errorf("%v\nthe same faults again (what becomes of them may differ, since time is real):\n  make chaos SEED=%d DURATION=%v",
			err, o.Seed, o.Duration)
	}
}

// needNamespaces skips where no lab can be.
func needNamespaces(t *testing.T) {
	t.Helper()
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET}
	if err := cmd.Run(); os.Geteuid() != 0 && err != nil {
		t.Skipf("SKIPPED: needs root, or user namespaces: %v", err)
	}
}

func TestASeedIsOneSchedule(t *testing.T) {
	one, again, other := schedule(1, time.Minute), schedule(1, time.Minute), schedule(2, time.Minute)
	if diff := cmp.Diff(one, again); diff != "" {
		t.Errorf("the same seed:\n%s", diff)
	}
	if cmp.Equal(one, other) {
		t.Error("two seeds have the same faults")
	}
	count := map[Kind]int{}
	for i, f := range schedule(3, 10*time.Minute) {
		count[f.Kind]++
		switch {
		case f.Node == "" && f.Host == "", f.At < firstFault, f.At > 10*time.Minute-closing, f.Hold <= 0, f.Duration <= 0, f.Downtime < 0:
			t.Errorf("fault %d: %+v", i, f)
		}
	}
	for _, kind := range kinds() {
		if count[kind] < 8 {
			t.Errorf("%s: %d times in ten minutes", kind, count[kind])
		}
	}
	if n := len(schedule(4, 30*time.Second)); n < 5 || n > 60 {
		t.Errorf("%d faults in 30 s", n)
	}
}

// TestFaultsKeepOffEachOther: two hands on one guest would prove nothing.
func TestFaultsKeepOffEachOther(t *testing.T) {
	r := &run{busy: map[string]bool{}}
	move := Fault{Kind: Migrate, Node: "n1", Host: "h2"}
	if !r.claim(move) {
		t.Fatal("nothing else is there")
	}
	for _, f := range []Fault{{Kind: Pause, Node: "n1"}, {Kind: KillHostd, Host: "h2"}, {Kind: PowerLoss, Host: "h3"}} {
		if r.claim(f) {
			t.Errorf("%s beside %s", f, move)
		}
	}
	if !r.claim(Fault{Kind: Pause, Node: "n2"}) || !r.claim(Fault{Kind: KillHostd, Host: "h1"}) {
		t.Error("others are not free")
	}
	r.release(move)
	if !r.claim(Fault{Kind: Pause, Node: "n1"}) || r.claim(Fault{Kind: PowerLoss, Host: "h2"}) {
		t.Error("release freed the wrong things")
	}
}

func TestServiceReport(t *testing.T) {
	const ms = time.Millisecond
	first := trace.Identity{Node: "n1", Boot: "b1", Generation: 1, Run: "r1"}
	second := trace.Identity{Node: "n2", Boot: "b2", Generation: 2, Run: "r2"}
	record := judge.Record{
		Journal: []trace.Entry{{Identity: first, At: 0}, {Identity: first, At: 100 * ms}, {Identity: second, At: 900 * ms}, {Identity: second, At: 1000 * ms}},
		Answers: []trace.Answer{
			{Sent: 10 * ms, Done: 11 * ms, From: &first},
			{Sent: 2000 * ms, Done: 2001 * ms, From: &second}, // behind the end
			{Sent: 200 * ms, Done: 400 * ms, Failure: "no answer in time"},
			{Sent: 910 * ms, Done: 911 * ms, From: &second},
		},
		Claims: []trace.Claim{{At: 0, MAC: "m1"}, {At: 890 * ms, MAC: "m2"}, {At: 1100 * ms, MAC: "m1"}}, // the last is about to write
		Nodes:  map[string]cluster.NodeName{"m1": "n1", "m2": "n2"},
	}
	kill := played{Fault: Fault{Kind: Kill, Node: "n1"}, From: 100 * ms, To: 101 * ms}
	late := played{Fault: Fault{Kind: Pause, Node: "n2"}, From: 950 * ms, To: 960 * ms}
	got := serviceReport("web", record, []played{kill, late}, 0, 1000*ms)
	want := ServiceReport{Name: "web", Asked: 3, Answered: 2, Longest: 900 * ms, Cause: kill.Fault.String(), Lines: 4, Processes: 2}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	record.Journal = append(record.Journal, trace.Entry{Identity: first, At: 1200 * ms})
	if got := serviceReport("web", record, nil, 0, 1000*ms); len(got.Overlaps) == 0 {
		t.Error("a double run was not seen")
	}
}

func TestReport(t *testing.T) {
	whole := Report{Services: []ServiceReport{{Name: "web", Asked: 2, Answered: 1, Lines: 1}}, Operations: 1}
	for name, c := range map[string]struct {
		spoil func(*Report)
		says  string
	}{
		"all well":           {func(*Report) {}, "all went well"},
		"an overlap":         {func(r *Report) { r.Services[0].Overlaps = []judge.Overlap{{Rule: judge.TimeOrder, Text: "twice"}} }, "OVERLAP of web, journal, by time: twice"},
		"an address twice":   {func(r *Report) { r.Services[0].Overlaps = []judge.Overlap{{Rule: judge.Addresses}} }, "address conflicts: 1"},
		"never answered":     {func(r *Report) { r.Services[0].Answered = 0 }, "NOT everything"},
		"no journal":         {func(r *Report) { r.Services[0].Lines = 0 }, "NOT everything"},
		"not recovered":      {func(r *Report) { r.Lacks = "n1 is lost" }, "NOT RECOVERED: n1 is lost"},
		"a broken history":   {func(r *Report) { r.History = "no order explains it" }, "no order explains it"},
		"no history":         {func(r *Report) { r.Operations = 0 }, "NOT everything"},
		"nothing was played": {func(r *Report) { r.Services = nil }, "NOT everything"},
	} {
		r := whole
		r.Services = slices.Clone(whole.Services)
		c.spoil(&r)
		var out strings.Builder
		if err := r.Write(&out); err != nil || !strings.Contains(out.String(), c.says) || r.OK() != (name == "all well") {
			t.Errorf("%s: ok %v, %v, no %q in\n%s", name, r.OK(), err, c.says, &out)
		}
	}
}

func TestWhatAnErrorSaysOfTheRegister(t *testing.T) {
	for _, c := range []struct {
		text string
		want outcome
	}{
		{"exit code 1: ringfence: somebody else changed the configuration at revision 9; look", conflict},
		{"exit code 1: the store did not answer in time, so it may have been done already; since then: somebody else changed the configuration", unknown},
		{"guest n1 is paused: nothing can run in it", nothing},
		{"exit code 4: ringfence: no node runs here (no socket at x)", nothing},
		{"exit code 4: the node does not answer at x: timeout", unknown},
	} {
		if got := outcomeOfText(c.text); got != c.want {
			t.Errorf("%q: %s, want %s", c.text, got, c.want)
		}
	}
	dial := &nodeapi.UnreachableError{Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}
	cut := &nodeapi.UnreachableError{Err: &net.OpError{Op: "read", Err: syscall.ECONNRESET}}
	for _, c := range []struct {
		err  error
		want outcome
	}{
		{nil, ok},
		{&nodeapi.Error{Code: nodeapi.CodeConflict}, conflict},
		{&nodeapi.Error{Code: nodeapi.CodeUnavailable}, nothing},
		{&nodeapi.Error{Code: nodeapi.CodeUnknown}, unknown},
		{&nodeapi.Error{Code: nodeapi.CodeInternal}, unknown},
		{dial, nothing},
		{cut, unknown},
		{context.DeadlineExceeded, unknown},
	} {
		if got := outcomeOf(c.err); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}

func TestProcessOfALife(t *testing.T) {
	pid, start, ok := processOf(cluster.NewLifeID("boot", 12, 34))
	if pid != "12" || start != "34" || !ok {
		t.Errorf("%s %s %v", pid, start, ok)
	}
	if _, _, ok := processOf(""); ok {
		t.Error("an unknown life has a process")
	}
}

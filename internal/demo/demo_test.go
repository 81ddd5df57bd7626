package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cli"
	"ringfence/internal/cluster"
	"ringfence/internal/config"
	"ringfence/internal/demo/judge"
	"ringfence/internal/demo/trace"
	"ringfence/internal/lab"
	"ringfence/internal/nodeapi"
)

func TestConfigIsValidWhateverThePaths(t *testing.T) {
	for _, exe := range []string{"/usr/bin/ringfence", `/home/a b/"c'd\e/ringfence`, "/tmp/ü/ringfence"} {
		p := place{Layout: lab.Layout{Dir: "/tmp/it's a lab"}, cast: trio, exe: exe}
		path := filepath.Join(t.TempDir(), "demo.toml")
		if err := os.WriteFile(path, []byte(p.configText()), 0o600); err != nil {
			t.Fatal(err)
		}
		loaded, err := config.Load(path, func(cluster.Resource) error { return nil })
		if err != nil {
			t.Errorf("%s: %v", exe, err)
			continue
		}
		web, ok := loaded.Service(serviceName)
		if !ok || len(web.Resources) != 2 || len(loaded.Nodes) != len(lab.Nodes()) {
			t.Fatalf("%s: %+v", exe, loaded)
		}
		if got := web.Resources[1].Params["command"]; got != p.serviceCommand() {
			t.Errorf("command %q, want %q", got, p.serviceCommand())
		}
	}
	if got := shellWord("it's"); got != `'it'\''s'` {
		t.Errorf("shell word %s", got)
	}
}

func TestEvidenceIn(t *testing.T) {
	ended := func(node cluster.NodeName, text string) nodeapi.Event {
		return nodeapi.Event{Kind: "ended", Node: node, Text: text}
	}
	events := []nodeapi.Event{
		{Kind: "silent", Node: "n1", Text: "n1 has ended, by magic: no"},
		ended("n1", "n1 has ended, by death certificate: host h1, its no. 1: destroyed (boot b)"),
		ended("n2", "n2 has ended, by fenced: host h2 (boot c)"),
		ended("n3", "n3 has ended, by fenced: host h3 (boot d)"),
		ended("n3", "garbled"),
	}
	for victim, want := range map[cluster.NodeName]string{
		"n1": "death certificate", "n2": "fenced", "n9": "",
		"": "death certificate, fenced (2 nodes)",
	} {
		if got := evidenceIn(events, victim); got != want {
			t.Errorf("victim %q: %q, want %q", victim, got, want)
		}
	}
}

func TestDisturbance(t *testing.T) {
	for kind, bad := range map[string]bool{
		"silent": false, "heard": false, "places": false, "leader": false,
		"fence": true, "ended": true, "certificate": true, "registered": true, "owner": true, "released": true,
	} {
		events := []nodeapi.Event{{Kind: "view"}, {Kind: kind, Text: "n1 did " + kind}}
		if err := disturbance(events, "view"); (err != nil) != bad || bad && !strings.Contains(err.Error(), "n1 did "+kind) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestACalmThatNobodyNoticesProvesNothing(t *testing.T) {
	events := []nodeapi.Event{{Kind: "view"}}
	for sign, bad := range map[string]bool{"": false, "view": false, "silent": true} {
		if err := disturbance(events, sign); (err != nil) != bad {
			t.Errorf("sign %q: %v", sign, err)
		}
	}
}

func TestChoose(t *testing.T) {
	numbers := func(chosen []scenario) (out []int) {
		for _, sc := range chosen {
			out = append(out, sc.number)
		}
		return out
	}
	chosen, err := choose([]int{6, 1})
	if diff := cmp.Diff([]int{6, 6, 1}, numbers(chosen)); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	all, err := choose(nil)
	if err != nil || len(all) != len(scenarios()) {
		t.Errorf("%d scenarios, %v", len(all), err)
	}
	together := 0
	for _, part := range byCast(all) {
		together += len(part)
		for _, sc := range part {
			if sc.cast != part[0].cast {
				t.Errorf("scenario %d is on the stage of scenario %d", sc.number, part[0].number)
			}
		}
	}
	if together != len(all) {
		t.Errorf("%d of %d scenarios have a stage", together, len(all))
	}
}

func good(number int) Result {
	return Result{
		Scenario: number, Title: "guest killed, host tells", Gap: 120 * time.Millisecond, Recovered: true, On: "n2",
		Evidence: "death certificate", Baseline: baselineGuestEnds, Overlaps: []judge.Overlap{},
	}
}

func calm(number int) Result {
	return Result{
		Scenario: number, Title: "guest paused for 1 s", Calm: true, Gap: 1010 * time.Millisecond, Recovered: true, On: "n2",
		Evidence: "none needed: nothing failed over", Overlaps: []judge.Overlap{},
	}
}

func TestReport(t *testing.T) {
	double, lost, broken := good(2), good(3), good(4)
	double.Overlaps = []judge.Overlap{{Rule: judge.TimeOrder, Amount: 40 * time.Millisecond, Text: "n1 wrote after n2"}}
	lost.Recovered = false
	broken.Fault = "the cluster did not become whole"
	for name, c := range map[string]struct {
		results  []Result
		overlaps []judge.Overlap
		ok       bool
		says     []string
	}{
		"all well": {[]Result{good(1)}, nil, true, []string{
			"1   guest killed, host tells   0.12 s         none (< 10ms)   death certificate   on n2       8.90 s", "measured 2026-11-21", "nothing ran twice, in 9.00 s, of which set-up 3.00 s",
		}},
		"a calm one": {[]Result{calm(6)}, nil, true, []string{
			"6   guest paused for 1 s   1.01 s         none (< 10ms)   none needed: nothing failed over   stayed on n2   not measured",
		}},
		"an overlap":                   {[]Result{good(1), double}, nil, false, []string{"YES, 0.04 s", "OVERLAP in scenario 2, journal, by time: n1 wrote after n2", "NOT everything went well"}},
		"not recovered":                {[]Result{lost}, nil, false, []string{"NO", "NOT everything went well"}},
		"not played to its end":        {[]Result{broken}, nil, false, []string{"FAILED, scenario 4: the cluster did not become whole"}},
		"an overlap between scenarios": {[]Result{good(1)}, double.Overlaps, false, []string{"OVERLAP in the whole run"}},
		"nothing played":               {nil, nil, false, []string{"NOT everything went well"}},
	} {
		r := newReport(3*time.Second, 9*time.Second, c.results, c.overlaps)
		var text, raw bytes.Buffer
		if err := r.write(&text); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.says {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%s: no %q in\n%s", name, want, &text)
			}
		}
		var back Report
		if err := r.writeJSON(&raw); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw.Bytes(), &back); err != nil {
			t.Fatal(err)
		}
		if r.OK != c.ok || back.OK != c.ok {
			t.Errorf("%s: ok %v, in JSON %v; want %v", name, r.OK, back.OK, c.ok)
		}
	}
}

func TestABlindWitnessIsAFault(t *testing.T) {
	one := trace.Identity{Node: "n1", Boot: "b", Generation: 1, Run: "r"}
	two := trace.Identity{Node: "n2", Boot: "c", Generation: 2, Run: "s"}
	whole := judge.Record{
		Journal: []trace.Entry{{Identity: two}}, Claims: []trace.Claim{{MAC: "m2"}},
		Nodes: map[string]cluster.NodeName{"m1": "n1", "m2": "n2"},
	}
	deaf, dumb, inPlace := whole, whole, whole
	deaf.Claims = []trace.Claim{{MAC: "m1"}}
	dumb.Journal = []trace.Entry{{Identity: one}}
	inPlace.Claims = nil
	for name, c := range map[string]struct {
		record judge.Record
		v      judge.Verdict
		bad    bool
	}{
		"all saw it":                   {whole, judge.Verdict{Recovered: true, Before: one, After: two}, false},
		"the sniffer heard nothing":    {deaf, judge.Verdict{Recovered: true, Before: one, After: two}, true},
		"the journal has nothing":      {dumb, judge.Verdict{Recovered: true, Before: one, After: two}, true},
		"nothing to hear for it":       {inPlace, judge.Verdict{Recovered: true, Before: two, After: two}, false},
		"not recovered is told anyway": {judge.Record{}, judge.Verdict{}, false},
	} {
		if err := blind(c.record, c.v); (err != nil) != c.bad {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestQuantile(t *testing.T) {
	var values []time.Duration
	for i := range 20 {
		values = append(values, time.Duration(i+1))
	}
	for part, want := range map[float64]time.Duration{0.5: 10, 0.95: 19, 1: 20, 0: 1} {
		if got := quantile(values, part); got != want {
			t.Errorf("quantile %v is %d, want %d", part, got, want)
		}
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("quantile of nothing")
	}
}

func TestBenchDocument(t *testing.T) {
	b := bench{began: time.Unix(0, 0), runs: 1, command: "ringfence bench --runs 1", cases: benchCases()}
	for range b.cases {
		b.results = append(b.results, []Result{good(1)})
	}
	b.leftOut = 3
	b.idle = []nodeUse{usedBetween("n1", guestUse{At: 0}, guestUse{At: 10 * time.Second, Daemon: processUse{CPU: time.Second, PSSBytes: 50e6}})}
	text := b.document()
	for _, want := range []string{
		"# Performance\n\nMeasured 1970-01-01 with `ringfence bench --runs 1`",
		"| 1 guest killed, host tells, victim is the raft leader | 1 | **0.12 s** | 0.12 s | 0.12 s | < 1.20 s | 8.90 s | death certificate |",
		"In all 13 runs the service recovered, or stayed where nothing was to happen, and nothing ran twice",
		"3 more went well too, but are left out of the table",
		"| n1 | **50 MB** | 0 MB | **10.0 %** |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	b.results[0][0].Recovered = false
	if text := b.document(); !strings.Contains(text, "**1 of 13 runs did not recover") {
		t.Errorf("a failure is not told:\n%s", text)
	}
}

func TestABenchKeepsWhatOthersMeasured(t *testing.T) {
	planning := "\n## Planning\n\nMeasured otherwise.\n"
	if got := notOfBench("# Performance\n\n## A node at rest\n\ntable\n" + planning); got != planning {
		t.Errorf("of a document with a section by others %q is kept, want %q", got, planning)
	}
	if got := notOfBench("# Performance\n"); got != "" {
		t.Errorf("of a document without one %q is kept", got)
	}
}

func TestReadsItsOwnUse(t *testing.T) {
	u, err := readProcess("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	if u.PSSBytes <= 0 || u.RSSBytes < u.PSSBytes {
		t.Errorf("%+v", u)
	}
}

// TestCommandLine runs command lines and compares exit code and standard error.
func TestCommandLine(t *testing.T) {
	t.Setenv("RINGFENCE_LAB", filepath.Join(t.TempDir(), "none"))
	dir := os.Getenv("RINGFENCE_LAB")
	for name, c := range map[string]struct {
		args   string
		code   int
		stderr string
	}{
		"no such scenario":      {"demo --scenario 1,9", 2, "ringfence: --scenario 9: want numbers from 1 to 8, separated by commas\nhint: see `ringfence demo --help`\n"},
		"no runs":               {"demo --runs 0", 2, "ringfence: --runs 0: want 1 to 1000\nhint: see `ringfence demo --help`\n"},
		"argument to demo":      {"demo now", 2, "ringfence: ringfence demo takes no arguments, and \"now\" is one\nhint: see `ringfence demo --help`\n"},
		"no such lab command":   {"lab fly", 2, "ringfence: ringfence lab has no command \"fly\"; it has cut, down, exec, heal, host-power-loss, host-power-on, kill, migrate, pause, power-off, power-on, quiet, restore, save, split, status, unpause, up\nhint: see `ringfence lab --help`\n"},
		"no such node":          {"lab kill n4", 2, "ringfence: ringfence lab kill: \"n4\" is not in the lab; there are n1, n2, n3\nhint: see `ringfence lab kill --help`\n"},
		"a host is no node":     {"lab cut h1", 2, "ringfence: ringfence lab cut: \"h1\" is not in the lab; there are n1, n2, n3\nhint: see `ringfence lab cut --help`\n"},
		"no node":               {"lab pause", 2, "ringfence: ringfence lab pause: name at least a node; there are n1, n2, n3\nhint: see `ringfence lab pause --help`\n"},
		"no such host":          {"lab quiet n1", 2, "ringfence: ringfence lab quiet: \"n1\" is not in the lab; there are h1, h2, h3\nhint: see `ringfence lab quiet --help`\n"},
		"nothing to run":        {"lab exec n1", 2, "ringfence: name a node or a host, and the command to run there\nhint: see `ringfence lab exec --help`\n"},
		"no lab":                {"lab status", 1, "ringfence: no lab is running there, in " + dir + "; start one with `RINGFENCE_LAB=" + dir + " ringfence lab up`\n"},
		"down without a lab":    {"lab down", 0, ""},
		"runs of bench bounded": {"bench --runs 1001", 2, "ringfence: --runs 1001: want 1 to 1000\nhint: see `ringfence bench --help`\n"},
	} {
		var stdout, stderr bytes.Buffer
		code := cli.Run(context.Background(), cli.Deps{
			Out: &stdout, Err: &stderr, Getenv: func(string) string { return "" },
			Extra: Commands(Deps{Out: &stdout, Err: &stderr}),
		}, strings.Fields(c.args))
		if code != c.code {
			t.Errorf("%s: exit code %d, want %d", name, code, c.code)
		}
		if diff := cmp.Diff(c.stderr, stderr.String()); diff != "" {
			t.Errorf("%s: stderr (-want +got):\n%s", name, diff)
		}
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	todo := Commands(Deps{})
	for len(todo) > 0 {
		c := todo[0]
		todo = append(todo[1:], c.Commands()...)
		if c.Short == "" || c.Long == "" || c.Example == "" {
			t.Errorf("%s: want a short text, a long one and an example", c.CommandPath())
		}
	}
}

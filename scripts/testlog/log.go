package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// event is one line of `go test -json`, or of the build before it.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
	Elapsed    float64
}

// testLog collects the events of one run.
type testLog struct {
	out      io.Writer
	output   map[string][]string // of tests and packages under way
	results  map[string]int      // tests, by action
	failing  bool
	failures []string // what is told again at the end
	skips    []string
}

func newLog(out io.Writer) *testLog {
	return &testLog{out: out, output: map[string][]string{}, results: map[string]int{}}
}

// lineLimitBytes bounds one event; tests that print more on one line fail it.
const lineLimitBytes = 8 << 20

// read takes events until the end. What is no event is printed as it is.
func (l *testLog) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, lineLimitBytes)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Action == "" {
			fmt.Fprintln(l.out, lines.Text())
			continue
		}
		l.take(e)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the events of go test: %w", err)
	}
	return nil
}

func (l *testLog) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(l.out, e.Output)
	case "build-fail":
		l.failing = true
	case "output":
		l.output[key] = append(l.output[key], e.Output)
		l.lookForSkip(e)
	case "pass", "fail", "skip":
		if e.Test == "" {
			l.endPackage(e, key)
		} else {
			l.endTest(e, key)
		}
		delete(l.output, key)
	}
}

// lookForSkip finds skips of tests that run inside of a test. Those of the test
// itself come as events.
func (l *testLog) lookForSkip(e event) {
	text := strings.TrimSpace(e.Output)
	if !strings.Contains(text, "SKIPPED:") && !strings.HasPrefix(text, "--- SKIP") {
		return
	}
	l.skips = append(l.skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, text))
}

func (l *testLog) endTest(e event, key string) {
	l.results[e.Action]++
	switch e.Action {
	case "fail":
		l.failing = true
		fmt.Fprint(l.out, strings.Join(l.output[key], ""))
		l.failures = append(l.failures, gist(key, strings.Join(l.output[key], ""))...)
	case "skip":
		l.skips = append(l.skips, fmt.Sprintf("%s %s", e.Package, e.Test))
	}
}

func (l *testLog) endPackage(e event, key string) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(l.out, "ok    %s  %.1fs\n", e.Package, e.Elapsed)
	case "skip":
		fmt.Fprintf(l.out, "      %s has no tests\n", e.Package)
	case "fail":
		l.failing = true
		fmt.Fprint(l.out, strings.Join(l.output[key], ""))
		fmt.Fprintf(l.out, "FAIL  %s  %.1fs\n", e.Package, e.Elapsed)
	}
}

// gistLines bounds what is told again of one failed test.
const gistLines = 30

// gist returns the name of a failed test and, of its output, what belongs to the
// tests inside of it that failed too.
func gist(name, output string) []string {
	of, said, failed := "", map[string][]string{}, []string{}
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if mark, test, ok := strings.Cut(line, " "); ok && mark == "===" {
			of = test[strings.LastIndexByte(test, ' ')+1:]
		} else if test, ok := strings.CutPrefix(line, "--- FAIL: "); ok {
			test, _, _ = strings.Cut(test, " ")
			failed = append(failed, test)
		} else {
			said[of] = append(said[of], line)
		}
	}
	lines := []string{}
	for _, test := range failed {
		for _, line := range said[test] {
			lines = append(lines, "  "+line)
		}
	}
	return append([]string{name}, lines[max(0, len(lines)-gistLines):]...)
}

func (l *testLog) failed() bool  { return l.failing }
func (l *testLog) skipped() bool { return len(l.skips) > 0 }

// summary prints the count of results, the gist of what failed and what was
// skipped, with its reasons.
func (l *testLog) summary(noSkips bool) {
	fmt.Fprintf(l.out, "tests: %d passed, %d failed, %d skipped\n", l.results["pass"], l.results["fail"], l.results["skip"])
	if len(l.failures) > 0 {
		fmt.Fprintln(l.out, "FAILED:")
	}
	for _, line := range l.failures {
		fmt.Fprintln(l.out, "  "+line)
	}
	if len(l.skips) == 0 {
		return
	}
	slices.Sort(l.skips)
	fmt.Fprintln(l.out, "SKIPPED:")
	for _, skip := range slices.Compact(l.skips) {
		fmt.Fprintln(l.out, "  "+skip)
	}
	if noSkips {
		fmt.Fprintln(l.out, "no test may be skipped here")
	}
}

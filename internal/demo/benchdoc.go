package demo

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ringfence/internal/demo/judge"
)

// Goals of DESIGN section 9 for a node at rest.
const (
	goalMemory = "< 60 MB"
	goalCPU    = "< 1 %"

	baselineMemory = "126–144 MB"
	baselineCPU    = "0.9 %"
)

// document writes everything as doc/performance.md.
func (b *bench) document() string {
	var w strings.Builder
	fmt.Fprintf(&w, `# Performance

Measured %s with `+"`%s`"+` (`+"`make bench`"+`) on: %s.
Load average %s at the beginning, %s at the end. %s
Nothing here passes or fails: the bench reports, people judge.

## How long the service is away

From the last answer before the fault to the first after it, as a client outside
sees it that asks each 20 ms; after the power loss from the return of power. Where
nothing may fail over it is the longest silence, and the same process served before
and after. The service is a virtual IP and a small HTTP program. 1 to 6 are played
with three guests, 7 and 8 with two and a witness. Beside it: %s with Corosync
3.1.7, defaults, 3 nodes, median, measured %s on this kind of machine.
Its figures run from the fault to the application's start on the other node, and were
taken while other work shared the machine, which hardly changes what its timers
dominate; its 6.87 s for a process come from a monitor interval of 10 s (1.08 s at
an interval of 1 s), and 20 of its 25.4 s are its default dc-deadtime. Where it has
no figure, nothing like it was measured.

| scenario | runs | median | p95 | max | goal | %s | evidence |
|---|---|---|---|---|---|---|---|
`, b.began.UTC().Format(time.DateOnly), b.command, b.machine, b.machine.load, b.loadAfter, b.lab(), baselineName, baselineDate, baselineName)
	for i, c := range b.cases {
		gaps := gapsOf(b.results[i])
		fmt.Fprintf(&w, "| %d %s%s | %d | **%s** | %s | %s | < %s | %s | %s |\n", c.number, c.title, c.label, len(gaps),
			seconds(quantile(gaps, 0.5)), seconds(quantile(gaps, 0.95)), seconds(quantile(gaps, 1)), seconds(c.goal), baseline(c.baseline), evidences(b.results[i]))
	}
	fmt.Fprintf(&w, "\n%s\n\n", b.overlapText())
	b.writeIdle(&w)
	return w.String()
}

// notOfBench returns what stands in doc/performance.md behind the bench's own
// sections: what other commands measure, each named in its section.
func notOfBench(former string) string {
	at := strings.Index(former, "\n## Planning\n")
	if at < 0 {
		return ""
	}
	return former[at:]
}

// String describes the machine in one line.
func (m machine) String() string {
	return fmt.Sprintf("%d cores (%s), %d GiB, kernel %s, %s", m.cpus, m.model, m.memory>>30, m.kernel, m.golang)
}

func (b *bench) lab() string {
	if b.cgroups {
		return "As root, guests in cgroups."
	}
	if b.machine.root {
		return "As root, without cgroups."
	}
	return "As an ordinary user, without cgroups."
}

func (b *bench) overlapText() string {
	var bad, runs int
	for _, results := range b.results {
		for _, r := range results {
			runs++
			if len(r.Overlaps) > 0 || !r.Recovered {
				bad++
			}
		}
	}
	text := fmt.Sprintf("In all %d runs the service recovered, or stayed where nothing was to happen, and nothing ran twice (overlap < %v, the resolution of the journal).", runs, judge.Resolution)
	if bad > 0 || len(b.overlaps) > 0 {
		text = fmt.Sprintf("**%d of %d runs did not recover or showed an overlap**, and the whole journal shows %d overlaps.", bad, runs, len(b.overlaps))
	}
	return fmt.Sprintf("%s\n%d more went well too, but are left out of the table: the raft leader had changed right before the fault.", text, b.leftOut)
}

func (b *bench) writeIdle(w *strings.Builder) {
	fmt.Fprintf(w, `## A node at rest

Over %v after these runs, at revision %d of the store, with one service running
somewhere. The daemon is the process `+"`ringfence node run`"+` alone; "the rest" is
everything else in the guest: its init and, on one node, the service's program and
what watches it. PSS counts a page that several processes share by its share, and
the nodes share the pages of the binary; RSS counts it in full.

| node | daemon PSS | daemon RSS | daemon CPU | rest PSS | rest CPU | goal | %s |
|---|---|---|---|---|---|---|---|
`, idleTime, b.revision, baselineName)
	for _, n := range b.idle {
		fmt.Fprintf(w, "| %s | **%s** | %s | **%s** | %s | %s | %s, %s | %s PSS, %s |\n", n.node, megabytes(n.daemon.PSSBytes), megabytes(n.daemon.RSSBytes),
			percent(n.daemonCPU), megabytes(n.others.PSSBytes), percent(n.othersCPU), goalMemory, goalCPU, baselineMemory, baselineCPU)
	}
}

func gapsOf(results []Result) (out []time.Duration) {
	for _, r := range results {
		out = append(out, r.Gap)
	}
	slices.Sort(out)
	return out
}

// quantile returns the smallest value that at least this part of the sorted
// values does not exceed.
func quantile(sorted []time.Duration, part float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(part*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// evidences lists the evidence of all runs, the most frequent first.
func evidences(results []Result) string {
	count := map[string]int{}
	var kinds []string
	for _, r := range results {
		if count[r.Evidence]++; count[r.Evidence] == 1 {
			kinds = append(kinds, r.Evidence)
		}
	}
	slices.SortStableFunc(kinds, func(a, b string) int { return count[b] - count[a] })
	for i, kind := range kinds {
		if len(kinds) > 1 {
			kinds[i] = fmt.Sprintf("%s: %d", kind, count[kind])
		}
	}
	return strings.Join(kinds, ", ")
}

func megabytes(bytes int64) string { return fmt.Sprintf("%.0f MB", float64(bytes)/1e6) }
func percent(share float64) string { return fmt.Sprintf("%.1f %%", share*100) }

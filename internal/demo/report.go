package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"ringfence/internal/demo/judge"
)

// Report is what the demo found; its JSON is stable.
type Report struct {
	Took         time.Duration `json:"took_ns"`
	SetUp        time.Duration `json:"set_up_ns"`
	Baseline     string        `json:"baseline"`
	BaselineDate string        `json:"baseline_date"`
	ResolutionNS time.Duration `json:"overlap_resolution_ns"`
	Results      []Result      `json:"results"`
	// Overlaps of the whole run, judged across scenarios.
	Overlaps []judge.Overlap `json:"overlaps"`
	OK       bool            `json:"ok"`
}

// newReport sums up.
func newReport(setUp, took time.Duration, results []Result, overlaps []judge.Overlap) Report {
	if overlaps == nil {
		overlaps = []judge.Overlap{}
	}
	r := Report{
		Took: took, SetUp: setUp, Baseline: baselineName, BaselineDate: baselineDate,
		ResolutionNS: judge.Resolution, Results: results, Overlaps: overlaps, OK: len(results) > 0 && len(overlaps) == 0,
	}
	for _, one := range results {
		r.OK = r.OK && one.OK()
	}
	return r
}

func (r Report) writeJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

func (r Report) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "\n\tSCENARIO\tSERVICE AWAY\tOVERLAP\tEVIDENCE\tRECOVERED\t%s*\n", baselineName)
	for _, one := range r.Results {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", one.Scenario, one.Title, seconds(one.Gap), overlap(one.Overlaps), one.Evidence, recovered(one), baseline(one.Baseline))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, one := range r.Results {
		for _, o := range one.Overlaps {
			fmt.Fprintf(w, "\nOVERLAP in scenario %d, %s: %s", one.Scenario, o.Rule, o.Text)
		}
		if one.Fault != "" {
			fmt.Fprintf(w, "\nFAILED, scenario %d: %s", one.Scenario, one.Fault)
		}
	}
	for _, o := range r.Overlaps {
		fmt.Fprintf(w, "\nOVERLAP in the whole run, %s: %s", o.Rule, o.Text)
	}
	_, err := fmt.Fprintf(w, `
Judged from outside alone: a client asked each 20 ms, a sniffer listened on the bridge,
and the service wrote each %v to a journal that all guests share: less overlap than
that cannot be seen. After the power loss the time counts from the return of power.
Where the service stayed, nothing was fenced or ended, and one process served all the time.
* and Corosync 3.1.7, defaults, measured %s on this kind of machine.

%s in %s, of which set-up %s.
`, judge.Resolution, baselineDate, verdict(r), seconds(r.Took), seconds(r.SetUp))
	return err
}

func verdict(r Report) string {
	if r.OK {
		return "Everything recovered and nothing ran twice,"
	}
	return "NOT everything went well,"
}

func overlap(found []judge.Overlap) string {
	if len(found) == 0 {
		return fmt.Sprintf("none (< %v)", judge.Resolution)
	}
	var most time.Duration
	for _, o := range found {
		most = max(most, o.Amount)
	}
	if most == 0 {
		return "YES"
	}
	return "YES, " + seconds(most)
}

func recovered(r Result) string {
	if !r.Recovered {
		return "NO"
	}
	if r.Calm {
		return "stayed on " + string(r.On)
	}
	return "on " + string(r.On)
}

func baseline(d time.Duration) string {
	if d == 0 {
		return "not measured"
	}
	return seconds(d)
}

func seconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

package chaos

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/judge"
	"ringfence/internal/demo/trace"
	"ringfence/internal/lab"
)

// Report is what a run has shown.
type Report struct {
	Seed     uint64
	Duration time.Duration
	Took     time.Duration // from the first fault to the last look
	Faults   []FaultCount
	Services []ServiceReport
	// Confirmed counts the deaths that the operator confirmed.
	Confirmed int
	// Lacks is what did not recover; "" means that all did.
	Lacks string
	// Operations counts what the clients of the configuration did, Unknown those
	// without an answer, Stale the reads that said that they may be old. History
	// says what is wrong with their answers, "" means nothing.
	Operations, Unknown, Stale int
	History                    string
}

// FaultCount counts the faults of a kind. Skipped ones were not possible when
// their time came; Broken ones met something on the way, such as a fence.
type FaultCount struct {
	Kind                    Kind
	Played, Skipped, Broken int
}

// ServiceReport is how a service did.
type ServiceReport struct {
	Name             cluster.ServiceName
	Asked, Answered  int
	Longest          time.Duration
	Cause            string // the faults that were there when the longest outage began
	Overlaps         []judge.Overlap
	Lines, Processes int
}

// OK reports whether nothing went wrong that may not.
func (r Report) OK() bool {
	for _, s := range r.Services {
		if len(s.Overlaps) > 0 || s.Answered == 0 || s.Lines == 0 {
			return false
		}
	}
	return len(r.Services) > 0 && r.Lacks == "" && r.History == "" && r.Operations > 0
}

// judge makes the report from the records.
func (r *run) judge() (Report, error) {
	end := trace.Now()
	history := r.config.ops()
	report := Report{
		Seed: r.Seed, Duration: r.Duration, Took: end - r.start, Faults: count(r.played),
		Operations: len(history), History: checkHistory(r.config.initial, history),
	}
	for _, o := range history {
		switch {
		case o.Outcome == unknown:
			report.Unknown++
		case o.Stale:
			report.Stale++
		}
	}
	for _, name := range r.bed.Services() {
		record, err := r.bed.Record(name)
		if err != nil {
			return report, err
		}
		report.Services = append(report.Services, serviceReport(name, record, r.played, r.start, end))
	}
	return report, nil
}

func count(all []played) []FaultCount {
	var out []FaultCount
	for _, kind := range kinds() {
		c := FaultCount{Kind: kind}
		for _, p := range all {
			switch {
			case p.Fault.Kind != kind:
			case p.skipped:
				c.Skipped++
			default:
				c.Played++
				if p.Err != "" {
					c.Broken++
				}
			}
		}
		out = append(out, c)
	}
	return out
}

// serviceReport judges one service between two moments.
func serviceReport(name cluster.ServiceName, record judge.Record, faults []played, start, end time.Duration) ServiceReport {
	record.Claims = upTo(record)
	s := ServiceReport{Name: name, Overlaps: judge.Overlaps(record), Lines: len(record.Journal)}
	runs := map[trace.Identity]bool{}
	for _, e := range record.Journal {
		runs[e.Identity] = true
	}
	s.Processes = len(runs)
	answers := slices.Clone(record.Answers)
	slices.SortFunc(answers, func(a, b trace.Answer) int { return cmp.Compare(a.Done, b.Done) })
	last, began := start, start
	note := func(until time.Duration) {
		if until-last > s.Longest {
			s.Longest, began = until-last, last
		}
		last = until
	}
	for _, a := range answers {
		if a.Sent < start || a.Done > end {
			continue
		}
		s.Asked++
		if a.From != nil {
			s.Answered++
			note(a.Done)
		}
	}
	note(end)
	s.Cause = causeOf(faults, began, began+s.Longest)
	return s
}

// causeSlack is how long before the last answer a fault may have begun that
// caused the silence behind it.
const causeSlack = 500 * time.Millisecond

// causeOf names the faults that were there at the beginning of an outage, or
// began in it.
func causeOf(faults []played, from, to time.Duration) string {
	var text string
	for _, p := range faults {
		if !p.skipped && p.From <= to && p.To >= from-causeSlack {
			if text != "" {
				text += "; "
			}
			text += p.Fault.String()
		}
	}
	return cmp.Or(text, "no fault was there")
}

// Write writes the report for a person.
func (r Report) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "\nFAULT\tPLAYED\tNOT POSSIBLE\tBROKEN OFF")
	for _, f := range r.Faults {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\n", f.Kind, f.Played, f.Skipped, f.Broken)
	}
	fmt.Fprintln(t, "\nSERVICE\tANSWERED\tOF\tPROCESSES\tOVERLAPS\tLONGEST OUTAGE\tWITH")
	for _, s := range r.Services {
		fmt.Fprintf(t, "%s\t%.2f%%\t%d\t%d\t%s\t%.2f s\t%s\n", s.Name, 100*float64(s.Answered)/float64(max(1, s.Asked)), s.Asked,
			s.Processes, none(len(s.Overlaps)), s.Longest.Seconds(), s.Cause)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nconfiguration: %d operations, %d without an answer, %d old reads that said so; %s\n",
		r.Operations, r.Unknown, r.Stale, cmp.Or(r.History, "linearizable"))
	fmt.Fprintf(w, "address conflicts: %s; deaths confirmed by the operator: %d; took %.0f s\n",
		none(r.conflicts()), r.Confirmed, r.Took.Seconds())
	for _, s := range r.Services {
		for _, o := range s.Overlaps {
			fmt.Fprintf(w, "OVERLAP of %s, %s: %s\n", s.Name, o.Rule, o.Text)
		}
	}
	if r.Lacks != "" {
		fmt.Fprintf(w, "NOT RECOVERED: %s\n", r.Lacks)
	}
	_, err := fmt.Fprintln(w, map[bool]string{true: "all went well", false: "NOT everything went well"}[r.OK()])
	return err
}

func (r Report) conflicts() (n int) {
	for _, s := range r.Services {
		for _, o := range s.Overlaps {
			if o.Rule == judge.Addresses {
				n++
			}
		}
	}
	return n
}

func none(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(n)
}

// keepLogs saves what explains a failure, before the lab goes.
func (r *run) keepLogs(report Report) error {
	if err := os.MkdirAll(r.Logs, 0o700); err != nil {
		return err
	}
	l := r.bed.Lab()
	var faults []error
	for _, host := range lab.Hosts() {
		faults = append(faults, copyFile(filepath.Join(r.Logs, string(host)+".log"), l.HostLog(host)))
	}
	for _, node := range lab.Nodes() {
		faults = append(faults, copyFile(filepath.Join(r.Logs, string(node)+".log"), l.Console(node)))
	}
	faults = append(faults, copyFile(filepath.Join(r.Logs, "lab.log"), filepath.Join(l.Dir, "supervisor.log")))
	things := map[string]any{"report": report, "faults": r.played, "began": r.start}
	if r.config != nil {
		things["configuration"] = r.config.ops()
	}
	for _, name := range r.bed.Services() {
		record, err := r.bed.Record(name)
		faults = append(faults, err)
		things["record-"+string(name)] = record
	}
	for name, thing := range things {
		raw, err := json.MarshalIndent(thing, "", " ")
		if err == nil {
			err = os.WriteFile(filepath.Join(r.Logs, name+".json"), raw, 0o600)
		}
		faults = append(faults, err)
	}
	r.say("logs and records are kept in %s", r.Logs)
	return errors.Join(faults...)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ringfence/internal/cluster"
)

// reader turns the tree into a configuration and collects what is wrong.
type reader struct {
	check    Check
	nodes    map[cluster.NodeName]bool // names seen; "" stands for a faulty one
	problems []problem
}

func (r *reader) report(at int, format string, args ...any) {
	r.problems = append(r.problems, problem{at, fmt.Sprintf(format, args...)})
}

// known reports every key of a table that is not among the allowed ones.
func (r *reader) known(t *node, where string, allowed ...string) {
	for _, name := range t.names {
		if !slices.Contains(allowed, name) {
			r.report(t.table[name].key, "unknown key %s in %s; allowed are %s", quote(name), where, strings.Join(allowed, ", "))
		}
	}
}

// tables returns the tables of a list, e.g. all [[node]].
func (r *reader) tables(t *node, name, header string) []*node {
	n := t.table[name]
	if n == nil {
		return nil
	}
	if n.kind != kindList {
		r.report(n.key, "%s is %s, want a list of tables: write %s", name, n.describe(), header)
		return nil
	}
	var out []*node
	for _, e := range n.list {
		if e.kind == kindTable {
			out = append(out, e)
		} else {
			r.report(e.at, "%s holds %s, want a list of tables: write %s", name, e.describe(), header)
		}
	}
	return out
}

// text returns a string; false when it is missing or wrong. Missing is reported
// only when the key is required.
func (r *reader) text(t *node, name, where string, required bool) (*node, bool) {
	n := t.table[name]
	if n == nil {
		if required {
			r.report(t.key, "%s has no %s", where, name)
		}
		return nil, false
	}
	if n.kind != kindString {
		r.report(n.at, "%s is %s, want a string", name, n.describe())
		return nil, false
	}
	return n, true
}

// name returns the name of a table by the rule of cluster.CheckName, or "".
func (r *reader) name(t *node, where string) string {
	n, ok := r.text(t, "name", where, true)
	if !ok {
		return ""
	}
	if err := cluster.CheckName(n.text); err != nil {
		r.report(n.at, "%s", err)
		return ""
	}
	return n.text
}

// unique reports a name that was used before among its like.
func (r *reader) unique(seen map[string]bool, t *node, what, name string) {
	if name != "" && seen[name] {
		r.report(t.table["name"].at, "%s %q stands here for the second time", what, name)
	}
	seen[name] = true
}

// texts returns a list of at least one string.
func (r *reader) texts(n *node, name string) []*node {
	if n.kind != kindList {
		r.report(n.at, "%s is %s, want a list of strings", name, n.describe())
		return nil
	}
	if len(n.list) == 0 {
		r.report(n.at, "%s is an empty list: name at least one, or leave the key out", name)
	}
	var out []*node
	for _, e := range n.list {
		if e.kind == kindString {
			out = append(out, e)
		} else {
			r.report(e.at, "%s holds %s, want a list of strings", name, e.describe())
		}
	}
	return out
}

// number returns an integer within bounds, or its default.
func (r *reader) number(t *node, name string, preset, least, most int) int {
	n := t.table[name]
	if n == nil {
		return preset
	}
	if n.kind != kindInteger {
		r.report(n.at, "%s is %s, want an integer from %d to %d", name, n.describe(), least, most)
		return preset
	}
	value, err := strconv.ParseInt(n.text, 0, 64)
	if err != nil || value < int64(least) || value > int64(most) {
		r.report(n.at, "%s = %s: want %d to %d", name, clip(n.text), least, most)
		return preset
	}
	return int(value)
}

// Bounds of durations of a configuration.
const (
	leastDuration = 100 * time.Millisecond
	mostDuration  = 24 * time.Hour
	// A shorter grace than 1 s ends guests for a snapshot, and more than 30 s is
	// more than any word of a host may stretch (rule P12).
	leastGrace = time.Second
	mostGrace  = 30 * time.Second
)

// duration returns a duration within the usual bounds, or its default.
func (r *reader) duration(t *node, name string, preset time.Duration) time.Duration {
	return r.durationWithin(t, name, preset, leastDuration, mostDuration, `such as "30s" or "10m"`)
}

// pauseGrace returns the key pause_grace, or its default.
func (r *reader) pauseGrace(t *node, preset time.Duration) time.Duration {
	return r.durationWithin(t, "pause_grace", preset, leastGrace, mostGrace, `such as "3s"`)
}

func (r *reader) durationWithin(t *node, name string, preset, least, most time.Duration, example string) time.Duration {
	want := fmt.Sprintf("want a duration from %s to %s, %s", formatDuration(least), formatDuration(most), example)
	n := t.table[name]
	if n == nil {
		return preset
	}
	if n.kind != kindString {
		r.report(n.at, "%s is %s, %s", name, n.describe(), want)
		return preset
	}
	value, err := time.ParseDuration(n.text)
	if err != nil || value < least || value > most {
		r.report(n.at, "%s = %s: %s", name, quote(n.text), want)
		return preset
	}
	return value
}

package config

import (
	"fmt"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/config/tomltree"
)

// reader turns the tree into a configuration and collects what is wrong.
type reader struct {
	tomltree.Reader
	check Check
	nodes map[cluster.NodeName]bool // names seen; "" stands for a faulty one
}

// name returns the name of a table by the rule of cluster.CheckName, or "".
func (r *reader) name(t *tomltree.Node, where string) string {
	n, ok := r.Text(t, "name", where, true)
	if !ok {
		return ""
	}
	if err := cluster.CheckName(n.Text); err != nil {
		r.Report(n.At, "%s", err)
		return ""
	}
	return n.Text
}

// unique reports a name that was used before among its like.
func (r *reader) unique(seen map[string]bool, t *tomltree.Node, what, name string) {
	if name != "" && seen[name] {
		r.Report(t.Table["name"].At, "%s %q stands here for the second time", what, name)
	}
	seen[name] = true
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
func (r *reader) duration(t *tomltree.Node, name string, preset time.Duration) time.Duration {
	return r.durationWithin(t, name, preset, leastDuration, mostDuration, `such as "30s" or "10m"`)
}

// pauseGrace returns the key pause_grace, or its default.
func (r *reader) pauseGrace(t *tomltree.Node, preset time.Duration) time.Duration {
	return r.durationWithin(t, "pause_grace", preset, leastGrace, mostGrace, `such as "3s"`)
}

func (r *reader) durationWithin(t *tomltree.Node, name string, preset, least, most time.Duration, example string) time.Duration {
	want := fmt.Sprintf("want a duration from %s to %s, %s", formatDuration(least), formatDuration(most), example)
	n := t.Table[name]
	if n == nil {
		return preset
	}
	if n.Kind != tomltree.KindString {
		r.Report(n.At, "%s is %s, %s", name, n.Describe(), want)
		return preset
	}
	value, err := time.ParseDuration(n.Text)
	if err != nil || value < least || value > most {
		r.Report(n.At, "%s = %s: %s", name, tomltree.Quote(n.Text), want)
		return preset
	}
	return value
}

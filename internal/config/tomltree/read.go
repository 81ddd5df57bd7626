package tomltree

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Reader takes values out of a tree and collects what is wrong with them.
type Reader struct {
	Problems []Problem
}

// Report notes a fault at an offset.
func (r *Reader) Report(at int, format string, args ...any) {
	r.Problems = append(r.Problems, Problem{at, fmt.Sprintf(format, args...)})
}

// Known reports every key of a table that is not among the allowed ones.
func (r *Reader) Known(t *Node, where string, allowed ...string) {
	for _, name := range t.Names {
		if !slices.Contains(allowed, name) {
			r.Report(t.Table[name].Key, "unknown key %s in %s; allowed are %s", Quote(name), where, strings.Join(allowed, ", "))
		}
	}
}

// Tables returns the tables of a list, e.g. all [[node]].
func (r *Reader) Tables(t *Node, name, header string) []*Node {
	n := t.Table[name]
	if n == nil {
		return nil
	}
	if n.Kind != KindList {
		r.Report(n.Key, "%s is %s, want a list of tables: write %s", name, n.Describe(), header)
		return nil
	}
	var out []*Node
	for _, e := range n.List {
		if e.Kind == KindTable {
			out = append(out, e)
		} else {
			r.Report(e.At, "%s holds %s, want a list of tables: write %s", name, e.Describe(), header)
		}
	}
	return out
}

// Text returns a string; false when it is missing or wrong. Missing is reported
// only when the key is required.
func (r *Reader) Text(t *Node, name, where string, required bool) (*Node, bool) {
	n := t.Table[name]
	if n == nil {
		if required {
			r.Report(t.Key, "%s has no %s", where, name)
		}
		return nil, false
	}
	if n.Kind != KindString {
		r.Report(n.At, "%s is %s, want a string", name, n.Describe())
		return nil, false
	}
	return n, true
}

// Texts returns a list of at least one string.
func (r *Reader) Texts(n *Node, name string) []*Node {
	if n.Kind != KindList {
		r.Report(n.At, "%s is %s, want a list of strings", name, n.Describe())
		return nil
	}
	if len(n.List) == 0 {
		r.Report(n.At, "%s is an empty list: name at least one, or leave the key out", name)
	}
	var out []*Node
	for _, e := range n.List {
		if e.Kind == KindString {
			out = append(out, e)
		} else {
			r.Report(e.At, "%s holds %s, want a list of strings", name, e.Describe())
		}
	}
	return out
}

// Number returns an integer within bounds, or its default.
func (r *Reader) Number(t *Node, name string, preset, least, most int) int {
	n := t.Table[name]
	if n == nil {
		return preset
	}
	if n.Kind != KindInteger {
		r.Report(n.At, "%s is %s, want an integer from %d to %d", name, n.Describe(), least, most)
		return preset
	}
	value, err := strconv.ParseInt(n.Text, 0, 64)
	if err != nil || value < int64(least) || value > int64(most) {
		r.Report(n.At, "%s = %s: want %d to %d", name, Clip(n.Text), least, most)
		return preset
	}
	return int(value)
}

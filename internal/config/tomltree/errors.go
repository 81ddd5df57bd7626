package tomltree

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Error is one fault of a configuration.
type Error struct {
	File    string
	Line    int // from 1
	Column  int // from 1, in bytes
	Message string
}

// Error returns the fault in the form file:line:column: message.
func (e Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Errors is all faults of a configuration, in the order of the file.
type Errors []Error

// Error returns one line for each fault.
func (e Errors) Error() string {
	lines := make([]string, 0, len(e))
	for _, one := range e {
		lines = append(lines, one.Error())
	}
	return strings.Join(lines, "\n")
}

// ErrorLimit is how many faults are shown at once.
const ErrorLimit = 100

// Problem is a fault at a byte offset.
type Problem struct {
	At      int
	Message string
}

// Place turns faults at offsets of data into Errors; file is the name for
// messages.
func Place(file string, data []byte, found []Problem) Errors {
	slices.SortStableFunc(found, func(a, b Problem) int { return cmp.Compare(a.At, b.At) })
	rest := len(found) - ErrorLimit
	if rest > 0 {
		found = found[:ErrorLimit]
		found[ErrorLimit-1].Message += fmt.Sprintf(" (and %d further faults)", rest)
	}
	lines := NewLines(data)
	out := make(Errors, 0, len(found))
	for _, f := range found {
		line, column := lines.Position(f.At)
		out = append(out, Error{File: file, Line: line, Column: column, Message: f.Message})
	}
	return out
}

// Lines holds the offset of each line's first byte.
type Lines []int

// NewLines finds the lines of a document.
func NewLines(data []byte) Lines {
	starts := Lines{0}
	for i, b := range data {
		if b == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

// Position returns the line and the column, in bytes and both from 1, of an offset.
func (l Lines) Position(at int) (line, column int) {
	line = sort.SearchInts(l, at+1)
	return line, at - l[line-1] + 1
}

// SyntaxError places an error of the TOML parser.
func SyntaxError(file string, err error) Error {
	out := Error{File: file, Line: 1, Column: 1, Message: strings.TrimPrefix(err.Error(), "toml: ")}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		out.Line, out.Column = at.Position()
	}
	return out
}

// Package fence is what all fence agents share: the table of an agent's options,
// from which its command line, its standard input, its help and its metadata
// follow, and the exit codes. The agents are sibling packages; cmd/ringfence-agents
// starts the one whose name it was called by.
//
// An agent is started by Pacemaker with options on standard input, or by a person
// with options on the command line, and never with both. It keeps these rules: a
// name that nobody knows on standard input is told and ignored, since cluster
// managers pass names that are not for the agent; everything else that is wrong
// ends it before it touches anything; values are never repeated in messages about
// names, for a misspelt name may have a password behind it.
package fence

import (
	"context"
	"io"
	"log/slog"
)

// The exit codes that all agents share. Some have more.
const (
	ExitOK     = 0 // done; of a status: on
	ExitFailed = 1 // not done, or unknown; bad options
	ExitOff    = 2 // of a status: off
)

// Agent describes an agent: all that its input, help and metadata follow from.
type Agent struct {
	Name      string // as it was called
	Short     string // one line
	Long      string // what metadata says at length
	Note      string // what a person has to know before anything else
	VendorURL string
	Options   []Option // in the order of metadata and help
	Ignored   []string // names on standard input that are not for it, and not worth a word
	Actions   []string // in the order of metadata
}

// Takes says whether an option has a value.
type Takes int

// The kinds of options.
const (
	TakesValue Takes = iota
	// TakesNone counts: given twice on the command line it is 2. On standard input it
	// has a value, or stands alone for 1.
	TakesNone
	// TakesOptional has its value glued to its letter, or its Hint for a value.
	TakesOptional
)

// Option is one option of an agent.
type Option struct {
	Name   string // on standard input and in metadata; lower case
	Letter byte   // on the command line; 0: it has none
	Takes  Takes
	Arg    string // what the value is called in the help
	Type   string // of its content, as metadata has it: string, boolean, integer
	// Default is its value when it is not given. Hint is only shown as one: not giving
	// the option means something else then.
	Default, Hint string
	Help          string
	// SameAs names the option that this one is another name of.
	SameAs string
	// Once is the error of giving it more than once, under any of its names; nil: the
	// last one counts.
	Once error
	// The rest is for metadata alone.
	Required   bool
	Obsoletes  string
	Deprecated bool // not in the help either
	Hidden     bool // in neither
}

// Invocation is one start of an agent.
type Invocation struct {
	Name    string   // the last part of argv[0]
	Args    []string // without the name
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
	Version string // of the program
	// Log is the system's log: what was done to whom. People read Err.
	Log *slog.Logger
}

// Main is the main function of an agent. It returns the exit code.
type Main func(ctx context.Context, i Invocation) int

// option finds an option by its name, as standard input has it.
func (a *Agent) option(name string) *Option {
	for i := range a.Options {
		if a.Options[i].Name == name {
			return &a.Options[i]
		}
	}
	return nil
}

// letter finds an option by its letter.
func (a *Agent) letter(c byte) *Option {
	for i := range a.Options {
		if c != 0 && a.Options[i].Letter == c {
			return &a.Options[i]
		}
	}
	return nil
}

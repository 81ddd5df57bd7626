package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ringfence/internal/config"
	"ringfence/internal/nodeapi"
)

// Exit codes of every command; `ringfence help exit-codes` shows them.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitRefused     = 3
	ExitUnreachable = 4
)

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "Exit codes of all commands",
		Long: `Every command of ringfence ends with one of these exit codes:

  0  done; also when nothing had to be done
  1  failed: the message on standard error says why
  2  usage: the command line, or a file that it names, is wrong; nothing was changed
  3  refused, because it would not be safe; nothing was changed
  4  not reachable: no node runs here, the member to join does not answer, or the
     cluster has no quorum`,
	}
}

// usage is an error in the command line.
type usage struct {
	command string // its path
	err     error
}

func (u *usage) Error() string { return u.err.Error() }
func (u *usage) Unwrap() error { return u.err }

func usageError(c *cobra.Command, err error) error {
	return &usage{command: c.CommandPath(), err: err}
}

// UsageError marks an error in the command line, for the commands of Deps.Extra.
func UsageError(c *cobra.Command, err error) error { return usageError(c, err) }

// ExitError ends the process with a code and without a message: the command, or
// one that it ran, has said what there is to say.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// hinted is an error with advice on a line of its own.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

func withHint(err error, format string, args ...any) error {
	return &hinted{err: err, hint: fmt.Sprintf(format, args...)}
}

// faultyFile is a configuration that cannot be used.
type faultyFile struct{ faults config.Errors }

func (f *faultyFile) Error() string { return f.faults.Error() }

// complain writes an error for a person.
func (a *app) complain(err error) {
	var silent *ExitError
	if errors.As(err, &silent) {
		return
	}
	var faulty *faultyFile
	if errors.As(err, &faulty) {
		fmt.Fprintf(a.Err, "ringfence: the configuration has %s; nothing was changed\n", count(len(faulty.faults), "fault"))
		fmt.Fprintln(a.Err, faulty.Error())
		return
	}
	fmt.Fprintf(a.Err, "ringfence: %s\n", strings.TrimSpace(err.Error()))
	var h *hinted
	var u *usage
	switch {
	case errors.As(err, &h):
		fmt.Fprintf(a.Err, "hint: %s\n", h.hint)
	case errors.As(err, &u):
		fmt.Fprintf(a.Err, "hint: see `%s --help`\n", u.command)
	}
}

func exitCode(err error) int {
	var u *usage
	var faulty *faultyFile
	var refused *nodeapi.Error
	var unreachable *nodeapi.UnreachableError
	var exit *ExitError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &u), errors.As(err, &faulty):
		return ExitUsage
	case errors.As(err, &unreachable):
		return ExitUnreachable
	case errors.As(err, &refused):
		return refusedCode(refused.Code)
	}
	return ExitFailed
}

func refusedCode(code string) int {
	switch code {
	case nodeapi.CodeBadRequest, nodeapi.CodeNotFound:
		return ExitUsage
	case nodeapi.CodeRefused:
		return ExitRefused
	case nodeapi.CodeUnavailable:
		return ExitUnreachable
	}
	return ExitFailed
}

// count writes "1 fault" and "2 faults".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// errNotDone: the person said no.
var errNotDone = errors.New("nothing was changed")

// confirm asks before something that cannot be taken back. Without a terminal
// to ask on, --yes must have been given.
func (a *app) confirm(c *cobra.Command, question string, yes bool) error {
	if yes {
		return nil
	}
	if !a.InTerminal {
		return usageError(c, errors.New("nothing was changed: standard input is no terminal to ask on, so say --yes"))
	}
	fmt.Fprintf(a.Err, "%s [y/N] ", question)
	line, err := bufio.NewReader(io.LimitReader(a.In, 1<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return errNotDone
}

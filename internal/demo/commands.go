package demo

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"ringfence/internal/cli"
)

// Deps is what the commands work with.
type Deps struct {
	In       io.Reader
	Out, Err io.Writer
}

// Commands are the commands lab and demo, and the hidden bench.
func Commands(d Deps) []*cobra.Command {
	return []*cobra.Command{d.demoCommand(), d.labCommand(), d.benchCommand()}
}

// executable is the shipped binary, which has every command and Parts.
func executable() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the ringfence binary: %w", err)
	}
	return path, nil
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return cli.UsageError(c, fmt.Errorf("%s takes no arguments, and %q is one", c.CommandPath(), args[0]))
	}
	return nil
}

// group makes a command that only holds others.
func group(c *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	c.AddCommand(commands...)
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		var names []string
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		return cli.UsageError(c, fmt.Errorf("%s has no command %q; it has %s", c.CommandPath(), args[0], strings.Join(names, ", ")))
	}
	return c
}

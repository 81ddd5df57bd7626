package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/nodeapi"
)

// group makes a command that only holds others: alone it shows its help, with
// an unknown word it fails.
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
		return usageError(c, fmt.Errorf("%s has no command %q; it has %s", c.CommandPath(), args[0], strings.Join(names, ", ")))
	}
	return c
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError(c, fmt.Errorf("%s takes no arguments, and %q is one", c.CommandPath(), args[0]))
	}
	return nil
}

// named makes the check that exactly the arguments with these names are given.
func named(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageError(c, fmt.Errorf("%s: %s is missing", c.CommandPath(), strings.Join(names[len(args):], " and ")))
		case len(args) > len(names):
			return usageError(c, fmt.Errorf("%s: %q is one argument too many; it takes %s", c.CommandPath(), args[len(names)], strings.Join(names, " ")))
		}
		return nil
	}
}

// complete offers fixed values for a flag.
func complete(c *cobra.Command, flag string, values ...string) {
	err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // no such flag: a fault in this package, found by every test
	}
}

// completeTimeout bounds a look at the cluster while somebody presses TAB.
const completeTimeout = time.Second

type completer = func(c *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective)

// names completes each argument with what the function at its place finds in
// the cluster's status; nil offers nothing.
func (a *app) names(at ...func(nodeapi.Status) []string) completer {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(at) || at[len(args)] == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completeTimeout)
		defer cancel()
		client := a.client()
		defer client.Close()
		status, err := client.Status(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return at[len(args)](status), cobra.ShellCompDirectiveNoFileComp
	}
}

func serviceNames(s nodeapi.Status) (out []string) {
	for _, one := range s.Services {
		out = append(out, string(one.Name))
	}
	return out
}

func nodeNames(s nodeapi.Status) (out []string) {
	for _, one := range s.Nodes {
		out = append(out, string(one.Name))
	}
	return out
}

func hostNames(s nodeapi.Status) (out []string) {
	for _, one := range s.Hosts {
		out = append(out, string(one.Name))
	}
	return out
}

// files completes the first argument with file names.
func files(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveDefault
}

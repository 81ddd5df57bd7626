package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"ringfence/internal/cluster"
	"ringfence/internal/config"
	"ringfence/internal/nodeapi"
)

func (a *app) configCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "config",
		Short: "Check, apply and show the configuration",
		Long: `Check, apply and show the configuration: which nodes take part, how each is
fenced, and which services run. It is one TOML file; the cluster keeps what was
applied last.

Keys of [cluster], each also in [[node]] for that node alone:

  pause_grace   how long a guest that its host shows paused may stay silent before
                its node is fenced: "1s" to "30s", by default "3s"
  after_fence   what becomes of a guest that was fenced: "start", the default, has
                its host start it anew, so that the cluster is whole again without
                a person; "stay-off" leaves it off, for instance to look at its
                disk first. A node on standby stays off until that ends. Guests that
                left, crashed or were shut down are never started.`,
		Example: `  ringfence config check demo.toml
  ringfence config apply demo.toml`,
	}, a.configCheckCmd(), a.configApplyCmd(), a.configShowCmd())
}

// load reads a configuration file; its faults are shown one a line.
func (a *app) load(c *cobra.Command, path string) (cluster.Config, error) {
	loaded, err := config.Load(path, a.CheckResource)
	var faults config.Errors
	if errors.As(err, &faults) {
		return loaded, &faultyFile{faults}
	}
	if err != nil {
		return loaded, usageError(c, err)
	}
	return loaded, nil
}

func (a *app) configCheckCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Say what is wrong with a configuration",
		Long: `Say everything that is wrong with a configuration, each fault with file, line,
column and what is allowed. Agents are asked about their parameters, so check it
where the services will run. No node needs to run here.`,
		Example:           "  ringfence config check demo.toml",
		Args:              named("FILE"),
		ValidArgsFunction: files,
		RunE: func(c *cobra.Command, args []string) error {
			loaded, err := a.load(c, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.Out, "%s: no faults; cluster %s, %s, %s\n", args[0], loaded.Name,
				count(len(loaded.Nodes), "node"), count(len(loaded.Services), "service"))
			return err
		},
	}
}

func (a *app) configApplyCmd() *cobra.Command {
	var yes, dry bool
	c := &cobra.Command{
		Use:   "apply FILE",
		Short: "Make a file the cluster's configuration",
		Long: `Make a file the cluster's configuration. It shows first what will change and asks.
A configuration that somebody else changed meanwhile is not overwritten.`,
		Example:           "  ringfence config apply demo.toml\n  ringfence config apply demo.toml --dry-run",
		Args:              named("FILE"),
		ValidArgsFunction: files,
		RunE: func(c *cobra.Command, args []string) error {
			loaded, err := a.load(c, args[0])
			if err != nil {
				return err
			}
			return a.apply(c, loaded, yes, dry)
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&dry, "dry-run", false, "show what would change, and change nothing")
	return c
}

func (a *app) apply(c *cobra.Command, want cluster.Config, yes, dry bool) error {
	client := a.client()
	defer client.Close()
	have, err := client.Config(c.Context())
	if err != nil {
		return err
	}
	changes := difference(have.Config, want)
	if len(changes) == 0 && have.Revision != 0 {
		_, err := fmt.Fprintf(a.Out, "nothing to change: this configuration stands since revision %d\n", have.Revision)
		return err
	}
	for _, line := range changes {
		fmt.Fprintln(a.Out, line)
	}
	if dry {
		return nil
	}
	if err := a.confirm(c, fmt.Sprintf("Apply this to cluster %s?", want.Name), yes); err != nil {
		return err
	}
	done, err := client.Apply(c.Context(), nodeapi.ConfigOrder{By: a.User, Config: want, Expect: &have.Revision})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Out, "%s, at revision %d; `ringfence status` shows what becomes of it\n", done.Message, done.Revision)
	return err
}

func (a *app) configShowCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "show", Short: "Print the configuration that stands", Args: noArgs,
		Long: `Print the configuration that stands, every default spelled out, as a file for
` + "`ringfence config apply`" + `. A node that cannot reach the store prints what it saw last,
and says so on standard error.`,
		Example: "  ringfence config show > demo.toml",
		RunE: func(c *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			have, err := client.Config(c.Context())
			if err != nil {
				return err
			}
			if have.Revision == 0 {
				return withHint(errors.New("no configuration has been applied"), "run `ringfence config apply FILE`")
			}
			if have.Stale {
				fmt.Fprintln(a.Err, "the store is out of reach: this is what the node saw last, and others may have changed it since")
			}
			if asJSON {
				return printJSON(a.Out, have)
			}
			text, err := config.Marshal(have.Config)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.Out, "# cluster %s, revision %d\n%s", have.Config.Name, have.Revision, text)
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON; its fields are stable")
	return c
}

package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"ringfence/internal/nodeapi"
)

func (a *app) explainCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "explain SERVICE",
		Short: "Say why a service is where it is, or why nothing happens",
		Long: `Say why a service is where it is, or what it waits for: its owner, what an
operator asked for, which nodes could take it and why the others could not, and
the last events that concern it.`,
		Example: `  ringfence explain web
  ringfence explain web --json`,
		Args:              named("SERVICE"),
		ValidArgsFunction: a.names(serviceNames),
		RunE: func(c *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			e, err := client.Explain(c.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.Out, e)
			}
			return writeExplanation(a.Out, e)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON; its fields are stable")
	return c
}

func writeExplanation(w io.Writer, e nodeapi.Explanation) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is %s", e.Name, e.State)
	if e.Node != "" {
		fmt.Fprintf(&b, ", owned by %s", e.Node)
		if len(e.Hosts) > 0 {
			fmt.Fprintf(&b, " on host %s", join(e.Hosts, ", "))
		}
		fmt.Fprintf(&b, ", generation %d, boot %s", e.Generation, e.Boot)
	}
	b.WriteByte('\n')
	for _, why := range e.Why {
		fmt.Fprintf(&b, "  %s\n", why)
	}
	if e.Wish != "" {
		fmt.Fprintf(&b, "it is wished %s\n", e.Wish)
	}
	b.WriteString("its nodes, most wanted first:\n")
	nodes := table{}
	for _, n := range e.Nodes {
		bar := "could take it"
		switch {
		case n.Name == e.Node:
			bar = "owns it"
		case n.Bar != "":
			bar = n.Bar
		}
		nodes.add(string(n.Name), bar)
	}
	if err := nodes.write(&b, "  "); err != nil {
		return err
	}
	if len(e.Events) > 0 {
		b.WriteString("what happened last:\n")
	}
	for _, event := range e.Events {
		fmt.Fprintf(&b, "  %s\n", eventLine(event))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

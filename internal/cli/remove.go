package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"ringfence/internal/nodeapi"
)

func (a *app) removeCmd() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "remove NODE",
		Short: "Take a node or witness out of the cluster for good",
		Long: `Take a node or witness out of the cluster for good: its vote, its records, and with
them its right to take part. Its data directory is void afterwards; the same
machine, or another one of the same name, may join again with a new token.

The node must have ended: stop its daemon first. It is refused while the node
may be alive, while it owns a service, and while the voters that would remain
are not there in a majority. Two voters cannot become one this way: join a
witness first. When it fails in between, the same order again completes it.

To replace a voter that is gone for good, for instance n3 of three, with n1 and
n2 still there:
  1. make sure that n3 cannot come back: its disk destroyed, or turned off for good
  2. ringfence node confirm-dead n3 --boot ID --reason TEXT   (status shows the ID)
  3. ringfence node remove n3
  4. ringfence token create, and on the new machine:
     ringfence join - ADDRESS-OF-N1 --node n3 --address ADDRESS
     ringfence node run
Between 3 and 4 the cluster has two voters and survives no further loss.`,
		Example:           "  ringfence node remove n3",
		Args:              named("NODE"),
		ValidArgsFunction: a.names(nodeNames),
		RunE: func(c *cobra.Command, args []string) error {
			return a.removeNode(c, args[0], yes)
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) removeNode(c *cobra.Command, node string, yes bool) error {
	client := a.client()
	defer client.Close()
	status, err := client.Status(c.Context())
	if err != nil {
		return err
	}
	if n, ok := status.Member(node); ok {
		a.progress("%s is %s, on host %s", n.Name, n.State, orDash(join(n.Hosts, ", ")))
	}
	if err := a.confirm(c, fmt.Sprintf("Take %s out of the cluster for good?", node), yes); err != nil {
		return err
	}
	done, err := client.Node(c.Context(), node, "remove", nodeapi.NodeOrder{By: a.User})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.Out, done.Message)
	return err
}

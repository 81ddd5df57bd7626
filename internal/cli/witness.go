package cli

import (
	"strconv"

	"github.com/spf13/cobra"

	"ringfence/internal/cluster"
)

// DefaultWitnessData is apart from DefaultNodeData: a host may be a node of a
// cluster of hosts as well.
const DefaultWitnessData = "/var/lib/ringfence/witness"

func (a *app) witnessCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "witness",
		Short: "Add a voter without services",
		Long: `Add a witness: a voter without services. It decides, fences and may lead like any
node, and never owns a service. Two guests and one witness are the smallest
cluster that survives the loss of a host; the witness belongs on a host, or any
machine, that carries no other voter. It is taken out by ` + "`ringfence node remove`" + `.`,
		Example: `  ringfence witness join - 192.0.2.11 --node w1 --address 192.0.2.1 < w1.token
  ringfence witness run
  ringfence hostd run --driver proc --witness ` + DefaultWitnessData,
	}, a.witnessJoinCmd(), a.witnessRunCmd())
}

func (a *app) witnessJoinCmd() *cobra.Command {
	var o ownFlags
	c := &cobra.Command{
		Use:   "join TOKEN-FILE ADDRESS",
		Short: "Make this machine a witness of a cluster",
		Long: `Make this machine a witness of a cluster, with a token that ` + "`ringfence token create`" + `
printed on a member, and the address of any member (its join port, ` + strconv.Itoa(DefaultJoinPort) + ` if
none is given). The token is read from a file, or from standard input for -.
This makes the data directory; ` + "`ringfence witness run`, or `ringfence hostd run --witness`" + `
on a host, then starts the witness.`,
		Example: "  ssh n1 ringfence token create | ringfence witness join - 192.0.2.11 --node w1 --address 192.0.2.1",
		Args:    named("TOKEN-FILE", "ADDRESS"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.admitted(c, args, o, true)
		},
	}
	o.add(c, DefaultWitnessData)
	return c
}

func (a *app) witnessRunCmd() *cobra.Command {
	o := NodeOptions{Witness: true}
	var logs logFlags
	c := &cobra.Command{
		Use:   "run",
		Short: "Run this witness's daemon",
		Long: `Run the daemon of this witness in the foreground; its log goes to standard error.
SIGTERM and Ctrl-C make it leave cleanly.

The data directory is made by ` + "`ringfence witness join`" + `.`,
		Example: "  ringfence witness run --host h3",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if o.Log, err = logs.logger(c, a.Err); err != nil {
				return err
			}
			if o.Host != "" {
				if err := cluster.CheckName(o.Host); err != nil {
					return usageError(c, err)
				}
			}
			return a.RunNode(c.Context(), o)
		},
	}
	c.Flags().StringVar(&o.Data, "data", DefaultWitnessData, "data directory of the witness")
	c.Flags().StringVar(&o.Host, "host", "", "name of the host that this machine is, as the cluster knows it, so that status sees which voters share it")
	runFlags(c, &o)
	logs.add(c)
	return c
}

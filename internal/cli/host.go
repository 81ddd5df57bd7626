package cli

import (
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/cluster"
	"ringfence/internal/nodeapi"
	"ringfence/internal/pki"
)

func (a *app) hostCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "host",
		Short: "Enrol hypervisor hosts in the cluster",
		Long: `Enrol hypervisor hosts in the cluster, so that their word on guests counts and
nodes can be fenced there. The host must allow the cluster too, by
` + "`ringfence hostd allow`" + `.`,
		Example: "  ringfence host add h1.host",
	}, a.hostAddCmd(), a.hostListCmd(), a.hostTrustCmd(), a.hostRemoveCmd())
}

func (a *app) hostAddCmd() *cobra.Command {
	var replace bool
	c := &cobra.Command{
		Use:   "add FILE",
		Short: "Enrol a host",
		Long:  "Enrol a host, with the file that `ringfence hostd export` printed there; - reads standard input.",
		Example: `  ringfence host add h1.host
  ssh h1 ringfence hostd export | ringfence host add -`,
		Args:              named("FILE"),
		ValidArgsFunction: files,
		RunE: func(c *cobra.Command, args []string) error {
			var record cluster.Host
			if err := a.readRecord(c, args[0], &record, "ringfence hostd export"); err != nil {
				return err
			}
			client := a.client()
			defer client.Close()
			done, err := client.AddHost(c.Context(), nodeapi.HostOrder{By: a.User, Host: record, Replace: replace})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Out, done.Message)
			return err
		},
	}
	c.Flags().BoolVar(&replace, "replace", false, "take new keys for a host that is enrolled already")
	return c
}

func (a *app) hostListCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List the enrolled hosts", Args: noArgs,
		Long:    "List the enrolled hosts and whether this node reaches them.",
		Example: "  ringfence host list",
		RunE: func(c *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			hosts, err := client.Hosts(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.Out, hosts)
			}
			t := a.hostTable(hosts)
			return t.write(a.Out, "")
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON; its fields are stable")
	return c
}

func (a *app) hostTrustCmd() *cobra.Command {
	return &cobra.Command{
		Use: "trust NAME", Short: "Let the word of a host count again", Args: named("NAME"),
		Long: `Let the word of a host count again. A host is not trusted any more once it has
given evidence that a boot had ended, and that boot answered afterwards: no node
there can be proved dead by it then, so that nothing of theirs is recovered
without other proof. Find out first why it was wrong: ` + "`ringfence status`" + ` and
` + "`ringfence events`" + ` say about which boot. What it was wrong about stays void.`,
		Example:           "  ringfence host trust h1",
		ValidArgsFunction: a.names(hostNames),
		RunE: func(c *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			done, err := client.TrustHost(c.Context(), cluster.HostName(args[0]), nodeapi.TrustOrder{By: a.User})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Out, done.Message)
			return err
		},
	}
}

func (a *app) hostRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "End the enrolment of a host", Args: named("NAME"),
		Long:              "End the enrolment of a host. It is refused while a node lives there: nothing could fence it then.",
		Example:           "  ringfence host remove h1",
		ValidArgsFunction: a.names(hostNames),
		RunE: func(c *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			done, err := client.RemoveHost(c.Context(), cluster.HostName(args[0]))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Out, done.Message)
			return err
		},
	}
}

func (a *app) clusterCmd() *cobra.Command {
	var data string
	export := &cobra.Command{
		Use: "export", Short: "Print the cluster's public record", Args: noArgs,
		Long: `Print what a host must know of this cluster, for ` + "`ringfence hostd allow`" + `: its id and
the certificate of its authority. Nothing of it is secret, but it must reach the
host unchanged. It asks the node that runs here, or reads a data directory.`,
		Example: "  ringfence cluster export > demo.cluster\n  ringfence cluster export --data " + DefaultNodeData,
		RunE: func(c *cobra.Command, _ []string) error {
			public, err := a.public(c, data)
			if err != nil {
				return err
			}
			return printJSON(a.Out, public)
		},
	}
	export.Flags().StringVar(&data, "data", "", "read this data directory instead of asking the node")
	return group(&cobra.Command{
		Use: "cluster", Short: "Disarm and arm the cluster; show what hosts must know of it",
		Long:    "Disarm the cluster for work on the network, arm it again, and show what hosts\nmust know of it.",
		Example: "  ringfence cluster disarm --reason 'new switch'\n  ringfence cluster export > demo.cluster",
	}, a.armCmd(), a.disarmCmd(), export)
}

func (a *app) public(c *cobra.Command, data string) (nodeapi.Public, error) {
	if data != "" {
		d, err := pki.Open(data, time.Now())
		if err != nil {
			return nodeapi.Public{}, err
		}
		return nodeapi.Public{Cluster: d.Identity.Cluster, Name: d.Identity.Name, CA: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Credentials.CA.Raw}))}, nil
	}
	client := a.client()
	defer client.Close()
	public, err := client.Cluster(c.Context())
	var unreachable *nodeapi.UnreachableError
	if errors.As(err, &unreachable) {
		return public, withHint(err, "--data reads it from the data directory of a node that does not run")
	}
	return public, err
}

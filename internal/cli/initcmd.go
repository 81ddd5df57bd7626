package cli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/cluster"
	"ringfence/internal/nodeapi"
	"ringfence/internal/pki"
)

// ownFlags are the flags that say who a new node is.
type ownFlags struct {
	node, address, data          string
	beatPort, peerPort, joinPort int
}

func (o *ownFlags) add(c *cobra.Command, data string) {
	c.Flags().StringVar(&o.node, "node", "", "name of this node (required)")
	c.Flags().StringVar(&o.address, "address", "", "IP address or host name at which the other nodes reach this one (required)")
	c.Flags().StringVar(&o.data, "data", data, "data directory to make")
	c.Flags().IntVar(&o.beatPort, "beat-port", DefaultBeatPort, "UDP port for heartbeats")
	c.Flags().IntVar(&o.peerPort, "peer-port", DefaultPeerPort, "TCP port for the store")
	c.Flags().IntVar(&o.joinPort, "join-port", DefaultJoinPort, "TCP port for nodes that join")
}

// required refuses flags that were not given.
func required(c *cobra.Command, names ...string) error {
	for _, name := range names {
		if f := c.Flags().Lookup(name); f.Value.String() == "" {
			return usageError(c, fmt.Errorf("--%s is missing: %s", name, f.Usage))
		}
	}
	return nil
}

// runFlags are the flags of the daemons of nodes and witnesses.
func runFlags(c *cobra.Command, o *NodeOptions) {
	c.Flags().StringVar(&o.RunDir, "run-dir", DefaultRunDir, "directory for sockets and the state of resources; a reboot must empty it or keep it whole")
	c.Flags().StringVar(&o.HostChannel, "host-channel", DefaultHostChannel, "this guest's own channel to its host: a socket, or virtio:org.ringfence.0 for a virtio-serial port; where no socket is, the node is bare metal")
}

func (a *app) initCmd() *cobra.Command {
	var o ownFlags
	var name string
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a new cluster and its first node",
		Long: `Make a new cluster on this machine: its certificate authority, its random
identity, and the data directory of its first node. Nothing runs yet, and a
directory that holds anything is refused.`,
		Example: "  ringfence init --name demo --node n1 --address 192.0.2.11",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "name", "node", "address"); err != nil {
				return err
			}
			id, err := nodeapi.Found(nodeapi.FoundOptions{
				Name: name, Node: cluster.NodeName(o.node), Address: o.address,
				BeatPort: o.beatPort, PeerPort: o.peerPort, JoinPort: o.joinPort, Data: o.data,
			}, time.Now())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.Out, `cluster %s is made (id %s), with node %s in %s
next:
  ringfence cluster export --data %s > %s.cluster
                              for each host, which says there: ringfence hostd allow %s.cluster --guest UUID
  ringfence node run --data %s
  ringfence token create      for each further node, which reads it there: ringfence join - %s
quorum does not survive the loss of this host yet: it takes three voters on three hosts, for
instance two nodes and a witness (ringfence witness join); `+"`ringfence status`"+` shows what is missing
`, id.Name, id.Cluster, id.Node, o.data, o.data, id.Name, id.Name, o.data, net.JoinHostPort(o.address, strconv.Itoa(o.joinPort)))
			return err
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the cluster (required)")
	o.add(c, DefaultNodeData)
	return c
}

func (a *app) joinCmd() *cobra.Command {
	var o ownFlags
	c := &cobra.Command{
		Use:   "join TOKEN-FILE ADDRESS",
		Short: "Make this machine a node of a cluster",
		Long: `Make this machine a node of a cluster, with a token that ` + "`ringfence token create`" + `
printed on a member, and the address of any member (its join port, ` + strconv.Itoa(DefaultJoinPort) + ` if
none is given). The token is read from a file, or from standard input for -,
since every user of a machine can read command lines. It is good once. This
makes the data directory; ` + "`ringfence node run`" + ` then starts the node.

Nodes are taken in one at a time: start each before the next one joins.`,
		Example: `  ringfence join n2.token 192.0.2.11 --node n2 --address 192.0.2.12
  ssh n1 ringfence token create | ringfence join - 192.0.2.11 --node n2 --address 192.0.2.12`,
		Args: named("TOKEN-FILE", "ADDRESS"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.admitted(c, args, o, false)
		},
	}
	o.add(c, DefaultNodeData)
	return c
}

// tokenLimitBytes bounds what is read where a token should be.
const tokenLimitBytes = 1 << 10

// readToken reads a token from a file, or from standard input for "-".
func (a *app) readToken(file string) (string, error) {
	if _, err := pki.ParseToken(file); err == nil {
		return "", errors.New("a token does not belong on the command line, where every user of this machine can read it: put it into a file, or pipe it to `ringfence join - ADDRESS`")
	}
	in := a.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("token: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, tokenLimitBytes))
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// admitted joins a cluster with the arguments TOKEN-FILE and ADDRESS, and says
// what comes next.
func (a *app) admitted(c *cobra.Command, args []string, o ownFlags, witness bool) error {
	if err := required(c, "node", "address"); err != nil {
		return err
	}
	text, err := a.readToken(args[0])
	if err != nil {
		return usageError(c, err)
	}
	token, err := pki.ParseToken(text)
	if err != nil {
		return usageError(c, err)
	}
	joined, err := a.join(c, token, args[1], o, witness)
	if err != nil {
		return err
	}
	kind, next := "node", fmt.Sprintf("  ringfence node run --data %s\n  add [[node]] with name = %q to the configuration, if it is not there", o.data, string(joined.Node))
	if witness {
		kind, next = "witness", fmt.Sprintf("  ringfence witness run --data %s\n  or, on a host: ringfence hostd run --witness %s", o.data, o.data)
	}
	fmt.Fprintf(a.Out, "%s %s is admitted to cluster %s, with its data in %s\nnext:\n%s\n", kind, joined.Node, joined.Name, o.data, next)
	if len(joined.Warnings) == 0 {
		a.progress("once %s runs, quorum survives the loss of any one host, unless it shares its host with another voter", joined.Node)
	}
	for _, warning := range joined.Warnings {
		a.progress("warning: once %s runs, %s", joined.Node, warning)
	}
	return nil
}

func (a *app) join(c *cobra.Command, token pki.Token, member string, o ownFlags, witness bool) (nodeapi.Joined, error) {
	if _, _, err := net.SplitHostPort(member); err != nil {
		member = net.JoinHostPort(member, strconv.Itoa(DefaultJoinPort))
	}
	a.progress("asking %s to admit %s", member, o.node)
	joined, err := nodeapi.Join(c.Context(), nodeapi.JoinOptions{
		Token: token, Member: member, Node: cluster.NodeName(o.node), Address: o.address,
		BeatPort: o.beatPort, PeerPort: o.peerPort, JoinPort: o.joinPort, Witness: witness, Data: o.data,
	})
	var unreachable *nodeapi.UnreachableError
	if errors.As(err, &unreachable) {
		return joined, withHint(fmt.Errorf("member %s does not answer: %w", member, unreachable.Err), "the token is still good; is `ringfence node run` up there, and the join port open?")
	}
	return joined, err
}

func (a *app) tokenCmd() *cobra.Command {
	create := &cobra.Command{
		Use: "create", Short: "Make a join token", Args: noArgs,
		Long: `Make a token that admits one node, once. It is a secret: whoever has it can join
and then has the rights of a node. It is good until it is used or removed.`,
		Example: "  ringfence token create",
		RunE: func(c *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			token, err := client.NewToken(c.Context())
			if err != nil {
				return err
			}
			a.progress("token %s admits one node, once; keep it secret", token.ID)
			_, err = fmt.Fprintln(a.Out, token.Text)
			return err
		},
	}
	return group(&cobra.Command{
		Use: "token", Short: "Make, list and remove join tokens",
		Long:    "Make, list and remove the tokens with which nodes join.",
		Example: "  ringfence token create",
	}, create, a.tokenListCmd(), a.tokenRemoveCmd())
}

func (a *app) tokenListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List join tokens", Args: noArgs,
		Long:    "List join tokens by their ids. Secrets are not shown: the cluster does not keep them.",
		Example: "  ringfence token list",
		RunE: func(c *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			tokens, err := client.Tokens(c.Context())
			if err != nil {
				return err
			}
			t := table{rows: [][]string{{"TOKEN", "STATE"}}}
			for _, one := range tokens {
				state := "good"
				if one.UsedBy != "" {
					state = "used by " + one.UsedBy
				}
				t.add(one.ID, state)
			}
			return t.write(a.Out, "")
		},
	}
}

func (a *app) tokenRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "remove ID", Short: "Make a join token void", Args: named("ID"),
		Long:    "Make a join token void before it is used.",
		Example: "  ringfence token remove 0f3a5c7d9e1b",
		RunE: func(c *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			done, err := client.RemoveToken(c.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Out, done.Message)
			return err
		},
	}
}

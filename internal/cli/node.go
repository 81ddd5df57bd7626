package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ringfence/internal/cluster"
	"ringfence/internal/nodeapi"
)

func (a *app) nodeCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "node",
		Short: "Run a node, empty it, let it leave, confirm its death, remove it",
		Long: `Run the daemon of a node, take nodes out of service and back, let this node leave,
give your word that one is dead, or take one out of the cluster for good.`,
		Example: `  ringfence node run
  ringfence node standby n1`,
	}, a.nodeRunCmd(), a.standbyCmd(), a.unstandbyCmd(), a.leaveCmd(), a.confirmDeadCmd(), a.removeCmd())
}

func (a *app) nodeRunCmd() *cobra.Command {
	var o NodeOptions
	var logs logFlags
	c := &cobra.Command{
		Use:   "run",
		Short: "Run this node's daemon",
		Long: `Run the daemon of this node in the foreground; its log goes to standard error.
SIGTERM and Ctrl-C make it leave cleanly: it stops its services, verifies that,
hands them over and ends.

A node that is to be fenced, or that has lost the store for longer than its
budget, stops what it runs. If it cannot, verified, within the time that the
stops may take, it resets itself: it asks its host to destroy this guest, over
the guest's own channel (--self-reset=host). With --self-reset=kernel it restarts
the kernel where the host does not do it; nothing is unmounted then. Recovery
never counts on it: it waits for the host's certificate or another proof.

The data directory is made by ` + "`ringfence init` or `ringfence join`" + `.`,
		Example: "  ringfence node run\n  ringfence node run --data /srv/ringfence --log-level debug",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if !slices.Contains(selfResets, o.SelfReset) {
				return usageError(c, fmt.Errorf("--self-reset %q: allowed are %s", o.SelfReset, strings.Join(selfResets, ", ")))
			}
			if o.Log, err = logs.logger(c, a.Err); err != nil {
				return err
			}
			return a.RunNode(c.Context(), o)
		},
	}
	c.Flags().StringVar(&o.Data, "data", DefaultNodeData, "data directory of the node")
	runFlags(c, &o)
	c.Flags().StringVar(&o.SelfReset, "self-reset", selfResets[0], "what this node does when it must stop and cannot: host, kernel or off")
	complete(c, "self-reset", selfResets...)
	logs.add(c)
	return c
}

// selfResets are the values of --self-reset; the first is the default.
var selfResets = []string{"host", "kernel", "off"}

func (a *app) standbyCmd() *cobra.Command {
	var w waiting
	c := &cobra.Command{
		Use:   "standby NODE",
		Short: "Take a node out of service",
		Long: `Take a node out of service: what it runs moves to other nodes, and it gets nothing
until ` + "`ringfence node unstandby`" + `. It stays a member and keeps its vote.`,
		Example:           "  ringfence node standby n1",
		Args:              named("NODE"),
		ValidArgsFunction: a.names(nodeNames),
		RunE: func(c *cobra.Command, args []string) error {
			return a.orderNode(c.Context(), args[0], "standby", w, func(s nodeapi.Status) (string, bool) {
				n, _ := s.Member(args[0])
				if len(n.Services) == 0 {
					return args[0] + " runs nothing any more", true
				}
				return args[0] + " still has " + join(n.Services, ", "), false
			})
		},
	}
	w.add(c)
	return c
}

func (a *app) unstandbyCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "unstandby NODE",
		Short:             "Put a node back into service",
		Long:              "Put a node that is on standby back into service. Services do not move back by themselves.",
		Example:           "  ringfence node unstandby n1",
		Args:              named("NODE"),
		ValidArgsFunction: a.names(nodeNames),
		RunE: func(c *cobra.Command, args []string) error {
			return a.orderNode(c.Context(), args[0], "unstandby", waiting{no: true}, nil)
		},
	}
}

func (a *app) orderNode(ctx context.Context, node, action string, w waiting, f effect) error {
	client := a.client()
	defer client.Close()
	done, err := client.Node(ctx, node, action, nodeapi.NodeOrder{By: a.User})
	if err != nil {
		return err
	}
	if w.no || !done.Changed {
		_, err := fmt.Fprintln(a.Out, done.Message)
		return err
	}
	a.progress("%s", done.Message)
	return a.wait(ctx, client, w, "ringfence status", f)
}

func (a *app) leaveCmd() *cobra.Command {
	var force bool
	var w waiting
	c := &cobra.Command{
		Use:   "leave",
		Short: "Let this node leave the cluster cleanly",
		Long: `Let this node leave: it stops what it runs, verifies that, hands it over, and its
daemon ends. Nobody has to fence it. It takes part again when its daemon starts.

It is refused while the voters that stay would be too few for quorum.`,
		Example: "  ringfence node leave",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.leave(c.Context(), nodeapi.LeaveOrder{By: a.User, Force: force}, w)
		},
	}
	c.Flags().BoolVar(&force, "force", false, "leave though the others lose quorum; what this node runs stops, nobody takes it over")
	w.add(c)
	return c
}

func (a *app) leave(ctx context.Context, order nodeapi.LeaveOrder, w waiting) error {
	client := a.client()
	defer client.Close()
	done, err := client.Leave(ctx, order)
	var refused *nodeapi.Error
	if errors.As(err, &refused) && refused.Code == nodeapi.CodeRefused {
		return withHint(err, "`ringfence node leave --force` leaves all the same; services then wait for quorum")
	}
	if err != nil {
		return err
	}
	if w.no {
		_, err := fmt.Fprintln(a.Out, done.Message)
		return err
	}
	a.progress("%s", done.Message)
	err = a.wait(ctx, client, w, "ringfence status", func(s nodeapi.Status) (string, bool) {
		n, _ := s.Member(string(s.Node))
		if len(n.Services) == 0 {
			return fmt.Sprintf("%s is %s", s.Node, n.State), false
		}
		return fmt.Sprintf("%s is %s and still has %s", s.Node, n.State, join(n.Services, ", ")), false
	})
	var unreachable *nodeapi.UnreachableError
	if errors.As(err, &unreachable) { // its daemon has ended
		_, err = fmt.Fprintln(a.Out, "this node has left; its daemon has ended")
	}
	return err
}

func (a *app) confirmDeadCmd() *cobra.Command {
	var boot, reason string
	var yes bool
	c := &cobra.Command{
		Use:   "confirm-dead NODE --boot ID --reason TEXT",
		Short: "Give your word that a node is dead",
		Long: `Give your word that one boot of a node has ended, so that what it ran may start
elsewhere. Use it only where nothing else can prove it, such as a host that is
destroyed, and only when you know it: if that boot still runs, or comes back
from a pause, data may be destroyed.

It is refused while anything says alive. Your name and reason go into the
records. Without --boot it shows which boot it would be.`,
		Example:           "  ringfence node confirm-dead n2 --boot 8d2c… --reason 'host h2 burnt, seen by me'",
		Args:              named("NODE"),
		ValidArgsFunction: a.names(nodeNames),
		RunE: func(c *cobra.Command, args []string) error {
			return a.confirmDead(c, args[0], nodeapi.NodeOrder{By: a.User, Boot: cluster.BootID(boot), Reason: reason}, yes)
		},
	}
	c.Flags().StringVar(&boot, "boot", "", "id of the boot that has ended")
	c.Flags().StringVar(&reason, "reason", "", "how you know it; kept in the records")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) confirmDead(c *cobra.Command, node string, order nodeapi.NodeOrder, yes bool) error {
	client := a.client()
	defer client.Close()
	status, err := client.Status(c.Context())
	if err != nil {
		return err
	}
	n, ok := status.Member(node)
	if !ok {
		return usageError(c, fmt.Errorf("there is no node %q; nodes are %s", node, join(nodeNames(status), ", ")))
	}
	a.progress("%s is %s, on host %s, boot %s, and owns %s", n.Name, n.State, orDash(join(n.Hosts, ", ")), orDash(string(n.Boot)), orDash(join(n.Services, ", ")))
	for _, why := range n.Why {
		a.progress("  %s", why)
	}
	switch {
	case order.Boot == "":
		return usageError(c, errors.New("--boot is missing: name the boot that you know to be dead"))
	case order.Reason == "":
		return usageError(c, errors.New("--reason is missing: say how you know it"))
	}
	if err := a.confirm(c, fmt.Sprintf("Do you know that boot %s of %s has ended and cannot come back?", order.Boot, node), yes); err != nil {
		return err
	}
	done, err := client.Node(c.Context(), node, "confirm-dead", order)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.Out, done.Message)
	return err
}

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"ringfence/internal/cluster"
	"ringfence/internal/nodeapi"
)

func (a *app) serviceCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "service",
		Short: "List, move, start and stop services",
		Long: `List, move, start and stop services. A service is an ordered list of resources
that runs on one node at a time. Orders are wishes to the cluster: they stand
until they are fulfilled or taken back, whoever leads.`,
		Example: `  ringfence service list
  ringfence service move web n2`,
	}, a.serviceListCmd(), a.serviceMoveCmd(), a.serviceStartCmd(), a.serviceStopCmd(), a.serviceClearCmd())
}

func (a *app) serviceListCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List the services", Args: noArgs,
		Long:    "List the services with their state, where they run, and why.",
		Example: "  ringfence service list\n  ringfence service list --json",
		RunE: func(c *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			status, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.Out, status.Services)
			}
			t := a.serviceTable(status)
			return t.write(a.Out, "")
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON; its fields are stable")
	return c
}

func (a *app) serviceMoveCmd() *cobra.Command {
	var w waiting
	c := &cobra.Command{
		Use:   "move SERVICE NODE",
		Short: "Move a service to another node",
		Long: `Move a service to another node: it is stopped where it runs, verified stopped, and
started there. Once it has arrived the order is over: the next failover is free
to choose.`,
		Example:           "  ringfence service move web n2",
		Args:              named("SERVICE", "NODE"),
		ValidArgsFunction: a.names(serviceNames, nodeNames),
		RunE: func(c *cobra.Command, args []string) error {
			order := nodeapi.ServiceOrder{To: cluster.NodeName(args[1])}
			return a.orderService(c.Context(), args[0], "move", order, w, func(s nodeapi.ServiceStatus) bool {
				return s.State == string(cluster.ServiceRunning) && string(s.Node) == args[1]
			})
		},
	}
	w.add(c)
	return c
}

func (a *app) serviceStartCmd() *cobra.Command {
	var w waiting
	c := &cobra.Command{
		Use:               "start SERVICE",
		Short:             "Let a stopped service run again",
		Long:              "Let a service that was stopped run again, on the first of its nodes that may take it.",
		Example:           "  ringfence service start web",
		Args:              named("SERVICE"),
		ValidArgsFunction: a.names(serviceNames),
		RunE: func(c *cobra.Command, args []string) error {
			return a.orderService(c.Context(), args[0], "start", nodeapi.ServiceOrder{}, w, func(s nodeapi.ServiceStatus) bool {
				return s.State == string(cluster.ServiceRunning)
			})
		},
	}
	w.add(c)
	return c
}

func (a *app) serviceStopCmd() *cobra.Command {
	var w waiting
	c := &cobra.Command{
		Use:               "stop SERVICE",
		Short:             "Stop a service and keep it stopped",
		Long:              "Stop a service and keep it stopped, over failovers and restarts, until `ringfence service start`.",
		Example:           "  ringfence service stop web",
		Args:              named("SERVICE"),
		ValidArgsFunction: a.names(serviceNames),
		RunE: func(c *cobra.Command, args []string) error {
			return a.orderService(c.Context(), args[0], "stop", nodeapi.ServiceOrder{}, w, func(s nodeapi.ServiceStatus) bool {
				return s.State == string(cluster.ServiceStopped)
			})
		},
	}
	w.add(c)
	return c
}

func (a *app) serviceClearCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "clear SERVICE",
		Short: "Forget that nodes failed to run a service",
		Long: `Forget that nodes failed to run a service, so that they may take it again at once.
Repair first what made it fail: ` + "`ringfence explain SERVICE`" + ` shows it.`,
		Example:           "  ringfence service clear web",
		Args:              named("SERVICE"),
		ValidArgsFunction: a.names(serviceNames),
		RunE: func(c *cobra.Command, args []string) error {
			return a.orderService(c.Context(), args[0], "clear", nodeapi.ServiceOrder{}, waiting{no: true}, nil)
		},
	}
}

// orderService gives an order, says what will happen, and waits for it.
func (a *app) orderService(ctx context.Context, name, action string, order nodeapi.ServiceOrder, w waiting, reached func(nodeapi.ServiceStatus) bool) error {
	client := a.client()
	defer client.Close()
	order.By = a.User
	done, err := client.Service(ctx, name, action, order)
	if err != nil {
		return err
	}
	if w.no || !done.Changed {
		_, err := fmt.Fprintln(a.Out, done.Message)
		return err
	}
	a.progress("%s", done.Message)
	return a.wait(ctx, client, w, "ringfence explain "+name, serviceIs(name, reached))
}

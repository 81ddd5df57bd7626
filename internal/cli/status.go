package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/cluster"
	"ringfence/internal/nodeapi"
)

// watchInterval is how often `status --watch` looks.
const watchInterval = time.Second

func (a *app) statusCmd() *cobra.Command {
	var asJSON, watch bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, services and hosts",
		Long: `Show the cluster as this node sees it: nodes with the hosts they run on, services
with where they run, and hosts. Whatever is not as it should be has its reason
beside it; ` + "`ringfence explain SERVICE`" + ` tells more.

The node that answers is marked with *.`,
		Example: `  ringfence status
  ringfence status --watch
  ringfence status --json | jq .services`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			if watch {
				return a.watchStatus(c.Context(), client, asJSON)
			}
			return a.showStatus(c.Context(), client, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON; its fields are stable")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show it again every second")
	return c
}

func (a *app) showStatus(ctx context.Context, client *nodeapi.Client, asJSON bool) error {
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.Out, status)
	}
	return a.writeStatus(a.Out, status)
}

// watchStatus goes on until ctx ends, also while the node does not answer.
func (a *app) watchStatus(ctx context.Context, client *nodeapi.Client, asJSON bool) error {
	for ctx.Err() == nil {
		var screen bytes.Buffer
		if a.OutTerminal && !asJSON {
			screen.WriteString(escClear)
		}
		status, err := client.Status(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			a.complain(err)
		case asJSON:
			err = json.NewEncoder(&screen).Encode(status) // one line each
		default:
			err = a.writeStatus(&screen, status)
			screen.WriteByte('\n')
		}
		if err == nil {
			if _, err := a.Out.Write(screen.Bytes()); err != nil {
				return err
			}
		}
		pause(ctx, watchInterval)
	}
	return nil
}

func printJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}

func (a *app) writeStatus(w io.Writer, s nodeapi.Status) error {
	quorum := "yes"
	if !s.Quorum {
		quorum = "NO"
	}
	leader := "nobody leads"
	if s.Leader != "" {
		leader = fmt.Sprintf("leader %s, epoch %d", s.Leader, s.Epoch)
	}
	fmt.Fprintf(w, "cluster %s   quorum %s   %s   revision %d\n", s.Name, quorum, leader, s.Revision)
	for _, warning := range s.Warnings {
		fmt.Fprintln(w, "warning: "+warning)
	}
	fmt.Fprintln(w)
	nodes, services := a.nodeTable(s), a.serviceTable(s)
	if err := nodes.write(w, ""); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if len(s.Services) == 0 {
		fmt.Fprintln(w, "no services yet")
	} else if err := services.write(w, ""); err != nil {
		return err
	}
	if len(s.Hosts) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	hosts := a.hostTable(s.Hosts)
	return hosts.write(w, "")
}

// newTable makes a table whose column of states is coloured on terminals.
func (a *app) newTable(stateColumn int, head ...string) table {
	t := table{rows: [][]string{head}}
	if a.OutTerminal && a.Getenv("NO_COLOR") == "" {
		t.colour = stateColour(stateColumn)
	}
	return t
}

func (a *app) nodeTable(s nodeapi.Status) table {
	t := a.newTable(1, "NODE", "STATE", "HOST", "ADDRESS", "SERVICES", "WHY")
	for _, n := range s.Nodes {
		name := string(n.Name)
		if n.Name == s.Node {
			name += " *"
		}
		state := n.State
		if n.Standby && n.State == "member" {
			state = "standby"
		}
		services := orDash(join(n.Services, ","))
		if n.Witness {
			services = "(witness)"
		}
		addReasons(&t, n.Why, name, state, orDash(join(n.Hosts, ",")), orDash(n.Address), services)
	}
	return t
}

func (a *app) serviceTable(s nodeapi.Status) table {
	t := a.newTable(1, "SERVICE", "STATE", "NODE", "GENERATION", "WHY")
	for _, one := range s.Services {
		why := one.Why
		if one.State == string(cluster.ServiceRunning) && len(why) == 1 {
			why = nil // only why it is there, which explain tells
		}
		addReasons(&t, why, string(one.Name), one.State, orDash(string(one.Node)), strconv.FormatUint(uint64(one.Generation), 10))
	}
	return t
}

func (a *app) hostTable(hosts []nodeapi.HostStatus) table {
	t := a.newTable(1, "HOST", "REACHABLE", "ADDRESS")
	for _, h := range hosts {
		reachable := "yes"
		if !h.Reachable {
			reachable = "no"
		}
		if h.Untrusted != "" {
			reachable += ", not trusted"
		}
		t.add(string(h.Name), reachable, h.Address)
	}
	return t
}

// addReasons adds a row with its first reason, and a row for each further one.
func addReasons(t *table, why []string, cells ...string) {
	if len(why) == 0 {
		t.add(append(cells, "")...)
		return
	}
	t.add(append(cells, why[0])...)
	for _, more := range why[1:] {
		t.add(append(make([]string, len(cells)), more)...)
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func join[T ~string](in []T, with string) string {
	out := make([]string, 0, len(in))
	for _, one := range in {
		out = append(out, string(one))
	}
	return strings.Join(out, with)
}

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/cluster"
	"ringfence/internal/nodeapi"
)

func (a *app) eventsCmd() *cobra.Command {
	var asJSON, follow bool
	var since int64
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what happened in the cluster",
		Long: `Show what happened in the cluster: boots, silence, evidence, fencing, and every
step of every service, one line each, with the time at which this node saw it
and the revision of the store. A node remembers the last 1000 events since its
daemon began.`,
		Example: `  ringfence events
  ringfence events -f
  ringfence events -f --json --since 812`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if since < 0 {
				return usageError(c, fmt.Errorf("--since %d: want a revision, 0 or more", since))
			}
			return a.events(c.Context(), follow, cluster.Revision(since), asJSON)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens from now")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line; its fields are stable")
	c.Flags().Int64Var(&since, "since", 0, "only what happened after this revision")
	return c
}

func (a *app) events(ctx context.Context, follow bool, since cluster.Revision, asJSON bool) error {
	client := a.client()
	defer client.Close()
	lines := json.NewEncoder(a.Out)
	err := client.Events(ctx, follow, since, func(e nodeapi.Event) error {
		if asJSON {
			return lines.Encode(e)
		}
		_, err := fmt.Fprintln(a.Out, eventLine(e))
		return err
	})
	switch {
	case ctx.Err() != nil:
		return nil // Ctrl-C is how a follower ends
	case errors.Is(err, io.EOF):
		return errors.New("the node's daemon has ended")
	}
	return err
}

func eventLine(e nodeapi.Event) string {
	return fmt.Sprintf("%s  %6d  %s", e.Time.Local().Format(time.DateTime+".000"), e.Revision, e.Text)
}

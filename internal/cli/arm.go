package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"ringfence/internal/nodeapi"
)

func (a *app) disarmCmd() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "disarm",
		Short: "Stop fencing and recovery in the whole cluster",
		Long: `Stop fencing and recovery in the whole cluster, for work during which nodes may
fall silent. Services run on where they are, and can be stopped, started and
moved; nobody is fenced, and a service whose node ends stays down until
` + "`ringfence cluster arm`" + `. A fence attempt that is under way is not called back.`,
		Example: "  ringfence cluster disarm --reason 'new switch in rack 4'",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "reason"); err != nil {
				return err
			}
			return a.orderArm(c, "disarm", reason)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why; `ringfence status` shows it as a reminder (required)")
	return c
}

func (a *app) armCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "arm",
		Short:   "Allow fencing and recovery again",
		Long:    "Allow fencing and recovery again, after `ringfence cluster disarm`. What was lost\nmeanwhile is recovered at once.",
		Example: "  ringfence cluster arm",
		Args:    noArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.orderArm(c, "arm", "") },
	}
}

func (a *app) orderArm(c *cobra.Command, action, reason string) error {
	client := a.client()
	defer client.Close()
	done, err := client.Arm(c.Context(), action, nodeapi.ArmOrder{By: a.User, Reason: reason})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.Out, done.Message)
	return err
}

package cli

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/cluster"
	"ringfence/internal/decisions"
	"ringfence/internal/pki"
	"ringfence/internal/plan"
)

func (a *app) decisionCmd() *cobra.Command {
	c := group(&cobra.Command{
		Use:   "decision",
		Short: "Show saved decisions of the planner, and make them again",
		Long: `The node that leads saves what each of its decisions was made from, the newest
` + strconv.Itoa(decisions.Kept) + ` of them, in its data directory. A decision is a pure function of that:
made again from the same snapshot it must give the same orders.`,
		Example: `  ringfence decision list
  ringfence decision show 4711`,
	})
	c.AddCommand(a.decisionListCmd(), a.decisionShowCmd())
	return c
}

func (a *app) decisionListCmd() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the saved decisions of this node, oldest first",
		Long:    "List the saved decisions of this node, oldest first, with the revision of the\nstore that each was made from.",
		Example: "  ringfence decision list",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			files, err := decisions.List(pki.Dir(data).Decisions())
			if err != nil {
				return err
			}
			if len(files) == 0 {
				return fmt.Errorf("no decisions are saved in %s: this node has not led yet, or --data names another directory", pki.Dir(data).Decisions())
			}
			t := table{}
			t.add("REVISION", "MADE AT", "ORDERS")
			for _, file := range files {
				d, err := decisions.Load(file)
				if err != nil {
					return err
				}
				t.add(strconv.FormatInt(int64(d.Snapshot.State.Rev), 10), d.At.Format(time.DateTime), summary(d.Result))
			}
			return t.write(a.Out, "")
		},
	}
	c.Flags().StringVar(&data, "data", DefaultNodeData, "data directory of the node")
	return c
}

// summary names the orders of a plan, each kind with its subject.
func summary(r plan.Result) string {
	var words []string
	for _, o := range r.Orders {
		words = append(words, fmt.Sprintf("%s %s", o.Kind, o.Subject))
	}
	return strings.Join(words, ", ")
}

func (a *app) decisionShowCmd() *cobra.Command {
	var data string
	var asJSON bool
	c := &cobra.Command{
		Use:   "show REVISION|FILE",
		Short: "Show one decision and make it again from what it was made from",
		Long: `Show the orders of one decision and how the services stood, and make it again
with this version's planner: it says whether the orders are the same.`,
		Example: `  ringfence decision show 4711
  ringfence decision show ./000000004711.json.gz --json`,
		Args: named("REVISION|FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			file := args[0]
			if rev, err := strconv.ParseInt(file, 10, 64); err == nil {
				file = decisions.File(pki.Dir(data).Decisions(), cluster.Revision(rev))
			}
			d, err := decisions.Load(file)
			if err != nil {
				return fmt.Errorf("%w; `ringfence decision list` shows what is saved", err)
			}
			if asJSON {
				return printJSON(a.Out, d)
			}
			return a.showDecision(filepath.Base(file), d)
		},
	}
	c.Flags().StringVar(&data, "data", DefaultNodeData, "data directory of the node")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON with the whole snapshot; its fields are stable")
	return c
}

func (a *app) showDecision(name string, d decisions.Decision) error {
	fmt.Fprintf(a.Out, "%s: made by %s in epoch %d at %s, from revision %d\n", name, d.Snapshot.Self,
		d.Snapshot.State.Leader.Value.Epoch, d.At.Format(time.DateTime), d.Snapshot.State.Rev)
	fmt.Fprintln(a.Out, "orders:")
	for _, o := range d.Result.Orders {
		fmt.Fprintf(a.Out, "  %-8s %s\n", o.Kind, o.Text)
	}
	fmt.Fprintln(a.Out, "services as they stood:")
	for _, s := range d.Result.Services {
		fmt.Fprintf(a.Out, "  %s is %s\n", s.Name, s.State)
		for _, why := range s.Why {
			fmt.Fprintf(a.Out, "    %s\n", why)
		}
	}
	was, err := json.Marshal(d.Result)
	if err != nil {
		return err
	}
	is, err := json.Marshal(plan.Plan(d.Snapshot))
	if err != nil {
		return err
	}
	if string(was) != string(is) {
		return fmt.Errorf("made again by this version, the decision differs: it was made by another version, or the planner is not pure")
	}
	fmt.Fprintln(a.Out, "made again by this version: the same")
	return nil
}

package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/cli"
	"ringfence/internal/cluster"
	"ringfence/internal/lab"
)

// labCommand is `ringfence lab`.
func (d Deps) labCommand() *cobra.Command {
	c := group(&cobra.Command{
		Use:   "lab",
		Short: "Run a whole cluster of guests on this machine",
		Long: `Run three hosts and three guests on this machine, in namespaces of their own, with
a cluster in them that runs one service; then let things fail and look what
happens. Nothing is added to the machine's own network, and root is not needed.

The lab's directory is $RINGFENCE_LAB, or one below /tmp.`,
		Example: `  ringfence lab up
  ringfence lab exec n1 -- ringfence status
  ringfence lab kill n1
  ringfence lab down`,
	}, d.upCommand(), d.downCommand(), d.labStatusCommand(), d.execCommand())
	for _, v := range nodeVerbs() {
		c.AddCommand(d.nodeVerb(v))
	}
	c.AddCommand(d.migrateCommand(), d.quietCommand(), d.powerLossCommand(), d.hostPowerOnCommand())
	return c
}

func (d Deps) upCommand() *cobra.Command {
	var movable bool
	c := &cobra.Command{
		Use: "up", Short: "Start the lab", Args: noArgs,
		Long: `Start the lab and install a cluster in it, with a service that is an address and a small program.

With --movable guests can migrate and be saved. A host of such a lab does not take a guest's absence for its end: it may have
left. So it certifies only ends that it saw, and after a power loss none.`,
		Example: "  ringfence lab up\n  ringfence lab up --movable",
		RunE: func(c *cobra.Command, _ []string) error {
			exe, err := executable()
			if err != nil {
				return err
			}
			l, err := lab.Up(c.Context(), options("", exe, false, cast{guests: len(lab.Nodes()), movable: movable}, newProgress(d.Err).say))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(d.Out, `the lab is up, in %s
try:
  ringfence lab exec n1 -- ringfence status
  ringfence lab kill n1
  ringfence lab status
  ringfence lab down
`, l.Dir)
			return err
		},
	}
	c.Flags().BoolVar(&movable, "movable", false, "let guests migrate and be saved")
	return c
}

func (d Deps) downCommand() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End the lab", Args: noArgs,
		Long:    "End the lab and remove all that it made. Where none runs, what an ended one left is removed.",
		Example: "  ringfence lab down",
		RunE:    func(c *cobra.Command, _ []string) error { return lab.Open("").Down(c.Context()) },
	}
}

func (d Deps) labStatusCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "Show hosts and guests of the lab", Args: noArgs,
		Long:    "Show hosts and guests of the lab, as a visitor of the machine room would see them.",
		Example: "  ringfence lab status",
		RunE: func(c *cobra.Command, _ []string) error {
			status, err := lab.Open("").Status(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				encoder := json.NewEncoder(d.Out)
				encoder.SetIndent("", "  ")
				return encoder.Encode(status)
			}
			return writeLabStatus(d.Out, status)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON; its fields are stable")
	return c
}

func writeLabStatus(w io.Writer, s lab.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "HOST\tADDRESS\tPOWER\tHOSTD\tTELLS EVENTS")
	for _, h := range s.Hosts {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", h.Name, h.Addr, word(h.Powered, "on", "off"), h.Hostd, word(h.Quiet, "no", "yes"))
	}
	fmt.Fprintln(t, "\nNODE\tADDRESS\tHOST\tGUEST\tNETWORK")
	for _, n := range s.Nodes {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", n.Name, n.Addr, n.Host, n.State, network(n))
	}
	return t.Flush()
}

func network(n lab.NodeStatus) string {
	switch {
	case n.Cut:
		return "cut off"
	case n.Split:
		return "split"
	}
	return "connected"
}

func word(yes bool, is, isNot string) string {
	if yes {
		return is
	}
	return isNot
}

func (d Deps) execCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "exec NODE|HOST -- COMMAND...",
		Short: "Run a command inside a guest, or on a host",
		Long:  "Run a command inside a guest of the lab, or beside the daemon of a host. Its exit code becomes this command's.",
		Example: `  ringfence lab exec n1 -- ringfence status
  ringfence lab exec n2 -- ip addr`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return cli.UsageError(c, errors.New("name a node or a host, and the command to run there"))
			}
			return known(c, args[:1], append(nodeNames(), hostNames()...))
		},
		ValidArgsFunction: firstOf(append(nodeNames(), hostNames()...)),
		RunE: func(c *cobra.Command, args []string) error {
			argv, err := ownBinary(args[1:])
			if err != nil {
				return err
			}
			code, err := lab.Open("").Exec(c.Context(), args[0], argv, lab.ExecIO{Stdin: d.In, Stdout: d.Out, Stderr: d.Err})
			if err != nil {
				return err
			}
			if code != 0 {
				return &cli.ExitError{Code: code}
			}
			return nil
		},
	}
}

// ownBinary replaces "ringfence" by this binary, which need not be in the PATH.
func ownBinary(argv []string) ([]string, error) {
	if argv[0] != "ringfence" {
		return argv, nil
	}
	exe, err := executable()
	return append([]string{exe}, argv[1:]...), err
}

// verb is a verb of the lab for guests.
type verb struct {
	name, short, long string
	do                func(*lab.Lab, context.Context, ...cluster.NodeName) error
}

func nodeVerbs() []verb {
	return []verb{
		{"kill", "Kill guests behind the hypervisor's back", "Kill guests, as when a QEMU crashes; the host notices.", (*lab.Lab).Kill},
		{"cut", "Cut guests off the network", "Take the guests' links down. They go on running; their channel to the host stays.", (*lab.Lab).Cut},
		{"split", "Cut guests off each other", "Cut guests off each other, and off those that were split before. They still reach everybody else: hosts, a witness, clients.", (*lab.Lab).Split},
		{"heal", "Undo cut and split", "Bring the guests' links up again, and let them reach each other.", (*lab.Lab).Heal},
		{"pause", "Pause guests", "Pause guests through the hypervisor: they stand still and do not know.", (*lab.Lab).Pause},
		{"unpause", "Undo pause", "Let paused guests go on.", (*lab.Lab).Unpause},
		{"save", "Save guests", "Save guests: they end on their host for now, and their memory is kept there until it loses power. The lab must be movable.", (*lab.Lab).Save},
		{"restore", "Restore saved guests", "Let saved guests go on where they stood, when their host agrees.", (*lab.Lab).Restore},
		{"power-on", "Start guests", "Start guests through the hypervisor, cold, also saved ones; their node's daemon starts by itself.", (*lab.Lab).PowerOn},
		{"power-off", "End guests through the hypervisor", "End guests through the hypervisor, as an administrator does with `virsh destroy`.", (*lab.Lab).PowerOff},
	}
}

func (d Deps) nodeVerb(v verb) *cobra.Command {
	return &cobra.Command{
		Use: v.name + " NODE...", Short: v.short, Long: v.long,
		Example:           fmt.Sprintf("  ringfence lab %s n1", v.name),
		Args:              some("a node", nodeNames()),
		ValidArgsFunction: anyOf(nodeNames()),
		RunE: func(c *cobra.Command, args []string) error {
			return v.do(lab.Open(""), c.Context(), convert[cluster.NodeName](args)...)
		},
	}
}

func (d Deps) migrateCommand() *cobra.Command {
	m := lab.Migration{}
	c := &cobra.Command{
		Use: "migrate NODE HOST", Short: "Migrate a guest to another host",
		Long: `Migrate a guest to another host, through the hypervisor and while it runs. The host there is asked first and may refuse. The
guest runs on for --duration, stands still for --downtime, and goes on over there, the same life. The lab must be movable.`,
		Example: "  ringfence lab migrate n1 h2\n  ringfence lab migrate n1 h2 --duration 10s --fail",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return cli.UsageError(c, errors.New("name a node, and the host to which it shall migrate"))
			}
			return errors.Join(known(c, args[:1], nodeNames()), known(c, args[1:], hostNames()))
		},
		ValidArgsFunction: firstOf(nodeNames()),
		RunE: func(c *cobra.Command, args []string) error {
			return lab.Open("").Migrate(c.Context(), cluster.NodeName(args[0]), cluster.HostName(args[1]), m)
		},
	}
	flags := c.Flags()
	flags.DurationVar(&m.Duration, "duration", 2*time.Second, "how long it runs before it switches over, up to 30s")
	flags.DurationVar(&m.Downtime, "downtime", 300*time.Millisecond, "how long the guest stands still, up to 10s")
	flags.BoolVar(&m.Fail, "fail", false, "abort before it switches over: the guest stays")
	flags.BoolVar(&m.PostcopyFail, "postcopy-fail", false, "fail after it has switched over: the guest is over there, paused; unpause recovers it")
	c.MarkFlagsMutuallyExclusive("fail", "postcopy-fail")
	return c
}

func (d Deps) quietCommand() *cobra.Command {
	var off bool
	c := &cobra.Command{
		Use: "quiet HOST...", Short: "Make hypervisors tell no events",
		Long:              "Make the hypervisors of hosts tell no events, so that nobody learns of a guest's end from them. With --off they tell them again, those held back first.",
		Example:           "  ringfence lab quiet h1\n  ringfence lab quiet --off h1",
		Args:              some("a host", hostNames()),
		ValidArgsFunction: anyOf(hostNames()),
		RunE: func(c *cobra.Command, args []string) error {
			var faults []error
			for _, host := range args {
				faults = append(faults, lab.Open("").Quiet(c.Context(), cluster.HostName(host), !off))
			}
			return errors.Join(faults...)
		},
	}
	c.Flags().BoolVar(&off, "off", false, "tell events again")
	return c
}

func (d Deps) powerLossCommand() *cobra.Command {
	return &cobra.Command{
		Use: "host-power-loss HOST...", Short: "Take the power from hosts",
		Long:              "Take the power from hosts: their daemons and guests end at once, and nobody says a word.",
		Example:           "  ringfence lab host-power-loss h1 h2 h3",
		Args:              some("a host", hostNames()),
		ValidArgsFunction: anyOf(hostNames()),
		RunE: func(c *cobra.Command, args []string) error {
			return lab.Open("").HostPowerLoss(c.Context(), convert[cluster.HostName](args)...)
		},
	}
}

func (d Deps) hostPowerOnCommand() *cobra.Command {
	var guests bool
	c := &cobra.Command{
		Use: "host-power-on HOST...", Short: "Give hosts power again",
		Long:              "Give hosts power again: they boot anew, and start their guests if told so.",
		Example:           "  ringfence lab host-power-on --guests h1 h2 h3",
		Args:              some("a host", hostNames()),
		ValidArgsFunction: anyOf(hostNames()),
		RunE: func(c *cobra.Command, args []string) error {
			return lab.Open("").HostPowerOn(c.Context(), guests, convert[cluster.HostName](args)...)
		},
	}
	c.Flags().BoolVar(&guests, "guests", false, "start their guests too")
	return c
}

func nodeNames() (out []string) { return words(lab.Nodes()) }
func hostNames() (out []string) { return words(lab.Hosts()) }

func words[T ~string](names []T) (out []string) { return convert[string](names) }

func convert[To, From ~string](names []From) (out []To) {
	for _, name := range names {
		out = append(out, To(name))
	}
	return out
}

// some accepts one or more of the names.
func some(what string, allowed []string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cli.UsageError(c, fmt.Errorf("%s: name at least %s; there are %s", c.CommandPath(), what, strings.Join(allowed, ", ")))
		}
		return known(c, args, allowed)
	}
}

func known(c *cobra.Command, args, allowed []string) error {
	for _, arg := range args {
		if !slices.Contains(allowed, arg) {
			return cli.UsageError(c, fmt.Errorf("%s: %q is not in the lab; there are %s", c.CommandPath(), arg, strings.Join(allowed, ", ")))
		}
	}
	return nil
}

func anyOf(names []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		left := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(args, name) })
		return left, cobra.ShellCompDirectiveNoFileComp
	}
}

func firstOf(names []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// progress tells steps with the time since the beginning.
type progress struct {
	out   io.Writer
	began time.Time
}

func newProgress(out io.Writer) *progress { return &progress{out: out, began: time.Now()} }

func (p *progress) say(step string) {
	fmt.Fprintf(p.out, "%6.1f s  %s\n", time.Since(p.began).Seconds(), step)
}

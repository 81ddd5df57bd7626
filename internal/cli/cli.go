// Package cli is the command line of ringfence: every command, its help, its
// completion and how its results look. main builds it from Deps and turns its
// error into an exit code; nothing else calls it.
//
// The rules of what it prints: results go to standard output, progress and
// errors to standard error; an error is "ringfence: message", a hint stands on
// a line of its own; colour is used on terminals only and never says anything
// alone; --json is stable. A command that changes something says what will
// happen, and by default waits until it has.
package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/config"
	"ringfence/internal/nodeapi"
)

// Defaults of flags.
const (
	DefaultRunDir      = "/run/ringfence"
	DefaultNodeData    = "/var/lib/ringfence/node"
	DefaultHostData    = "/var/lib/ringfence/host"
	DefaultHostChannel = "/run/ringfence-host/channel.sock"
	DefaultBeatPort    = 7401
	DefaultPeerPort    = 7402
	DefaultJoinPort    = 7403
)

// socketEnv names another socket of the node's API than the default one.
const socketEnv = "RINGFENCE_SOCKET"

// Deps is what the commands work with. main fills it.
type Deps struct {
	Version string
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
	// InTerminal and OutTerminal say which of In and Out are terminals.
	InTerminal, OutTerminal bool
	// Getenv reads the environment; User is who gives the orders, for the records.
	Getenv func(string) string
	User   string
	// CheckResource knows the parameters of all agents.
	CheckResource config.Check
	// RunNode and RunHostd are the daemons; they return when ctx ends.
	RunNode  func(ctx context.Context, o NodeOptions) error
	RunHostd func(ctx context.Context, o HostdOptions) error
	// ExplainHostd is behind `hostd explain`.
	ExplainHostd ExplainHostd
	// Recover makes a new incarnation of the cluster on a node that does not run.
	Recover func(ctx context.Context, o RecoverOptions) (Recovered, error)
	// Drivers are the names that `hostd run --driver` takes.
	Drivers []string
	// Hangup begins to deliver a value for each SIGHUP, until ctx ends.
	Hangup func(ctx context.Context) <-chan struct{}
	// Extra are further commands, such as demo and lab.
	Extra []*cobra.Command
}

// app carries what the commands share.
type app struct {
	Deps
	socket string
}

// Run carries out one command line and returns the exit code of the process.
func Run(ctx context.Context, d Deps, args []string) int {
	a := &app{Deps: d}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(d.In)
	root.SetOut(d.Out)
	root.SetErr(d.Err)
	err := root.ExecuteContext(ctx)
	if err != nil {
		a.complain(err)
	}
	return exitCode(err)
}

func (a *app) root() *cobra.Command {
	root := group(&cobra.Command{
		Use:   "ringfence",
		Short: "High availability for clusters whose nodes are virtual machines",
		Long: `Ringfence keeps applications running when the machines they run on are virtual
machines: a node dies, its death is proved, its services run on another node.

Begin with ` + "`ringfence demo`" + `, which shows it on this machine, or with
` + "`ringfence init`" + ` on the first node of a cluster.`,
		Example: `  ringfence status
  ringfence service move web n2
  ringfence explain web`,
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError(c, err) })
	socket := a.Getenv(socketEnv)
	if socket == "" {
		socket = filepath.Join(DefaultRunDir, nodeapi.SocketName)
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", socket, "socket of the node to talk to (or set "+socketEnv+")")
	root.AddGroup(
		&cobra.Group{ID: groupSee, Title: "See what goes on:"},
		&cobra.Group{ID: groupRun, Title: "Run services:"},
		&cobra.Group{ID: groupBuild, Title: "Build a cluster:"},
		&cobra.Group{ID: groupSave, Title: "Save and recover a cluster:"},
	)
	in := func(id string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	in(groupSee, a.statusCmd(), a.explainCmd(), a.eventsCmd(), a.decisionCmd(), a.doctorCmd())
	in(groupRun, a.serviceCmd(), a.configCmd(), a.nodeCmd())
	in(groupBuild, a.initCmd(), a.tokenCmd(), a.joinCmd(), a.witnessCmd(), a.hostdCmd(), a.hostCmd(), a.clusterCmd())
	in(groupSave, a.backupCmd(), a.restoreCmd(), a.recoverQuorumCmd())
	root.AddCommand(a.versionCmd(), exitCodesTopic())
	root.AddCommand(a.Extra...)
	return root
}

// Groups of the root's help.
const (
	groupSee   = "see"
	groupRun   = "run"
	groupBuild = "build"
	groupSave  = "save"
)

// client returns a client of the node's API.
func (a *app) client() *nodeapi.Client { return nodeapi.Dial(a.socket) }

// progress tells on standard error what is going on.
func (a *app) progress(format string, args ...any) {
	fmt.Fprintf(a.Err, format+"\n", args...)
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Long: "Print the version of this binary.",
		Example: "  ringfence version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.Out, "ringfence", a.Version)
			return err
		},
	}
}

// pollInterval is how often a waiting command looks.
const pollInterval = 200 * time.Millisecond

// pause waits; false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

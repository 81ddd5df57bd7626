package cli

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"ringfence/internal/backup"
	"ringfence/internal/cluster"
)

// RecoverOptions are the settings of `ringfence restore` and `recover-quorum`.
type RecoverOptions struct {
	Data, RunDir string // as of NodeOptions
	// Backup is what the records are taken from; nil: the node's own store.
	Backup *backup.Backup
	// Incarnation is the new one; 0: the next after all that is known here.
	Incarnation cluster.Incarnation
	// By and Reason are the operator's word that all other nodes are off.
	By, Reason string
	// Progress tells a person what is going on.
	Progress func(format string, args ...any)
	Log      *slog.Logger
}

// Recovered is the new incarnation of a cluster.
type Recovered struct {
	Name        string // of the cluster
	Node        cluster.NodeName
	Incarnation cluster.Incarnation
	Revision    cluster.Revision // of the records that it was made from
	Rejoin      []cluster.NodeName
	Aside       string // where the former store is kept; "": there was none
	Reboot      bool   // the present boot of this machine cannot take part
	Disarmed    bool
	Witness     bool // `ringfence witness run` starts it
}

// wordLimitBytes bounds the words of a person that are stored.
const wordLimitBytes = 512

// recoverFlags are what both ways to a new incarnation take.
type recoverFlags struct {
	o         RecoverOptions
	othersOff bool
	number    uint64
	logs      logFlags
}

func (f *recoverFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.o.By, "by", "", "who gives the order; kept in the records (required)")
	c.Flags().StringVar(&f.o.Reason, "reason", "", "how you know that all other nodes are off; kept in the records (required)")
	c.Flags().BoolVar(&f.othersOff, "others-are-off", false, "your word that every other node is off and cannot come back by itself (required)")
	c.Flags().Uint64Var(&f.number, "incarnation", 0, "number of the new incarnation, where a host or node has seen a higher one than this node (0: the next)")
	c.Flags().StringVar(&f.o.Data, "data", DefaultNodeData, "data directory of this node")
	c.Flags().StringVar(&f.o.RunDir, "run-dir", DefaultRunDir, "run directory of this node, as `ringfence node run` had it")
	f.logs.level = "error" // the store's warnings on the way are of no use here
	f.logs.add(c)
}

// check refuses what was not said in full.
func (f *recoverFlags) check(c *cobra.Command) error {
	if err := required(c, "by", "reason"); err != nil {
		return err
	}
	for name, value := range map[string]string{"by": f.o.By, "reason": f.o.Reason} {
		if len(value) > wordLimitBytes {
			return usageError(c, fmt.Errorf("--%s has %d bytes, at most %d are allowed", name, len(value), wordLimitBytes))
		}
	}
	if !f.othersOff {
		return usageError(c, errors.New("--others-are-off is missing. With it you give your word that every other node of the cluster is off: "+
			"what they ran is started anew, and a node that still runs then would run it a second time and destroy data. "+
			"Turn their machines off, see that they are, and keep them off until they join again; nothing was changed"))
	}
	return nil
}

// procedure is what both commands tell at three in the morning.
const procedure = `
Step by step:

  1  Turn the machines of all other nodes off, at their hosts or by hand, and see
     that they are off. Silence is no proof. Their disks may not start them again
     by themselves: disable their daemons, or leave the machines off.
  2  On the node that you keep, stop the daemon (systemctl stop ringfence-node, or
     SIGTERM; if it hangs for want of quorum, kill it).
  3  Run this command there. It stops what is left of services on this machine,
     asks whether any other daemon still answers, makes the new store beside the
     old one, and begins the new incarnation in one step. If it fails before
     that, nothing has changed: correct what it says and run it again.
  4  Start the daemon: ` + "`ringfence node run`" + `. Services start here, by your word.
  5  Look at ` + "`ringfence status`" + `, ` + "`ringfence host list`" + ` and ` + "`ringfence config show`" + `:
     what was changed behind the records that it was made from has to be done again
     (after recover-quorum at most the very last changes).
  6  Let every other node join anew, one at a time: start its machine (a boot from
     before is refused for ever), move its data directory away, then
     ` + "`ringfence token create`" + ` here, and ` + "`ringfence join`" + ` and ` + "`ringfence node run`" + ` there.
     Old data directories are refused: they are of the former incarnation.

The former store stays in the data directory, under a name that says so; remove
it when you are sure. A restore that turned out wrong is undone by another one.`

func (a *app) restoreCmd() *cobra.Command {
	var f recoverFlags
	c := &cobra.Command{
		Use:   "restore FILE --by NAME --reason TEXT --others-are-off",
		Short: "Make the cluster anew from a backup, on this node",
		Long: `Make a new incarnation of the cluster from a file of ` + "`ringfence backup`" + ` (- reads
standard input), with this node as its only voter. It needs this node's data
directory, whose keys and name stay; its store may be lost. All other nodes have
to join again. Use it when no store is left, or to go back to an earlier state.
If the store of one voter is left, ` + "`ringfence recover-quorum`" + ` loses less.
` + procedure,
		Example: `  ringfence restore demo.backup --by ann --reason 'n2 and n3 burnt, seen by me' --others-are-off
  ringfence restore demo.backup --by ann --reason 'disks of all nodes lost' --others-are-off --incarnation 4`,
		Args:              named("FILE"),
		ValidArgsFunction: files,
		RunE: func(c *cobra.Command, args []string) (err error) {
			if err := f.check(c); err != nil {
				return err
			}
			if f.o.Backup, err = a.readBackup(c, args[0]); err != nil {
				return err
			}
			return a.recover(c, &f)
		},
	}
	f.add(c)
	return c
}

func (a *app) recoverQuorumCmd() *cobra.Command {
	var f recoverFlags
	c := &cobra.Command{
		Use:   "recover-quorum --by NAME --reason TEXT --others-are-off",
		Short: "Go on with this node alone, when most voters are lost for good",
		Long: `Make a new incarnation of the cluster from this node's own store, with this node
as its only voter, when so many voters are lost for good that there will be no
quorum again. All other nodes have to join again. If they can be brought back,
bring them back instead: nothing is lost then, and this command is not needed.

It is refused while the daemon of another node answers. Choose the node that was
up to date last, if several are left.
` + procedure,
		Example: "  ringfence recover-quorum --by ann --reason 'hosts h2 and h3 burnt, seen by me' --others-are-off",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.check(c); err != nil {
				return err
			}
			return a.recover(c, &f)
		},
	}
	f.add(c)
	return c
}

func (a *app) recover(c *cobra.Command, f *recoverFlags) (err error) {
	o := f.o
	o.Incarnation, o.Progress = cluster.Incarnation(f.number), a.progress
	if o.Log, err = f.logs.logger(c, a.Err); err != nil {
		return err
	}
	done, err := a.Recover(c.Context(), o)
	if err != nil {
		return err
	}
	out := fmt.Sprintf("cluster %s is in incarnation %d, made from revision %d, with %s as its only voter\n", done.Name, done.Incarnation, done.Revision, done.Node)
	if done.Aside != "" {
		out += fmt.Sprintf("the former store is kept in %s\n", done.Aside)
	}
	out += "next:\n"
	if done.Reboot {
		out += "  restart this machine       what runs here could not be verified stopped: its present boot cannot take part\n"
	}
	role := "node"
	if done.Witness {
		role = "witness"
	}
	out += fmt.Sprintf("  ringfence %s run --data %s\n", role, o.Data)
	if done.Disarmed {
		out += "  ringfence cluster arm      the records say that the cluster is disarmed: nothing is recovered until then\n"
	}
	if len(done.Rejoin) > 0 {
		out += fmt.Sprintf("  ringfence token create     for each node that shall join again: %s\n", join(done.Rejoin, ", "))
	}
	_, err = fmt.Fprint(a.Out, out)
	return err
}

package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/backup"
)

func (a *app) backupCmd() *cobra.Command {
	var force bool
	c := group(&cobra.Command{
		Use:   "backup FILE",
		Short: "Save the cluster's records to a file",
		Long: `Save all records of the cluster, as of one moment, to a file that only you can
read; - writes it to standard output. Any member can do it while the cluster has
quorum. It keeps the configuration, hosts, orders of people and what has ended;
` + "`ringfence restore`" + ` makes a cluster from it again.

It holds no keys: those are in each node's data directory, and a restore needs
that of one node. Keep a copy of one data directory too, without its store. Of
join tokens it holds hashes only. What you wrote into the parameters of
resources is in it as you wrote it, passwords too.`,
		Example: `  ringfence backup /var/backups/demo.backup
  ringfence backup - | ssh vault 'cat > demo.backup'
  ringfence backup show /var/backups/demo.backup`,
	}, a.backupShowCmd())
	c.Args = named("FILE")
	c.ValidArgsFunction = files
	c.RunE = func(c *cobra.Command, args []string) error { return a.backup(c, args[0], force) }
	c.Flags().BoolVar(&force, "force", false, "replace the file if there is one")
	return c
}

func (a *app) backup(c *cobra.Command, path string, force bool) error {
	if path == "-" && a.OutTerminal {
		return usageError(c, errors.New("a backup does not belong on a terminal: redirect it, or give the name of a file"))
	}
	client := a.client()
	defer client.Close()
	made, data, err := client.Backup(c.Context())
	if err != nil {
		return err
	}
	if path == "-" {
		if _, err := a.Out.Write(data); err != nil {
			return fmt.Errorf("write the backup: %w", err)
		}
		a.progress("%s", backupLine(made.Header))
		return nil
	}
	if err := backup.WriteFile(path, data, force); errors.Is(err, backup.ErrExists) {
		return withHint(err, "--force replaces it")
	} else if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Out, "%s\nsaved to %s\n", backupLine(made.Header), path)
	return err
}

func backupLine(h backup.Header) string {
	return fmt.Sprintf("cluster %s, incarnation %d, revision %d: %s", h.Name, h.Incarnation, h.Revision, count(h.Records, "record"))
}

func (a *app) backupShowCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "show FILE", Short: "Show what a backup is of", Args: named("FILE"),
		Long: `Check a file of ` + "`ringfence backup`" + ` and show what it is of; - reads standard input.
A file that is damaged, cut short or of a newer version is an error.`,
		Example:           "  ringfence backup show /var/backups/demo.backup",
		ValidArgsFunction: files,
		RunE: func(c *cobra.Command, args []string) error {
			b, err := a.readBackup(c, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.Out, b.Header)
			}
			s, err := b.State()
			if err != nil {
				return err
			}
			h := b.Header
			t := table{rows: [][]string{
				{"CLUSTER", fmt.Sprintf("%s (id %s)", h.Name, h.Cluster)},
				{"INCARNATION", fmt.Sprint(h.Incarnation)},
				{"REVISION", fmt.Sprint(h.Revision)},
				{"CREATED", fmt.Sprintf("%s by node %s", h.Created.Format(time.RFC3339), h.Node)},
				{"RECORDS", fmt.Sprintf("%d, format %d", h.Records, h.Format)},
				{"CONTENT", fmt.Sprintf("%s, %s, %s", count(len(s.Nodes), "node"), count(len(s.Hosts), "host"), count(len(s.Config.Value.Services), "service"))},
			}}
			return t.write(a.Out, "")
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// readBackup reads a backup from a file, or from standard input for "-".
func (a *app) readBackup(c *cobra.Command, path string) (b *backup.Backup, err error) {
	if path == "-" {
		b, err = backup.Read(a.In)
	} else {
		b, err = backup.ReadFile(path)
	}
	if err != nil {
		return nil, usageError(c, err)
	}
	return b, nil
}

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ringfence/internal/cluster"
	"ringfence/internal/fencevirt/conf"
	"ringfence/internal/hostd/server"
	"ringfence/internal/nodeapi"
)

// fileLimitBytes bounds the files that people hand over.
const fileLimitBytes = 64 << 10

func (a *app) hostdCmd() *cobra.Command {
	commands := []*cobra.Command{a.hostdInitCmd(), a.hostdAllowCmd(), a.hostdExportCmd(), a.hostdRunCmd(), a.hostdConfigCmd(), a.hostdHooksCmd(), a.hostdHookCmd()}
	if a.ExplainHostd != nil {
		commands = append(commands, a.hostdExplainCmd())
	}
	return group(&cobra.Command{
		Use:   "hostd",
		Short: "Set up and run the daemon of a hypervisor host",
		Long: `Set up and run the daemon of a hypervisor host. It tells clusters what becomes of
their guests, signs their death certificates, and turns guests off for clusters
that may do that. It needs no cluster on the host itself.`,
		Example: `  ringfence hostd init --name h1 --address 192.0.2.1:7411
  ringfence hostd allow demo.cluster --guest 4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d10
  ringfence hostd run`,
	}, commands...)
}

func dataFlag(c *cobra.Command, to *string) {
	c.Flags().StringVar(to, "data", DefaultHostData, "host directory")
}

func (a *app) hostdInitCmd() *cobra.Command {
	var name, address, data string
	c := &cobra.Command{
		Use: "init", Short: "Make the host directory", Args: noArgs,
		Long:    "Make the host directory: keys for TLS and for signing, and the journal's place. A directory that exists is refused.",
		Example: "  ringfence hostd init --name h1 --address 192.0.2.1:7411",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "name", "address"); err != nil {
				return err
			}
			if err := server.Init(data, cluster.HostName(name), address); err != nil {
				return err
			}
			_, err := fmt.Fprintf(a.Out, `host %s is set up in %s
next:
  ringfence hostd allow CLUSTER-FILE --guest UUID   with the file of `+"`ringfence cluster export`"+`
  ringfence hostd export > %s.host                  for `+"`ringfence host add`"+` on a node
  ringfence hostd run
`, name, data, name)
			return err
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of this host (required)")
	c.Flags().StringVar(&address, "address", "", "host:port at which the nodes reach this host (required)")
	dataFlag(c, &data)
	return c
}

func (a *app) hostdAllowCmd() *cobra.Command {
	var data string
	var guests []string
	c := &cobra.Command{
		Use:   "allow CLUSTER-FILE --guest UUID...",
		Short: "Let a cluster deal with some guests of this host",
		Long: `Let a cluster ask about some guests of this host, turn them off and on, and claim
them as its nodes. The list replaces an earlier one of the same cluster; guests
that are not named are none of its business. A running hostd takes it over on
SIGHUP.`,
		Example:           "  ringfence hostd allow demo.cluster --guest 4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d10",
		Args:              named("CLUSTER-FILE"),
		ValidArgsFunction: files,
		RunE: func(c *cobra.Command, args []string) error {
			var public nodeapi.Public
			if err := a.readRecord(c, args[0], &public, "ringfence cluster export"); err != nil {
				return err
			}
			grant := server.ClusterGrant{Cluster: public.Cluster, CA: public.CA}
			for _, guest := range guests {
				grant.Guests = append(grant.Guests, cluster.GuestID(guest))
			}
			if len(grant.Guests) == 0 {
				return usageError(c, errors.New("--guest is missing: name the guests that the cluster may deal with, by their UUIDs"))
			}
			if err := server.Allow(data, grant); err != nil {
				return err
			}
			_, err := fmt.Fprintf(a.Out, "cluster %s may deal with %s here: %s\na running hostd takes this over on SIGHUP\n",
				public.Name, count(len(guests), "guest"), strings.Join(guests, ", "))
			return err
		},
	}
	c.Flags().StringSliceVar(&guests, "guest", nil, "UUID of a guest; repeat it for more")
	dataFlag(c, &data)
	return c
}

func (a *app) hostdExportCmd() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "export", Short: "Print this host's public record", Args: noArgs,
		Long: `Print what a cluster must know of this host, for ` + "`ringfence host add`" + `. Nothing of it is
secret, but it must reach the cluster unchanged.`,
		Example: "  ringfence hostd export > h1.host",
		RunE: func(*cobra.Command, []string) error {
			record, err := server.Public(data)
			if err != nil {
				return err
			}
			return printJSON(a.Out, record)
		},
	}
	dataFlag(c, &data)
	return c
}

func (a *app) hostdRunCmd() *cobra.Command {
	var o HostdOptions
	var logs logFlags
	var config string
	c := &cobra.Command{
		Use:   "run",
		Short: "Run this host's daemon",
		Long: `Run the daemon of this host in the foreground; its log goes to standard error.
SIGHUP makes it read again which clusters may deal with which guests. When it
ends, guests go on. To systemd it says when it is ready (Type=notify).

With --config it also serves the protocols of fence_virt, as fence_virtd does, with
that daemon's fence_virt.conf or with a hostd.toml; both are read again on SIGHUP,
and a file with a fault changes nothing. Without a host directory it then serves
only these.

With --driver libvirt it speaks for the guests of this host's libvirt connections:
--uri names them, else they are those of qemu:///system. It must run on that host
itself, as root. A guest that is a node needs a channel of its own in its definition:

  <channel type="unix"><source mode="bind"/><target type="virtio" name="org.ringfence.0"/></channel>

and ` + "`--host-channel virtio:org.ringfence.0`" + ` inside. Let guests migrate only where ` + "`ringfence hostd hooks install`" + ` was run.

With --witness it also runs a witness, made by ` + "`ringfence witness join`" + `: a voter
without services, best on a host that carries no other voter. hostd goes on
whatever becomes of the witness; SIGTERM lets the witness leave first.`,
		Example: "  ringfence hostd run --driver " + strings.Join(a.Drivers[:min(1, len(a.Drivers))], ""),
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if o.Log, err = logs.logger(c, a.Err); err != nil {
				return err
			}
			if !slices.Contains(a.Drivers, o.Driver) {
				return usageError(c, fmt.Errorf("--driver %q: allowed are %s", o.Driver, strings.Join(a.Drivers, ", ")))
			}
			if config = absoluteIfSet(config); config != "" {
				o.Load = func() (conf.File, error) { return conf.Read(config) }
				if _, err := o.Load(); err != nil {
					return configError(c, err)
				}
				if onlyOld(c, o) {
					o.Data = ""
				}
			}
			o.Version, o.Reload = a.Version, a.Hangup(c.Context())
			o.Ready, o.Reloading, o.Stopping = notifiers(o.Log)
			return a.RunHostd(c.Context(), o)
		},
	}
	c.Flags().StringVar(&o.Driver, "driver", "", "hypervisor: "+strings.Join(a.Drivers, ", ")+" (required)")
	c.Flags().StringSliceVar(&o.URIs, "uri", nil, "libvirt URI of this host's hypervisor, with --driver libvirt; repeat it for more (default qemu:///system)")
	c.Flags().StringVar(&o.DriverConfig, "driver-config", "", "file with the driver's own settings")
	c.Flags().StringVar(&config, "config", "", "fence_virt.conf or hostd.toml; serves the protocols of fence_virt too")
	c.Flags().StringVar(&o.Witness, "witness", "", "data directory of a witness to run in this process too")
	c.Flags().StringVar(&o.WitnessRunDir, "witness-run-dir", DefaultRunDir, "directory for the socket of the witness")
	complete(c, "driver", a.Drivers...)
	dataFlag(c, &o.Data)
	logs.add(c)
	return c
}

// readRecord reads exactly one JSON value from a small file, or from standard
// input for "-"; from is the command that writes such files.
func (a *app) readRecord(c *cobra.Command, path string, to any, from string) error {
	in := a.In
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return usageError(c, fmt.Errorf("read the record: %w", err))
		}
		defer f.Close()
		in = f
	}
	limited := &io.LimitedReader{R: in, N: fileLimitBytes + 1}
	dec := json.NewDecoder(limited)
	dec.DisallowUnknownFields()
	err := dec.Decode(to)
	switch {
	case limited.N <= 0:
		return usageError(c, fmt.Errorf("%s is larger than %d bytes; want the output of `%s`", path, fileLimitBytes, from))
	case err != nil:
		return usageError(c, fmt.Errorf("%s: %w; want the output of `%s`", path, err, from))
	case dec.More():
		return usageError(c, fmt.Errorf("%s holds more than one record; want the output of `%s`", path, from))
	}
	return nil
}

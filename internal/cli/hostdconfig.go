package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"ringfence/internal/fencevirt/conf"
)

// absoluteIfSet makes a path that holds in any directory; "" stays.
func absoluteIfSet(path string) string {
	if path == "" {
		return ""
	}
	return absolute(path)
}

// onlyOld says whether hostd runs without native API: nobody named a host directory,
// and there is none.
func onlyOld(c *cobra.Command, o HostdOptions) bool {
	if c.Flags().Changed("data") || o.Witness != "" {
		return false
	}
	_, err := os.Stat(o.Data)
	return errors.Is(err, fs.ErrNotExist)
}

// configError says what is wrong with a configuration, as an error of usage.
func configError(c *cobra.Command, err error) error {
	var faulty *conf.InvalidError
	if errors.As(err, &faulty) {
		return &faultyFile{faults: faulty.Faults}
	}
	return usageError(c, err)
}

func (a *app) hostdConfigCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "config",
		Short: "Check and convert what hostd serves to fence_virt clients",
		Long: `Check and convert the configuration of the protocols of fence_virt: a
fence_virt.conf, as the C daemon fence_virtd reads it, or a hostd.toml. A file
whose name ends in .toml or .conf is taken as such; any other is a hostd.toml if its
first line that is neither empty nor a comment begins with [.`,
		Example: "  ringfence hostd config check /etc/fence_virt.conf",
	}, a.hostdConfigCheckCmd(), a.hostdConfigConvertCmd())
}

// checked is the stable form of what `hostd config check --json` prints.
type checked struct {
	File     string        `json:"file"`
	Format   conf.Format   `json:"format,omitempty"`
	Valid    bool          `json:"valid"`
	Errors   []checkedLine `json:"errors"`
	Warnings []checkedLine `json:"warnings"`
}

type checkedLine struct {
	Line    int    `json:"line"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

func (a *app) hostdConfigCheckCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "check FILE", Short: "Say what is wrong with a configuration, and what to know of it",
		Long: `Read a fence_virt.conf or a hostd.toml with the key files that it names, and print
its errors and warnings with their lines. Interfaces and ports are not looked at.
With an error the exit code is 2.`,
		Example:           "  ringfence hostd config check /etc/ringfence/hostd.toml",
		Args:              named("FILE"),
		ValidArgsFunction: files,
		RunE: func(c *cobra.Command, args []string) error {
			file, err := conf.Read(args[0])
			var faulty *conf.InvalidError
			switch {
			case err != nil && !errors.As(err, &faulty):
				return usageError(c, err)
			case asJSON:
				return a.printChecked(args[0], file, faulty)
			case err != nil:
				return configError(c, err)
			}
			a.warnings(file)
			_, err = fmt.Fprintf(a.Out, "%s is a valid %s: %s, %s\n", args[0], file.Format,
				count(len(file.Server.Listeners), "listener"), count(len(file.Warnings), "warning"))
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (a *app) warnings(file conf.File) {
	for _, w := range file.Warnings {
		a.progress("warning: %s", w)
	}
}

func (a *app) printChecked(path string, file conf.File, faulty *conf.InvalidError) error {
	out := checked{File: path, Format: file.Format, Valid: faulty == nil, Errors: []checkedLine{}, Warnings: []checkedLine{}}
	for _, w := range file.Warnings {
		out.Warnings = append(out.Warnings, checkedLine{Line: w.Line, Message: w.Message})
	}
	if faulty != nil {
		for _, f := range faulty.Faults {
			out.Errors = append(out.Errors, checkedLine{f.Line, f.Column, f.Message})
		}
	}
	if err := printJSON(a.Out, out); err != nil {
		return err
	}
	if faulty != nil {
		return &ExitError{Code: ExitUsage}
	}
	return nil
}

func (a *app) hostdConfigConvertCmd() *cobra.Command {
	return &cobra.Command{
		Use: "convert FILE", Short: "Write a fence_virt.conf as a hostd.toml, or the other way round",
		Long: `Print a configuration in the other format. It means the same there; what the other
format does not know stands in it as a comment. What would restrict anybody is never
left out: where it cannot be said, nothing is printed.`,
		Example:           "  ringfence hostd config convert /etc/fence_virt.conf > /etc/ringfence/hostd.toml",
		Args:              named("FILE"),
		ValidArgsFunction: files,
		RunE: func(c *cobra.Command, args []string) error {
			file, err := conf.Read(args[0])
			if err != nil {
				return configError(c, err)
			}
			out, err := conf.Convert(file)
			if err != nil {
				return err
			}
			a.warnings(file)
			_, err = a.Out.Write(out)
			return err
		},
	}
}

// HostdRuling is what one key of one listener lets a requester do with a guest, as
// `hostd explain` prints it.
type HostdRuling struct {
	Listener string `json:"listener"` // its kind
	At       string `json:"at"`       // file:line
	Key      string `json:"key,omitempty"`
	Allowed  bool   `json:"allowed"`
	Why      string `json:"why"`
}

// ExplainHostd says for each listener that can hear the requester what it may do
// with a guest, each of them as a person names it.
type ExplainHostd func(ctx context.Context, file conf.File, from, to string) ([]HostdRuling, error)

func (a *app) hostdExplainCmd() *cobra.Command {
	var from, to, config string
	var asJSON bool
	c := &cobra.Command{
		Use: "explain --from WHO --to GUEST", Short: "Say whether somebody may deal with a guest, and by which rule",
		Long: `Say whether somebody may ask about a guest and turn it off over the protocols of
fence_virt, and which rule of the configuration says so. WHO is an IP address, the
number of a vsock CID, or the name or UUID of a guest that asks over its own line;
GUEST is a name or UUID. If nobody allows it, the exit code is 3.`,
		Example: "  ringfence hostd explain --from 192.0.2.11 --to web1",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "from", "to"); err != nil {
				return err
			}
			file, err := conf.Read(config)
			if err != nil {
				return configError(c, err)
			}
			rulings, err := a.ExplainHostd(c.Context(), file, from, to)
			if err != nil {
				return err
			}
			return a.printRulings(rulings, from, to, asJSON)
		},
	}
	c.Flags().StringVar(&from, "from", "", "who asks (required)")
	c.Flags().StringVar(&to, "to", "", "the guest (required)")
	c.Flags().StringVar(&config, "config", conf.DefaultPath, "fence_virt.conf or hostd.toml")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (a *app) printRulings(rulings []HostdRuling, from, to string, asJSON bool) error {
	allowed := false
	for _, r := range rulings {
		allowed = allowed || r.Allowed
	}
	var err error
	if asJSON {
		err = printJSON(a.Out, append([]HostdRuling{}, rulings...))
	} else {
		err = a.tellRulings(rulings, from, to)
	}
	if err == nil && !allowed {
		err = &ExitError{Code: ExitRefused}
	}
	return err
}

func (a *app) tellRulings(rulings []HostdRuling, from, to string) error {
	if len(rulings) == 0 {
		_, err := fmt.Fprintf(a.Out, "no listener can hear %s, so it may not deal with %s\n", from, to)
		return err
	}
	for _, r := range rulings {
		verdict, key := "may not", ""
		if r.Allowed {
			verdict = "may"
		}
		if r.Key != "" {
			key = " with key " + r.Key
		}
		if _, err := fmt.Fprintf(a.Out, "%s %s deal with %s by the %s listener at %s%s: %s\n", from, verdict, to, r.Listener, r.At, key, r.Why); err != nil {
			return err
		}
	}
	return nil
}

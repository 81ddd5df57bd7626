package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"ringfence/internal/hypervisor/libvirt"
)

func (a *app) hostdHooksCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "hooks",
		Short: "Let libvirt ask hostd before a guest comes",
		Long: `Let libvirt ask hostd before a guest comes to this host by a migration or from a
saved image: its cluster writes the new place down first, or refuses. Install the
hook on every host to which guests of clusters may migrate. Without it a guest that
migrates here is noticed when it runs already, and its death is proved by nobody.`,
		Example: "  ringfence hostd hooks install",
	},
		a.hooksCmd("install", "Write the hook script", a.installHooks),
		a.hooksCmd("remove", "Remove the hook script", a.removeHooks),
		a.hooksCmd("status", "Say whether the hook script is in place", a.hooksStatus))
}

func (a *app) hooksCmd(name, short string, do func(libvirt.Hooks) error) *cobra.Command {
	var h libvirt.Hooks
	c := &cobra.Command{
		Use: name, Short: short, Args: noArgs,
		Long:    short + ". A hook of somebody else is never touched: it and ours both run then.",
		Example: "  ringfence hostd hooks " + name,
		RunE: func(c *cobra.Command, _ []string) error {
			if h.Program == "" {
				path, err := os.Executable()
				if err != nil {
					return fmt.Errorf("find this program, for the hook script: %w", err)
				}
				h.Program = path
			}
			return do(h)
		},
	}
	c.Flags().StringVar(&h.Dir, "dir", libvirt.DefaultHooksDir, "directory of libvirt's hooks")
	c.Flags().StringVar(&h.Program, "program", "", "path of ringfence for the script (default: this program)")
	c.Flags().StringVar(&h.Socket, "hook-socket", libvirt.DefaultHookSocket, "socket at which hostd answers hooks")
	return c
}

func (a *app) installHooks(h libvirt.Hooks) error {
	path, restart, err := h.Install()
	if err != nil {
		return err
	}
	text := "libvirt asks hostd from its next call on\n"
	if restart {
		text = "libvirt had no hook when it started: restart its daemon once (systemctl restart libvirtd, or virtqemud); guests run on meanwhile\n"
	}
	_, err = fmt.Fprintf(a.Out, "hook is in place: %s\n%s", path, text)
	return err
}

func (a *app) removeHooks(h libvirt.Hooks) error {
	path, err := h.Remove()
	if err != nil {
		return err
	}
	if path == "" {
		_, err = fmt.Fprintln(a.Out, "no hook of ringfence is in place")
	} else {
		_, err = fmt.Fprintln(a.Out, "removed:", path)
	}
	return err
}

func (a *app) hooksStatus(h libvirt.Hooks) error {
	s, err := h.Status()
	switch {
	case err != nil:
		return err
	case s.Path == "":
		return errors.New("no hook is in place: `ringfence hostd hooks install` writes it")
	case !s.Current:
		return fmt.Errorf("the hook %s is another than this version writes: `ringfence hostd hooks install` renews it", s.Path)
	}
	_, err = fmt.Fprintf(a.Out, "hook is in place: %s\n", s.Path)
	if err == nil && s.Foreign != "" {
		_, err = fmt.Fprintf(a.Out, "beside it libvirt runs %s\n", s.Foreign)
	}
	return err
}

// hostdHookCmd is what the hook script runs.
func (a *app) hostdHookCmd() *cobra.Command {
	var call libvirt.HookCall
	c := &cobra.Command{
		Use: "hook GUEST OPERATION PART [EXTRA]", Short: "Answer one call of libvirt's hook", Hidden: true,
		Long: `Answer one call of libvirt's hook, as the script of ` + "`ringfence hostd hooks install`" + ` makes
it, with the configuration of the guest on standard input. Failure refuses what
libvirt is about to do.`,
		Example: "  ringfence hostd hook -- db1 migrate begin - < db1.xml",
		RunE: func(c *cobra.Command, args []string) error {
			call.Args, call.XML = args, a.In
			return call.Run(c.Context())
		},
	}
	c.Flags().StringVar(&call.Socket, "hook-socket", libvirt.DefaultHookSocket, "socket at which hostd answers hooks")
	return c
}

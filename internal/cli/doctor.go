package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/doctor"
	"ringfence/internal/wire/xvm"
)

// The sides of the way that doctor looks at.
const (
	sideGuest = "guest"
	sideHost  = "host"
)

// doctorFlags are the flags of doctor.
type doctorFlags struct {
	on, target, config             string
	keyFile, group, hash, auth, at string
	port                           uint16
	wait                           time.Duration
	tcp, asJSON                    bool
}

// Flags that belong to one side.
var (
	ofGuest = []string{"key-file", "group", "port", "hash", "auth", "host", "wait", "tcp"}
	ofHost  = []string{"config"}
)

func (a *app) doctorCmd() *cobra.Command {
	var f doctorFlags
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Find out why a guest cannot reach the daemon of its host",
		Long: `Find out which leg of the way between a guest and the daemon of its host is broken
(the protocols of fence_virt: hostd, fence_virtd, fence_xvm), and print what mends
it. Nothing is changed, and no guest is touched.

On a guest it goes the way of fence_xvm, with the same settings, and stops at the
first broken leg. With --host it can tell more where multicast is silent; with --tcp it
goes the way of fence_virt by TCP. On a host
it looks at everything: configuration, interfaces, firewall, bridges, libvirt, and
what the running daemon dropped. Best run as root on both, the guest first.

Without --on it looks at the host where a configuration of the daemon is found, and
else at the guest. The exit code is 0 when no leg is broken, 1 when one is.`,
		Example: `  ringfence doctor --guest web1 --host 192.168.122.1
  ringfence doctor --on host --config /etc/fence_virt.conf`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := a.examine(c, f)
			if err != nil {
				return err
			}
			if f.asJSON {
				err = printJSON(a.Out, d)
			} else {
				err = a.tellDiagnosis(d)
			}
			if err == nil && !d.Healthy {
				err = &ExitError{Code: ExitFailed}
			}
			return err
		},
	}
	c.Flags().StringVar(&f.on, "on", "", "side to look at: guest or host")
	c.Flags().StringVar(&f.target, "guest", "", "guest to ask about, by name or UUID as on its host")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&f.keyFile, "key-file", xvm.DefaultKeyFile, "on a guest: file with the key")
	c.Flags().StringVar(&f.group, "group", xvm.DefaultGroup4, "on a guest: group of multicast")
	c.Flags().Uint16Var(&f.port, "port", xvm.DefaultPort, "on a guest: port of requests and of the call back")
	c.Flags().StringVar(&f.hash, "hash", xvm.HashSHA256.String(), "on a guest: how requests are signed")
	c.Flags().StringVar(&f.auth, "auth", xvm.HashSHA256.String(), "on a guest: how the call back is authenticated")
	c.Flags().StringVar(&f.at, "host", "", "on a guest: address or name of the host, to ask it by unicast")
	c.Flags().DurationVar(&f.wait, "wait", doctor.DefaultWait, "on a guest: how long silence is waited out")
	c.Flags().BoolVar(&f.tcp, "tcp", false, "on a guest: ask --host by TCP, as fence_virt does, and not by multicast")
	c.Flags().StringVar(&f.config, "config", "", "on a host: hostd.toml or fence_virt.conf (default: the first of "+strings.Join(doctor.DefaultConfigs(), ", ")+")")
	complete(c, "on", sideGuest, sideHost)
	for _, name := range []string{"hash", "auth"} {
		complete(c, name, "none", "sha1", "sha256", "sha512")
	}
	return c
}

// examine looks at the side that the flags mean.
func (a *app) examine(c *cobra.Command, f doctorFlags) (doctor.Diagnosis, error) {
	side, err := f.side(c)
	if err != nil {
		return doctor.Diagnosis{}, usageError(c, err)
	}
	if side == sideHost {
		return doctor.Host(c.Context(), doctor.HostOptions{Config: f.config, Target: f.target}), nil
	}
	o := doctor.GuestOptions{KeyFile: f.keyFile, Port: f.port, Target: f.target, Host: f.at, Wait: f.wait}
	var errs [3]error
	o.Group, errs[0] = netip.ParseAddr(f.group)
	if errs[0] != nil || !o.Group.IsMulticast() || o.Group.Zone() != "" {
		errs[0] = fmt.Errorf("--group %q: want a multicast address such as %s or %s; the host's own address is for --host", f.group, xvm.DefaultGroup4, xvm.DefaultGroup6)
	}
	if o.Hash, errs[1] = xvm.ParseHash(f.hash); errs[1] != nil {
		errs[1] = fmt.Errorf("--hash: %w", errs[1])
	}
	if o.Auth, errs[2] = xvm.ParseHash(f.auth); errs[2] != nil {
		errs[2] = fmt.Errorf("--auth: %w", errs[2])
	}
	err = errors.Join(errs[:]...)
	switch {
	case err != nil:
	case f.port == 0:
		err = errors.New("--port 0: want 1 to 65535")
	case len(f.target) > xvm.NameLimitBytes:
		err = fmt.Errorf("--guest: the name has %d bytes, at most %d are allowed", len(f.target), xvm.NameLimitBytes)
	case f.tcp && f.at == "":
		err = errors.New("--tcp needs --host")
	case f.tcp && c.Flags().Changed("group"):
		err = errors.New("--group is for multicast, not for --tcp")
	case f.wait < time.Second || f.wait > time.Minute:
		err = fmt.Errorf("--wait %v: want 1s to 1m", f.wait)
	}
	if err != nil {
		return doctor.Diagnosis{}, usageError(c, err)
	}
	if f.tcp {
		return doctor.GuestTCP(c.Context(), o), nil
	}
	return doctor.Guest(c.Context(), o), nil
}

// side decides by --on, then by flags of one side, then by what is here.
func (f doctorFlags) side(c *cobra.Command) (string, error) {
	given := func(names []string) string {
		i := slices.IndexFunc(names, func(name string) bool { return c.Flags().Changed(name) })
		if i < 0 {
			return ""
		}
		return "--" + names[i]
	}
	guest, host := given(ofGuest), given(ofHost)
	switch {
	case f.on != "" && f.on != sideGuest && f.on != sideHost:
		return "", fmt.Errorf("--on %q: allowed are guest and host", f.on)
	case guest != "" && host != "":
		return "", fmt.Errorf("%s is for a guest, and %s for a host", guest, host)
	case guest != "" && f.on == sideHost:
		return "", fmt.Errorf("%s is for a guest, not for --on host", guest)
	case host != "" && f.on == sideGuest:
		return "", fmt.Errorf("%s is for a host, not for --on guest", host)
	case f.on != "":
		return f.on, nil
	case host != "" || guest == "" && doctor.FindConfig(doctor.DefaultConfigs()) != "":
		return sideHost, nil
	}
	return sideGuest, nil
}

// tellDiagnosis prints a diagnosis for a person: a line for each leg, and what mends
// a broken one below it.
func (a *app) tellDiagnosis(d doctor.Diagnosis) error {
	t := &table{}
	if a.OutTerminal {
		t.colour = func(i int, cell string) string {
			if i != 0 {
				return cell
			}
			return map[string]string{string(doctor.OK): escGreen, string(doctor.Failed): escRed}[cell] + cell + escReset
		}
	}
	t.add("STATE", "LEG", "")
	for _, l := range d.Legs {
		t.add(string(l.Status), l.Name, strings.ReplaceAll(l.Detail, "\n", "; "))
		if l.Fix != "" {
			t.add("", "", "fix: "+l.Fix)
		}
	}
	if err := t.write(a.Out, ""); err != nil {
		return err
	}
	for _, note := range d.Notes {
		if _, err := fmt.Fprintln(a.Out, "note:", note); err != nil {
			return err
		}
	}
	verdict := "no leg is broken, as far as this " + d.Side + " can see"
	if broken := d.Broken(); len(broken) > 0 {
		verdict = "broken: " + strings.Join(broken, ", ")
	}
	_, err := fmt.Fprintln(a.Out, verdict)
	return err
}

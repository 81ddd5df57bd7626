package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"ringfence/internal/daemon"
	"ringfence/internal/fencevirt/conf"
)

// Exit codes of the daemons whose place ringfence takes.
const (
	exitCompatFailed = 1
	exitCompatConfig = 255
)

// LibvirtDriver is the driver that the daemons of other names run with.
const LibvirtDriver = "libvirt"

// Compat returns the command line of a program whose place ringfence takes when it
// is called by its name; nil for any other name.
func Compat(name string) func(ctx context.Context, d Deps, args []string) int {
	switch name {
	case "fence_virtd":
		return func(ctx context.Context, d Deps, args []string) int {
			return (&virtd{Deps: d, name: name}).main(ctx, args)
		}
	case "fence_xvmd":
		return func(ctx context.Context, d Deps, args []string) int {
			return (&xvmd{Deps: d, name: name}).main(ctx, args)
		}
	}
	return nil
}

// compatDaemon is what fence_virtd and fence_xvmd have in common: one daemon with
// the old protocols only, in the foreground or not.
type compatDaemon struct {
	Deps
	name       string
	load       func() (conf.File, error)
	debug      int
	foreground bool
	pidFile    string // "" for none
	warnings   []conf.Warning
}

// run runs the daemon and returns its exit code. Whoever starts it in the background
// is told when it serves, and else why not.
func (c *compatDaemon) run(ctx context.Context) int {
	parent, inBackground := daemon.InBackground()
	if !c.foreground && !inBackground { // else the log has the warnings
		for _, w := range c.warnings {
			fmt.Fprintf(c.Err, "%s: warning: %s\n", c.name, w)
		}
		code, err := daemon.Background(c.Err)
		if err != nil {
			return c.fail(exitCompatFailed, err)
		}
		return code
	}
	if c.pidFile != "" {
		pid, err := daemon.ClaimPidFile(c.pidFile, c.name)
		if err != nil {
			return c.fail(exitCompatFailed, err)
		}
		defer func() {
			if err := pid.Remove(); err != nil {
				fmt.Fprintf(c.Err, "%s: remove the pid file: %v\n", c.name, err)
			}
		}()
	}
	log := c.logger(inBackground)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGQUIT)
	defer stop()
	o := HostdOptions{Driver: LibvirtDriver, Load: c.load, Version: c.Version, Reload: c.Hangup(ctx), Log: log}
	o.Ready, o.Reloading, o.Stopping = notifiers(log)
	if inBackground {
		notify := o.Ready
		o.Ready = func() {
			if parent != nil {
				if err := parent.Ready(); err != nil {
					log.Warn("who started the daemon was not told", "component", "cli", "err", err)
				}
				parent = nil
			}
			notify()
		}
	}
	err := c.RunHostd(ctx, o)
	if err != nil && ctx.Err() == nil {
		if inBackground { // standard error reaches only who waits for the start
			log.Error("the daemon ends", "component", "cli", "err", err)
		}
		return c.fail(exitCompatFailed, err)
	}
	return ExitOK
}

// notifiers tell the service manager what the daemon does.
func notifiers(log *slog.Logger) (ready, reloading, stopping func()) {
	return func() { daemon.Ready(log) }, func() { daemon.Reloading(log) }, func() { daemon.Stopping(log) }
}

// logger logs to standard error in the foreground, and to syslog in the background.
func (c *compatDaemon) logger(background bool) *slog.Logger {
	level := slog.LevelInfo
	if c.debug > 0 {
		level = slog.LevelDebug
	}
	if background {
		return slog.New(daemon.NewSyslog(daemon.SyslogSocket, c.name, level))
	}
	return slog.New(slog.NewTextHandler(c.Err, &slog.HandlerOptions{Level: level}))
}

// fail says why, one line for each fault, and returns the code.
func (c *compatDaemon) fail(code int, err error) int {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(c.Err, "%s: %s\n", c.name, strings.TrimSuffix(line, "\n"))
	}
	return code
}

// atoi reads a number as C's atoi does: what is none is 0.
func atoi(s string) int {
	n, _ := strconv.Atoi(strings.TrimSpace(s))
	return n
}

// defaultPidFile is the pid file of the C daemons.
func defaultPidFile(name string) string { return filepath.Join("/var/run", name+".pid") }

// virtd is the command line of fence_virtd.
type virtd struct {
	Deps
	name string
}

const virtdUsage = `Usage: %s [options]
  -F               Stay in the foreground.
  -f <file>        Use <file> as configuration file (default %s).
  -d <level>       Set the debugging level: 0, or more for all messages.
  -c               Ask for a configuration, and write it.
  -l               List listeners and backends.
  -w               Wait for the hypervisor.
  -p <file>        Use <file> for the id of the process (default %s).
  -h, -?           Print this.
`

func (v *virtd) main(ctx context.Context, args []string) int {
	path, pidFile, debug, wait, foreground, configure := conf.DefaultVirtPath, defaultPidFile(v.name), 0, false, false, false
	options, bad := getopt(args, "Ff:d:clwp:h?")
	for _, o := range options {
		switch o.flag {
		case 'F':
			foreground = true
		case 'f':
			path = o.value
		case 'd':
			debug = atoi(o.value)
		case 'c':
			configure = true
		case 'l':
			listParts(v.Out)
			return ExitOK
		case 'w':
			wait = true
		case 'p':
			pidFile = o.value
		default: // -h, -?
			return v.usage()
		}
	}
	if bad != nil {
		fmt.Fprintf(v.Err, "%s: %v\n", v.name, bad)
		return v.usage()
	}
	if configure {
		return (&configurator{in: newLines(v.In), out: v.Out, path: path}).run()
	}
	return v.serve(ctx, path, pidFile, debug, wait, foreground)
}

// usage is also the answer to an unknown option, with the exit code of the C daemon.
func (v *virtd) usage() int {
	fmt.Fprintf(v.Out, virtdUsage, v.name, conf.DefaultVirtPath, defaultPidFile(v.name))
	return ExitOK
}

// listParts lists what a configuration can name.
func listParts(w io.Writer) {
	fmt.Fprint(w, "Available backends:\n    libvirt\nAvailable listeners:\n")
	for _, name := range conf.VirtListeners() {
		fmt.Fprintf(w, "    %s\n", name)
	}
}

func (v *virtd) serve(ctx context.Context, path, pidFile string, debug int, wait, foreground bool) int {
	c := &compatDaemon{Deps: v.Deps, name: v.name, pidFile: absolute(pidFile), foreground: foreground, debug: debug}
	path = absolute(path) // the daemon leaves its directory, and reads the file again
	file, err := conf.Read(path)
	var faulty *conf.InvalidError
	switch {
	case errors.As(err, &faulty) && faulty.NoSuchPart:
		return c.fail(exitCompatFailed, err)
	case err != nil:
		return c.fail(exitCompatConfig, err)
	}
	c.warnings, c.foreground = file.Warnings, c.foreground || file.Foreground
	if c.debug == 0 {
		c.debug = file.Debug
	}
	c.load = func() (conf.File, error) {
		file, err := conf.Read(path)
		file.WaitForInit = file.WaitForInit || wait
		return file, err
	}
	return c.run(ctx)
}

// absolute makes a path that holds in any directory.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path // the working directory is gone; what becomes of it is said there
}

// xvmd is the command line of RHEL 5's fence_xvmd.
type xvmd struct {
	Deps
	name string
}

const xvmdUsage = `Usage: %s -L [options]
  -L               Local: serve the guests of this host, without a cluster of hosts (required).
  -f               Stay in the foreground.
  -d               More messages.
  -i <family>      auto, ipv4 or ipv6 (default auto).
  -a <address>     Multicast group (default 225.0.0.12, or ff05::3:1).
  -p <port>        Port (default 1229).
  -I <interface>   Network interface to listen on (default all).
  -C <auth>        Authentication: none, sha1, sha256 or sha512 (default sha256).
  -c <hash>        Weakest hash of packets: none, sha1, sha256 or sha512 (default sha256).
  -k <file>        Key file (default /etc/cluster/fence_xvm.key).
  -u               Accepted: guests are found by name and by UUID.
  -U <uri>         Hypervisor (default: Xen on a Xen host, else qemu:///system).
  -X               Do not read <fence_xvmd ... /> in %s.
  -V               Print the version.
  -h, -?           Print this.
`

func (x *xvmd) main(ctx context.Context, args []string) int {
	c := &compatDaemon{Deps: x.Deps, name: x.name, debug: atoi(x.Getenv("FENCE_XVMD_DEBUG"))}
	var settings conf.Xvmd
	local, alone := false, false
	options, bad := getopt(args, "dfi:a:p:I:C:U:c:k:u?hLXV")
	for _, o := range options {
		switch o.flag {
		case 'd':
			settings.Debug++
		case 'f':
			c.foreground = true
		case 'i':
			settings.Family = o.value
		case 'a':
			settings.Address = o.value
		case 'p':
			settings.Port = o.value
		case 'I':
			settings.Interface = o.value
		case 'C':
			settings.Auth = o.value
		case 'c':
			settings.Hash = o.value
		case 'k':
			settings.KeyFile = absolute(o.value)
		case 'U':
			settings.URI = o.value
		case 'u': // a guest is found by its name and by its UUID
		case 'L':
			local = true
		case 'X':
			alone = true
		case 'V':
			fmt.Fprintf(x.Out, "%s %s\n", x.name, x.Version)
			return ExitOK
		default: // -h, -?
			fmt.Fprintf(x.Out, xvmdUsage, x.name, conf.DefaultClusterConf)
			return ExitOK
		}
	}
	if bad != nil {
		return c.fail(exitCompatFailed, bad)
	}
	if !local {
		return c.fail(exitCompatFailed, errors.New("without -L it would need a cluster of the hosts (CMAN and OpenAIS), which this version does not serve: "+
			"the host cluster mode of Ringfence will replace it; -L serves the guests of this host alone"))
	}
	return x.serve(ctx, c, settings, alone)
}

// xenHost is there on a host of Xen.
const xenHost = "/proc/xen/capabilities"

func (x *xvmd) serve(ctx context.Context, c *compatDaemon, settings conf.Xvmd, alone bool) int {
	if _, err := os.Stat(xenHost); err == nil && settings.URI == "" {
		settings.URI = "xen:///system"
	}
	path := x.Getenv("COROSYNC_CLUSTER_CONFIG_FILE") // as the clusters of that time name another
	if path == "" {
		path = conf.DefaultClusterConf
	}
	c.load = func() (conf.File, error) {
		settings := settings
		if !alone {
			if err := settings.ReadClusterConf(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return conf.File{}, err
			}
		}
		return settings.File()
	}
	file, err := c.load()
	if err != nil {
		return c.fail(exitCompatFailed, err)
	}
	c.warnings, c.debug = file.Warnings, max(c.debug, file.Debug)
	return c.run(ctx)
}

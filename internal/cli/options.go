package cli

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"ringfence/internal/fencevirt/conf"
)

// NodeOptions are the settings of `ringfence node run` and `witness run`.
type NodeOptions struct {
	Data        string // data directory, made by init or join
	RunDir      string // sockets and the state of resources
	HostChannel string // the guest's own channel to its host
	Witness     bool   // the data directory is that of a witness
	Host        string // the host on which a witness runs; "" for none or unknown
	SelfReset   string // host, kernel or off
	Log         *slog.Logger
}

// HostdOptions are the settings of `ringfence hostd run`.
type HostdOptions struct {
	Data         string   // host directory, made by hostd init; "": no native API
	Driver       string   // one of Deps.Drivers
	DriverConfig string   // file of the driver; "" for none
	URIs         []string // connections of the libvirt driver; none: those of Load, or the driver's own default
	Version      string   // told to clusters
	// Load reads the configuration of the fence_virt protocols; nil: they are not
	// served.
	Load func() (conf.File, error)
	// Witness is the data directory of a witness to run beside; "" for none.
	Witness       string
	WitnessRunDir string
	// Reload delivers a value whenever grants and configuration shall be read again.
	Reload <-chan struct{}
	// Ready is called when all is served, and after each Reloading; Stopping before
	// the end.
	Ready, Reloading, Stopping func()
	Log                        *slog.Logger
}

// logFlags are the flags of the daemons' logs; a level that is set before add is
// the default.
type logFlags struct{ level, format string }

func (l *logFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&l.level, "log-level", cmp.Or(l.level, "info"), "debug, info, warn or error")
	c.Flags().StringVar(&l.format, "log-format", "text", "text or json")
	complete(c, "log-level", "debug", "info", "warn", "error")
	complete(c, "log-format", "text", "json")
}

// logger makes the logger; it writes to w.
func (l *logFlags) logger(c *cobra.Command, w io.Writer) (*slog.Logger, error) {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	level, ok := levels[strings.ToLower(l.level)]
	if !ok {
		return nil, usageError(c, fmt.Errorf("--log-level %q: allowed are debug, info, warn and error", l.level))
	}
	options := &slog.HandlerOptions{Level: level}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, usageError(c, fmt.Errorf("--log-format %q: allowed are text and json", l.format))
}

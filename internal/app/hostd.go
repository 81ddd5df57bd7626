package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"ringfence/internal/fencevirt/conf"
	"ringfence/internal/hostd/server"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/libvirt"
	"ringfence/internal/hypervisor/proc"
)

// HostdOptions are the settings of `ringfence hostd run`.
type HostdOptions struct {
	// Data is the host's directory, made by `ringfence hostd init`; "": the native
	// API is not served.
	Data         string
	Driver       string // one of DriverNames
	DriverConfig string // file with the driver's settings, JSON
	// URIs are the connections of the libvirt driver, in place of a file; none: those
	// that Load names.
	URIs    []string
	Version string
	// Load reads the configuration of the fence_virt protocols, at start and at each
	// reload; nil: they are not served.
	Load func() (conf.File, error)
	// Witness is the data directory of a witness that runs in this process; ""
	// for none. WitnessRunDir holds its socket.
	Witness       string
	WitnessRunDir string
	Reload        <-chan struct{} // a value asks to read grants and configuration again
	// Ready is called when every listener is open, and again after each Reloading;
	// Stopping before the end.
	Ready, Reloading, Stopping func()
	Log                        *slog.Logger
}

// DriverNames lists the hypervisor drivers that hostd can run with.
func DriverNames() []string { return []string{"libvirt", "proc"} }

// part is a server of hostd that was opened.
type part struct {
	name   string
	run    func(ctx context.Context) error
	reload func() error
	close  func() error // instead of run
}

// RunHostd runs the daemon of a host until ctx ends: the native API, the old
// protocols, or both on one driver. It starts wholly or not at all. Guests are not
// touched by its end.
func RunHostd(ctx context.Context, o HostdOptions) error {
	var file conf.File
	if o.Load != nil {
		var err error
		if file, err = o.Load(); err != nil {
			return err
		}
		warn(file, o.Log)
		if len(o.URIs) == 0 && o.DriverConfig == "" {
			o.URIs = file.URIs
		}
	}
	// Somebody decides which guests may come: their clusters, or a fixed map.
	hooks := o.Data != "" || len(file.Server.Guests) > 0
	driver, closeDriver, err := openDriver(ctx, o, hooks)
	if err != nil {
		return err
	}
	defer closeDriver()
	parts, err := openParts(ctx, o, file, driver, serveFenceVirt)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reloading := make(chan struct{})
	go func() {
		defer close(reloading)
		reloadParts(ctx, o, parts)
	}()
	waitWitness := startWitness(ctx, o)
	o.Ready()
	err = runParts(ctx, parts)
	o.Stopping()
	cancel()
	<-reloading
	waitWitness()
	return err
}

// openParts opens what is to be served, or nothing.
func openParts(ctx context.Context, o HostdOptions, file conf.File, driver hypervisor.Driver, serve serveFunc) (parts []part, err error) {
	if o.Data == "" && len(file.Server.Listeners) == 0 {
		return nil, errors.New("there is nothing to serve: no host directory, which `ringfence hostd init` makes, and no listener in the configuration")
	}
	defer func() {
		if err != nil {
			for _, p := range parts {
				_ = p.close() // the error that matters is at hand
			}
		}
	}()
	if o.Load != nil {
		old, err := oldProtocols(ctx, o, file, driver, serve)
		if err != nil {
			return parts, err
		}
		parts = append(parts, old)
	}
	if o.Data == "" {
		return parts, nil
	}
	host, err := server.New(server.Config{Dir: o.Data, Driver: driver, Log: o.Log, Version: o.Version})
	if err != nil {
		return parts, err
	}
	return append(parts, part{name: "grants", run: host.Run, reload: host.Reload}), nil
}

// runParts runs all until ctx ends; one that ends sooner ends the others.
func runParts(ctx context.Context, parts []part) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(parts))
	for _, p := range parts {
		go func() { ended <- p.run(ctx) }()
	}
	var errs []error
	for range parts {
		errs = append(errs, <-ended)
		cancel()
	}
	return errors.Join(errs...)
}

// reloadParts reads again what o.Reload asks for. What cannot be read stays.
func reloadParts(ctx context.Context, o HostdOptions, parts []part) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.Reload:
		}
		o.Reloading()
		for _, p := range parts {
			if err := p.reload(); err != nil {
				o.Log.Error("not read again; what was in force stays", "component", "app", "part", p.name, "err", err)
			} else {
				o.Log.Info("read again", "component", "app", "part", p.name)
			}
		}
		o.Ready()
	}
}

// driverConfigLimitBytes bounds the driver's settings.
const driverConfigLimitBytes = 1 << 20

func openDriver(ctx context.Context, o HostdOptions, hooks bool) (hypervisor.Driver, func(), error) {
	switch o.Driver {
	case "proc":
		var config proc.Config
		if err := readDriverConfig(o, &config); err != nil {
			return nil, nil, err
		}
		driver, err := proc.New(ctx, config, o.Log)
		if err != nil {
			return nil, nil, err
		}
		return driver, driver.Close, nil
	case "libvirt":
		return openLibvirt(o, hooks)
	}
	return nil, nil, fmt.Errorf("no hypervisor driver %q: allowed are %s", o.Driver, strings.Join(DriverNames(), ", "))
}

// openLibvirt opens the connections that flags or the file name, by default that
// of a host with KVM. A hypervisor on another machine is refused with the native API:
// what is seen of its guests from here proves nothing, and hostd signs what it sees.
func openLibvirt(o HostdOptions, hooks bool) (hypervisor.Driver, func(), error) {
	config := libvirt.Config{URIs: o.URIs}
	if hooks {
		config.HookSocket = libvirt.DefaultHookSocket
	}
	if o.DriverConfig != "" {
		if len(o.URIs) > 0 {
			return nil, nil, errors.New("--uri and --driver-config: the connections stand in one of them")
		}
		if err := readDriverConfig(o, &config); err != nil {
			return nil, nil, err
		}
	}
	if len(config.URIs) == 0 {
		config.URIs = []string{libvirt.DefaultURI}
	}
	driver, err := libvirt.New(config, o.Log)
	if err != nil {
		return nil, nil, err
	}
	if driver.Remote() && o.Data != "" {
		driver.Close()
		return nil, nil, errors.New("a libvirt URI leads to another machine: hostd must run on the host whose guests it speaks for")
	}
	return driver, driver.Close, nil
}

func readDriverConfig(o HostdOptions, config any) error {
	if o.DriverConfig == "" {
		return fmt.Errorf("--driver %s needs its settings: give their file with --driver-config", o.Driver)
	}
	f, err := os.Open(o.DriverConfig)
	if err != nil {
		return fmt.Errorf("settings of the %s driver: %w", o.Driver, err)
	}
	defer f.Close()
	decoder := json.NewDecoder(io.LimitReader(f, driverConfigLimitBytes))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(config); err != nil {
		return fmt.Errorf("settings of the %s driver in %s: %w", o.Driver, o.DriverConfig, err)
	}
	return nil
}

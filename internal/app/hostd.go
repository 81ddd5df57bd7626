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

	"ringfence/internal/hostd/server"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/libvirt"
	"ringfence/internal/hypervisor/proc"
)

// HostdOptions are the settings of `ringfence hostd run`.
type HostdOptions struct {
	Data         string // the host's directory, made by `ringfence hostd init`
	Driver       string // one of DriverNames
	DriverConfig string // file with the driver's settings, JSON
	// URIs are the connections of the libvirt driver, in place of a file.
	URIs    []string
	Version string
	// Witness is the data directory of a witness that runs in this process; ""
	// for none. WitnessRunDir holds its socket.
	Witness       string
	WitnessRunDir string
	Reload        <-chan struct{} // a value asks to read the grants again
	Log           *slog.Logger
}

// DriverNames lists the hypervisor drivers that hostd can run with.
func DriverNames() []string { return []string{"libvirt", "proc"} }

// RunHostd runs the daemon of a host until ctx ends. Guests are not touched by
// its end.
func RunHostd(ctx context.Context, o HostdOptions) error {
	driver, closeDriver, err := openDriver(ctx, o)
	if err != nil {
		return err
	}
	host, err := server.New(server.Config{Dir: o.Data, Driver: driver, Log: o.Log, Version: o.Version})
	if err != nil {
		closeDriver()
		return err
	}
	defer closeDriver()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-o.Reload:
				if err := host.Reload(); err != nil {
					o.Log.Error("grants not read again; the former ones stay in force", "component", "app", "err", err)
				}
			}
		}
	}()
	waitWitness := startWitness(ctx, o)
	err = host.Run(ctx)
	cancel()
	<-done
	waitWitness()
	return err
}

// driverConfigLimitBytes bounds the driver's settings.
const driverConfigLimitBytes = 1 << 20

func openDriver(ctx context.Context, o HostdOptions) (hypervisor.Driver, func(), error) {
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
		return openLibvirt(o)
	}
	return nil, nil, fmt.Errorf("no hypervisor driver %q: allowed are %s", o.Driver, strings.Join(DriverNames(), ", "))
}

// openLibvirt opens the connections that flags or the file name, by default that
// of a host with KVM. A hypervisor on another machine is refused: what is seen of
// its guests from here proves nothing, and hostd signs what it sees.
func openLibvirt(o HostdOptions) (hypervisor.Driver, func(), error) {
	config := libvirt.Config{URIs: o.URIs, HookSocket: libvirt.DefaultHookSocket}
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
	if driver.Remote() {
		driver.Close()
		return nil, nil, errors.New("a libvirt URI leads to another machine: hostd must run on the host whose guests it speaks for")
	}
	return driver, driver.Close, nil
}

func readDriverConfig(o HostdOptions, config any) error {
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

package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"ringfence/internal/hostd/server"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/proc"
)

// HostdOptions are the settings of `ringfence hostd run`.
type HostdOptions struct {
	Data         string // the host's directory, made by `ringfence hostd init`
	Driver       string // one of DriverNames
	DriverConfig string // file with the driver's settings, JSON
	Version      string
	// Witness is the data directory of a witness that runs in this process; ""
	// for none. WitnessRunDir holds its socket.
	Witness       string
	WitnessRunDir string
	Reload        <-chan struct{} // a value asks to read the grants again
	Log           *slog.Logger
}

// DriverNames lists the hypervisor drivers that hostd can run with.
func DriverNames() []string { return []string{"proc"} }

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
	if o.Driver != "proc" {
		return nil, nil, fmt.Errorf("no hypervisor driver %q: allowed are %s", o.Driver, strings.Join(DriverNames(), ", "))
	}
	f, err := os.Open(o.DriverConfig)
	if err != nil {
		return nil, nil, fmt.Errorf("settings of the %s driver: %w", o.Driver, err)
	}
	defer f.Close()
	decoder := json.NewDecoder(io.LimitReader(f, driverConfigLimitBytes))
	decoder.DisallowUnknownFields()
	var config proc.Config
	if err := decoder.Decode(&config); err != nil {
		return nil, nil, fmt.Errorf("settings of the %s driver in %s: %w", o.Driver, o.DriverConfig, err)
	}
	driver, err := proc.New(ctx, config, o.Log)
	if err != nil {
		return nil, nil, err
	}
	return driver, driver.Close, nil
}

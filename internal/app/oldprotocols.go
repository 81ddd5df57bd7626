package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ringfence/internal/fencevirt"
	"ringfence/internal/fencevirt/conf"
	"ringfence/internal/hypervisor"
)

// FenceVirtServer serves the fence_virt protocols; it has opened all its sockets.
type FenceVirtServer interface {
	Run(ctx context.Context) error
	// Reload takes another configuration, or leaves all as it is with an error.
	Reload(cfg fencevirt.Config) error
	// Close ends a server that is not run.
	Close() error
}

// ServeFenceVirt opens every listener of a configuration, or none and says why.
type ServeFenceVirt func(cfg fencevirt.Config, driver hypervisor.Driver, log *slog.Logger) (FenceVirtServer, error)

// Bounds of the first question to the hypervisor. The C daemon waits as long
// between two attempts.
const (
	firstListTimeout = 10 * time.Second
	firstListPause   = 5 * time.Second
)

// awaitHypervisor asks once what guests there are, so that a daemon that cannot do
// anything does not start. With wait it asks until there is an answer.
func awaitHypervisor(ctx context.Context, driver hypervisor.Driver, wait bool, log *slog.Logger) error {
	for {
		one, cancel := context.WithTimeout(ctx, firstListTimeout)
		_, err := driver.List(one)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !wait:
			return fmt.Errorf("the hypervisor does not answer: %w; see that it runs, or have the daemon wait for it (-w, wait_for_init or [hypervisor] wait)", err)
		}
		log.Warn("the hypervisor does not answer; it is asked again", "component", "app", "err", err, "after", firstListPause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(firstListPause):
		}
	}
}

// oldProtocols is the part of hostd that serves the fence_virt protocols.
func oldProtocols(ctx context.Context, o HostdOptions, file conf.File, driver hypervisor.Driver, serve ServeFenceVirt) (part, error) {
	if serve == nil {
		return part{}, errors.New("this build does not serve the fence_virt protocols")
	}
	if err := awaitHypervisor(ctx, driver, file.WaitForInit, o.Log); err != nil {
		return part{}, err
	}
	server, err := serve(file.Server, driver, o.Log)
	if err != nil {
		return part{}, err
	}
	o.Log.Info("the fence_virt protocols are served", "component", "app", "config", file.Path, "listeners", len(file.Server.Listeners))
	return part{
		name: "fence_virt protocols", run: server.Run, close: server.Close,
		reload: func() error {
			next, err := o.Load()
			if err != nil {
				return err
			}
			warn(next, o.Log)
			if fmt.Sprint(next.URIs) != fmt.Sprint(file.URIs) {
				return errors.New("other hypervisor URIs need a restart")
			}
			return server.Reload(next.Server)
		},
	}, nil
}

// warn logs what a person should know of a configuration.
func warn(file conf.File, log *slog.Logger) {
	for _, w := range file.Warnings {
		log.Warn("configuration", "component", "app", "at", fmt.Sprintf("%s:%d", w.File, w.Line), "warning", w.Message)
	}
}

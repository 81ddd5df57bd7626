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

// fenceVirtServer is a fencevirt.Server; it has opened all its sockets.
type fenceVirtServer interface {
	Run(ctx context.Context) error
	// Reload takes another configuration, or leaves all as it is with an error.
	Reload(cfg fencevirt.Config) error
	// Close ends a server that is not run.
	Close() error
	// Status says what is open and what was dropped.
	Status() fencevirt.Status
}

// serveFunc opens every listener of a configuration, or none and says why.
type serveFunc func(cfg fencevirt.Config, driver hypervisor.Driver, log *slog.Logger) (fenceVirtServer, error)

func serveFenceVirt(cfg fencevirt.Config, driver hypervisor.Driver, log *slog.Logger) (fenceVirtServer, error) {
	server, err := fencevirt.New(cfg, driver, log)
	if err != nil {
		return nil, err // a nil *Server would not be nil
	}
	return server, nil
}

// Bounds of the first question to the hypervisor: how long it may take, with short
// pauses, for a driver connects while it starts; and the pause before the next with
// wait, which is that of the C daemon.
const (
	firstAnswerLimit = 5 * time.Second
	firstAskPause    = 100 * time.Millisecond
	waitPause        = 5 * time.Second
)

// awaitHypervisor asks what guests there are until there is an answer, so that a
// daemon that cannot do anything does not start; without wait, not for long.
func awaitHypervisor(ctx context.Context, driver hypervisor.Driver, wait bool, log *slog.Logger) error {
	for {
		err := askHypervisor(ctx, driver)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !wait:
			return fmt.Errorf("the hypervisor does not answer: %w; see that it runs, or have the daemon wait for it (-w, wait_for_init or [hypervisor] wait)", err)
		}
		log.Warn("the hypervisor does not answer; it is asked again", "component", "app", "err", err, "after", waitPause)
		_ = sleep(ctx, waitPause) // the next question tells
	}
}

// askHypervisor asks until firstAnswerLimit; the error is that of the last answer.
func askHypervisor(ctx context.Context, driver hypervisor.Driver) error {
	ctx, cancel := context.WithTimeout(ctx, firstAnswerLimit)
	defer cancel()
	var last error
	for {
		_, err := driver.List(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err // an end of the time says less than what came before
		}
		if sleep(ctx, firstAskPause) != nil {
			return last
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// oldProtocols is the part of hostd that serves the fence_virt protocols.
func oldProtocols(ctx context.Context, o HostdOptions, file conf.File, driver hypervisor.Driver, serve serveFunc) (part, error) {
	if err := awaitHypervisor(ctx, driver, file.WaitForInit, o.Log); err != nil {
		return part{}, err
	}
	standalone(o, file, driver)
	file.Server.Version = o.Version
	server, err := serve(file.Server, driver, o.Log)
	if err != nil {
		return part{}, err
	}
	o.Log.Info("the fence_virt protocols are served", "component", "app", "config", file.Path, "listeners", len(file.Server.Listeners))
	return part{
		name: "fence_virt protocols", close: server.Close,
		run: func(ctx context.Context) error { return runWithStatus(ctx, server, fencevirt.StatusSocket, o.Log) },
		reload: func() error {
			next, err := o.Load()
			if err != nil {
				return err
			}
			warn(next, o.Log)
			if fmt.Sprint(next.URIs) != fmt.Sprint(file.URIs) {
				return errors.New("other hypervisor URIs need a restart")
			}
			next.Server.Version = o.Version
			return server.Reload(next.Server)
		},
	}, nil
}

// runWithStatus runs a server, and tells `ringfence doctor` about it meanwhile.
func runWithStatus(ctx context.Context, server fenceVirtServer, socket string, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	telling := make(chan struct{})
	go func() {
		defer close(telling)
		fencevirt.ServeStatus(ctx, socket, server, log)
	}()
	err := server.Run(ctx)
	cancel()
	<-telling
	return err
}

// standalone has the hypervisor refuse that a guest of a fixed map comes here from
// elsewhere, for nobody else would know of it. With the native API its cluster
// decides.
func standalone(o HostdOptions, file conf.File, driver hypervisor.Driver) {
	mover, moves := driver.(hypervisor.Mover)
	if !moves || o.Data != "" || len(file.Server.Guests) == 0 {
		return
	}
	mover.SetGuard(func(_ context.Context, in hypervisor.Incoming) error {
		switch {
		case in.Why == hypervisor.ReasonMigrated:
			return fmt.Errorf("guest %s may not migrate: this host serves a fixed map of guests (%s, [guests])", in.Guest, file.Path)
		case in.Claimed != "":
			return fmt.Errorf("guest %s may not come: it belongs to cluster %.40q, and this host serves no cluster: run hostd with --data, or shut the guest down and start it here", in.Guest, in.Claimed)
		}
		return nil
	})
}

// warn logs what a person should know of a configuration.
func warn(file conf.File, log *slog.Logger) {
	for _, w := range file.Warnings {
		log.Warn("configuration", "component", "app", "at", fmt.Sprintf("%s:%d", w.File, w.Line), "warning", w.Message)
	}
}

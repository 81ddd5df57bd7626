// Command ringfence is the node, the host daemon, the command line and the demo
// in one binary. It only wires: flags and output are internal/cli's, the daemons
// internal/app's.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"ringfence/internal/app"
	"ringfence/internal/cli"
	"ringfence/internal/cluster"
	"ringfence/internal/demo"
	"ringfence/internal/fencevirt/conf"
	"ringfence/internal/hypervisor/proc"
	"ringfence/internal/lab"
	"ringfence/internal/resource/proctree"
)

func main() {
	// Parts of ringfence that are processes of their own. They come before
	// everything else: they see to their own signals and must stay small.
	parts := demo.Parts()
	parts["guest-init"] = func([]string) int { return proc.GuestInit() }
	parts["lab-supervisor"] = lab.SupervisorMain
	parts[app.ReaperVerb] = proctree.RunReaper
	if len(os.Args) > 1 {
		if run, ok := parts[os.Args[1]]; ok {
			os.Exit(run(os.Args[2:]))
		}
	}
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	defer context.AfterFunc(ctx, stop)()
	d := cli.Deps{
		Version: version(),
		In:      os.Stdin, Out: os.Stdout, Err: os.Stderr,
		InTerminal: isTerminal(os.Stdin), OutTerminal: isTerminal(os.Stdout),
		Getenv: os.Getenv, User: who(), CheckResource: checkResource,
		RunNode: func(ctx context.Context, o cli.NodeOptions) error {
			return app.RunNode(ctx, app.NodeOptions{
				Data: o.Data, RunDir: o.RunDir, HostChannel: o.HostChannel, SelfReset: app.SelfReset(o.SelfReset),
				Witness: o.Witness, Host: cluster.HostName(o.Host), Log: o.Log,
			})
		},
		RunHostd: func(ctx context.Context, o cli.HostdOptions) error {
			return app.RunHostd(ctx, app.HostdOptions(o))
		},
		ExplainHostd: func(ctx context.Context, file conf.File, from, to string) ([]cli.HostdRuling, error) {
			rulings, err := app.ExplainHostd(ctx, file, from, to, slog.New(slog.DiscardHandler))
			out := make([]cli.HostdRuling, 0, len(rulings))
			for _, r := range rulings {
				out = append(out, cli.HostdRuling(r))
			}
			return out, err
		},
		Recover: func(ctx context.Context, o cli.RecoverOptions) (cli.Recovered, error) {
			done, err := app.Recover(ctx, app.RecoverOptions(o))
			return cli.Recovered(done), err
		},
		Drivers: app.DriverNames(),
		Hangup:  hangup,
		Extra:   demo.Commands(demo.Deps{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}),
	}
	if compat := cli.Compat(filepath.Base(os.Args[0])); compat != nil {
		return compat(ctx, d, os.Args[1:])
	}
	return cli.Run(ctx, d, os.Args[1:])
}

// hangup passes SIGHUP on; a signal that comes while one waits is the same one.
func hangup(ctx context.Context) <-chan struct{} {
	signals, out := make(chan os.Signal, 1), make(chan struct{}, 1)
	signal.Notify(signals, syscall.SIGHUP)
	go func() { // ends with ctx, that is with the process
		defer signal.Stop(signals)
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

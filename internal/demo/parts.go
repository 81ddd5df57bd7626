package demo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"ringfence/internal/demo/observe"
	"ringfence/internal/demo/service"
	"ringfence/internal/hypervisor/proc"
)

// killVerb is the hidden command that kills the service's program in a guest.
const killVerb = "demo-kill"

// Parts are the parts of the demo that are processes of their own, as hidden
// commands of the shipped binary. They return the exit code.
func Parts() map[string]func(args []string) int {
	return map[string]func([]string) int{
		service.Verb: part(func(ctx context.Context, args []string) error {
			s, err := service.ParseArgs(args)
			if err != nil {
				return err
			}
			if s.Channel == "" {
				s.Channel = proc.GuestChannel
			}
			return service.Run(ctx, s)
		}),
		observe.Verb: part(func(ctx context.Context, args []string) error {
			s, err := observe.ParseArgs(args)
			if err != nil {
				return err
			}
			return observe.Run(ctx, s, os.Stdout)
		}),
		useVerb:  part(func(context.Context, []string) error { return printUse() }),
		killVerb: part(func(context.Context, []string) error { return service.Kill() }),
	}
}

func part(run func(context.Context, []string) error) func([]string) int {
	return func(args []string) int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err := run(ctx, args)
		switch {
		case errors.Is(err, flag.ErrHelp):
			return 2
		case err != nil:
			fmt.Fprintln(os.Stderr, "ringfence:", err)
			return 1
		}
		return 0
	}
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ringfence/internal/cluster"
	"ringfence/internal/nodeapi"
)

// defaultWait is how long a command waits for its effect.
const defaultWait = 2 * time.Minute

// waiting is the flags of commands that wait.
type waiting struct {
	no      bool
	timeout time.Duration
}

func (w *waiting) add(c *cobra.Command) {
	c.Flags().BoolVar(&w.no, "no-wait", false, "give the order and do not wait for its effect")
	c.Flags().DurationVar(&w.timeout, "timeout", defaultWait, "how long to wait for the effect; the order stands in any case")
}

// effect looks at the status: what is to be told, and whether it is reached.
type effect func(nodeapi.Status) (now string, reached bool)

// wait follows the status until an effect is reached, telling each step.
func (a *app) wait(ctx context.Context, client *nodeapi.Client, w waiting, look string, f effect) error {
	began, last := time.Now(), ""
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	for {
		status, err := client.Status(ctx)
		if err == nil {
			now, reached := f(status)
			if reached {
				_, err := fmt.Fprintf(a.Out, "%s (%s)\n", now, time.Since(began).Round(10*time.Millisecond))
				return err
			}
			if now != last {
				a.progress("  %s", now)
			}
			last = now
		} else if !passing(err) && ctx.Err() == nil {
			return withHint(err, "the order stands: see `%s`", look)
		}
		if !pause(ctx, pollInterval) {
			break
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return withHint(fmt.Errorf("not reached within %v: %s", w.timeout, last), "the order stands: see `%s`", look)
	}
	return withHint(errors.New("no longer waiting"), "the order stands: see `%s`", look)
}

// passing reports whether an answer may be better a moment later.
func passing(err error) bool {
	var refused *nodeapi.Error
	return errors.As(err, &refused) && refused.Code == nodeapi.CodeUnavailable
}

// serviceIs waits for one service.
func serviceIs(name string, reached func(nodeapi.ServiceStatus) bool) effect {
	return func(s nodeapi.Status) (string, bool) {
		one, ok := s.Service(name)
		if !ok {
			return name + " is not in the configuration any more", true
		}
		text := name + " is " + one.State
		if one.Node != "" {
			text += " on " + string(one.Node)
		}
		if reached(one) {
			return text, true
		}
		switch cluster.ServiceState(one.State) {
		case cluster.ServiceWaiting, cluster.ServiceRecovering, cluster.ServiceFailed: // it hangs on something
			text = strings.Join(append([]string{text}, one.Why...), "\n    ")
		}
		return text, false
	}
}

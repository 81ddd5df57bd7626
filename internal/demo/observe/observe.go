// Package observe watches the demo's service from outside: a client asks it
// again and again, each time over a new connection, and a sniffer listens on
// the bridge for machines that claim its address. `ringfence demo-observe` runs
// both beside the hosts of the lab, in the network namespace that holds the
// bridge, and prints one line of JSON for each thing it saw. It knows nothing
// of the cluster.
package observe

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"ringfence/internal/demo/trace"
)

// Verb is the hidden command of the shipped binary.
const Verb = "demo-observe"

// Timings of the client.
const (
	// Interval is the time between two questions unless Settings say another; it
	// is also the resolution of what the client can tell.
	Interval = 20 * time.Millisecond
	// answerTimeout bounds one question. Questions overlap, so a slow one does
	// not hide what happens after it.
	answerTimeout = 200 * time.Millisecond
)

// Settings say what to watch.
type Settings struct {
	Address netip.AddrPort // of the service
	Bridge  string         // where to sniff
	// Interval is the time between two questions.
	Interval time.Duration
}

// ParseArgs reads the arguments of the hidden command.
func ParseArgs(args []string) (Settings, error) {
	var s Settings
	flags := flag.NewFlagSet(Verb, flag.ContinueOnError)
	flags.TextVar(&s.Address, "address", netip.AddrPort{}, "IPv4 address and port of the service")
	flags.StringVar(&s.Bridge, "bridge", "", "bridge to listen on")
	flags.DurationVar(&s.Interval, "interval", Interval, "time between two questions")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if s.Interval < time.Millisecond || s.Interval > time.Minute {
		return s, fmt.Errorf("%s: --interval %v: want 1ms to 1m", Verb, s.Interval)
	}
	if !s.Address.Addr().Is4() || s.Bridge == "" || flags.NArg() > 0 {
		return s, fmt.Errorf("%s: want --address IPV4:PORT and --bridge NAME, and nothing else", Verb)
	}
	return s, nil
}

// Run observes until ctx ends or nobody reads any more.
func Run(ctx context.Context, s Settings, out io.Writer) error {
	sniffer, err := openSniffer(s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	lines := &printer{json: json.NewEncoder(out), failed: cancel}
	lines.print(trace.Observation{Ready: true})
	var both sync.WaitGroup
	both.Go(func() {
		if err := sniffer.run(ctx, lines); err != nil {
			cancel(err)
		}
	})
	both.Go(func() { ask(ctx, "http://"+s.Address.String()+"/", s.Interval, lines) })
	both.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", Verb, err)
	}
	return nil
}

// printer prints whole lines for both observers.
type printer struct {
	failed context.CancelCauseFunc
	mu     sync.Mutex // guards json
	json   *json.Encoder
}

func (p *printer) print(o trace.Observation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.json.Encode(o); err != nil {
		p.failed(err)
	}
}

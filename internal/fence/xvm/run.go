package xvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"ringfence/internal/fence"
	wire "ringfence/internal/wire/xvm"
)

// protocolVersion is the version that the C clients give themselves.
const protocolVersion = "1.9.0"

// Main is fence_xvm or fence_virt, as the program says.
func Main(program string) fence.Main {
	return func(ctx context.Context, i fence.Invocation) int { return run(ctx, program, i) }
}

func run(ctx context.Context, program string, i fence.Invocation) int {
	agent := Describe(program, i.Name)
	values, err := agent.Parse(i.Args, i.In, i.Err)
	switch {
	case err != nil:
		return misuse(agent, i, err)
	case values.Help:
		return printed(agent.Usage(i.Out))
	case values.Version:
		_, err := fmt.Fprintf(i.Out, "%s %s\nringfence release %s\n", i.Name, protocolVersion, i.Version)
		return printed(err)
	case strings.EqualFold(values.String("action"), actionMetadata):
		return printed(agent.Metadata(i.Out))
	}
	c, err := newConfig(program, values)
	validates := c.action == actionValidate
	if err == nil && c.needsKey() && (!validates || values.Given("key_file")) {
		c.key, err = readKey(values.String("key_file"))
	}
	switch {
	case err != nil && validates:
		fmt.Fprintln(i.Err, err)
		return fence.ExitFailed
	case err != nil:
		return misuse(agent, i, err)
	case validates:
		return fence.ExitOK
	}
	if waits(c.op) {
		time.Sleep(c.delay)
	}
	cl := newClient(c, i.Err)
	answer, err := cl.ask(ctx)
	return report(c, i, answer, err)
}

// misuse says what is wrong with the options. A person is shown all of them; what
// came in on standard input came from a program, and each line ends up in its log.
func misuse(agent *fence.Agent, i fence.Invocation, err error) int {
	fmt.Fprintln(i.Err, err)
	if len(i.Args) > 0 {
		_ = agent.Usage(i.Err) // there is nobody left to tell
	} else {
		fmt.Fprintf(i.Err, "%s -h prints all options\n", agent.Name)
	}
	return fence.ExitFailed
}

func printed(err error) int {
	if err != nil {
		return fence.ExitFailed
	}
	return fence.ExitOK
}

// waits says whether the delay counts for an operation.
func waits(op wire.Op) bool {
	return op != wire.OpStatus && op != wire.OpMonitor && op != wire.OpList
}

// changes says whether an operation must not be carried out twice.
func changes(op wire.Op) bool {
	return op == wire.OpOff || op == wire.OpOn || op == wire.OpReboot
}

// report prints what came of a request, logs it, and returns the exit code.
func report(c config, i fence.Invocation, a answer, err error) int {
	code := a.exit()
	if err != nil {
		code = failure(err)
	}
	text := ""
	switch {
	case err != nil:
		fmt.Fprintln(i.Err, err)
		text = "Operation failed"
		if errors.Is(err, errNoResult) {
			text = "Unknown response (-1)"
		}
	case c.op == wire.OpList && a.listed:
		err = printList(i.Out, a.guests)
		code = printed(err)
	default:
		text = describe(c, i, a.result)
	}
	if text != "" {
		fmt.Fprintln(i.Err, text)
	}
	logResult(c, i, code, err)
	return code
}

// describe prints a result, or returns what goes to standard error.
func describe(c config, i fence.Invocation, r wire.Result) string {
	status := c.op == wire.OpStatus
	switch {
	case r == wire.ResultOK && status:
		fmt.Fprintln(i.Out, "Status: ON")
	case r == wire.ResultOff && status:
		fmt.Fprintln(i.Out, "Status: OFF")
	case r == wire.ResultOK, r == wire.ResultOff:
	case r == wire.ResultFailed:
		return "Operation failed"
	case r == wire.ResultDenied:
		return "Permission denied"
	default:
		return fmt.Sprintf("Unknown response (%d)", r)
	}
	return ""
}

// failure is the exit code of an error: 255 where no result came in time, as the C
// client's.
func failure(err error) int {
	if errors.Is(err, errNoResult) {
		return 255
	}
	return fence.ExitFailed
}

// printList prints guests as the C client does. Names come from the network, and
// lists are not authenticated: what would break a line is shown as "?".
func printList(w io.Writer, guests []wire.Entry) error {
	var b strings.Builder
	for _, g := range guests {
		state := "off"
		if g.State == wire.StateRunning {
			state = "on"
		}
		fmt.Fprintf(&b, "%-32s %s %s\n", printable(g.Name), printable(g.UUID), state)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// logResult writes to the system's log what was done to a guest, and what failed.
func logResult(c config, i fence.Invocation, code int, err error) {
	attrs := []slog.Attr{slog.String("action", c.action), slog.String("guest", c.guest), slog.Int("code", code)}
	log := i.Log.With("component", i.Name)
	switch {
	case err != nil:
		attrs = append(attrs, slog.Any("err", err))
		log.LogAttrs(context.Background(), slog.LevelError, "the request failed", attrs...)
	case code != fence.ExitOK && changes(c.op):
		log.LogAttrs(context.Background(), slog.LevelError, "the daemon refused or failed", attrs...)
	case changes(c.op):
		log.LogAttrs(context.Background(), slog.LevelInfo, "the daemon did it", attrs...)
	}
}

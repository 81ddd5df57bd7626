// Command testlog runs `go test -json` for `make test` and prints what a person
// wants to see of it: one line for each package, the whole output of what
// failed, and, at the end and loudly, every test that was skipped. With
// -no-skips a skipped test is a failure; CI runs it so.
//
// A skip inside of a test that runs itself again, as root or in a namespace, is
// found by its words in the output.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit code: 0 all passed, 1 something failed, 2 wrong flags.
func run(ctx context.Context, args []string, out, stderr io.Writer) int {
	flags := flag.NewFlagSet("testlog", flag.ContinueOnError)
	flags.SetOutput(stderr)
	noSkips := flags.Bool("no-skips", false, "fail when a test is skipped")
	limit := flags.Duration("limit", 10*time.Minute, "end all tests after this time")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	log := newLog(out)
	err := goTest(ctx, flags.Args(), *limit, log, stderr)
	log.summary(*noSkips)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		fmt.Fprintf(stderr, "tests took more than %v and were ended\n", *limit)
		return 1
	case err != nil:
		fmt.Fprintf(stderr, "go test: %v\n", err)
		return 1
	case log.failed() || *noSkips && log.skipped():
		return 1
	}
	return 0
}

// graceAfterEnd is how long tests that are ended may take to clean up.
const graceAfterEnd = 10 * time.Second

// goTest runs go test in a process group of its own, so that ending it ends the
// test binaries too.
func goTest(ctx context.Context, packages []string, limit time.Duration, log *testLog, stderr io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json", "-timeout", limit.String()}, packages...)...)
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = graceAfterEnd
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	readErr := log.read(pipe)
	return errors.Join(readErr, cmd.Wait())
}

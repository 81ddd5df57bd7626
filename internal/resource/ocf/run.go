package ocf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/resource/proctree"
)

// OutputLimitBytes bounds what is kept of an action's output for a message.
const OutputLimitBytes = 4 << 10

// result is how an action ended.
type result struct {
	code   int
	stdout []byte // the beginning, up to the limit; only when it was asked for
	cut    bool   // stdout had more
	output string // the end of stdout (when not kept whole) and stderr
}

func (r result) exitError(name agentName, action string) *ExitError {
	return &ExitError{Agent: name.String(), Action: action, Code: r.code, Class: ClassOf(r.code), Output: r.output}
}

// run runs one action. keepBytes > 0 keeps that much of the beginning of
// standard output apart. When ctx ends first, the action's process group is
// killed and the error says so: what the action did is not known.
func run(ctx context.Context, path, action string, env []string, keepBytes int) (result, error) {
	return runAfter(ctx, nil, path, action, env, keepBytes)
}

// gate holds an action back until the daemon has written down which process it
// is. Where the daemon dies before, the action never begins.
const gate = `read -r go && exec "$@" </dev/null; exit 1`

// runAfter is run for an action that must not outlive the daemon unnoticed:
// begins is told the process before it executes the action.
func runAfter(ctx context.Context, begins func(proctree.Ident) error, path, action string, env []string, keepBytes int) (result, error) {
	if err := ctx.Err(); err != nil {
		return result{}, err
	}
	end, begin := &tail{limit: OutputLimitBytes}, &head{limit: keepBytes}
	outTo := io.Writer(end)
	if keepBytes > 0 {
		outTo = begin
	}
	stdout, err := newCollector(outTo)
	if err != nil {
		return result{}, err
	}
	stderr, err := newCollector(end)
	if err != nil {
		stdout.abandon()
		return result{}, err
	}
	cmd := &osexec.Cmd{
		Path: path, Args: []string{path, action}, Env: env, Dir: "/",
		Stdout: stdout.write, Stderr: stderr.write, SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	open := func() error { return nil }
	if begins != nil {
		cmd.Path, cmd.Args = "/bin/sh", []string{"/bin/sh", "-c", gate, "sh", path, action}
		hold, release, err := os.Pipe()
		if err != nil {
			stdout.abandon()
			stderr.abandon()
			return result{}, err
		}
		defer hold.Close()
		defer release.Close()
		cmd.Stdin = hold
		open = func() error {
			stat, err := proctree.ReadStat(cmd.Process.Pid)
			if err == nil {
				err = begins(stat.Ident)
			}
			if err == nil {
				_, err = release.WriteString("go\n")
			}
			return err
		}
	}
	if err := cmd.Start(); err != nil {
		stdout.abandon()
		stderr.abandon()
		return result{}, fmt.Errorf("execute %s: %w", path, err)
	}
	stdout.begin()
	stderr.begin()
	if err = open(); err != nil {
		err = errors.Join(err, unix.Kill(-cmd.Process.Pid, unix.SIGKILL))
		_ = cmd.Wait()
	} else {
		err = waitOrKill(ctx, cmd)
	}
	stdout.finish()
	stderr.finish()
	r := result{code: cmd.ProcessState.ExitCode(), stdout: begin.kept.Bytes(), cut: begin.cut, output: end.String()}
	if err != nil {
		return r, fmt.Errorf("%s did not end in time and was killed: %w; its last words: %q", action, err, reasonIn(r.output))
	}
	if r.code < 0 {
		return r, fmt.Errorf("%s ended by %v; its last words: %q", action, cmd.ProcessState, reasonIn(r.output))
	}
	return r, nil
}

// waitOrKill waits for the action itself, not for what it left in the
// background, and kills its process group when ctx ends first. It is reaped
// last: until then its pid, and so the group's number, cannot be given away.
func waitOrKill(ctx context.Context, cmd *osexec.Cmd) error {
	err := waitFor(ctx, cmd.Process.Pid)
	if err != nil {
		err = errors.Join(err, unix.Kill(-cmd.Process.Pid, unix.SIGKILL))
	}
	_ = cmd.Wait() // ProcessState says it
	return err
}

func waitFor(ctx context.Context, pid int) error {
	stat, err := proctree.ReadStat(pid)
	if err != nil {
		return err
	}
	process, err := proctree.Open(stat.Ident)
	if err != nil {
		return err
	}
	defer process.Close()
	return process.Wait(ctx)
}

// collector reads what a process and its descendants write, until the process
// has ended: descendants may keep the pipe open for ever.
type collector struct {
	read, write *os.File
	to          io.Writer
	done        chan struct{}
}

func newCollector(to io.Writer) (*collector, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make output pipe: %w", err)
	}
	return &collector{read: read, write: write, to: to, done: make(chan struct{})}, nil
}

// begin starts to read. The reader ends at end of file or in finish.
func (c *collector) begin() {
	c.write.Close()
	go func() {
		defer close(c.done)
		_, _ = io.Copy(c.to, c.read) // the deadline of finish, or end of file
	}()
}

// finish takes what is in the pipe without waiting for more.
func (c *collector) finish() {
	_ = c.read.SetReadDeadline(time.Unix(1, 0)) // a pipe has deadlines
	<-c.done
	raw, err := c.read.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { drainFD(int(fd), c.to) })
	}
	c.read.Close()
}

// drainFD reads a non-blocking descriptor until it is empty. A descendant that
// writes for ever is left alone after drainLimitBytes.
func drainFD(fd int, to io.Writer) {
	const drainLimitBytes = 1 << 20
	buf := make([]byte, 4<<10)
	for total := 0; total < drainLimitBytes; {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		total += n
		_, _ = to.Write(buf[:n]) // in memory, cannot fail
	}
}

func (c *collector) abandon() {
	c.read.Close()
	c.write.Close()
}

// head keeps the beginning of what is written.
type head struct {
	kept  bytes.Buffer
	limit int
	cut   bool
}

func (h *head) Write(p []byte) (int, error) {
	n := min(len(p), h.limit-h.kept.Len())
	h.cut = h.cut || n < len(p)
	h.kept.Write(p[:n])
	return len(p), nil
}

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
)

// leftoverTimeout is how long the output of a command's own children is waited
// for after the command has ended.
const leftoverTimeout = time.Second

// execCodeOfSignal is what shells add to the number of a signal.
const execCodeOfSignal = 128

// serveExec runs one command. Its client's end kills it.
func (s *supervisor) serveExec(w http.ResponseWriter, r *http.Request) {
	body, err := readRequest(w, r)
	if err == nil && (len(body.Argv) == 0 || r.Header.Get("Upgrade") != execProtocol) {
		err = errors.New("exec: want a command and the protocol " + execProtocol)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	s.execs.Add(1)
	defer s.execs.Done()
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", execProtocol); err != nil {
		return
	}
	frames := &frameWriter{w: conn}
	code, err := s.runCommand(body, buffered, frames)
	if err != nil {
		_ = frames.write(frameError, []byte(err.Error()))
		return
	}
	_ = frames.write(frameExit, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

// runCommand starts the command where it belongs, feeds it and waits for it.
func (s *supervisor) runCommand(body request, input io.Reader, frames *frameWriter) (int, error) {
	ctx, cancel := context.WithCancel(s.execCtx)
	defer cancel()
	cmd := exec.CommandContext(ctx, body.Argv[0], body.Argv[1:]...)
	cmd.Stdout, cmd.Stderr = stream{frames, frameStdout}, stream{frames, frameStderr}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = leftoverTimeout
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	if err := s.startCommand(ctx, body.Where, cmd); err != nil {
		return 0, err
	}
	go func() { // ends with the connection, which the caller closes
		feed(stdin, input)
		cancel()
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return 0, err
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return execCodeOfSignal + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

func (s *supervisor) startCommand(ctx context.Context, where string, cmd *exec.Cmd) error {
	if h, ok := s.hosts[cluster.HostName(where)]; ok {
		cmd.Dir, cmd.Env = s.layout.HostDir(h.name), s.hostEnv()
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd.Start()
	}
	node := cluster.NodeName(where)
	if _, err := HostOf(node); err != nil {
		return fmt.Errorf("%q is neither a node (n1 to n%d) nor a host (h1 to h%d)", where, size, size)
	}
	g, err := s.find(ctx, node)
	if err != nil {
		return err
	}
	driver, err := g.host.powered()
	if err != nil {
		return err
	}
	cmd.Dir = s.layout.GuestDisk(node)
	return driver.Exec(ctx, g.id, cmd)
}

// feed gives a command its input until the client has gone. The end of the
// input is an empty frame; the client stays for the output.
func feed(stdin io.WriteCloser, frames io.Reader) {
	defer stdin.Close()
	for {
		kind, data, err := readFrame(frames)
		switch {
		case err != nil:
			return
		case kind == frameStdin && len(data) == 0:
			stdin.Close()
		case kind == frameStdin:
			// A command that does not read its input to the end may have reasons.
			_, _ = stdin.Write(data)
		}
	}
}

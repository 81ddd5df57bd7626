package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// ExecIO is where a command's input comes from and its output goes. nil means
// none.
type ExecIO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Exec runs a command inside a node's guest, or where the hostd of a host runs
// (also while that host has no power), and returns its exit code once it has
// ended. When ctx ends the command and its session are killed; one that does not
// read a long input only when the lab ends. A Stdin whose Read blocks for ever
// keeps one goroutine of the caller's process until it returns.
func (l *Lab) Exec(ctx context.Context, where string, argv []string, streams ExecIO) (int, error) {
	code, err := l.exec(ctx, where, argv, streams)
	if err != nil {
		return -1, fmt.Errorf("run %q on %s: %w", argv, where, errors.Join(ctx.Err(), err))
	}
	return code, nil
}

// Output runs a command as Exec does and returns what it wrote to its standard
// output. An exit code other than 0 is an error with what it wrote to the other.
func (l *Lab) Output(ctx context.Context, where string, argv ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	code, err := l.Exec(ctx, where, argv, ExecIO{Stdout: &stdout, Stderr: &stderr})
	if err == nil && code != 0 {
		err = fmt.Errorf("run %q on %s: exit code %d: %s", argv, where, code, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), err
}

func (l *Lab) exec(ctx context.Context, where string, argv []string, streams ExecIO) (int, error) {
	conn, err := l.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	frames, err := beginExec(conn, request{Where: where, Argv: argv})
	if err != nil {
		return 0, err
	}
	to := &frameWriter{w: conn}
	go func() {
		if streams.Stdin != nil {
			_, _ = io.Copy(stream{to, frameStdin}, streams.Stdin)
		}
		_ = to.write(frameStdin, nil)
	}()
	return receiveExec(frames, streams)
}

// beginExec asks for the command and returns the frames that follow.
func beginExec(conn net.Conn, body request) (*bufio.Reader, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest(http.MethodPost, "http://lab"+pathExec, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", execProtocol)
	if err := r.Write(conn); err != nil {
		return nil, err
	}
	from := bufio.NewReader(conn)
	reply, err := http.ReadResponse(from, r)
	if err != nil {
		return nil, err
	}
	if reply.StatusCode != http.StatusSwitchingProtocols {
		defer reply.Body.Close()
		return nil, readFailure(reply.Body)
	}
	return from, nil
}

func receiveExec(frames io.Reader, streams ExecIO) (int, error) {
	outputs := map[byte]io.Writer{frameStdout: streams.Stdout, frameStderr: streams.Stderr}
	for {
		kind, data, err := readFrame(frames)
		if err != nil {
			return 0, fmt.Errorf("the connection to the command broke: %w", err)
		}
		switch {
		case kind == frameError:
			return 0, errors.New(string(data))
		case kind == frameExit && len(data) == 4:
			return int(binary.BigEndian.Uint32(data)), nil
		case outputs[kind] != nil:
			if _, err := outputs[kind].Write(data); err != nil {
				return 0, err
			}
		}
	}
}

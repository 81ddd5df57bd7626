package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sshStderrBytes = 1 << 10         // of its words are kept for errors
	sshWait        = 2 * time.Second // for its output after its end
)

// sshArgs returns the arguments of ssh. Nothing of the URI can be taken for an
// option: host and user were checked, and the host stands behind the dashes.
func (u URI) sshArgs() []string {
	args := []string{"-T", "-e", "none", "-o", "BatchMode=yes"}
	if u.Port != 0 {
		args = append(args, "-p", strconv.Itoa(int(u.Port)))
	}
	if u.User != "" {
		args = append(args, "-l", u.User)
	}
	if u.KeyFile != "" {
		args = append(args, "-i", u.KeyFile)
	}
	command := []string{"virt-ssh-helper", shellQuote(u.Remote())}
	if u.Netcat != "" {
		socket := u.Socket
		if socket == "" {
			socket = "/var/run/libvirt/libvirt-sock"
		}
		command = []string{u.Netcat, "-U", shellQuote(socket)}
	}
	return append(args, "--", u.Host, strings.Join(command, " "))
}

// sshConn is a connection through a process of ssh, which lives as long.
type sshConn struct {
	net.Conn
	kill func() error
	gone chan struct{} // closed when the process is reaped
	said *tail
}

// dialSSH starts ssh with one end of a socket pair as its input and output. That
// it runs does not mean that it has connected; the first call tells.
func dialSSH(ctx context.Context, u URI) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	said := new(tail)
	cmd := exec.Command("ssh", u.sshArgs()...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, said
	cmd.WaitDelay = sshWait
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, err
	}
	c := &sshConn{Conn: ours, kill: cmd.Process.Kill, gone: make(chan struct{}), said: said}
	go func() { // Close waits for it
		defer close(c.gone)
		_ = cmd.Wait() // its words say more than its status
	}()
	return c, nil
}

func (c *sshConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	return n, c.explain(err)
}

func (c *sshConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	return n, c.explain(err)
}

// explain replaces an end that nobody here wanted by what ssh said.
func (c *sshConn) explain(err error) error {
	if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	select {
	case <-c.gone:
	case <-time.After(sshWait):
	}
	if text := c.said.String(); text != "" {
		return fmt.Errorf("ssh says: %s", text)
	}
	return err
}

// Close ends ssh and returns when it is gone.
func (c *sshConn) Close() error {
	err := c.Conn.Close()
	if killErr := c.kill(); killErr != nil && !errors.Is(killErr, os.ErrProcessDone) {
		err = errors.Join(err, killErr)
	}
	<-c.gone
	return err
}

func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ssh"), os.NewFile(uintptr(fds[1]), "ssh")
	defer ours.Close() // FileConn has a copy
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return conn, theirs, nil
}

// tail keeps the last bytes that were written to it.
type tail struct {
	mu sync.Mutex // guards b
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-sshStderrBytes):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(strings.Fields(string(t.b)), " ")
}

package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// backgroundEnv tells a process that it is to be a daemon in the background, and by
// which file descriptor it says that it is ready.
const backgroundEnv = "RINGFENCE_BACKGROUND"

// Background starts this program again with the same command line in a session of
// its own, without terminal, and returns when it is ready: a Go process cannot fork.
// What the daemon writes to standard error until then goes to errors. The code is 0
// when it is ready, else its exit code.
func Background(errs io.Writer) (code int, err error) {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start the daemon: %w", err)
	}
	defer ready.Close()
	defer theirs.Close()
	c := exec.Command("/proc/self/exe")
	c.Args = os.Args
	c.Env = append(os.Environ(), backgroundEnv+"=3")
	c.ExtraFiles = []*os.File{theirs}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	messages, err := c.StderrPipe()
	if err != nil {
		return 0, fmt.Errorf("start the daemon: %w", err)
	}
	if err := c.Start(); err != nil {
		return 0, fmt.Errorf("start the daemon: %w", err)
	}
	theirs.Close()
	// Its standard error ends when it is ready, as when it has ended.
	_, _ = io.Copy(errs, messages)
	if n, _ := ready.Read(make([]byte, 1)); n == 1 {
		return 0, nil
	}
	err = c.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), nil
	case err != nil:
		return 0, fmt.Errorf("start the daemon: %w", err)
	}
	return 0, errors.New("the daemon ended before it was ready")
}

// Parent is the process that started this one by Background and waits for it.
type Parent struct{ ready *os.File }

// InBackground returns whether this process was started by Background, and by whom.
// It is called once.
func InBackground() (*Parent, bool) {
	fd, err := strconv.Atoi(os.Getenv(backgroundEnv))
	if err != nil {
		return nil, false
	}
	os.Unsetenv(backgroundEnv) // it is not for those that this process starts
	unix.CloseOnExec(fd)
	return &Parent{os.NewFile(uintptr(fd), "ready")}, true
}

// Ready lets the parent go. From then on standard error is /dev/null, and the working
// directory is the root, so that the daemon holds no file system.
func (p *Parent) Ready() error {
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("leave the working directory: %w", err)
	}
	if _, err := p.ready.Write([]byte{1}); err != nil {
		return fmt.Errorf("tell that the daemon is ready: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	return errors.Join(unix.Dup2(int(null.Fd()), int(os.Stderr.Fd())), p.ready.Close())
}

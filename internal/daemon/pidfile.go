// Package daemon is how a process becomes a daemon and tells others about it: going
// to the background, the pid file, the service manager, syslog. Package cli calls it
// for the command lines that others made; it knows nothing of what the daemon does.
package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pidLimitBytes bounds what is read of a pid file.
const pidLimitBytes = 32

// PidFile is the claim of the only instance of a daemon: a locked file with its pid.
type PidFile struct {
	path string
	file *os.File
}

// ClaimPidFile writes the pid of this process into a file, in decimal and without
// newline. It fails when another instance runs: one that has the file locked, or one
// whose pid stands in it and whose command line has the name of the program, as the
// C daemon's does.
func ClaimPidFile(path, program string) (*PidFile, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, fmt.Errorf("write the pid file: %w", err)
		}
		if err := claim(f, program); err != nil {
			f.Close()
			return nil, fmt.Errorf("pid file %s: %w", path, err)
		}
		if isThere(f, path) {
			return &PidFile{path, f}, nil
		}
		f.Close() // an instance that ended took it away meanwhile
	}
}

// isThere says whether the open file is still the one under its path.
func isThere(f *os.File, path string) bool {
	open, err := f.Stat()
	there, errThere := os.Stat(path)
	return err == nil && errThere == nil && os.SameFile(open, there)
}

func claim(f *os.File, program string) error {
	data, err := io.ReadAll(io.LimitReader(f, pidLimitBytes))
	if err != nil {
		return err
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data))) // what is no number is no pid
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%s runs already with pid %d", program, pid)
	case err != nil:
		return fmt.Errorf("lock: %w", err)
	}
	if pid > 0 && pid != os.Getpid() && runs(pid, program) {
		return fmt.Errorf("%s runs already with pid %d", program, pid)
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	return err
}

// runs says whether a process lives whose command line has the name.
func runs(pid int, program string) bool {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return err == nil && bytes.Contains(line, []byte(program))
}

// Remove gives the claim back. The file goes before the lock does, so that nobody
// who waits for the lock can hold one that is gone.
func (p *PidFile) Remove() error {
	err := os.Remove(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, p.file.Close())
}

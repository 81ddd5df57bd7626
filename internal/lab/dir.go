package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor/proc"
)

// endTimeout bounds the wait for the processes and cgroups of a lab that ends.
const endTimeout = 10 * time.Second

// specLimitBytes bounds what is read of a lab's own files.
const specLimitBytes = 1 << 20

// socketPathLimitBytes is the kernel's limit for the path of a unix socket.
const socketPathLimitBytes = 107

// ErrRunning: a lab runs in that directory already.
var ErrRunning = errors.New("a lab is running there already")

// spec is what the supervisor must know; Up writes it.
type spec struct {
	Executable string                        `json:"executable"`
	Cgroup     string                        `json:"cgroup,omitempty"`
	Movable    bool                          `json:"movable,omitempty"`
	Env        []string                      `json:"env,omitempty"`
	Guests     map[cluster.NodeName][]string `json:"guests"`
	Hosts      map[cluster.HostName][]string `json:"hosts"`
}

// initProcess names the first process of a lab, as its starter saw it.
type initProcess struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// claim makes the lab's directory, takes its lock and removes what an earlier
// lab left. The lab lives as long as a copy of the returned file is open.
func (l Layout) claim(ctx context.Context) (*os.File, error) {
	if len(l.Socket()) > socketPathLimitBytes {
		return nil, fmt.Errorf("lab directory %s: its path is too long for a socket, choose a shorter one with RINGFENCE_LAB", l.Dir)
	}
	lock, err := l.takeLock()
	if err != nil {
		return nil, err
	}
	if err := l.clean(ctx); err != nil {
		lock.Close()
		return nil, fmt.Errorf("remove what an earlier lab left in %s: %w", l.Dir, err)
	}
	return lock, nil
}

// takeLock returns the locked file, or ErrRunning. A file that was removed while
// it was being locked is given up for the new one.
func (l Layout) takeLock() (*os.File, error) {
	for {
		if err := l.makeDir(); err != nil {
			return nil, err
		}
		lock, err := os.OpenFile(l.lockPath(), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock the lab: %w", err)
		}
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			lock.Close()
			return nil, fmt.Errorf("%w, in %s; stop it with `%s`", ErrRunning, l.Dir, l.command("down"))
		}
		if err != nil {
			lock.Close()
			return nil, fmt.Errorf("lock the lab: %w", err)
		}
		if isAt(lock, l.lockPath()) {
			return lock, nil
		}
		lock.Close()
	}
}

func isAt(f *os.File, path string) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(opened, there)
}

// makeDir makes the lab's directory and refuses one that others may use.
func (l Layout) makeDir() error {
	if err := os.Mkdir(l.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the lab's directory: %w", err)
	}
	info, err := os.Lstat(l.Dir)
	if err != nil {
		return fmt.Errorf("make the lab's directory: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(owner.Uid) != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("lab directory %s: want a directory of this user that nobody else may enter (mode 0700); "+
			"remove it or choose another with RINGFENCE_LAB", l.Dir)
	}
	entries, err := os.ReadDir(l.Dir)
	if err != nil {
		return fmt.Errorf("make the lab's directory: %w", err)
	}
	if _, err := os.Lstat(l.lockPath()); len(entries) > 0 && err != nil {
		return fmt.Errorf("lab directory %s is not empty and no lab was there; choose another with RINGFENCE_LAB", l.Dir)
	}
	return nil
}

// clean removes everything that an ended lab left but the directory and its
// lock, which the caller holds.
func (l Layout) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	if err := l.awaitInit(ctx, true); err != nil {
		return err
	}
	var s spec
	if err := readJSON(l.specPath(), &s); err == nil && s.Cgroup != "" {
		if err := proc.RemoveCgroup(ctx, s.Cgroup); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(l.Dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(l.Dir, entry.Name())
		if path == l.lockPath() {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// awaitInit waits until the first process of the lab has gone, and with it
// every other, killing it first if so told.
func (l Layout) awaitInit(ctx context.Context, kill bool) error {
	var first initProcess
	if err := readJSON(l.initPath(), &first); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	process, err := proc.OpenProcess(first.PID, first.Start)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer process.Close()
	if kill {
		if err := process.Signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	if err := process.Wait(ctx); err != nil {
		return err
	}
	process.Reap()
	return nil
}

// remove takes an ended lab away altogether. ErrRunning: one runs there.
func (l Layout) remove(ctx context.Context) error {
	if _, err := os.Lstat(l.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := l.claim(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	return os.RemoveAll(l.Dir)
}

// command returns the command line of a lab verb for this directory.
func (l Layout) command(verb string) string {
	command := "ringfence lab " + verb
	if l.Dir != DefaultDir() || os.Getenv("RINGFENCE_LAB") != "" {
		command = "RINGFENCE_LAB=" + l.Dir + " " + command
	}
	return command
}

func readJSON(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, specLimitBytes)).Decode(into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

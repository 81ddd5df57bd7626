package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// OwnCgroup makes and returns a directory of the given name below this
// process's own cgroup v2, fit for Config.Cgroup. It fails where there is no
// cgroup v2 or it may not be written; guests then run without.
func OwnCgroup(name string) (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("find cgroup v2: %w", err)
	}
	root := ""
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "cgroup2" {
			root = fields[1]
		}
	}
	if root == "" {
		return "", errors.New("find cgroup v2: none is mounted")
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find cgroup v2: %w", err)
	}
	for line := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return makeCgroup(filepath.Join(root, path, name))
		}
	}
	return "", errors.New("find cgroup v2: this process is in none")
}

func makeCgroup(dir string) (string, error) {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make cgroup: %w", err)
	}
	for _, file := range []string{"cgroup.freeze", "cgroup.kill", "cgroup.procs"} {
		if err := unix.Access(filepath.Join(dir, file), unix.W_OK); err != nil {
			_ = os.Remove(dir)
			return "", fmt.Errorf("make cgroup: %s in %s: %w", file, dir, err)
		}
	}
	return dir, nil
}

// RemoveCgroup removes a cgroup and those below it once they are empty, waiting
// for that until ctx ends. It kills nothing. A missing one is no error.
func RemoveCgroup(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := RemoveCgroup(ctx, filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return poll(ctx, func() (bool, error) {
		err := unix.Rmdir(dir)
		if errors.Is(err, unix.EBUSY) {
			return false, nil
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return false, fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		return true, nil
	})
}

// killCgroup kills every process in a cgroup and removes it when it is empty. A
// cgroup that somebody else removes meanwhile is no error.
func killCgroup(ctx context.Context, dir string) error {
	err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	// ENODEV: removed between the opening of the file and the write.
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	return RemoveCgroup(ctx, dir)
}

// freezeCgroup freezes or thaws a cgroup and waits until the kernel says so.
func freezeCgroup(ctx context.Context, dir string, frozen bool) error {
	value, want := "0", []byte("frozen 0")
	if frozen {
		value, want = "1", []byte("frozen 1")
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(value), 0); err != nil {
		return fmt.Errorf("freeze cgroup: %w", err)
	}
	return poll(ctx, func() (bool, error) {
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err != nil {
			return false, fmt.Errorf("freeze cgroup: %w", err)
		}
		return bytes.Contains(events, want), nil
	})
}

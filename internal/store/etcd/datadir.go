package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockName is the file that says that a process uses the data directory. etcd
// has locks of its own, but waits at them without a word.
const lockName = "ringfence.lock"

// prepareDir creates the data directory or checks it, and locks it. Closing
// the file that it returns unlocks it.
func prepareDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("store data directory %s cannot be created: %w", dir, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("store data directory %s: %w", dir, err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("store data directory %s is open to others (mode %04o); run: chmod 700 %s", dir, mode, dir)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store data directory %s is not writable: %w", dir, err)
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errors.New("another process uses it; stop that one first")
	}
	if err == nil {
		err = checkSpace(dir)
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("store data directory %s: %w", dir, err)
	}
	return lock, nil
}

// checkSpace refuses to begin a store on a file system that cannot hold it.
// A store that exists has its logs allocated already.
func checkSpace(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "member", "wal")); err == nil {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	free := fs.Bavail * uint64(fs.Bsize)
	if free < spareBytes {
		return fmt.Errorf("%d MB are free, but a new store needs %d MB; make room or use another file system",
			free>>20, spareBytes>>20)
	}
	return nil
}

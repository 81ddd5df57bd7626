package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ReadFile reads a backup from a regular file.
func ReadFile(path string) (*Backup, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a fifo must not hold us
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("backup %s is not a regular file; pipe it in and say - instead of its name", path)
	}
	b, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("backup %s: %w", path, err)
	}
	return b, nil
}

// ErrExists: there is a file of that name, and force was not given.
var ErrExists = errors.New("there is a file of that name")

// WriteFile stores the bytes of a backup, mode 0600: whole or not at all,
// whenever the machine stops. Only with force it replaces a file.
func WriteFile(path string, data []byte, force bool) error {
	info, err := os.Lstat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file: nothing was written", path)
	case err == nil && !force:
		return fmt.Errorf("%s: %w", path, ErrExists)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("write the backup: %w", err)
	}
	if err := replace(path, data); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	return nil
}

func replace(path string, data []byte) error {
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // of an earlier try that was cut short
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(next))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

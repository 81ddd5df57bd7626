//go:build unix

package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// fileLimitBytes bounds the journal that is read; a sane one has a few MiB.
const fileLimitBytes = 256 << 20

const (
	dirMode  = 0o700
	fileMode = 0o600
)

// disk is what File does to an open file; tests put faults in between.
type disk interface {
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	Close() error
}

// File is a Storage in one file, held by one process at a time.
type File struct {
	path string
	dir  *os.File // locked
	file disk
	size int64
	// broken is set once a failed write could not be undone for certain.
	broken error
	wrap   func(*os.File) disk
}

var _ Storage = (*File)(nil)

// OpenFile opens the journal file in a directory that exists, creating the
// file if need be. It refuses a directory or file that others can read and a
// directory that another process holds.
func OpenFile(path string) (*File, error) {
	return openFile(path, func(f *os.File) disk { return f })
}

func openFile(path string, wrap func(*os.File) disk) (*File, error) {
	f := &File{path: path, wrap: wrap}
	if err := f.open(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *File) open() (err error) {
	if f.dir, err = os.Open(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("open journal directory: %w", err)
	}
	if err := private(f.dir, dirMode); err != nil {
		return err
	}
	if err := syscall.Flock(int(f.dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: another hostd uses it: %w", f.dir.Name(), err)
	}
	file, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	f.file = f.wrap(file)
	if err := private(file, fileMode); err != nil {
		return err
	}
	return f.dir.Sync()
}

func private(file *os.File, mode os.FileMode) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is open to others (mode %04o); run: chmod %04o %s", file.Name(), info.Mode().Perm(), mode, file.Name())
	}
	return nil
}

// Name returns the path.
func (f *File) Name() string { return f.path }

// Load reads the file.
func (f *File) Load() ([]byte, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(file, fileLimitBytes+1))
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("read journal %s: %w", f.path, err)
	}
	if len(data) > fileLimitBytes {
		return nil, fmt.Errorf("journal %s has more than %d MiB; move it away to start with an empty journal: every earlier life then is unknown", f.path, fileLimitBytes>>20)
	}
	f.size = int64(len(data))
	return data, nil
}

// Cut truncates the file.
func (f *File) Cut(size int64) error {
	if err := f.file.Truncate(size); err != nil {
		return err
	}
	f.size = size
	return f.file.Sync()
}

// Append writes and syncs. A write that failed, say for lack of space, is cut
// off again. After a failed sync nobody knows what the disk has: the file takes
// no more until hostd is restarted and reads it again.
func (f *File) Append(data []byte) error {
	if f.broken != nil {
		return f.broken
	}
	if _, err := f.file.WriteAt(data, f.size); err != nil {
		if undo := f.file.Truncate(f.size); undo != nil {
			f.broken = fmt.Errorf("an earlier write failed and could not be undone; restart hostd: %w", undo)
		}
		return err
	}
	if err := f.file.Sync(); err != nil {
		f.broken = fmt.Errorf("an earlier sync failed; restart hostd: %w", err)
		return errors.Join(err, f.file.Truncate(f.size))
	}
	f.size += int64(len(data))
	return nil
}

// Replace writes a new file and renames it over the old one.
func (f *File) Replace(data []byte) error {
	if f.broken != nil {
		return f.broken
	}
	next, err := f.prepare(data)
	if err != nil {
		return err
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		return errors.Join(err, next.Close(), os.Remove(f.path+".new"))
	}
	old := f.file
	f.file, f.size = next, int64(len(data))
	if err := f.dir.Sync(); err != nil {
		f.broken = fmt.Errorf("the directory could not be synced; restart hostd: %w", err)
		return errors.Join(f.broken, old.Close())
	}
	return old.Close()
}

func (f *File) prepare(data []byte) (disk, error) {
	file, err := os.OpenFile(f.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return nil, err
	}
	next := f.wrap(file)
	_, err = next.WriteAt(data, 0)
	if err == nil {
		err = next.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, next.Close(), os.Remove(f.path+".new"))
	}
	return next, nil
}

// Close closes the file and gives up the lock.
func (f *File) Close() error {
	var errs []error
	if f.file != nil {
		errs = append(errs, f.file.Close())
	}
	if f.dir != nil {
		errs = append(errs, f.dir.Close())
	}
	return errors.Join(errs...)
}

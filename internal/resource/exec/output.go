package exec

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Bounds of the output that is kept.
const (
	LogLimitBytes  = 1 << 20 // of each of the two log files
	LineLimitBytes = 4 << 10 // longer lines are cut
)

const cutMark = "… [line cut]\n"

// makePipe makes the named pipe for a resource's output and opens the
// command's end. It is open for reading too, so that the command is never hit
// by SIGPIPE when the daemon is gone.
func makePipe(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace output pipe: %w", err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("make output pipe %s: %w", path, err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open output pipe %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openReader opens the daemon's end. Reading ends when no process of the tree
// has the pipe open any more.
func openReader(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read output: %w", err)
	}
	return f, nil
}

// logFile keeps at most two files: path and path.1, the older one.
type logFile struct {
	path string
	file *os.File
	size int64
}

func openLog(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open log: %w", err), f.Close())
	}
	return &logFile{path: path, file: f, size: info.Size()}, nil
}

func (l *logFile) write(line []byte) error {
	if l.size+int64(len(line)) > LogLimitBytes {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	return err
}

func (l *logFile) rotate() error {
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	next, err := openLog(l.path)
	if err != nil {
		return err
	}
	old := l.file
	*l = *next
	return old.Close()
}

func (l *logFile) close() error { return l.file.Close() }

// copyLines copies lines until the input ends, cutting long ones. A log that
// cannot be written loses lines, never stops reading: the command must not
// block on it. It returns the first write error.
func copyLines(from io.Reader, write func(line []byte) error) error {
	in := bufio.NewReaderSize(from, LineLimitBytes)
	var first error
	cut := false // inside the rest of a line that was cut
	for {
		line, err := in.ReadSlice('\n')
		full := errors.Is(err, bufio.ErrBufferFull)
		if len(line) > 0 && !cut {
			if full {
				line = append(line[:len(line):len(line)], cutMark...)
			}
			if werr := write(line); werr != nil && first == nil {
				first = werr
			}
		}
		cut = full
		if err != nil && !full {
			return first
		}
	}
}

package demovm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"ringfence/internal/demo/trace"
)

// followRetry is the pause before a guest's port is tried again: QEMU opens it
// when the guest starts.
const followRetry = 20 * time.Millisecond

// journal is the file in which the lines of all guests stand in the order and
// with the time of their arrival.
type journal struct {
	path string
	ctx  context.Context
	wait sync.WaitGroup

	mu     sync.Mutex // guards what follows
	file   *os.File
	failed error
}

// openJournal makes the file; it is closed with the test.
func openJournal(t testing.TB, path string) *journal {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	j := &journal{path: path, ctx: ctx, file: file}
	t.Cleanup(func() {
		stop()
		j.wait.Wait()
		_ = file.Close()
	})
	return j
}

// follow takes what a guest writes, in each of its lives, until the end.
func (j *journal) follow(socket string) {
	j.wait.Go(func() {
		for j.ctx.Err() == nil {
			conn, err := net.Dial("unix", socket)
			if err == nil {
				stop := context.AfterFunc(j.ctx, func() { _ = conn.Close() })
				j.take(conn)
				stop()
				_ = conn.Close()
			}
			select {
			case <-j.ctx.Done():
			case <-time.After(followRetry):
			}
		}
	})
}

// take leaves out a line that the guest's end cut short, as a disk would not have it.
func (j *journal) take(conn net.Conn) {
	lines := bufio.NewReaderSize(conn, trace.LineLimitBytes)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			j.add(string(line)) // which refuses it
		}
		if err != nil {
			return
		}
		j.add(string(line[:len(line)-1]))
	}
}

// add stamps a line. The lock makes the order of the stamps that of the file.
func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	entry, err := trace.ParseEntry(line)
	if err == nil {
		entry.At = trace.Now()
		_, err = j.file.Write(entry.Append(nil))
	}
	if err != nil {
		j.failed = errors.Join(j.failed, fmt.Errorf("the service's journal: %w", err))
	}
}

// fault says why the journal is not whole.
func (j *journal) fault() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

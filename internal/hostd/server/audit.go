package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"ringfence/internal/hostd"
)

const (
	// auditLimitBytes is where the audit log is put aside as audit.log.1; so it
	// takes at most twice that.
	auditLimitBytes = 8 << 20
	// auditFieldBytes bounds each text of an entry.
	auditFieldBytes = 512
	// auditQueue bounds entries that wait for the disk; more are counted and
	// dropped, for no call may wait for the audit log.
	auditQueue = 1024
)

// audit writes the audit log. run owns the file.
type audit struct {
	path    string
	limit   int64
	log     *slog.Logger
	queue   chan hostd.AuditEntry
	dropped atomic.Int64
	file    *os.File
	size    int64
}

func openAudit(path string, log *slog.Logger) (*audit, error) {
	a := &audit{path: path, limit: auditLimitBytes, log: log, queue: make(chan hostd.AuditEntry, auditQueue)}
	return a, a.open()
}

func (a *audit) open() error {
	file, err := os.OpenFile(a.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open audit log: %w", err), file.Close())
	}
	a.file, a.size = file, info.Size()
	return nil
}

// Note takes an entry without waiting.
func (a *audit) Note(e hostd.AuditEntry) {
	e.Time = time.Now().UTC()
	e.Cluster, e.Guest, e.Life = clip(e.Cluster), clip(e.Guest), clip(e.Life)
	e.Name, e.Action, e.Decision, e.Detail = clip(e.Name), clip(e.Action), clip(e.Decision), clip(e.Detail)
	select {
	case a.queue <- e:
	default:
		a.dropped.Add(1)
	}
}

// clip bounds what a caller can make us write.
func clip[T ~string](s T) T {
	if len(s) > auditFieldBytes {
		return s[:auditFieldBytes] + "..."
	}
	return s
}

// run writes entries until ctx ends, then what is left, and closes the file.
func (a *audit) run(ctx context.Context) {
	for {
		select {
		case e := <-a.queue:
			a.write(e)
		case <-ctx.Done():
			for len(a.queue) > 0 {
				a.write(<-a.queue)
			}
			if err := a.file.Close(); err != nil {
				a.log.Error("audit log is not closed", "err", err)
			}
			return
		}
	}
}

func (a *audit) write(e hostd.AuditEntry) {
	e.Dropped = a.dropped.Swap(0)
	line, err := json.Marshal(e)
	if err == nil && a.size+int64(len(line)) > a.limit {
		err = a.rotate()
	}
	if err == nil {
		var n int
		n, err = a.file.Write(append(line, '\n'))
		a.size += int64(n)
	}
	if err != nil {
		a.dropped.Add(e.Dropped + 1)
		a.log.Error("audit log takes no entries", "err", err)
	}
}

func (a *audit) rotate() error {
	if err := os.Rename(a.path, a.path+".1"); err != nil {
		return err
	}
	old := a.file
	if err := a.open(); err != nil {
		return err
	}
	return old.Close()
}

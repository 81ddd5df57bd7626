package sim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// recordLimit bounds what a recorder keeps: the newest lines.
const recordLimit = 20000

// recorder is a slog.Handler that keeps records unformatted: most worlds end
// well, and nobody reads their logs.
type recorder struct {
	mu    *sync.Mutex
	lines *[]line
	attrs []slog.Attr
}

type line struct {
	at    time.Time
	mark  string // of the story
	rec   slog.Record
	attrs []slog.Attr
}

func newRecorder() *recorder {
	return &recorder{mu: &sync.Mutex{}, lines: &[]line{}}
}

// Enabled implements slog.Handler.
func (r *recorder) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (r *recorder) Handle(_ context.Context, rec slog.Record) error {
	r.add(line{at: rec.Time, rec: rec.Clone(), attrs: r.attrs})
	return nil
}

// WithAttrs implements slog.Handler.
func (r *recorder) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &recorder{mu: r.mu, lines: r.lines, attrs: append(slices.Clone(r.attrs), attrs...)}
}

// WithGroup implements slog.Handler; the programs use no groups.
func (r *recorder) WithGroup(string) slog.Handler { return r }

func (r *recorder) mark(text string) { r.add(line{at: time.Now(), mark: text}) }

func (r *recorder) add(l line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(*r.lines) >= 2*recordLimit {
		*r.lines = slices.Delete(*r.lines, 0, recordLimit)
	}
	*r.lines = append(*r.lines, l)
}

// write prints what was kept, with the time since start.
func (r *recorder) write(to io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range *r.lines {
		if l.mark != "" {
			fmt.Fprintf(to, "=== %s\n", l.mark)
			continue
		}
		fmt.Fprintf(to, "%8.3fs  %-5s %s", l.at.Sub(bubbleStart).Seconds(), l.rec.Level, l.rec.Message)
		for _, a := range l.attrs {
			fmt.Fprintf(to, " %s=%v", a.Key, a.Value)
		}
		l.rec.Attrs(func(a slog.Attr) bool {
			fmt.Fprintf(to, " %s=%v", a.Key, a.Value)
			return true
		})
		fmt.Fprintln(to)
	}
}

// bubbleStart is the time at which the clock of every synctest bubble begins.
var bubbleStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

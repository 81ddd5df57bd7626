package fence

import (
	"bytes"
	"context"
	"log/slog"
	"log/syslog"
)

// Syslog returns a logger to the system's log, under the tag. The log is opened
// by the first record; where there is none, records are lost: an agent's work does
// not depend on it.
func Syslog(tag string) *slog.Logger {
	return newSyslog(func() (*syslog.Writer, error) { return syslog.New(syslog.LOG_DAEMON|syslog.LOG_NOTICE, tag) })
}

func newSyslog(dial func() (*syslog.Writer, error)) *slog.Logger {
	s := &sink{dial: dial}
	text := slog.NewTextHandler(&s.line, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		// The system's log has its own.
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}})
	return slog.New(syslogHandler{Handler: text, sink: s})
}

// sink is used by one goroutine: an agent writes a line or two.
type sink struct {
	dial func() (*syslog.Writer, error)
	line bytes.Buffer
	out  *syslog.Writer
}

// syslogHandler forms records as its Handler does, into the line of its sink.
type syslogHandler struct {
	slog.Handler
	sink *sink
}

func (h syslogHandler) Handle(ctx context.Context, r slog.Record) error {
	s := h.sink
	if s.out == nil {
		out, err := s.dial()
		if err != nil {
			return err
		}
		s.out = out
	}
	s.line.Reset()
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	switch {
	case r.Level >= slog.LevelError:
		return s.out.Err(s.line.String())
	case r.Level >= slog.LevelWarn:
		return s.out.Warning(s.line.String())
	}
	return s.out.Notice(s.line.String())
}

func (h syslogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return syslogHandler{Handler: h.Handler.WithAttrs(attrs), sink: h.sink}
}

func (h syslogHandler) WithGroup(name string) slog.Handler {
	return syslogHandler{Handler: h.Handler.WithGroup(name), sink: h.sink}
}

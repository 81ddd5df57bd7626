package daemon

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// SyslogSocket is where the system's log takes messages.
const SyslogSocket = "/dev/log"

// syslogTimeout bounds how long a message may hold up who logs it; then it is lost,
// and the next one that gets through says so.
const syslogTimeout = 20 * time.Millisecond

// facilityDaemon is the facility of daemons, and the severities are those of RFC 3164.
const (
	facilityDaemon  = 3 << 3
	severityError   = 3
	severityWarning = 4
	severityInfo    = 6
	severityDebug   = 7
)

// Syslog is a slog.Handler that writes to the system's log. A log that is not there
// or does not take anything delays nobody by more than a moment.
type Syslog struct {
	slog.Handler // writes into the buffer of shared
	shared       *syslogConn
}

type syslogConn struct {
	socket, tag string

	mu     sync.Mutex // guards what follows; held for a write of at most syslogTimeout
	buffer bytes.Buffer
	conn   net.Conn
	lost   int
}

// NewSyslog returns a handler for records of at least a level; tag is the name of
// the program.
func NewSyslog(socket, tag string, level slog.Level) *Syslog {
	shared := &syslogConn{socket: socket, tag: tag}
	text := slog.NewTextHandler(&shared.buffer, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{} // the log has both
		}
		return a
	}})
	return &Syslog{text, shared}
}

// Handle writes one record.
func (s *Syslog) Handle(ctx context.Context, r slog.Record) error {
	c := s.shared
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buffer.Reset()
	if err := s.Handler.Handle(ctx, r); err != nil {
		return err
	}
	text := c.buffer.String()
	if c.lost > 0 {
		text = fmt.Sprintf("lost=%d %s", c.lost, text)
	}
	message := fmt.Sprintf("<%d>%s %s[%d]: %s", facilityDaemon|severity(r.Level), r.Time.Format(time.Stamp), c.tag, os.Getpid(), text)
	if err := c.write([]byte(message)); err != nil {
		c.lost++
		return err
	}
	c.lost = 0
	return nil
}

// write sends a message, with a new connection if the former one is of no use.
func (c *syslogConn) write(message []byte) error {
	if c.conn != nil {
		if err := c.send(message); err == nil {
			return nil
		}
		c.conn.Close()
		c.conn = nil
	}
	conn, err := net.DialTimeout("unixgram", c.socket, syslogTimeout)
	if err != nil {
		return err
	}
	c.conn = conn
	return c.send(message)
}

func (c *syslogConn) send(message []byte) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(syslogTimeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(message)
	return err
}

// WithAttrs implements slog.Handler.
func (s *Syslog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Syslog{s.Handler.WithAttrs(attrs), s.shared}
}

// WithGroup implements slog.Handler.
func (s *Syslog) WithGroup(name string) slog.Handler {
	return &Syslog{s.Handler.WithGroup(name), s.shared}
}

func severity(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return severityError
	case l >= slog.LevelWarn:
		return severityWarning
	case l >= slog.LevelInfo:
		return severityInfo
	}
	return severityDebug
}

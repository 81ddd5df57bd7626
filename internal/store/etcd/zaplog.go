package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// bridge is a zapcore.Core that hands etcd's warnings to slog. etcd's own
// errors are warnings to us, since it goes on after them; only what ends it
// needs a person. The same report comes once in repeatEvery, and at debug level
// in between: etcd repeats some each second while a peer is down.
type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
	said   *said
}

// repeatEvery is how often one report of etcd is worth a line.
const repeatEvery = 30 * time.Second

// said remembers when a report was last made. etcd's messages are constants, so
// that there are few.
type said struct {
	mu   sync.Mutex // guards last
	last map[string]time.Time
}

// again reports whether the message was made less than repeatEvery before now.
func (s *said) again(message string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.last[message]; ok && now.Sub(last) < repeatEvery {
		return true
	}
	s.last[message] = now
	return false
}

// singlePort is etcd's remark that it serves HTTP and gRPC on one port, as it
// does for the raft traffic of every embedded voter.
const singlePort = "Running http and grpc server on single port. This is not recommended for production."

func (b bridge) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (b bridge) With(fields []zapcore.Field) zapcore.Core {
	return bridge{b.log, append(b.fields[:len(b.fields):len(b.fields)], fields...), b.said}
}

func (b bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	switch {
	case e.Level > zapcore.ErrorLevel:
		level = slog.LevelError
	case e.Message == singlePort || b.said.again(e.Message, e.Time):
		level = slog.LevelDebug
	}
	values := fieldMap(b.fields, fields)
	attrs := []slog.Attr{slog.String("report", e.Message)}
	if err, ok := values["error"]; ok {
		attrs = append(attrs, slog.Any("err", err))
	}
	for _, key := range []string{"remote-peer-id", "address", "path", "took"} {
		if v, ok := values[key]; ok {
			attrs = append(attrs, slog.Any(key, v))
		}
	}
	b.log.LogAttrs(context.Background(), level, "etcd reports", attrs...)
	return nil
}

func (b bridge) Sync() error { return nil }

func fieldMap(lists ...[]zapcore.Field) map[string]any {
	enc := zapcore.NewMapObjectEncoder()
	for _, fields := range lists {
		for _, f := range fields {
			f.AddTo(enc)
		}
	}
	return enc.Fields
}

// fatality is what happens when etcd calls for the end of the process: zap's
// Fatal and Panic, e.g. when a write to its log failed. The goroutine that
// calls must never go on, since it would then send what is not on disk.
type fatality struct {
	once    sync.Once
	failed  chan struct{} // closed after err is set
	err     error
	parks   bool       // stand still instead of ending the process
	mu      sync.Mutex // guards onFatal
	onFatal func(error)
}

func newFatality(parks bool) *fatality { return &fatality{failed: make(chan struct{}), parks: parks} }

// OnWrite implements zapcore.CheckWriteHook. It does not return.
func (f *fatality) OnWrite(ce *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := fmt.Errorf("store cannot go on: etcd: %s", ce.Message)
	if cause, ok := fieldMap(fields)["error"]; ok {
		err = fmt.Errorf("%w: %v", err, cause)
	}
	f.report(err)
	f.mu.Lock()
	running := f.onFatal != nil
	f.mu.Unlock()
	if running && !f.parks {
		time.Sleep(fatalGrace)
		panic(f.err)
	}
	select {} // it was reported; the goroutine stays here until the process ends
}

// report records the first error and passes it on once the server runs.
func (f *fatality) report(err error) {
	f.once.Do(func() {
		f.err = err
		close(f.failed)
		f.mu.Lock()
		onFatal := f.onFatal
		f.mu.Unlock()
		if onFatal != nil {
			onFatal(err)
		}
	})
}

// arm says that from now on errors go to onFatal, no longer to Start.
func (f *fatality) arm(onFatal func(error)) {
	if onFatal == nil {
		onFatal = func(err error) { panic(err) }
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onFatal = onFatal
}

// zapLogger makes the logger that etcd gets.
func zapLogger(log *slog.Logger, f *fatality) *zap.Logger {
	return zap.New(bridge{log: log, said: &said{last: map[string]time.Time{}}}, zap.WithFatalHook(f), zap.WithPanicHook(f))
}

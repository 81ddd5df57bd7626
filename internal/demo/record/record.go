// Package record keeps what the demo's observers print and reads the journal of
// its service, until the judge is asked. The demo and the demo with VMs use it; it
// knows of no cluster, and of no machine but by the command that runs the observers.
package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"ringfence/internal/demo/judge"
	"ringfence/internal/demo/trace"
)

// observeTimeout bounds the start of the observers.
const observeTimeout = 10 * time.Second

// journalLimitBytes bounds how much of the journal is read for one scenario.
const journalLimitBytes = 64 << 20

// Recorder takes what the observers print and reads the journal. Begin, Record and
// Journal are for one caller; the rest may be called from several goroutines.
type Recorder struct {
	journal string
	offset  int64 // where in the journal the present record begins

	mu      sync.Mutex // guards what follows
	partial []byte
	ready   chan struct{}
	open    bool // ready is not closed yet
	failed  error
	answers []trace.Answer
	claims  []trace.Claim
	latest  trace.Identity // who answered last
	since   int            // successful answers of latest in a row
	steady  int            // the same, but a failure begins anew
}

// New returns a recorder beside the journal with that path.
func New(journal string) *Recorder {
	return &Recorder{journal: journal, ready: make(chan struct{}), open: true}
}

// Watch runs the observers beside the hosts until ctx ends, by run, which returns
// their exit code; its error says why they ended before.
func (r *Recorder) Watch(ctx context.Context, run func(ctx context.Context, stdout, stderr io.Writer) (int, error)) error {
	var complaint bytes.Buffer
	code, err := run(ctx, r, &complaint)
	if ctx.Err() != nil {
		return nil
	}
	err = errors.Join(err, fmt.Errorf("the observers ended with code %d: %s", code, bytes.TrimSpace(complaint.Bytes())))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail(err)
	return err
}

// fail is called with mu.
func (r *Recorder) fail(err error) {
	r.failed = errors.Join(r.failed, err)
	if r.open {
		close(r.ready)
		r.open = false
	}
}

// Write takes the output of the observers.
func (r *Recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.partial = append(r.partial, p...)
	for {
		end := bytes.IndexByte(r.partial, '\n')
		if end < 0 {
			break
		}
		o, err := trace.ParseObservation(r.partial[:end])
		if err != nil {
			r.fail(err)
			return 0, err
		}
		r.take(o)
		r.partial = r.partial[end+1:]
	}
	return len(p), nil
}

func (r *Recorder) take(o trace.Observation) {
	switch {
	case o.Answer != nil:
		r.answers = append(r.answers, *o.Answer)
		r.steady++
		if o.Answer.From == nil {
			r.steady = 0
		}
		if from := o.Answer.From; from != nil {
			if *from != r.latest {
				r.latest, r.since = *from, 0
			}
			r.since++
		}
	case o.Claim != nil:
		r.claims = append(r.claims, *o.Claim)
	case o.Ready && r.open:
		close(r.ready)
		r.open = false
	}
}

// AwaitReady returns when both observers work.
func (r *Recorder) AwaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	select {
	case <-r.ready:
		return r.Fault()
	case <-ctx.Done():
		return fmt.Errorf("wait for the observers: %w", ctx.Err())
	}
}

// Fault says why the record is not whole; nil as long as it is.
func (r *Recorder) Fault() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// Answering returns who answered last and how often in a row.
func (r *Recorder) Answering() (trace.Identity, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.latest, r.since
}

// Steadily returns how many questions in a row were answered, whoever did.
func (r *Recorder) Steadily() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.steady
}

// Begin forgets what was recorded so far, but for the journal's last line.
func (r *Recorder) Begin() error {
	info, err := os.Stat(r.journal)
	if err != nil {
		return fmt.Errorf("the service's journal: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.offset = info.Size()
	r.answers, r.claims = nil, nil
	return r.failed
}

// Offset returns where in the journal the present record begins, for Journal.
func (r *Recorder) Offset() int64 { return r.offset }

// Record returns everything since Begin, but for whose machines are whose.
func (r *Recorder) Record() (judge.Record, error) {
	entries, err := r.Journal(r.offset)
	r.mu.Lock()
	defer r.mu.Unlock()
	return judge.Record{
		Journal: entries,
		Answers: append([]trace.Answer(nil), r.answers...), Claims: append([]trace.Claim(nil), r.claims...),
	}, errors.Join(err, r.failed)
}

// Journal returns the lines of the journal from an offset on.
func (r *Recorder) Journal(offset int64) ([]trace.Entry, error) {
	f, err := os.Open(r.journal)
	if err != nil {
		return nil, fmt.Errorf("the service's journal: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("the service's journal: %w", err)
	}
	if info.Size()-offset > journalLimitBytes {
		return nil, fmt.Errorf("the service's journal: more than %d bytes for one scenario", journalLimitBytes)
	}
	data := make([]byte, max(0, info.Size()-offset))
	if _, err := f.ReadAt(data, offset); err != nil {
		return nil, fmt.Errorf("the service's journal: %w", err)
	}
	entries, _, err := trace.ParseJournal(string(data))
	return entries, err
}

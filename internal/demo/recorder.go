package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"ringfence/internal/demo/judge"
	"ringfence/internal/demo/trace"
	"ringfence/internal/lab"
)

// observeTimeout bounds the start of the observers.
const observeTimeout = 10 * time.Second

// journalLimitBytes bounds how much of the journal is read for one scenario.
const journalLimitBytes = 64 << 20

// recorder takes what the observers print and reads the journal.
type recorder struct {
	journal string
	offset  int64 // where in the journal the present record begins; of the caller alone

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

func newRecorder(journal string) *recorder {
	return &recorder{journal: journal, ready: make(chan struct{}), open: true}
}

// watch runs the observers beside the hosts until ctx ends; its error says why
// they ended before.
func (r *recorder) watch(ctx context.Context, l *lab.Lab, argv []string) error {
	var complaint bytes.Buffer
	code, err := l.Exec(ctx, "h1", argv, lab.ExecIO{Stdout: r, Stderr: &complaint})
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
func (r *recorder) fail(err error) {
	r.failed = errors.Join(r.failed, err)
	if r.open {
		close(r.ready)
		r.open = false
	}
}

// Write takes the output of the observers.
func (r *recorder) Write(p []byte) (int, error) {
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

func (r *recorder) take(o trace.Observation) {
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

// awaitReady returns when both observers work.
func (r *recorder) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	select {
	case <-r.ready:
		return r.fault()
	case <-ctx.Done():
		return fmt.Errorf("wait for the observers: %w", ctx.Err())
	}
}

func (r *recorder) fault() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// answering returns who answered last and how often in a row.
func (r *recorder) answering() (trace.Identity, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.latest, r.since
}

// steadily returns how many questions in a row were answered, whoever did.
func (r *recorder) steadily() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.steady
}

// begin forgets what was recorded so far, but for the journal's last line.
func (r *recorder) begin() error {
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

// record returns everything since begin.
func (r *recorder) record() (judge.Record, error) {
	entries, err := r.readJournal(r.offset)
	r.mu.Lock()
	defer r.mu.Unlock()
	return judge.Record{
		Journal: entries, Nodes: lab.MACs(),
		Answers: append([]trace.Answer(nil), r.answers...), Claims: append([]trace.Claim(nil), r.claims...),
	}, errors.Join(err, r.failed)
}

func (r *recorder) readJournal(offset int64) ([]trace.Entry, error) {
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

// Package decisions keeps the inputs of the planner's decisions in a directory
// of the node, bounded, so that a decision can be shown and made again. The
// node's wiring writes them; `ringfence decision` reads them.
//
// The invariant: fed to plan.Plan, a saved snapshot gives the saved orders.
package decisions

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/plan"
)

// Bounds of the saved decisions.
const (
	// Kept is how many decisions are kept, the newest.
	Kept        = 200
	queueLength = 32
)

// Decision is the input of one plan with orders, and the plan, as saved. Fed to
// plan.Plan the snapshot gives the result again.
type Decision struct {
	At       time.Time     `json:"at"`
	Snapshot plan.Snapshot `json:"snapshot"`
	Result   plan.Result   `json:"result"`
}

// Log writes the newest Kept inputs of the planner into a
// directory, in a goroutine of its own: planning never waits for the disk, and
// what comes too fast is left out, which is logged.
type Log struct {
	dir   string
	log   *slog.Logger
	queue chan Decision
	done  chan struct{}
}

// Open starts to write into dir, which is made when there is something to write.
func Open(dir string, log *slog.Logger) *Log {
	d := &Log{
		dir: dir, log: log.With("component", "decisions"),
		queue: make(chan Decision, queueLength), done: make(chan struct{}),
	}
	go d.run()
	return d
}

// Save queues one decision; it does not block.
func (d *Log) Save(snapshot plan.Snapshot, result plan.Result) {
	select {
	case d.queue <- Decision{At: time.Now(), Snapshot: snapshot, Result: result}:
	default:
		d.log.Warn("decision not saved: the disk is slow", "dir", d.dir)
	}
}

// Close writes what is queued and ends.
func (d *Log) Close() error {
	close(d.queue)
	<-d.done
	return nil
}

func (d *Log) run() {
	defer close(d.done)
	for decision := range d.queue {
		if err := d.write(decision); err != nil {
			d.log.Warn("decision not saved", "err", err)
		}
	}
}

func (d *Log) write(decision Decision) error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(File(d.dir, decision.Snapshot.State.Rev), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(f)
	err = json.NewEncoder(zip).Encode(decision)
	if closeErr := zip.Close(); err == nil {
		err = closeErr
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return d.prune()
}

// prune removes all but the newest files; their names sort by revision.
func (d *Log) prune() error {
	names, err := List(d.dir)
	if err != nil || len(names) <= Kept {
		return err
	}
	for _, name := range names[:len(names)-Kept] {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// suffix of the files; their names are the revision of the snapshot.
const suffix = ".json.gz"

// List returns the files in dir, oldest first.
func List(dir string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	slices.Sort(names)
	return names, err
}

// File returns where the decision made from a revision is kept.
func File(dir string, rev cluster.Revision) string {
	return filepath.Join(dir, fmt.Sprintf("%012d%s", rev, suffix))
}

// limitBytes bounds a saved decision when it is read back.
const limitBytes = 64 << 20

// Load reads a saved decision.
func Load(file string) (Decision, error) {
	var decision Decision
	f, err := os.Open(file)
	if err != nil {
		return decision, err
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		return decision, fmt.Errorf("%s: %w", file, err)
	}
	if err := json.NewDecoder(io.LimitReader(zip, limitBytes)).Decode(&decision); err != nil {
		return decision, fmt.Errorf("%s: %w", file, err)
	}
	return decision, nil
}

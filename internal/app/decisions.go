package app

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

	"ringfence/internal/plan"
)

// Bounds of the saved decisions.
const (
	decisionsKept  = 200
	decisionsQueue = 32
)

// Decision is the input of one plan with orders, and the plan, as saved. Fed to
// plan.Plan the snapshot gives the result again.
type Decision struct {
	At       time.Time     `json:"at"`
	Snapshot plan.Snapshot `json:"snapshot"`
	Result   plan.Result   `json:"result"`
}

// decisions writes the newest decisionsKept inputs of the planner into a
// directory, in a goroutine of its own: planning never waits for the disk, and
// what comes too fast is left out, which is logged.
type decisions struct {
	dir   string
	log   *slog.Logger
	queue chan Decision
	done  chan struct{}
}

func newDecisions(dir string, log *slog.Logger) *decisions {
	d := &decisions{
		dir: dir, log: log.With("component", "decisions"),
		queue: make(chan Decision, decisionsQueue), done: make(chan struct{}),
	}
	go d.run()
	return d
}

func (d *decisions) save(snapshot plan.Snapshot, result plan.Result) {
	select {
	case d.queue <- Decision{At: time.Now(), Snapshot: snapshot, Result: result}:
	default:
		d.log.Warn("decision not saved: the disk is slow", "dir", d.dir)
	}
}

func (d *decisions) close() error {
	close(d.queue)
	<-d.done
	return nil
}

func (d *decisions) run() {
	defer close(d.done)
	for decision := range d.queue {
		if err := d.write(decision); err != nil {
			d.log.Warn("decision not saved", "err", err)
		}
	}
}

func (d *decisions) write(decision Decision) error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	name := fmt.Sprintf("%012d.json.gz", decision.Snapshot.State.Rev)
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
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
func (d *decisions) prune() error {
	names, err := filepath.Glob(filepath.Join(d.dir, "*.json.gz"))
	if err != nil || len(names) <= decisionsKept {
		return err
	}
	slices.Sort(names)
	for _, name := range names[:len(names)-decisionsKept] {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// decisionLimitBytes bounds a saved decision when it is read back.
const decisionLimitBytes = 64 << 20

// LoadDecision reads a saved decision.
func LoadDecision(file string) (Decision, error) {
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
	if err := json.NewDecoder(io.LimitReader(zip, decisionLimitBytes)).Decode(&decision); err != nil {
		return decision, fmt.Errorf("%s: %w", file, err)
	}
	return decision, nil
}

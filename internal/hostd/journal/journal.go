// Package journal is hostd's memory: an append-only file of facts that hostd
// has seen or promised (lives, ends, death certificates, epochs, claims,
// decisions), and the state that they add up to. Only hostd and the simulator
// use it.
//
// Invariants (rule P9): what Append accepted is on disk before it returns and
// survives a crash; an Append that failed changed nothing; one Append is
// atomic; the state only grows more certain (an ended life never lives again,
// an epoch never falls). Certificates that are not acknowledged are never
// dropped.
//
// The file is text, one frame a line:
//
//	LLLLLLLL CCCCCCCC [entry,...]\n
//
// L is the length of the JSON in bytes, C the CRC-32C of "LLLLLLLL" and the
// JSON, both in hexadecimal. JSON has no zero bytes and no bare newlines, which
// is how a write that a crash cut short is told from every other damage.
package journal

import (
	"fmt"
	"log/slog"
)

// compactAtBytes is the smallest journal that is rewritten; above it, a journal
// is rewritten when it has doubled since the last time.
const compactAtBytes = 1 << 20

// Journal is the state and the file behind it. One goroutine owns it.
type Journal struct {
	storage   Storage
	log       *slog.Logger
	state     State
	size      int
	least     int // never rewritten below
	compactAt int
}

// Open reads the journal. An empty storage is an empty journal: every earlier
// life is unknown then. A frame cut short by a crash is removed with a warning;
// any other damage is a *DamageError and nothing is changed.
func Open(storage Storage, log *slog.Logger) (*Journal, error) {
	j := &Journal{storage: storage, log: log.With("component", "journal"), state: newState(), least: compactAtBytes}
	data, err := storage.Load()
	if err != nil {
		return nil, err
	}
	frames, good, err := decode(data)
	if err != nil {
		return nil, &DamageError{File: storage.Name(), Offset: good, What: err.Error()}
	}
	if good < len(data) {
		j.log.Warn("journal ends in the middle of a write; cut", "file", storage.Name(), "offset", good, "cut_bytes", len(data)-good)
		if err := storage.Cut(int64(good)); err != nil {
			return nil, fmt.Errorf("cut the torn tail of %s at offset %d: %w", storage.Name(), good, err)
		}
	}
	for _, f := range frames {
		for _, e := range f.entries {
			j.state.apply(e)
		}
	}
	j.size, j.compactAt = good, max(j.least, 2*good)
	if good == 0 {
		j.log.Info("new journal: every earlier life is unknown", "file", storage.Name())
		return j, j.Append(Entry{Format: formatVersion})
	}
	return j, nil
}

// CompactFrom lets a journal of so many bytes be rewritten already, for those that
// live too short for 1 MiB, in the simulator. Call it before the first Append.
func (j *Journal) CompactFrom(size int) {
	j.least = size
	j.compactAt = max(j.least, 2*j.size)
}

// State returns what the entries add up to. It is the journal's own: read it
// only in the goroutine that owns the journal, and change nothing.
func (j *Journal) State() *State { return &j.state }

// Append makes the entries durable, all or none, and then applies them to the
// state. On an error nothing has changed and the call may be repeated.
func (j *Journal) Append(entries ...Entry) error {
	frame, err := encode(entries)
	if err != nil {
		return err
	}
	if err := j.storage.Append(frame); err != nil {
		return fmt.Errorf("write journal %s: %w", j.storage.Name(), err)
	}
	j.size += len(frame)
	for _, e := range entries {
		j.state.apply(e)
	}
	if j.size >= j.compactAt {
		j.compact()
	}
	return nil
}

// compact rewrites the journal as the shortest one with the same state. If
// that fails the old file stays in use, and the next try waits for more growth.
func (j *Journal) compact() {
	data, err := encodeAll(j.state.entries())
	if err == nil {
		err = j.storage.Replace(data)
	}
	if err != nil {
		j.log.Warn("journal could not be rewritten; going on with the long one", "file", j.storage.Name(), "err", err)
		j.compactAt = 2 * j.size
		return
	}
	j.log.Info("journal rewritten", "file", j.storage.Name(), "before_bytes", j.size, "after_bytes", len(data))
	j.size, j.compactAt = len(data), max(j.least, 2*len(data))
}

// Close releases the storage.
func (j *Journal) Close() error { return j.storage.Close() }

// Package trace is what the demo records: entries that the service appends to
// its journal, answers that the outside client got, and claims of the service's
// address that the sniffer heard; and the lines in which they are written. The
// service and the observers write it, the demo and its judge read it.
//
// All times are of CLOCK_MONOTONIC of the one kernel under all guests, so times
// of different processes can be compared.
package trace

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
)

// LineLimitBytes bounds every line: short enough for one write.
const LineLimitBytes = 512

// wordLimitBytes bounds each name in a line.
const wordLimitBytes = 100

// Identity is who did something: one process of the service. Run is drawn anew
// by each process, so that two of one generation in one boot differ.
type Identity struct {
	Node       cluster.NodeName   `json:"node"`
	Boot       cluster.BootID     `json:"boot"`
	Generation cluster.Generation `json:"generation"`
	Run        string             `json:"run"`
}

// String names the identity for a person; boots are long and mostly alike.
func (i Identity) String() string {
	return fmt.Sprintf("%s (boot %.8s, generation %d, run %s)", i.Node, i.Boot, i.Generation, i.Run)
}

// Check refuses what does not fit into a line.
func (i Identity) Check() error {
	for _, part := range []struct{ what, word string }{
		{"node", string(i.Node)}, {"boot", string(i.Boot)}, {"run", i.Run},
	} {
		if part.word == "" || len(part.word) > wordLimitBytes || strings.ContainsAny(part.word, " \t\r\n") {
			return fmt.Errorf("%s %.100q: want 1 to %d bytes without spaces", part.what, part.word, wordLimitBytes)
		}
	}
	return nil
}

// Entry is one line of the journal. At was taken right before the write.
type Entry struct {
	Identity
	At time.Duration
}

// Append adds the entry as a line, "node boot generation run nanoseconds".
func (e Entry) Append(line []byte) []byte {
	line = append(line, e.Node...)
	line = append(append(line, ' '), e.Boot...)
	line = strconv.AppendUint(append(line, ' '), uint64(e.Generation), 10)
	line = append(append(line, ' '), e.Run...)
	line = strconv.AppendInt(append(line, ' '), int64(e.At), 10)
	return append(line, '\n')
}

// ParseEntry reads one line of the journal, without its newline.
func ParseEntry(line string) (Entry, error) {
	words := strings.Split(line, " ")
	if len(line) > LineLimitBytes || len(words) != 5 {
		return Entry{}, fmt.Errorf("journal line %.120q: want node, boot, generation, run and time", line)
	}
	generation, err1 := strconv.ParseUint(words[2], 10, 64)
	at, err2 := strconv.ParseInt(words[4], 10, 64)
	e := Entry{At: time.Duration(at), Identity: Identity{
		Node: cluster.NodeName(words[0]), Boot: cluster.BootID(words[1]),
		Generation: cluster.Generation(generation), Run: words[3],
	}}
	if err := errors.Join(err1, err2, e.Check()); err != nil {
		return Entry{}, fmt.Errorf("journal line %.120q: %w", line, err)
	}
	return e, nil
}

// ParseJournal reads whole lines in file order. A line without newline at the
// end is still being written and is left out; read is what was parsed, in bytes.
func ParseJournal(data string) (entries []Entry, read int, err error) {
	for line := range strings.Lines(data) {
		whole, ok := strings.CutSuffix(line, "\n")
		if !ok {
			break
		}
		e, err := ParseEntry(whole)
		if err != nil {
			return entries, read, err
		}
		entries, read = append(entries, e), read+len(line)
	}
	return entries, read, nil
}

// Answer is one question of the outside client. From is nil when there was no
// answer in time; Failure then says why.
type Answer struct {
	Sent    time.Duration `json:"sent"`
	Done    time.Duration `json:"done"`
	From    *Identity     `json:"from,omitempty"`
	Failure string        `json:"failure,omitempty"`
}

// Claim is one ARP packet whose sender says that it has the service's address.
type Claim struct {
	At   time.Duration `json:"at"`
	MAC  string        `json:"mac"`
	Kind string        `json:"kind"` // request, reply or gratuitous
}

// Observation is one line of the observers: exactly one field is set.
type Observation struct {
	Answer *Answer `json:"answer,omitempty"`
	Claim  *Claim  `json:"claim,omitempty"`
	Ready  bool    `json:"ready,omitempty"` // both observers work; the first line
}

// ParseObservation reads one line of the observers.
func ParseObservation(line []byte) (Observation, error) {
	var o Observation
	if len(line) > LineLimitBytes {
		return o, fmt.Errorf("line of the observers has %d bytes, at most %d are allowed", len(line), LineLimitBytes)
	}
	if err := json.Unmarshal(line, &o); err != nil {
		return o, fmt.Errorf("line %.120q of the observers: %w", line, err)
	}
	if o.Answer == nil && o.Claim == nil && !o.Ready {
		return o, fmt.Errorf("line %.120q of the observers says nothing", line)
	}
	return o, nil
}

// Now reads CLOCK_MONOTONIC.
func Now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic("trace: every Linux has CLOCK_MONOTONIC: " + err.Error())
	}
	return time.Duration(t.Nano())
}

// Package backup is the file that `ringfence backup` writes: every record of
// the store at one revision, with what it is a backup of, and the way such
// records become those of a new incarnation of the cluster. nodeapi makes the
// file, the command line stores and shows it, app restores it.
//
// The invariant: what Decode returns was written whole by Encode, and its
// records are of one cluster, in one incarnation, at one revision. The file is
// text:
//
//	ringfence-backup 1
//	{"cluster":…}                  Header
//	{"key":…,"value":…}            one record a line, sorted by key, value in base64
//	sha256 HEX                     of every byte before this line
//
// The checksum finds damage, not forgery: whoever may write the file decides
// what the cluster will be after a restore.
package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// Bounds of a backup.
const (
	// LimitBytes is the largest file.
	LimitBytes = 64 << 20
	// recordLimit is the largest number of records.
	recordLimit = 100_000
	// headerLimitBytes is the longest header line.
	headerLimitBytes = 4 << 10
	clusterIDLimit   = 64
)

const (
	magic         = "ringfence-backup "
	formatVersion = 1
	trailer       = "sha256 "
	trailerBytes  = len(trailer) + 2*sha256.Size + 1
)

// Header says what a backup is of.
type Header struct {
	Cluster     cluster.ClusterID   `json:"cluster"`
	Name        string              `json:"name"` // of the cluster
	Incarnation cluster.Incarnation `json:"incarnation"`
	// Format is the version of the records, cluster.FormatVersion at that time.
	Format   int              `json:"format"`
	Revision cluster.Revision `json:"revision"`
	Records  int              `json:"records"`
	// Node made the backup, at Created by its wall clock: for people only.
	Node    cluster.NodeName `json:"node"`
	Created time.Time        `json:"created"`
}

// Backup is all records of a cluster at one revision.
type Backup struct {
	Header Header
	// Records have no revisions of their own: those would mean nothing in
	// another store.
	Records []Record
}

// Record is one key of the store.
type Record struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// New makes a backup of what store.Load returned for cluster.Prefix.
func New(kvs []cluster.KV, rev cluster.Revision, node cluster.NodeName, created time.Time) (*Backup, error) {
	b := &Backup{Header: Header{Revision: rev, Records: len(kvs), Node: node, Created: created.UTC().Truncate(time.Second)}}
	for _, kv := range kvs {
		b.Records = append(b.Records, Record{Key: kv.Key, Value: kv.Value})
	}
	meta, err := b.meta()
	if err != nil {
		return nil, fmt.Errorf("make a backup: %w", err)
	}
	b.Header.Cluster, b.Header.Name, b.Header.Incarnation, b.Header.Format = meta.ID, meta.Name, meta.Incarnation, meta.Format
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("make a backup: %w", err)
	}
	return b, nil
}

// Encode returns the file.
func (b *Backup) Encode() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString(magic + strconv.Itoa(formatVersion) + "\n")
	enc := json.NewEncoder(&out) // writes one line each
	if err := enc.Encode(b.Header); err != nil {
		return nil, fmt.Errorf("encode a backup: %w", err)
	}
	for _, r := range b.Records {
		if err := enc.Encode(r); err != nil {
			return nil, fmt.Errorf("encode a backup: record %s: %w", r.Key, err)
		}
	}
	out.WriteString(seal(out.Bytes()))
	if out.Len() > LimitBytes {
		return nil, fmt.Errorf("the backup has %d bytes, at most %d are allowed", out.Len(), LimitBytes)
	}
	return out.Bytes(), nil
}

// seal returns the last line of a file.
func seal(before []byte) string {
	sum := sha256.Sum256(before)
	return trailer + hex.EncodeToString(sum[:]) + "\n"
}

// Errors of Decode that are worth telling apart.
var (
	// ErrNotABackup: the file was never a backup.
	ErrNotABackup = errors.New("this is not a file of `ringfence backup`")
	// ErrNewer: a later version of ringfence wrote it.
	ErrNewer = errors.New("the backup was made by a newer version of ringfence: use that version")
	// ErrDamaged: it is not what was written.
	ErrDamaged = errors.New("the backup is damaged or cut short: use another copy")
)

// Read reads one whole backup, at most LimitBytes.
func Read(r io.Reader) (*Backup, error) {
	data, err := io.ReadAll(io.LimitReader(r, LimitBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	if len(data) > LimitBytes {
		return nil, fmt.Errorf("%w: it has more than %d bytes, and no backup has", ErrNotABackup, LimitBytes)
	}
	return Decode(data)
}

// Decode reads a backup and checks all of it.
func Decode(data []byte) (*Backup, error) {
	lines, err := open(data)
	if err != nil {
		return nil, err
	}
	head, rest, _ := bytes.Cut(lines, []byte("\n"))
	b := &Backup{}
	if len(head) > headerLimitBytes {
		return nil, fmt.Errorf("%w: header of %d bytes", ErrDamaged, len(head))
	}
	if err := strict(head, &b.Header); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrDamaged, err)
	}
	if b.Header.Records < 0 || b.Header.Records > recordLimit {
		return nil, fmt.Errorf("%w: %d records, at most %d are allowed", ErrDamaged, b.Header.Records, recordLimit)
	}
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		var r Record
		if err := strict(line, &r); err != nil {
			return nil, fmt.Errorf("%w: record %d: %w", ErrDamaged, len(b.Records)+1, err)
		}
		if b.Records = append(b.Records, r); len(b.Records) > b.Header.Records {
			break
		}
	}
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return b, nil
}

// open checks the first line and the checksum, and returns what is between.
func open(data []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok {
		if len(data) < len(magic) && strings.HasPrefix(magic, string(data)) {
			return nil, fmt.Errorf("%w: it has %d bytes", ErrDamaged, len(data))
		}
		return nil, ErrNotABackup
	}
	version, lines, ok := bytes.Cut(rest, []byte("\n"))
	switch number, err := strconv.Atoi(string(version[:min(len(version), 9)])); {
	case err == nil && number > formatVersion && ok:
		return nil, fmt.Errorf("%w (it has format %d, this one reads %d)", ErrNewer, number, formatVersion)
	case string(version) != strconv.Itoa(formatVersion) || !ok:
		return nil, fmt.Errorf("%w: its first line is cut or changed", ErrDamaged)
	}
	if len(lines) < trailerBytes {
		return nil, fmt.Errorf("%w: it ends before its checksum", ErrDamaged)
	}
	at := len(data) - trailerBytes
	if string(data[at:]) != seal(data[:at]) {
		return nil, fmt.Errorf("%w: the checksum at its end does not match", ErrDamaged)
	}
	return lines[:len(lines)-trailerBytes], nil
}

// strict decodes one line that holds exactly one value of known fields.
func strict(line []byte, to any) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("more than one value")
	}
	return nil
}

// check looks whether header and records agree and are within the bounds.
func (b *Backup) check() error {
	h := b.Header
	if len(b.Records) != h.Records || h.Records > recordLimit {
		return fmt.Errorf("%d records, the header says %d; at most %d are allowed", len(b.Records), h.Records, recordLimit)
	}
	if h.Cluster == "" || len(h.Cluster) > clusterIDLimit || h.Incarnation == 0 || h.Revision <= 0 || h.Format <= 0 {
		return errors.New("the header names no cluster, incarnation, revision or format")
	}
	for _, name := range []string{h.Name, string(h.Node)} {
		if err := cluster.CheckName(name); err != nil {
			return fmt.Errorf("header: %w", err)
		}
	}
	last := ""
	for _, r := range b.Records {
		switch {
		case !strings.HasPrefix(r.Key, cluster.Prefix) || len(r.Key) > store.MaxKeyBytes:
			return fmt.Errorf("key %.60q of %d bytes: want one below %s, of at most %d bytes", r.Key, len(r.Key), cluster.Prefix, store.MaxKeyBytes)
		case r.Key <= last:
			return fmt.Errorf("key %.60q stands behind %.60q: want them sorted, each once", r.Key, last)
		case len(r.Value) == 0 || len(r.Value) > store.MaxValueBytes:
			return fmt.Errorf("record %.60q has %d bytes: want 1 to %d", r.Key, len(r.Value), store.MaxValueBytes)
		}
		last = r.Key
	}
	meta, err := b.meta()
	if err != nil {
		return err
	}
	if want := (cluster.Meta{ID: h.Cluster, Name: h.Name, Incarnation: h.Incarnation, Format: h.Format}); meta != want {
		return errors.New("the header and the cluster's record differ")
	}
	return nil
}

// meta returns the record that identifies the cluster.
func (b *Backup) meta() (cluster.Meta, error) {
	for _, r := range b.Records {
		if r.Key == cluster.KeyMeta {
			var meta cluster.Meta
			if err := json.Unmarshal(r.Value, &meta); err != nil {
				return meta, fmt.Errorf("the cluster's record: %w", err)
			}
			return meta, nil
		}
	}
	return cluster.Meta{}, errors.New("there is no record that identifies the cluster")
}

// State returns the records, decoded.
func (b *Backup) State() (cluster.State, error) {
	var s cluster.State
	for _, r := range b.Records {
		if err := s.Apply(cluster.KV{Key: r.Key, Value: r.Value, Rev: b.Header.Revision}, false, 0); err != nil {
			return s, err
		}
	}
	return s, nil
}

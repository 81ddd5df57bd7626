package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
)

const (
	// frameLimitBytes bounds the JSON of one frame.
	frameLimitBytes = 64 << 10
	// headerBytes is the length of "LLLLLLLL CCCCCCCC ".
	headerBytes = 18
)

// DamageError says that the journal holds something that no crash explains.
type DamageError struct {
	File   string
	Offset int
	What   string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("journal %s is damaged at offset %d: %s; move it away to start with an empty journal: every earlier life then is unknown", e.File, e.Offset, e.What)
}

type frame struct{ entries []Entry }

func checksum(length, payload []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(length, table), table, payload)
}

// encode makes one frame of the entries.
func encode(entries []Entry) ([]byte, error) {
	payload, err := json.Marshal(entries)
	if err != nil {
		return nil, fmt.Errorf("encode journal entries: %w", err)
	}
	if len(payload) > frameLimitBytes {
		return nil, fmt.Errorf("journal frame of %d bytes, at most %d are allowed", len(payload), frameLimitBytes)
	}
	length := fmt.Appendf(nil, "%08x", len(payload))
	out := fmt.Appendf(nil, "%s %08x ", length, checksum(length, payload))
	return append(append(out, payload...), '\n'), nil
}

// encodeAll makes one frame of each entry.
func encodeAll(entries []Entry) ([]byte, error) {
	var out []byte
	for _, e := range entries {
		f, err := encode([]Entry{e})
		if err != nil {
			return nil, err
		}
		out = append(out, f...)
	}
	return out, nil
}

var errShort = errors.New("the last frame is cut short")

// next takes the first frame off data and returns its length in bytes.
func next(data []byte) (frame, int, error) {
	if len(data) < headerBytes {
		return frame{}, 0, errShort
	}
	length, err := strconv.ParseUint(string(data[:8]), 16, 32)
	if err != nil || data[8] != ' ' || data[17] != ' ' || length > frameLimitBytes {
		return frame{}, 0, errors.New("no frame begins here")
	}
	sum, err := strconv.ParseUint(string(data[9:17]), 16, 32)
	if err != nil {
		return frame{}, 0, errors.New("no frame begins here")
	}
	end := headerBytes + int(length)
	if len(data) < end+1 {
		return frame{}, 0, errShort
	}
	payload := data[headerBytes:end]
	if data[end] != '\n' || checksum(data[:8], payload) != uint32(sum) {
		return frame{}, 0, errors.New("the checksum does not match")
	}
	entries, err := parse(payload)
	return frame{entries}, end + 1, err
}

func parse(payload []byte) ([]Entry, error) {
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	var entries []Entry
	if err := dec.Decode(&entries); err != nil {
		return nil, fmt.Errorf("%w: not written by this version: %w", errForeign, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: more than one value", errForeign)
	}
	for _, e := range entries {
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("%w: %w", errForeign, err)
		}
	}
	return entries, nil
}

// errForeign: the frame is intact, but its content is not ours. A crash never
// makes such a frame.
var errForeign = errors.New("frame cannot be read")

// decode reads all frames. good is the length of what is intact: less than
// len(data) without an error means that the rest is a torn tail.
func decode(data []byte) (frames []frame, good int, err error) {
	for good < len(data) {
		f, n, err := next(data[good:])
		if err != nil {
			if !torn(data[good:], err) {
				return nil, good, err
			}
			return frames, good, nil
		}
		if len(frames) == 0 && (len(f.entries) == 0 || f.entries[0].Format != formatVersion) {
			return nil, 0, fmt.Errorf("it does not begin with format %d, the one that this version reads", formatVersion)
		}
		frames, good = append(frames, f), good+n
	}
	return frames, good, nil
}

// torn reports whether rest, which begins with a frame that cannot be read, is
// what a crash leaves of the one write that was under way: a beginning of a
// frame, or one with sectors of zeros where the data never arrived. Nothing
// intact can follow it, since each write waits for the one before.
func torn(rest []byte, err error) bool {
	if errors.Is(err, errForeign) || len(rest) > headerBytes+frameLimitBytes+1 || intactFollows(rest) {
		return false
	}
	if bytes.IndexByte(rest, 0) >= 0 {
		return true
	}
	return errors.Is(err, errShort) && bytes.IndexByte(rest, '\n') < 0
}

func intactFollows(rest []byte) bool {
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return false
		}
		rest = rest[i+1:]
		if _, n, err := next(rest); err == nil && n > 0 {
			return true
		}
	}
}

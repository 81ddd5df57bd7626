package xvm

import "fmt"

// The states of an entry are libvirt's numbers; clients print "on" for
// StateRunning and "off" for all others.
const (
	StateRunning byte = 1
	StatePaused  byte = 3
	StateOff     byte = 5
)

// Entry is one guest of a list. An entry without name and UUID ends the list.
type Entry struct {
	Name  string // cut to NameLimitBytes
	UUID  string
	State byte
}

// IsEnd reports whether the entry ends the list.
func (e Entry) IsEnd() bool { return e.Name == "" && e.UUID == "" }

// Append appends the entry to b; the zero Entry ends a list.
func (e Entry) Append(b []byte) []byte {
	var p [EntrySize]byte
	put(p[:fieldSize], e.Name)
	put(p[fieldSize:2*fieldSize], e.UUID)
	p[2*fieldSize] = e.State
	return append(b, p[:]...)
}

// ParseEntry reads EntrySize bytes. The last byte of each field and the padding
// are ignored: the C daemon leaves there what its stack held.
func ParseEntry(packet []byte) (Entry, error) {
	if len(packet) != EntrySize {
		return Entry{}, fmt.Errorf("an entry of %d bytes, want %d", len(packet), EntrySize)
	}
	return Entry{
		Name: loose(packet[:fieldSize-1]), UUID: loose(packet[fieldSize : 2*fieldSize-1]), State: packet[2*fieldSize],
	}, nil
}

// loose returns the string in a field up to its first NUL, or all of it.
func loose(field []byte) string {
	s, err := text(field)
	if err != nil {
		return string(field)
	}
	return s
}

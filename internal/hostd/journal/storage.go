package journal

import "bytes"

// Storage keeps the bytes of a journal. One goroutine uses it. File is the
// real one, Memory the one of simulator and tests.
type Storage interface {
	// Name says for people where the bytes are.
	Name() string
	// Load returns everything; nothing when there is no journal yet.
	Load() ([]byte, error)
	// Cut removes everything behind size, durably.
	Cut(size int64) error
	// Append adds data durably, or fails and leaves all as it was.
	Append(data []byte) error
	// Replace puts data in place of everything, durably and at once, or fails
	// and leaves all as it was.
	Replace(data []byte) error
	Close() error
}

// Memory is a Storage without a disk. The zero Memory is empty.
type Memory struct {
	Data []byte
	// Fail, when set, is the error of every Append and Replace.
	Fail error
}

var _ Storage = (*Memory)(nil)

// Name returns "memory".
func (m *Memory) Name() string { return "memory" }

// Load returns a copy of the bytes.
func (m *Memory) Load() ([]byte, error) { return bytes.Clone(m.Data), nil }

// Cut keeps the first size bytes.
func (m *Memory) Cut(size int64) error {
	m.Data = m.Data[:size]
	return nil
}

// Append adds data, or returns Fail.
func (m *Memory) Append(data []byte) error {
	if m.Fail == nil {
		m.Data = append(m.Data, data...)
	}
	return m.Fail
}

// Replace replaces everything with data, or returns Fail.
func (m *Memory) Replace(data []byte) error {
	if m.Fail == nil {
		m.Data = bytes.Clone(data)
	}
	return m.Fail
}

// Close does nothing: the bytes stay for the next Open.
func (m *Memory) Close() error { return nil }

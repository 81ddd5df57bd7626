package journal

import (
	"bytes"
	"sync"
)

// Memory is a Storage without a disk, for simulator and tests. The zero Memory
// is empty. It outlives its Journal: another Open reads what is left. It is safe
// for concurrent use, so that faults can come at any time.
type Memory struct {
	mu   sync.Mutex // guards data and fail
	data []byte
	fail error
}

var _ Storage = (*Memory)(nil)

// NewMemory returns a Memory with a copy of data.
func NewMemory(data []byte) *Memory { return &Memory{data: bytes.Clone(data)} }

// Name returns "memory".
func (m *Memory) Name() string { return "memory" }

// Load returns a copy of the bytes.
func (m *Memory) Load() ([]byte, error) { return m.Bytes(), nil }

// Bytes returns a copy of what is stored.
func (m *Memory) Bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.data)
}

// Cut keeps the first size bytes.
func (m *Memory) Cut(size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data = m.data[:size]
	return nil
}

// Append adds data, or fails as SetFail says.
func (m *Memory) Append(data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.data = append(m.data, data...)
	}
	return m.fail
}

// Replace replaces everything with data, or fails as SetFail says.
func (m *Memory) Replace(data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.data = bytes.Clone(data)
	}
	return m.fail
}

// Close does nothing: the bytes stay for the next Open.
func (m *Memory) Close() error { return nil }

// SetFail makes every Append and Replace fail with err, as on a full disk, until
// it is called with nil.
func (m *Memory) SetFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// LoseBytes drops the last n bytes, as a crash does in the middle of a write.
// Only a Storage that no Journal uses any more may lose something.
func (m *Memory) LoseBytes(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data = m.data[:max(0, len(m.data)-n)]
}

// LoseFrames drops the last n frames, each of which was one Append, as a disk
// does that said synced and was not. Use it as LoseBytes.
func (m *Memory) LoseFrames(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for ; n > 0 && len(m.data) > 0; n-- {
		m.data = m.data[:1+bytes.LastIndexByte(m.data[:len(m.data)-1], '\n')]
	}
}

package ocf

import (
	"strings"
	"sync"
)

// tail keeps the end of what is written. Standard output and error share one.
type tail struct {
	limit int

	mu   sync.Mutex // guards kept
	kept []byte
}

// Write implements io.Writer; it cannot fail.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p[max(0, len(p)-t.limit):]...)
	if over := len(t.kept) - t.limit; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

// String returns the text that is kept, safe to print.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.kept), "?")
}

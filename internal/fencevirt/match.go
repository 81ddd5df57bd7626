package fencevirt

import (
	"bytes"

	"ringfence/internal/wire/xvm"
)

// matcher finds requests in the bytes of a line, whatever noise precedes them. It
// never holds more than one request.
type matcher struct{ held []byte }

// feed adds bytes from the line and returns the requests that are complete.
func (m *matcher) feed(b []byte) []xvm.SerialRequest {
	var found []xvm.SerialRequest
	for len(b) > 0 {
		n := min(len(b), xvm.SerialSize-len(m.held))
		m.held, b = append(m.held, b[:n]...), b[n:]
		m.resync()
		if len(m.held) < xvm.SerialSize {
			continue
		}
		if r, err := xvm.ParseSerialRequest(m.held); err == nil && isOp(r.Op) {
			found = append(found, r)
			m.held = m.held[:0]
			continue
		}
		// No request: the magic was part of the noise, and may overlap a real one.
		m.held = append(m.held[:0], m.held[1:]...)
		m.resync()
	}
	return found
}

// partial reports whether a request has begun: its magic is there.
func (m *matcher) partial() bool { return len(m.held) >= len(xvm.Magic) }

// reset forgets a request that does not go on.
func (m *matcher) reset() { m.held = m.held[:0] }

// resync drops what cannot be the beginning of a request.
func (m *matcher) resync() {
	magic := []byte(xvm.Magic)
	for i := range m.held {
		if rest := m.held[i:]; bytes.HasPrefix(rest, magic) || bytes.HasPrefix(magic, rest) {
			m.held = append(m.held[:0], rest...)
			return
		}
	}
	m.held = m.held[:0]
}

// isOp reports whether the byte behind the magic can be meant as an operation, of
// which some exist only in clients; others are text on a console.
func isOp(o xvm.Op) bool { return o < 16 }

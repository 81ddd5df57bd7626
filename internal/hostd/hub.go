package hostd

import (
	"encoding/json"
	"fmt"
	"sync"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/hostapi"
)

// streamBuffer bounds the events that wait for one client. A client that falls
// behind further is dropped: it comes back and asks for what it missed.
const streamBuffer = 256

// hub hands events to streams. Nothing in it ever waits for a client.
type hub struct {
	mu      sync.Mutex // guards streams and the closing of each
	streams map[*stream]bool
}

// stream is one client's queue.
type stream struct {
	cluster cluster.ClusterID
	out     chan []byte
	gone    chan struct{} // closed when the hub dropped the stream
	closed  bool
}

func newStream(c cluster.ClusterID) *stream {
	return &stream{cluster: c, out: make(chan []byte, streamBuffer), gone: make(chan struct{})}
}

func (h *hub) add(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.closed {
		return
	}
	if h.streams == nil {
		h.streams = map[*stream]bool{}
	}
	h.streams[s] = true
}

func (h *hub) drop(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLocked(s)
}

func (h *hub) dropLocked(s *stream) {
	delete(h.streams, s)
	if !s.closed {
		s.closed = true
		close(s.gone)
	}
}

// dropAll ends every stream: permissions have changed.
func (h *hub) dropAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.streams {
		h.dropLocked(s)
	}
}

// publish queues an event for the streams of the clusters that may see it.
func (h *hub) publish(event []byte, may func(cluster.ClusterID) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.streams {
		if !may(s.cluster) {
			continue
		}
		select {
		case s.out <- event:
		default:
			h.dropLocked(s)
		}
	}
}

// encodeEvent makes a server-sent event; nil when it is too long to send.
func encodeEvent(name string, id uint64, data any) []byte {
	body, err := json.Marshal(data)
	if err != nil || len(body) > hostapi.EventLimitBytes {
		return nil
	}
	out := fmt.Appendf(nil, "event: %s\n", name)
	if id != 0 {
		out = fmt.Appendf(out, "id: %d\n", id)
	}
	return fmt.Appendf(out, "data: %s\n\n", body)
}

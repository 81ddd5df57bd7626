package lane

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	wire "ringfence/internal/wire/lane"
)

const (
	// streamLimit bounds the connections at the same time.
	streamLimit = 32
	// heldLimit is how many frames wait for the reader of one connection.
	heldLimit = 64
	// readBytes is read from the stream at a time.
	readBytes = 16 << 10
)

// errEnded ends connections whose session is over.
var errEnded = errors.New("lane: the session has ended")

// link is one end of the stream, while it is open.
type link struct {
	port io.ReadWriteCloser
	out  chan []byte
	ctx  context.Context // ends with fail
	stop context.CancelFunc
	wait sync.WaitGroup

	mu      sync.Mutex // guards what follows
	session uint64     // 0: none
	streams map[uint32]*stream
}

// stream is one connection; the far end of its pipe is the net.Conn that is given
// out.
type stream struct {
	session uint64
	id      uint32
	near    net.Conn
	held    chan []byte // frames that came; closed when no more will
}

func newLink(port io.ReadWriteCloser) *link {
	l := &link{port: port, out: make(chan []byte), streams: map[uint32]*stream{}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.wait.Go(l.write)
	return l
}

// end ends the link and waits for its goroutines.
func (l *link) end() {
	l.fail()
	l.begin(0)
	l.wait.Wait()
}

func (l *link) fail() {
	l.stop()
	l.port.Close()
}

func (l *link) write() {
	for {
		select {
		case <-l.ctx.Done():
			return
		case b := <-l.out:
			if _, err := l.port.Write(b); err != nil {
				l.fail()
				return
			}
		}
	}
}

// send hands a frame to the writer; false when the link has ended. A first frame
// completes what broke off before.
func (l *link) send(f wire.Frame, first bool) bool {
	var b []byte
	if first {
		b = wire.Preamble()
	}
	b, err := f.Append(b)
	if err != nil {
		return false
	}
	select {
	case l.out <- b:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// read gives frames to handle until the stream ends.
func (l *link) read(handle func(wire.Frame)) error {
	var buf []byte
	piece := make([]byte, readBytes)
	for {
		n, err := l.port.Read(piece)
		buf = append(buf, piece[:n]...)
		for {
			f, used, ok := wire.Next(buf)
			if ok {
				handle(f)
			}
			buf = buf[used:]
			if !ok {
				break
			}
		}
		if err != nil {
			return err
		}
	}
}

// begin begins a session, or none, and ends all connections of the former.
func (l *link) begin(session uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.streams {
		l.drop(id)
	}
	l.session = session
}

func (l *link) now() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session
}

// drop forgets a connection; what came of it is still read. It is called with mu
// held.
func (l *link) drop(id uint32) {
	if s := l.streams[id]; s != nil {
		delete(l.streams, id)
		close(s.held)
	}
}

// add makes a connection of the session that is now; nil when there are too many.
func (l *link) add(session uint64, id uint32) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != session || session == 0 || l.streams[id] != nil || len(l.streams) >= streamLimit {
		return nil
	}
	near, far := net.Pipe()
	s := &stream{session: session, id: id, near: near, held: make(chan []byte, heldLimit)}
	l.streams[id] = s
	l.wait.Go(func() { l.give(s) })
	l.wait.Go(func() { l.take(s) })
	return far
}

// give writes to the connection what came for it.
func (l *link) give(s *stream) {
	defer s.near.Close()
	// The end of the link waits for no reader.
	defer context.AfterFunc(l.ctx, func() { s.near.Close() })()
	for {
		select {
		case b, ok := <-s.held:
			if !ok {
				return
			}
			if _, err := s.near.Write(b); err != nil {
				return
			}
		case <-l.ctx.Done():
			return
		}
	}
}

// take sends what is written to the connection, until it is closed.
func (l *link) take(s *stream) {
	buf := make([]byte, wire.PayloadLimit)
	for {
		n, err := s.near.Read(buf)
		if n > 0 && !l.send(wire.Frame{Kind: wire.Data, Session: s.session, Stream: s.id, Payload: buf[:n]}, false) {
			break
		}
		if err != nil {
			break
		}
	}
	l.mu.Lock()
	ours := l.streams[s.id] == s
	if ours {
		l.drop(s.id)
	}
	l.mu.Unlock()
	if ours {
		l.send(wire.Frame{Kind: wire.Close, Session: s.session, Stream: s.id}, false)
	}
}

// data gives a frame to its connection. One whose reader does not follow is
// closed: nobody else shall wait for it.
func (l *link) data(f wire.Frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[f.Stream]
	if s == nil || l.session != f.Session {
		return
	}
	if f.Kind == wire.Close {
		l.drop(f.Stream)
		return
	}
	select {
	case s.held <- append([]byte(nil), f.Payload...):
	default:
		s.near.Close() // take sees it, and says so to the other end
	}
}

// pauseFor waits; false when done ends first.
func pauseFor(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-done:
		return false
	}
}

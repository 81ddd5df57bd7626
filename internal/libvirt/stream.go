package libvirt

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"ringfence/internal/wire/virnet"
)

// readAhead is how many bytes of a message are believed before they are there.
const readAhead = 64 << 10

// write sends what calls and keepalive hand to it.
func (s *Session) write() {
	for {
		var b []byte
		select {
		case <-s.done:
			return
		case b = <-s.out:
		case <-s.pong:
			b = keepaliveMessage(virnet.ProcPong)
		}
		s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := s.conn.Write(b); err != nil {
			s.fail(fmt.Errorf("send to libvirtd: %w", err))
			return
		}
	}
}

// read takes messages until the connection ends. That nothing comes is no error
// here: keepalive bounds it.
func (s *Session) read() {
	r := bufio.NewReader(s.conn)
	for {
		m, err := readMessage(r)
		if err == nil {
			s.heard.Store(true)
			err = s.dispatch(m)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("libvirtd closed the connection")
			}
			s.fail(err)
			return
		}
	}
}

// readMessage reads one message. Memory grows with what has come, not with what
// the length promises.
func readMessage(r io.Reader) (virnet.Message, error) {
	var length [virnet.LengthBytes]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return virnet.Message{}, fmt.Errorf("receive from libvirtd: %w", err)
	}
	n, err := virnet.Rest(length)
	if err != nil {
		return virnet.Message{}, fmt.Errorf("receive from libvirtd: %w", err)
	}
	var b bytes.Buffer
	b.Grow(min(n, readAhead))
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		return virnet.Message{}, fmt.Errorf("receive from libvirtd: %w", err)
	}
	m, err := virnet.ParseMessage(b.Bytes())
	if err != nil {
		return virnet.Message{}, fmt.Errorf("receive from libvirtd: %w", err)
	}
	return m, nil
}

// dispatch acts on one message. An error means that the two sides do not
// understand each other any more. What is merely unknown is ignored: newer daemons
// may say more.
func (s *Session) dispatch(m virnet.Message) error {
	switch {
	case m.Program == virnet.ProgramKeepalive && m.Version == virnet.Version && m.Type == virnet.TypeMessage:
		if m.Proc == virnet.ProcPing {
			select {
			case s.pong <- struct{}{}:
			default: // one is on its way
			}
		}
		return nil
	case m.Program == virnet.ProgramRemote && m.Version == virnet.Version && m.Type == virnet.TypeReply:
		return s.settle(m)
	case m.Program == virnet.ProgramRemote && m.Version == virnet.Version && m.Type == virnet.TypeMessage && virnet.IsEvent(m.Proc):
		return s.event(m)
	}
	s.log.Debug("ignored a message", "program", m.Program, "version", m.Version, "proc", m.Proc, "type", m.Type)
	return nil
}

// settle gives an answer to its call; an abandoned call has none that waits.
func (s *Session) settle(m virnet.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.pending[m.Serial]
	switch {
	case ok && w.proc != m.Proc:
		return fmt.Errorf("libvirtd answers call %d, procedure %d, as procedure %d", m.Serial, w.proc, m.Proc)
	case ok:
		delete(s.pending, m.Serial)
		w.answer <- m
	case m.Serial == 0 || m.Serial > s.serial:
		return fmt.Errorf("libvirtd answers call %d, which was not made", m.Serial)
	}
	return nil
}

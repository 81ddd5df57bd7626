package libvirttest

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/internal/wire/virnet"
)

const (
	outLimit  = 1 << 14 // messages that a client has not taken yet
	callLimit = 5       // libvirtd's max_client_requests
)

// conn is one connection. Its reader takes calls and acts on them one by one.
type conn struct {
	s      *Server
	raw    net.Conn
	out    chan []byte
	done   chan struct{}
	once   sync.Once
	frozen atomic.Bool

	// of the reader alone
	serials map[uint32]bool
	opened  bool

	slots chan struct{} // one in it for each call without an answer

	mu         sync.Mutex // guards what follows
	registered []virnet.EventID
	closeWatch bool
}

func (c *conn) close() {
	c.once.Do(func() {
		close(c.done)
		c.raw.Close()
	})
}

func (c *conn) gone() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// read serves until the connection ends.
func (c *conn) read() {
	defer func() {
		c.close()
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		delete(c.s.conns, c)
	}()
	for c.enter() {
		m, err := c.message()
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || c.gone() {
			return
		}
		if c.frozen.Load() {
			<-c.done
			return
		}
		if err == nil {
			err = c.check(m)
		}
		if err != nil {
			c.s.t.Errorf("libvirttest: %v", err)
			return
		}
		if m.Program == virnet.ProgramKeepalive {
			c.leave()
			c.keepalive(m)
			continue
		}
		c.answer(m)
	}
}

func (c *conn) keepalive(m virnet.Message) {
	if m.Proc == virnet.ProcPing {
		m.Proc = virnet.ProcPong
		c.send(m.Append(nil))
		return
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.pongs++
}

func (c *conn) message() (virnet.Message, error) {
	var length [virnet.LengthBytes]byte
	if _, err := io.ReadFull(c.raw, length[:]); err != nil {
		return virnet.Message{}, err
	}
	n, err := virnet.Rest(length)
	if err != nil {
		return virnet.Message{}, err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.raw, b); err != nil {
		return virnet.Message{}, err
	}
	return virnet.ParseMessage(b)
}

// answer decides about a call and carries it out.
func (c *conn) answer(m virnet.Message) {
	a := c.s.decide(m.Proc)
	act, err := c.s.decode(c, m.Proc, virnet.NewDecoder(m.Body))
	if err != nil {
		c.s.t.Errorf("libvirttest: procedure %d: %v", m.Proc, err)
		c.close()
		return
	}
	if a.Drop {
		c.close()
		return
	}
	if m.Proc == virnet.ProcOpen {
		c.opened = true
	}
	finish := func() {
		reply := c.s.perform(m, act, a)
		if a.Lose {
			c.close()
			return
		}
		c.leave()
		c.send(reply)
		if m.Proc == virnet.ProcClose {
			c.close()
		}
	}
	switch {
	case a.Hang:
	case a.After > 0:
		c.s.wait.Go(func() {
			select {
			case <-time.After(a.After):
				finish()
			case <-c.done:
			}
		})
	default:
		finish()
	}
}

// enter waits until there is room for one more call.
func (c *conn) enter() bool {
	select {
	case c.slots <- struct{}{}:
		return !c.gone()
	case <-c.done:
		return false
	}
}

func (c *conn) leave() { <-c.slots }

func (c *conn) send(b []byte) {
	select {
	case c.out <- b:
	case <-c.done:
	default:
		c.s.t.Errorf("libvirttest: the client does not take what is sent to it")
		c.close()
	}
}

func (c *conn) write() {
	for {
		select {
		case <-c.done:
			return
		case b := <-c.out:
			if c.frozen.Load() {
				continue
			}
			if _, err := c.raw.Write(b); err != nil {
				c.close()
				return
			}
		}
	}
}

// event sends an event if the client registered for it.
func (c *conn) event(e virnet.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Proc == virnet.ProcEventClosed {
		if !c.closeWatch {
			return
		}
	} else {
		id := eventID(e.Proc)
		if id < 0 {
			c.s.t.Errorf("libvirttest: procedure %d is no event", e.Proc)
			return
		}
		e.Callback = -1
		for i, r := range c.registered {
			if r == id {
				e.Callback = int32(i)
			}
		}
		if e.Callback < 0 {
			return
		}
	}
	body, err := e.Bytes()
	if err != nil {
		c.s.t.Errorf("libvirttest: %v", err)
		return
	}
	c.send(virnet.Message{
		Program: virnet.ProgramRemote, Version: virnet.Version, Proc: e.Proc, Type: virnet.TypeMessage, Body: body,
	}.Append(nil))
}

func eventID(p virnet.Proc) virnet.EventID {
	switch p {
	case virnet.ProcEventLifecycle:
		return virnet.EventLifecycle
	case virnet.ProcEventReboot:
		return virnet.EventReboot
	case virnet.ProcEventWatchdog:
		return virnet.EventWatchdog
	case virnet.ProcEventIOError:
		return virnet.EventIOError
	case virnet.ProcEventControlError:
		return virnet.EventControlError
	case virnet.ProcEventIteration:
		return virnet.EventIteration
	case virnet.ProcEventJobCompleted:
		return virnet.EventJobCompleted
	}
	return -1
}

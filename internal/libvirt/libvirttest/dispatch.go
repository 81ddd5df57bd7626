package libvirttest

import (
	"fmt"
	"slices"

	"ringfence/internal/libvirt"
	"ringfence/internal/wire/virnet"
)

// act carries a call out, with the server locked. It writes its results, or
// returns what went wrong.
type act func(e *virnet.Encoder) *virnet.Error

// check says what is wrong with a message before its body is read.
func (c *conn) check(m virnet.Message) error {
	if m.Version != virnet.Version || m.Status != virnet.StatusOK {
		return fmt.Errorf("version %d and status %d in a call", m.Version, m.Status)
	}
	if m.Program == virnet.ProgramKeepalive {
		if m.Type != virnet.TypeMessage || m.Serial != 0 || len(m.Body) != 0 || m.Proc != virnet.ProcPing && m.Proc != virnet.ProcPong {
			return fmt.Errorf("a bad keepalive message: %+v", m)
		}
		return nil
	}
	if m.Program != virnet.ProgramRemote || m.Type != virnet.TypeCall {
		return fmt.Errorf("program %#x, type %d: want a call", m.Program, m.Type)
	}
	if m.Serial == 0 || c.serials[m.Serial] {
		return fmt.Errorf("serial %d is zero or was there before", m.Serial)
	}
	c.serials[m.Serial] = true
	before := []virnet.Proc{virnet.ProcAuthList, virnet.ProcFeature, virnet.ProcOpen, virnet.ProcClose}
	if !c.opened && !slices.Contains(before, m.Proc) {
		return fmt.Errorf("procedure %d before open", m.Proc)
	}
	return nil
}

// decode reads the arguments of a call.
func (s *Server) decode(c *conn, p virnet.Proc, d *virnet.Decoder) (act, error) {
	for _, family := range []func(*conn, virnet.Proc, *virnet.Decoder) act{s.ofConnection, s.ofList, s.ofPower, s.ofSaving, s.ofConfig} {
		if do := family(c, p, d); do != nil {
			return do, d.End()
		}
	}
	return nil, fmt.Errorf("unknown procedure")
}

// perform carries a call out and returns the message that answers it.
func (s *Server) perform(m virnet.Message, do act, a Answer) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.Raw != nil {
		return a.Raw
	}
	var e virnet.Encoder
	failure := a.Fail
	if failure == nil {
		failure = do(&e)
	}
	if failure != nil {
		m.Status = virnet.StatusError
		e = virnet.Encoder{}
		e.Error(*failure)
	}
	body, err := e.Bytes()
	if err != nil {
		s.t.Errorf("libvirttest: answer to procedure %d: %v", m.Proc, err)
	}
	if a.Garbled {
		body = a.Body
	}
	m.Type, m.Body = virnet.TypeReply, body
	return m.Append(nil)
}

// flags reads flags and reports those that nobody has defined.
func (s *Server) flags(d *virnet.Decoder, allowed uint32) uint32 {
	flags := d.Uint32()
	if flags&^allowed != 0 {
		s.t.Errorf("libvirttest: flags %#x, only %#x are defined", flags, allowed)
	}
	return flags
}

// on acts on a guest that is there.
func (s *Server) on(d libvirt.Domain, f func(g *Guest, e *virnet.Encoder) *virnet.Error) act {
	return s.onUUID(d, func(g *Guest, e *virnet.Encoder) *virnet.Error {
		if g.Name != d.Name {
			s.t.Errorf("libvirttest: a call names guest %s by the UUID of %s", d.Name, g.Name)
		}
		return f(g, e)
	})
}

// onUUID is on for questions: libvirtd goes by the UUID, and who asks may have an
// old name.
func (s *Server) onUUID(d libvirt.Domain, f func(g *Guest, e *virnet.Encoder) *virnet.Error) act {
	return func(e *virnet.Encoder) *virnet.Error {
		g := s.find(d.UUID)
		if g == nil {
			return noDomain(d.Name)
		}
		return f(g, e)
	}
}

// active is on for calls that need a guest that runs.
func (s *Server) active(d libvirt.Domain, f func(g *Guest, e *virnet.Encoder) *virnet.Error) act {
	return s.on(d, func(g *Guest, e *virnet.Encoder) *virnet.Error {
		if !g.active() {
			return invalid("domain is not running")
		}
		return f(g, e)
	})
}

func noDomain(name string) *virnet.Error {
	return &virnet.Error{Code: int32(libvirt.CodeNoDomain), Origin: 10, Message: "Domain not found: no domain " + name}
}

func invalid(why string) *virnet.Error {
	return &virnet.Error{Code: int32(libvirt.CodeOperationInvalid), Origin: 10, Message: "Requested operation is not valid: " + why}
}

func unsupported() *virnet.Error {
	return &virnet.Error{Code: int32(libvirt.CodeNoSupport), Origin: 20, Message: "this function is not supported by the connection driver"}
}

// ofConnection are the calls about the connection.
func (s *Server) ofConnection(c *conn, p virnet.Proc, d *virnet.Decoder) act {
	switch p {
	case virnet.ProcAuthList:
		return func(e *virnet.Encoder) *virnet.Error {
			e.Uint32(uint32(len(s.auths)))
			for _, way := range s.auths {
				e.Int32(int32(way))
			}
			return nil
		}
	case virnet.ProcFeature:
		number := d.Int32()
		return func(e *virnet.Encoder) *virnet.Error {
			e.Bool(s.features[number])
			return nil
		}
	case virnet.ProcOpen:
		name := d.OptString()
		s.flags(d, 0)
		return func(*virnet.Encoder) *virnet.Error {
			if want := s.flavour.driver + ":///system"; name == nil || *name != want {
				s.t.Errorf("libvirttest: opened with %v, want %s", name, want)
			}
			return nil
		}
	case virnet.ProcClose:
		return func(*virnet.Encoder) *virnet.Error { return nil }
	case virnet.ProcRegister:
		id := virnet.EventID(d.Int32())
		one := d.Bool()
		return func(e *virnet.Encoder) *virnet.Error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if one || slices.Contains(c.registered, id) || id < 0 || id > 26 {
				s.t.Errorf("libvirttest: registered for event %d, of one domain: %v, after %v", id, one, c.registered)
			}
			c.registered = append(c.registered, id)
			e.Int32(int32(len(c.registered) - 1))
			return nil
		}
	case virnet.ProcWatchClose:
		return func(*virnet.Encoder) *virnet.Error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.closeWatch = true
			return nil
		}
	}
	return nil
}

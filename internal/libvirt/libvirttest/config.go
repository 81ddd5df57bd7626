package libvirttest

import (
	"slices"

	"ringfence/internal/libvirt"
	"ringfence/internal/wire/virnet"
)

// ofSaving are the calls about memory images.
func (s *Server) ofSaving(_ *conn, p virnet.Proc, d *virnet.Decoder) act {
	switch p {
	case virnet.ProcManagedSave:
		dom := d.Domain()
		s.flags(d, 0xf)
		return s.active(dom, func(g *Guest, _ *virnet.Encoder) *virnet.Error {
			if g.Transient {
				return invalid("cannot do managed save for transient domain")
			}
			g.Saved = true
			s.save(g)
			return nil
		})
	case virnet.ProcHasManagedSave:
		dom := d.Domain()
		s.flags(d, 0)
		return s.on(dom, func(g *Guest, e *virnet.Encoder) *virnet.Error {
			e.Bool(g.Saved)
			return nil
		})
	case virnet.ProcRemoveManagedSave:
		dom := d.Domain()
		s.flags(d, 0)
		return s.on(dom, func(g *Guest, _ *virnet.Encoder) *virnet.Error {
			if !g.Saved {
				return invalid("there is no managed save")
			}
			g.Saved = false
			return nil
		})
	case virnet.ProcSave:
		dom, path := d.Domain(), d.String()
		return s.active(dom, func(g *Guest, _ *virnet.Encoder) *virnet.Error {
			image := *g
			s.files[path] = &image
			s.save(g)
			return nil
		})
	case virnet.ProcRestore:
		path := d.String()
		return func(*virnet.Encoder) *virnet.Error {
			image := s.files[path]
			if image == nil {
				return &virnet.Error{Code: int32(libvirt.CodeOperationFailed), Message: "no such image " + path}
			}
			g := s.find(image.UUID)
			if g == nil {
				off := *image
				off.State = libvirt.StateShutoff
				g = s.add(off)
			}
			if g.active() {
				return invalid("domain is already active")
			}
			s.lastID++
			g.ID = s.lastID
			s.restored(g)
			return nil
		}
	}
	return nil
}

// save tells and does what QEMU does, a migration into a file.
func (s *Server) save(g *Guest) {
	s.tell(g, Lifecycle(libvirt.Suspended, libvirt.SuspendedPaused))
	s.tell(g, Iteration(1))
	s.tell(g, Iteration(2))
	s.tell(g, JobCompleted(libvirt.OperationSave))
	s.stop(g, libvirt.ShutoffSaved, libvirt.StoppedSaved)
}

// ofConfig are the calls about configurations.
func (s *Server) ofConfig(_ *conn, p virnet.Proc, d *virnet.Decoder) act {
	switch p {
	case virnet.ProcXML:
		dom := d.Domain()
		s.flags(d, 0xf)
		return s.on(dom, func(g *Guest, e *virnet.Encoder) *virnet.Error {
			e.String(g.XML)
			return nil
		})
	case virnet.ProcDefineXML:
		text := d.String()
		return func(e *virnet.Encoder) *virnet.Error { return s.define(text, e) }
	case virnet.ProcCreateXML:
		text, flags := d.String(), s.flags(d, 0x3f)
		return func(e *virnet.Encoder) *virnet.Error { return s.create(text, flags, e) }
	case virnet.ProcUndefine:
		dom, flags := d.Domain(), s.flags(d, 0x7f)
		return s.on(dom, func(g *Guest, _ *virnet.Encoder) *virnet.Error { return s.undefine(g, flags) })
	case virnet.ProcSetMetadata:
		dom, kind := d.Domain(), d.Int32()
		text, key, space := d.OptString(), d.OptString(), d.OptString()
		s.flags(d, 3)
		if kind != 2 || space == nil || (text == nil) != (key == nil) {
			s.t.Errorf("libvirttest: metadata of kind %d: text %v, key %v, namespace %v", kind, text, key, space)
		}
		return s.on(dom, func(g *Guest, _ *virnet.Encoder) *virnet.Error {
			if text == nil {
				delete(g.Metadata, *space)
				return nil
			}
			if g.Metadata == nil {
				g.Metadata = map[string]string{}
			}
			g.Metadata[*space] = *text
			return nil
		})
	case virnet.ProcMetadata:
		dom, kind, space := d.Domain(), d.Int32(), d.OptString()
		s.flags(d, 3)
		if kind != 2 || space == nil {
			s.t.Errorf("libvirttest: metadata of kind %d, namespace %v", kind, space)
		}
		return s.on(dom, func(g *Guest, e *virnet.Encoder) *virnet.Error {
			text, ok := g.Metadata[*space]
			if !ok {
				return &virnet.Error{Code: int32(libvirt.CodeNoMetadata), Message: "metadata not found"}
			}
			e.String(text)
			return nil
		})
	}
	return nil
}

func badXML(err error) *virnet.Error {
	return &virnet.Error{Code: 27, Message: "XML error: " + err.Error()}
}

func (s *Server) define(text string, e *virnet.Encoder) *virnet.Error {
	name, id, err := parse(text)
	if err != nil {
		return badXML(err)
	}
	g, detail := s.find(id), libvirt.Detail(1) // updated
	switch {
	case g == nil && s.named(name) == nil:
		g, detail = s.add(Guest{Name: name, UUID: id, XML: text}), 0
	case g == nil || g.Name != name:
		return invalid("domain " + name + " already exists with another uuid or name")
	}
	g.XML, g.Transient = text, false
	s.tell(g, Lifecycle(libvirt.Defined, detail))
	e.Domain(g.domain())
	return nil
}

func (s *Server) create(text string, flags uint32, e *virnet.Encoder) *virnet.Error {
	name, id, err := parse(text)
	if err != nil {
		return badXML(err)
	}
	g := s.find(id)
	switch {
	case g == nil && s.named(name) == nil:
		g = s.add(Guest{Name: name, UUID: id, XML: text, Transient: true})
	case g == nil || g.Name != name || g.active():
		return invalid("domain " + name + " is already active or has another uuid")
	}
	s.start(g, flags)
	e.Domain(g.domain())
	return nil
}

func (s *Server) undefine(g *Guest, flags uint32) *virnet.Error {
	if g.Transient {
		return invalid("cannot undefine transient domain")
	}
	if g.Saved && flags&libvirt.UndefineManagedSave == 0 {
		return invalid("refusing to undefine while domain managed save image exists")
	}
	s.tell(g, Lifecycle(libvirt.Undefined, 0))
	if g.Transient, g.Saved = true, false; !g.active() {
		s.guests = slices.DeleteFunc(s.guests, func(other *Guest) bool { return other == g })
	}
	return nil
}

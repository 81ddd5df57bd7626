package libvirttest

import (
	"ringfence/internal/libvirt"
	"ringfence/internal/wire/virnet"
)

// ofList are the calls that ask.
func (s *Server) ofList(_ *conn, p virnet.Proc, d *virnet.Decoder) act {
	text := func(v string) act {
		return func(e *virnet.Encoder) *virnet.Error {
			e.String(v)
			return nil
		}
	}
	found := func(find func() *Guest, what string) act {
		return func(e *virnet.Encoder) *virnet.Error {
			g := find()
			if g == nil {
				return noDomain(what)
			}
			e.Domain(g.domain())
			return nil
		}
	}
	switch p {
	case virnet.ProcHostname:
		return text("fake")
	case virnet.ProcType:
		return text(s.flavour.name)
	case virnet.ProcLibVersion:
		return func(e *virnet.Encoder) *virnet.Error {
			e.Uint64(9000000)
			return nil
		}
	case virnet.ProcListDomains:
		if d.Int32() != 1 {
			s.t.Error("libvirttest: a list without its entries was wanted")
		}
		flags := s.flags(d, 0xffff)
		return func(e *virnet.Encoder) *virnet.Error { return s.list(e, flags) }
	case virnet.ProcLookupByName:
		name := d.String()
		return found(func() *Guest { return s.named(name) }, name)
	case virnet.ProcLookupByUUID:
		id := libvirt.UUID(d.UUID())
		return found(func() *Guest { return s.find(id) }, id.String())
	case virnet.ProcState:
		dom := d.Domain()
		s.flags(d, 0)
		return s.onUUID(dom, func(g *Guest, e *virnet.Encoder) *virnet.Error {
			e.Int32(int32(g.State))
			e.Int32(int32(g.Reason))
			return nil
		})
	case virnet.ProcJobStats:
		dom := d.Domain()
		s.flags(d, 3)
		return s.active(dom, func(g *Guest, e *virnet.Encoder) *virnet.Error { return s.job(g, e) })
	}
	return nil
}

func (s *Server) list(e *virnet.Encoder, flags uint32) *virnet.Error {
	var all []libvirt.Domain
	for _, g := range s.guests {
		running := g.State == libvirt.StateRunning || g.State == libvirt.StateBlocked
		groups := []struct {
			yes, no uint32
			is      bool
		}{
			{libvirt.ListActive, libvirt.ListInactive, g.active()},
			{libvirt.ListTransient, libvirt.ListPersistent, g.Transient},
			{libvirt.ListManagedSave, libvirt.ListNoManagedSave, g.Saved},
		}
		ok := true
		for _, group := range groups {
			wanted := group.no
			if group.is {
				wanted = group.yes
			}
			ok = ok && (flags&(group.yes|group.no) == 0 || flags&wanted != 0)
		}
		kind := libvirt.ListOther
		switch {
		case running:
			kind = libvirt.ListRunning
		case g.State == libvirt.StatePaused:
			kind = libvirt.ListPaused
		case !g.active():
			kind = libvirt.ListShutoff
		}
		const kinds = libvirt.ListRunning | libvirt.ListPaused | libvirt.ListShutoff | libvirt.ListOther
		if ok && (flags&kinds == 0 || flags&kind != 0) {
			all = append(all, g.domain())
		}
	}
	e.Domains(all)
	e.Uint32(uint32(len(all)))
	return nil
}

func (s *Server) job(g *Guest, e *virnet.Encoder) *virnet.Error {
	if !s.flavour.details {
		return unsupported()
	}
	if g.Job.Operation == libvirt.OperationMigrationIn {
		return &virnet.Error{Code: int32(libvirt.CodeUnsupported), Message: "migration statistics are available only on the source host"}
	}
	e.Int32(int32(g.Job.Kind))
	var params []virnet.Param
	if g.Job.Kind != libvirt.JobNone {
		params = append(params, virnet.Param{Name: "operation", Value: int32(g.Job.Operation)})
	}
	for name, v := range g.Job.Stats {
		params = append(params, virnet.Param{Name: name, Value: v})
	}
	e.Params(params)
	return nil
}

// ofPower are the calls that start, stop and pause.
func (s *Server) ofPower(_ *conn, p virnet.Proc, d *virnet.Decoder) act {
	switch p {
	case virnet.ProcCreate:
		dom, flags := d.Domain(), s.flags(d, 0x3f)
		return s.on(dom, func(g *Guest, e *virnet.Encoder) *virnet.Error {
			if g.active() {
				return invalid("domain is already running")
			}
			s.start(g, flags)
			e.Domain(g.domain())
			return nil
		})
	case virnet.ProcDestroy:
		dom := d.Domain()
		s.flags(d, 3)
		return s.active(dom, func(g *Guest, _ *virnet.Encoder) *virnet.Error {
			if s.isDomain0(g) {
				s.t.Error("libvirttest: somebody destroys Domain-0")
				return invalid("it is Domain-0")
			}
			if s.flavour.details { // the real one tells it mostly
				s.tell(g, Lifecycle(libvirt.Shutdown, libvirt.ShutdownHost))
			}
			s.stop(g, libvirt.ShutoffDestroyed, libvirt.StoppedDestroyed)
			return nil
		})
	case virnet.ProcSuspend:
		return s.active(d.Domain(), func(g *Guest, _ *virnet.Encoder) *virnet.Error {
			s.set(g, libvirt.StatePaused, libvirt.PausedUser)
			s.tell(g, Lifecycle(libvirt.Suspended, libvirt.SuspendedPaused))
			return nil
		})
	case virnet.ProcResume:
		return s.active(d.Domain(), func(g *Guest, _ *virnet.Encoder) *virnet.Error {
			if g.State != libvirt.StatePaused {
				return invalid("domain is already running")
			}
			s.set(g, libvirt.StateRunning, libvirt.RunningUnpaused)
			s.tell(g, Lifecycle(libvirt.Resumed, libvirt.ResumedUnpaused))
			return nil
		})
	case virnet.ProcReset, virnet.ProcReboot:
		dom := d.Domain()
		s.flags(d, 0)
		return s.active(dom, func(g *Guest, _ *virnet.Encoder) *virnet.Error {
			if p == virnet.ProcReset && !s.flavour.details {
				return unsupported()
			}
			s.tell(g, Reboot())
			return nil
		})
	case virnet.ProcShutdown: // this guest does not follow
		return s.active(d.Domain(), func(*Guest, *virnet.Encoder) *virnet.Error { return nil })
	case virnet.ProcAbortJob:
		return s.active(d.Domain(), func(g *Guest, _ *virnet.Encoder) *virnet.Error {
			if !s.flavour.details {
				return unsupported()
			}
			if g.Job.Kind == libvirt.JobNone {
				return invalid("no job is active on the domain")
			}
			if g.Job.Operation == libvirt.OperationMigrationIn {
				return invalid("cannot abort incoming migration")
			}
			g.Job = libvirt.Job{}
			return nil
		})
	}
	return nil
}

// set sets a state; a hypervisor without details has no reasons.
func (s *Server) set(g *Guest, state libvirt.State, why libvirt.Reason) {
	if !s.flavour.details {
		why = 0
	}
	g.State, g.Reason = state, why
}

// start starts a guest that is off.
func (s *Server) start(g *Guest, flags uint32) {
	s.lastID++
	g.ID = s.lastID
	g.Metadata = nil
	if g.Saved && flags&libvirt.CreateForceBoot == 0 {
		g.Saved = false
		s.restored(g)
		return
	}
	g.Saved = false
	if flags&libvirt.CreatePaused != 0 {
		s.set(g, libvirt.StatePaused, libvirt.PausedUser)
		s.tell(g, Lifecycle(libvirt.Started, libvirt.StartedBooted))
		s.tell(g, Lifecycle(libvirt.Suspended, libvirt.SuspendedPaused))
		return
	}
	s.set(g, libvirt.StateRunning, libvirt.RunningBooted)
	s.tell(g, Lifecycle(libvirt.Resumed, libvirt.ResumedUnpaused))
	s.tell(g, Lifecycle(libvirt.Started, libvirt.StartedBooted))
}

func (s *Server) restored(g *Guest) {
	s.set(g, libvirt.StateRunning, libvirt.RunningRestored)
	s.tell(g, Lifecycle(libvirt.Started, libvirt.StartedRestored))
	s.tell(g, Lifecycle(libvirt.Resumed, libvirt.ResumedFromSnapshot)) // libvirt 9.0 says so
}

// stop ends a guest.
func (s *Server) stop(g *Guest, why libvirt.Reason, detail libvirt.Detail) {
	s.set(g, libvirt.StateShutoff, why)
	g.Job, g.Metadata = libvirt.Job{}, nil
	s.tell(g, Lifecycle(libvirt.Stopped, detail))
	s.tidy(g)
}

package libvirttest

import (
	"crypto/sha256"
	"encoding/xml"
	"maps"
	"slices"

	"ringfence/internal/libvirt"
	"ringfence/internal/wire/virnet"
)

// Guest is a domain of the server. A zero State means shut off.
type Guest struct {
	Name      string
	UUID      libvirt.UUID // zero: made of the name
	ID        int32        // of the run; given by the server when the guest starts
	State     libvirt.State
	Reason    libvirt.Reason
	XML       string            // zero: the least that has name and UUID
	Transient bool              // vanishes when it ends
	Saved     bool              // has a managed save
	Metadata  map[string]string // of the running domain, by namespace
	Job       libvirt.Job
}

func (g *Guest) active() bool { return g.State != libvirt.StateShutoff }

func (g *Guest) domain() libvirt.Domain {
	d := libvirt.Domain{Name: g.Name, UUID: g.UUID, ID: -1}
	if g.active() {
		d.ID = g.ID
	}
	return d
}

// UUIDOf is the UUID that a guest of the name gets when it has none.
func UUIDOf(name string) (u libvirt.UUID) {
	sum := sha256.Sum256([]byte(name))
	copy(u[:], sum[:])
	return u
}

// Add adds a guest as it is, without an event.
func (s *Server) Add(g Guest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(g)
}

func (s *Server) add(g Guest) *Guest {
	if g.UUID == (libvirt.UUID{}) && !s.isDomain0(&g) {
		g.UUID = UUIDOf(g.Name)
	}
	if g.State == libvirt.StateNone {
		g.State = libvirt.StateShutoff
	}
	if g.active() && g.ID == 0 && !s.isDomain0(&g) {
		s.lastID++
		g.ID = s.lastID
	}
	if g.XML == "" {
		g.XML = "<domain type='" + s.flavour.xmlType + "'><name>" + g.Name + "</name><uuid>" + g.UUID.String() + "</uuid></domain>"
	}
	g.Metadata = maps.Clone(g.Metadata)
	if s.find(g.UUID) != nil || s.named(g.Name) != nil {
		s.t.Errorf("libvirttest: guest %s is there already", g.Name)
	}
	s.guests = append(s.guests, &g)
	return &g
}

// Get returns a guest as it is now; false when there is none of the name.
func (s *Server) Get(name string) (Guest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.named(name); g != nil {
		return *g, true
	}
	return Guest{}, false
}

// Change changes a guest and tells the events, in one step. Domain of the events
// may be left out.
func (s *Server) Change(name string, change func(*Guest), events ...virnet.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.named(name)
	if g == nil {
		s.t.Errorf("libvirttest: no guest %s to change", name)
		return
	}
	change(g)
	for _, e := range events {
		s.tell(g, e)
	}
	s.tidy(g)
}

// Remove takes a guest away without an event.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guests = slices.DeleteFunc(s.guests, func(g *Guest) bool { return g.Name == name })
}

// tidy removes a transient guest that has ended.
func (s *Server) tidy(g *Guest) {
	if g.Transient && !g.active() {
		s.guests = slices.DeleteFunc(s.guests, func(other *Guest) bool { return other == g })
	}
}

func (s *Server) find(id libvirt.UUID) *Guest {
	for _, g := range s.guests {
		if g.UUID == id {
			return g
		}
	}
	return nil
}

func (s *Server) named(name string) *Guest {
	for _, g := range s.guests {
		if g.Name == name {
			return g
		}
	}
	return nil
}

// parse reads name and UUID of a configuration.
func parse(text string) (name string, id libvirt.UUID, err error) {
	var x struct {
		XMLName xml.Name `xml:"domain"`
		Name    string   `xml:"name"`
		UUID    string   `xml:"uuid"`
	}
	if err := xml.Unmarshal([]byte(text), &x); err != nil {
		return "", id, err
	}
	if x.UUID == "" {
		return x.Name, UUIDOf(x.Name), nil
	}
	id, err = libvirt.ParseUUID(x.UUID)
	return x.Name, id, err
}

// Lifecycle makes an event for Change and Emit.
func Lifecycle(what libvirt.Lifecycle, why libvirt.Detail) virnet.Event {
	return virnet.Event{Proc: virnet.ProcEventLifecycle, Code: int32(what), Detail: int32(why)}
}

// Reboot makes the event of a reset.
func Reboot() virnet.Event { return virnet.Event{Proc: virnet.ProcEventReboot} }

// Watchdog makes the event of a watchdog that ran out.
func Watchdog(action libvirt.Action) virnet.Event {
	return virnet.Event{Proc: virnet.ProcEventWatchdog, Code: int32(action)}
}

// IOError makes the event of a disk that failed.
func IOError(action libvirt.Action, path, device, reason string) virnet.Event {
	return virnet.Event{Proc: virnet.ProcEventIOError, Code: int32(action), Path: path, Device: device, Reason: reason}
}

// Iteration makes the event of a round of a migration.
func Iteration(n int32) virnet.Event { return virnet.Event{Proc: virnet.ProcEventIteration, Code: n} }

// JobCompleted makes the event of a job's end.
func JobCompleted(op libvirt.Operation) virnet.Event {
	return virnet.Event{
		Proc: virnet.ProcEventJobCompleted, Params: []virnet.Param{{Name: "operation", Value: int32(op)}},
	}
}

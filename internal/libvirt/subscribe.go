package libvirt

import (
	"context"
	"errors"
	"fmt"

	"ringfence/internal/wire/virnet"
)

// Subscribe registers for all events and then gives them to sink, one by one and
// in order; the first is Connected. Sink runs in the session's reader: it must
// return at once and must not call the session. There is one Subscribe in the life
// of a session; the registration ends with it.
func (s *Session) Subscribe(ctx context.Context, sink func(Event)) error {
	err := s.register(ctx, virnet.EventLifecycle)
	if err != nil {
		return fmt.Errorf("register for lifecycle events: %w", err)
	}
	for _, id := range []virnet.EventID{
		virnet.EventReboot, virnet.EventWatchdog, virnet.EventIOError, virnet.EventControlError,
		virnet.EventIteration, virnet.EventJobCompleted,
	} {
		if err := s.optional(s.register(ctx, id)); err != nil {
			return fmt.Errorf("register for event %d: %w", id, err)
		}
	}
	if err := s.optional(s.do(ctx, "watch the hypervisor's connection", virnet.ProcWatchClose, nil, nil)); err != nil {
		return err
	}
	s.eventMu.Lock()
	defer s.eventMu.Unlock()
	sink(Event{Kind: Connected})
	for _, e := range s.held {
		sink(e)
	}
	s.sink, s.held = sink, nil
	return nil
}

// register asks for one kind of event, of all domains.
func (s *Session) register(ctx context.Context, id virnet.EventID) error {
	return s.do(ctx, "register", virnet.ProcRegister, func(e *virnet.Encoder) {
		e.Int32(int32(id))
		e.Bool(false) // of no single domain
	}, func(d *virnet.Decoder) { d.Int32() })
}

// optional forgives that the hypervisor's driver or an old libvirtd lacks an event.
func (s *Session) optional(err error) error {
	var answer *Error
	if errors.As(err, &answer) {
		s.log.Debug("an event is not to be had", "err", err)
		return nil
	}
	return err
}

// event hands one event on. Only the reader calls it.
func (s *Session) event(m virnet.Message) error {
	w, err := virnet.ParseEvent(m.Proc, m.Body)
	if err != nil {
		return fmt.Errorf("libvirtd sends an event that cannot be read, procedure %d: %w", m.Proc, err)
	}
	if m.Proc == virnet.ProcEventClosed {
		return fmt.Errorf("libvirtd lost its hypervisor (reason %d)", w.Code)
	}
	s.eventMu.Lock()
	defer s.eventMu.Unlock()
	if s.sink != nil {
		s.sink(fromWire(w))
		return nil
	}
	if len(s.held) == heldLimit {
		return fmt.Errorf("more than %d events before they were wanted", heldLimit)
	}
	s.held = append(s.held, fromWire(w))
	return nil
}

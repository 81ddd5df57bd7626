package virnet

import "fmt"

// Event is the body of a message for an event. Which fields it has is decided by
// Proc; all others are zero.
type Event struct {
	Proc     Proc
	Callback int32 // the registration; none with ProcEventClosed
	Domain   Domain
	// Code is the lifecycle event, the action after a watchdog or an I/O error, the
	// iteration of a migration, or why the hypervisor's connection closed.
	Code   int32
	Detail int32   // of a lifecycle event
	Path   string  // of the disk with an I/O error
	Device string  // its alias
	Reason string  // of the I/O error
	Params []Param // of a completed job
}

// Bytes returns the body. It fails for a Proc that is no event.
func (v Event) Bytes() ([]byte, error) {
	var e Encoder
	if v.Proc == ProcEventClosed {
		e.Int32(v.Code)
		return e.Bytes()
	}
	e.Int32(v.Callback)
	e.Domain(v.Domain)
	switch v.Proc {
	case ProcEventReboot, ProcEventControlError:
	case ProcEventWatchdog, ProcEventIteration:
		e.Int32(v.Code)
	case ProcEventLifecycle:
		e.Int32(v.Code)
		e.Int32(v.Detail)
	case ProcEventIOError:
		e.String(v.Path)
		e.String(v.Device)
		e.Int32(v.Code)
		e.String(v.Reason)
	case ProcEventJobCompleted:
		e.Params(v.Params)
	default:
		return nil, fmt.Errorf("procedure %d is no event", v.Proc)
	}
	return e.Bytes()
}

// IsEvent reports whether ParseEvent knows the procedure.
func IsEvent(p Proc) bool {
	switch p {
	case ProcEventLifecycle, ProcEventReboot, ProcEventWatchdog, ProcEventIOError, ProcEventControlError,
		ProcEventIteration, ProcEventClosed, ProcEventJobCompleted:
		return true
	}
	return false
}

// ParseEvent reads the body of a message for which IsEvent holds.
func ParseEvent(p Proc, body []byte) (Event, error) {
	d := NewDecoder(body)
	v := Event{Proc: p}
	if p == ProcEventClosed {
		v.Code = d.Int32()
		return v, d.End()
	}
	v.Callback, v.Domain = d.Int32(), d.Domain()
	switch p {
	case ProcEventReboot, ProcEventControlError:
	case ProcEventWatchdog, ProcEventIteration:
		v.Code = d.Int32()
	case ProcEventLifecycle:
		v.Code, v.Detail = d.Int32(), d.Int32()
	case ProcEventIOError:
		v.Path, v.Device, v.Code, v.Reason = d.String(), d.String(), d.Int32(), d.String()
	case ProcEventJobCompleted:
		v.Params = d.Params()
	default:
		return Event{}, fmt.Errorf("procedure %d is no event", p)
	}
	return v, d.End()
}

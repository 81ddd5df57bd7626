package libvirt

import "ringfence/internal/wire/virnet"

// EventKind says what an Event is.
type EventKind int

// The kinds.
const (
	// Connected: a session is open and registered for events. What was known
	// before may be wrong: list anew. Events that follow happened after the
	// registration; a listing that begins now misses none.
	Connected EventKind = iota + 1
	// Lost: the session has ended, see Err; nothing is known until Connected. A
	// Client says it too when the first attempt to connect fails.
	Lost
	// LifecycleEvent: see Lifecycle and Detail.
	LifecycleEvent
	// RebootEvent: the guest was reset, from inside or by Reset, in the same run.
	RebootEvent
	// WatchdogEvent: the guest's watchdog ran out; see Action.
	WatchdogEvent
	// IOErrorEvent: a disk of the guest failed; see Action, Path, Device, Reason.
	IOErrorEvent
	// ControlErrorEvent: libvirtd lost the monitor of the guest's process and does
	// not control it any more.
	ControlErrorEvent
	// IterationEvent: a migration out of here began its Iteration'th round.
	IterationEvent
	// JobCompletedEvent: a job has ended well; see Job.
	JobCompletedEvent
)

// Lifecycle is a change of a domain.
type Lifecycle int32

// The changes.
const (
	Defined     Lifecycle = 0
	Undefined   Lifecycle = 1
	Started     Lifecycle = 2
	Suspended   Lifecycle = 3
	Resumed     Lifecycle = 4
	Stopped     Lifecycle = 5
	Shutdown    Lifecycle = 6 // the guest is down; its process ends next
	PMSuspended Lifecycle = 7
	Crashed     Lifecycle = 8
)

// Detail says why; the numbers of each change are its own.
type Detail int32

// Details of Started.
const (
	StartedBooted       Detail = 0
	StartedMigrated     Detail = 1
	StartedRestored     Detail = 2
	StartedFromSnapshot Detail = 3
	StartedWakeup       Detail = 4
)

// Details of Suspended.
const (
	SuspendedPaused         Detail = 0
	SuspendedMigrated       Detail = 1
	SuspendedIOError        Detail = 2
	SuspendedWatchdog       Detail = 3
	SuspendedRestored       Detail = 4
	SuspendedFromSnapshot   Detail = 5
	SuspendedAPIError       Detail = 6
	SuspendedPostcopy       Detail = 7
	SuspendedPostcopyFailed Detail = 8
)

// Details of Resumed.
const (
	ResumedUnpaused       Detail = 0
	ResumedMigrated       Detail = 1
	ResumedFromSnapshot   Detail = 2
	ResumedPostcopy       Detail = 3
	ResumedPostcopyFailed Detail = 4
)

// Details of Stopped.
const (
	StoppedShutdown     Detail = 0
	StoppedDestroyed    Detail = 1
	StoppedCrashed      Detail = 2
	StoppedMigrated     Detail = 3
	StoppedSaved        Detail = 4
	StoppedFailed       Detail = 5
	StoppedFromSnapshot Detail = 6
)

// Details of Shutdown and Crashed.
const (
	ShutdownFinished   Detail = 0
	ShutdownGuest      Detail = 1 // the guest did it
	ShutdownHost       Detail = 2 // somebody on the host did it
	CrashedByPanic     Detail = 0
	CrashedCrashloaded Detail = 1
)

// Action is what QEMU did after a watchdog or an I/O error.
type Action int32

// Actions after an I/O error; those after a watchdog are libvirt's own numbers.
const (
	IOErrorNone   Action = 0
	IOErrorPause  Action = 1
	IOErrorReport Action = 2
)

// Event is one thing that happened. Fields that its Kind does not name are zero.
type Event struct {
	Kind      EventKind
	Domain    Domain // of all but Connected and Lost
	Lifecycle Lifecycle
	Detail    Detail
	Action    Action
	Iteration int32
	Path      string
	Device    string
	Reason    string
	Job       Job
	Err       error
}

// fromWire translates; the message is one for which virnet.IsEvent holds, and not
// ProcEventClosed.
func fromWire(w virnet.Event) Event {
	e := Event{Domain: w.Domain}
	switch w.Proc {
	case virnet.ProcEventLifecycle:
		e.Kind, e.Lifecycle, e.Detail = LifecycleEvent, Lifecycle(w.Code), Detail(w.Detail)
	case virnet.ProcEventReboot:
		e.Kind = RebootEvent
	case virnet.ProcEventWatchdog:
		e.Kind, e.Action = WatchdogEvent, Action(w.Code)
	case virnet.ProcEventIOError:
		e.Kind, e.Action, e.Path, e.Device, e.Reason = IOErrorEvent, Action(w.Code), w.Path, w.Device, w.Reason
	case virnet.ProcEventControlError:
		e.Kind = ControlErrorEvent
	case virnet.ProcEventIteration:
		e.Kind, e.Iteration = IterationEvent, w.Code
	case virnet.ProcEventJobCompleted:
		e.Kind, e.Job = JobCompletedEvent, jobOf(JobCompleted, w.Params)
	}
	return e
}

package virnet

// Proc is the number of a procedure of the program ProgramRemote.
type Proc uint32

// The procedures that are spoken here.
const (
	ProcOpen              Proc = 1
	ProcClose             Proc = 2
	ProcType              Proc = 3
	ProcCreateXML         Proc = 10
	ProcDefineXML         Proc = 11
	ProcXML               Proc = 14
	ProcLookupByName      Proc = 23
	ProcLookupByUUID      Proc = 24
	ProcReboot            Proc = 27
	ProcResume            Proc = 28
	ProcShutdown          Proc = 33
	ProcSuspend           Proc = 34
	ProcRestore           Proc = 54
	ProcSave              Proc = 55
	ProcHostname          Proc = 59
	ProcFeature           Proc = 60
	ProcAuthList          Proc = 66
	ProcLibVersion        Proc = 157
	ProcAbortJob          Proc = 164
	ProcManagedSave       Proc = 182
	ProcHasManagedSave    Proc = 183
	ProcRemoveManagedSave Proc = 184
	ProcCreate            Proc = 196
	ProcState             Proc = 212
	ProcUndefine          Proc = 231
	ProcDestroy           Proc = 234
	ProcReset             Proc = 245
	ProcSetMetadata       Proc = 264
	ProcMetadata          Proc = 265
	ProcListDomains       Proc = 273
	ProcJobStats          Proc = 298
	ProcRegister          Proc = 316
	ProcWatchClose        Proc = 360
)

// The messages that libvirtd sends for events.
const (
	ProcEventLifecycle    Proc = 318
	ProcEventReboot       Proc = 319
	ProcEventWatchdog     Proc = 321
	ProcEventIOError      Proc = 324 // the form with a reason
	ProcEventControlError Proc = 325
	ProcEventIteration    Proc = 359
	ProcEventClosed       Proc = 362
	ProcEventJobCompleted Proc = 363
)

// The procedures of ProgramKeepalive; both are messages.
const (
	ProcPing Proc = 1
	ProcPong Proc = 2
)

// What a client asks ProcFeature for.
const (
	FeatureKeepalive     int32 = 10
	FeatureEventCallback int32 = 14
	FeatureCloseCallback int32 = 15
)

// EventID is what a client registers for with ProcRegister.
type EventID int32

// The events that are spoken here; see the messages of the same names.
const (
	EventLifecycle    EventID = 0
	EventReboot       EventID = 1
	EventWatchdog     EventID = 3
	EventIOError      EventID = 6
	EventControlError EventID = 7
	EventIteration    EventID = 20
	EventJobCompleted EventID = 21
)

// Auth is a way in which libvirtd wants to know who its client is.
type Auth int32

// The ways.
const (
	AuthNone   Auth = 0
	AuthSASL   Auth = 1
	AuthPolkit Auth = 2
)

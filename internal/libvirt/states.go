package libvirt

import "ringfence/internal/wire/virnet"

// Domain names a guest. ID is the number of its present run, -1 when it does not
// run; libvirtd finds a domain by UUID.
type Domain = virnet.Domain

// UUID names a guest for good.
type UUID = virnet.UUID

// ParseUUID reads the form 8-4-4-4-12.
func ParseUUID(s string) (UUID, error) { return virnet.ParseUUID(s) }

// State is libvirt's state of a domain.
type State int32

// The states. With all but StateShutoff the hypervisor may still have a process.
const (
	StateNone        State = 0
	StateRunning     State = 1
	StateBlocked     State = 2
	StatePaused      State = 3
	StateShutdown    State = 4 // on its way down
	StateShutoff     State = 5
	StateCrashed     State = 6
	StatePMSuspended State = 7
)

// Reason says why a domain is in its state; the numbers of each state are its own.
type Reason int32

// Reasons of StateRunning.
const (
	RunningUnknown           Reason = 0
	RunningBooted            Reason = 1
	RunningMigrated          Reason = 2
	RunningRestored          Reason = 3
	RunningFromSnapshot      Reason = 4
	RunningUnpaused          Reason = 5
	RunningMigrationCanceled Reason = 6
	RunningSaveCanceled      Reason = 7
	RunningWakeup            Reason = 8
	RunningCrashed           Reason = 9
	RunningPostcopy          Reason = 10
	RunningPostcopyFailed    Reason = 11
)

// Reasons of StatePaused.
const (
	PausedUnknown        Reason = 0
	PausedUser           Reason = 1
	PausedMigration      Reason = 2 // out, or in before the switch-over
	PausedSave           Reason = 3
	PausedDump           Reason = 4
	PausedIOError        Reason = 5
	PausedWatchdog       Reason = 6
	PausedFromSnapshot   Reason = 7
	PausedShuttingDown   Reason = 8
	PausedSnapshot       Reason = 9
	PausedCrashed        Reason = 10
	PausedStartingUp     Reason = 11
	PausedPostcopy       Reason = 12
	PausedPostcopyFailed Reason = 13
)

// Reasons of StateShutoff.
const (
	ShutoffUnknown      Reason = 0
	ShutoffShutdown     Reason = 1
	ShutoffDestroyed    Reason = 2
	ShutoffCrashed      Reason = 3
	ShutoffMigrated     Reason = 4
	ShutoffSaved        Reason = 5
	ShutoffFailed       Reason = 6
	ShutoffFromSnapshot Reason = 7
	ShutoffDaemon       Reason = 8 // libvirtd lost sight of it
)

// CrashedPanicked is the reason of StateCrashed after a panic of the guest.
const CrashedPanicked Reason = 1

// Flags of List; none of a group means all of it.
const (
	ListActive        uint32 = 1 << 0
	ListInactive      uint32 = 1 << 1
	ListPersistent    uint32 = 1 << 2
	ListTransient     uint32 = 1 << 3
	ListRunning       uint32 = 1 << 4
	ListPaused        uint32 = 1 << 5
	ListShutoff       uint32 = 1 << 6
	ListOther         uint32 = 1 << 7
	ListManagedSave   uint32 = 1 << 8
	ListNoManagedSave uint32 = 1 << 9
)

// Flags of XML.
const (
	XMLSecure     uint32 = 1 << 0 // with passwords
	XMLInactive   uint32 = 1 << 1 // what the next start will use
	XMLMigratable uint32 = 1 << 3
)

// Flags of Create and CreateXML.
const (
	CreatePaused      uint32 = 1 << 0
	CreateAutodestroy uint32 = 1 << 1 // ends with this session
	CreateForceBoot   uint32 = 1 << 3 // a managed save is dropped
)

// DestroyGraceful, a flag of Destroy: an error instead of SIGKILL when SIGTERM
// does not end the hypervisor's process within some seconds.
const DestroyGraceful uint32 = 1 << 0

// Flags of Undefine.
const (
	UndefineManagedSave uint32 = 1 << 0
	UndefineSnapshots   uint32 = 1 << 1
	UndefineNVRAM       uint32 = 1 << 2
	UndefineKeepNVRAM   uint32 = 1 << 3
)

// Flags of SetMetadata and Metadata; none means the running domain if there is
// one, else the stored configuration.
const (
	AffectLive   uint32 = 1 << 0
	AffectConfig uint32 = 1 << 1
)

// JobKind is where a job of a domain stands.
type JobKind int32

// The kinds.
const (
	JobNone      JobKind = 0
	JobBounded   JobKind = 1 // will end by itself
	JobUnbounded JobKind = 2
	JobCompleted JobKind = 3
	JobFailed    JobKind = 4
	JobCancelled JobKind = 5
)

// Operation is what a job does.
type Operation int32

// The operations.
const (
	OperationUnknown        Operation = 0
	OperationStart          Operation = 1
	OperationSave           Operation = 2
	OperationRestore        Operation = 3
	OperationMigrationIn    Operation = 4
	OperationMigrationOut   Operation = 5
	OperationSnapshot       Operation = 6
	OperationSnapshotRevert Operation = 7
	OperationDump           Operation = 8
	OperationBackup         Operation = 9
	OperationSnapshotDelete Operation = 10
)

// Job is what libvirt says of a job.
type Job struct {
	Kind      JobKind
	Operation Operation // OperationUnknown when libvirtd does not say
	// Stats holds all that libvirtd tells, by libvirt's names: int32, uint32, int64,
	// uint64, float64, bool or string.
	Stats map[string]any
}

func jobOf(kind JobKind, params []virnet.Param) Job {
	job := Job{Kind: kind, Stats: make(map[string]any, len(params))}
	for _, p := range params {
		job.Stats[p.Name] = p.Value
	}
	if op, ok := job.Stats["operation"].(int32); ok {
		job.Operation = Operation(op)
	}
	return job
}

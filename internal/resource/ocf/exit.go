package ocf

import (
	"fmt"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
)

// Exit codes of OCF resource agents.
const (
	codeSuccess          = 0
	codeGeneric          = 1
	codeArgs             = 2
	codeUnimplemented    = 3
	codePermission       = 4
	codeInstalled        = 5
	codeConfigured       = 6
	codeNotRunning       = 7
	codePromoted         = 8
	codeFailedPromoted   = 9
	codeDegraded         = 190
	codeDegradedPromoted = 191
)

// Class says how far a failure reaches.
type Class string

// The classes of failures, as Pacemaker's code treats them.
const (
	ClassSoft  Class = "soft"  // restart or move
	ClassHard  Class = "hard"  // cannot run on this node: ban it
	ClassFatal Class = "fatal" // cannot run anywhere with these parameters
)

// ClassOf returns the class of a failure with that exit code.
func ClassOf(code int) Class {
	switch code {
	case codeArgs, codeUnimplemented, codePermission, codeInstalled:
		return ClassHard
	case codeConfigured:
		return ClassFatal
	}
	return ClassSoft
}

// ExitError says that an action of an agent ended with an exit code that is not
// what was asked for. Callers find it with errors.As.
type ExitError struct {
	Agent  string // ocf:<provider>:<type>
	Action string // start, stop, monitor, meta-data
	Code   int
	Class  Class
	Output string // the end of what the agent wrote, at most OutputLimitBytes
}

// Ban says how far the failure reaches; it makes the error a resource.Banner.
func (e *ExitError) Ban() cluster.Ban {
	switch e.Class {
	case ClassHard:
		return cluster.BanNode
	case ClassFatal:
		return cluster.BanCluster
	}
	return cluster.BanNone
}

// exitReasonMark begins the line in which an agent explains its exit code.
const exitReasonMark = "ocf-exit-reason:"

// Error gives the agent's own reason when it gave one, else the last line.
func (e *ExitError) Error() string {
	text := fmt.Sprintf("%s of %s ended with %d (%s)", e.Action, e.Agent, e.Code, codeName(e.Code))
	if reason := reasonIn(e.Output); reason != "" {
		text += ": " + reason
	}
	return text
}

func reasonIn(output string) string {
	last := ""
	lines := strings.Split(strings.TrimSpace(output), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(lines[i])
		if reason, ok := strings.CutPrefix(line, exitReasonMark); ok {
			return reason
		}
		if last == "" {
			last = line
		}
	}
	return last
}

func codeName(code int) string {
	names := map[int]string{
		codeSuccess: "success", codeGeneric: "generic error", codeArgs: "parameters cannot work here",
		codeUnimplemented: "action not implemented", codePermission: "no permission",
		codeInstalled: "not installed", codeConfigured: "bad parameters", codeNotRunning: "not running",
		codePromoted: "running, promoted", codeFailedPromoted: "failed, promoted",
		codeDegraded: "running, degraded", codeDegradedPromoted: "running, promoted, degraded",
	}
	if name, ok := names[code]; ok {
		return name
	}
	return "unknown code"
}

// statusOf maps the exit code of a monitor. started: Start was called and no
// Stop verified since.
func statusOf(code int, started bool) resource.Status {
	switch code {
	case codeSuccess, codePromoted, codeDegraded, codeDegradedPromoted:
		return resource.StatusActive
	case codeNotRunning:
		return resource.StatusInactive
	case codeGeneric, codeFailedPromoted:
		return resource.StatusFailed
	case codeInstalled:
		if !started {
			return resource.StatusInactive
		}
	}
	return resource.StatusUnknown
}

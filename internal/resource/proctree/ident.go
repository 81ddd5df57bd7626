package proctree

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrEnded says that the process is not there any more.
var ErrEnded = errors.New("process has ended")

// Ident names one process for as long as the machine runs: no two processes
// share pid and start time.
type Ident struct {
	PID int `json:"pid"`
	// StartTicks is the start time in clock ticks since boot (proc(5), stat
	// field 22).
	StartTicks uint64 `json:"start_ticks"`
}

// IsZero reports whether the Ident names no process.
func (i Ident) IsZero() bool { return i == Ident{} }

// String returns "pid:ticks".
func (i Ident) String() string { return fmt.Sprintf("%d:%d", i.PID, i.StartTicks) }

// Stat is what this package needs of /proc/<pid>/stat.
type Stat struct {
	Ident
	Parent  int
	Group   int
	Session int
}

// statFields is the number of fields behind the command up to the start time.
const statFields = 20

// ParseStat reads the form of /proc/<pid>/stat. The command may hold spaces
// and brackets, so the fields are counted from its last bracket.
func ParseStat(text []byte) (Stat, error) {
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 1 || end < open {
		return Stat{}, fmt.Errorf("process stat %.60q: no command in brackets", text)
	}
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) < statFields {
		return Stat{}, fmt.Errorf("process stat %.60q: %d fields behind the command, want at least %d", text, len(fields), statFields)
	}
	pid, err1 := strconv.Atoi(strings.TrimSpace(string(text[:open])))
	parent, err2 := strconv.Atoi(fields[1])
	group, err3 := strconv.Atoi(fields[2])
	session, err4 := strconv.Atoi(fields[3])
	start, err5 := strconv.ParseUint(fields[19], 10, 64)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return Stat{}, fmt.Errorf("process stat %.60q: %w", text, err)
	}
	return Stat{Ident: Ident{PID: pid, StartTicks: start}, Parent: parent, Group: group, Session: session}, nil
}

// ReadStat reads the stat of a process, zombies included. ErrEnded: there is none.
func ReadStat(pid int) (Stat, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return Stat{}, fmt.Errorf("process %d: %w", pid, ErrEnded)
	}
	if err != nil {
		return Stat{}, fmt.Errorf("read state of process %d: %w", pid, err)
	}
	return ParseStat(text)
}

// MachineRun names one run of the operating system, or of the process
// namespace, that this process lives in: when it differs from a recorded one,
// every process recorded then has ended. It joins the kernel's boot id with the
// start time of process 1.
func MachineRun() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	first, err := ReadStat(1)
	if err != nil {
		return "", fmt.Errorf("identify this run of the machine: %w", err)
	}
	return strings.TrimSpace(string(boot)) + ":" + strconv.FormatUint(first.StartTicks, 10), nil
}

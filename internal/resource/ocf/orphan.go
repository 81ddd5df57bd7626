package ocf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"ringfence/internal/resource/proctree"
)

// acting is what the mark of a resource holds: the start action that was begun
// last. A daemon that dies leaves it running, and it may bring the resource up
// behind the next daemon's verified stop.
type acting struct {
	MachineRun string         `json:"machine_run"`
	Process    proctree.Ident `json:"process"`
}

// record writes down the process of a start action, before it begins.
func (s script) record(process proctree.Ident) error {
	run, err := proctree.MachineRun()
	if err != nil {
		return err
	}
	text, err := json.Marshal(acting{MachineRun: run, Process: process})
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.mark+".new", text, 0o600); err != nil {
		return fmt.Errorf("record the start action: %w", err)
	}
	return os.Rename(s.mark+".new", s.mark)
}

// endOrphan kills the group of a start action that an earlier run of the daemon
// began, and waits until it has ended.
func (s script) endOrphan(ctx context.Context) error {
	text, err := os.ReadFile(s.mark)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(text) == 0 {
		return nil
	}
	var a acting
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	run, runErr := proctree.MachineRun()
	if err := errors.Join(err, runErr); err != nil {
		return fmt.Errorf("whether an earlier start is under way: %w", err)
	}
	if a.MachineRun != run {
		return nil
	}
	process, err := proctree.Open(a.Process)
	if errors.Is(err, proctree.ErrEnded) {
		return nil
	}
	if err != nil {
		return err
	}
	defer process.Close()
	if alive, err := proctree.Alive(a.Process); err != nil || !alive {
		return err
	}
	if err := unix.Kill(-a.Process.PID, unix.SIGKILL); err != nil {
		return fmt.Errorf("end an earlier start action: %w", err)
	}
	return process.Wait(ctx)
}

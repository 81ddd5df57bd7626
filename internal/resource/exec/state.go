package exec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
	"ringfence/internal/resource/proctree"
)

// stateLimitBytes bounds a state file.
const stateLimitBytes = 16 << 10

// state is what the run directory says of one resource. It is written before
// anything runs and removed after the proof that nothing runs.
type state struct {
	// MachineRun is proctree.MachineRun at the start.
	MachineRun string             `json:"machine_run"`
	Generation cluster.Generation `json:"generation"`
	// Cgroup is the directory that holds the tree; empty: a reaper does.
	Cgroup string         `json:"cgroup,omitempty"`
	Reaper proctree.Ident `json:"reaper,omitzero"`
	Main   proctree.Ident `json:"main,omitzero"`
}

// keyOf names a resource in file and cgroup names; '@' is in no checked name.
func keyOf(call resource.Call) (string, error) {
	if err := cluster.CheckName(string(call.Service)); err != nil {
		return "", fmt.Errorf("service: %w", err)
	}
	if err := cluster.CheckName(call.Resource.Name); err != nil {
		return "", fmt.Errorf("resource: %w", err)
	}
	return string(call.Service) + "@" + call.Resource.Name, nil
}

func (a *Agent) path(key, suffix string) string { return filepath.Join(a.runDir, key+suffix) }

// load returns the state of a resource; found is false when there is none.
func (a *Agent) load(key string) (st state, found bool, err error) {
	path := a.path(key, ".json")
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, false, nil
	}
	if err != nil {
		return state{}, false, fmt.Errorf("read state: %w", err)
	}
	if info.Size() > stateLimitBytes {
		return state{}, false, fmt.Errorf("state file %s has %d bytes, at most %d are possible", path, info.Size(), stateLimitBytes)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return state{}, false, fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(text, &st); err != nil {
		return state{}, false, fmt.Errorf("state file %s is damaged, so what runs is not known: %w", path, err)
	}
	return st, true, nil
}

// save replaces the state of a resource in one step.
func (a *Agent) save(key string, st state) error {
	text, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	path := a.path(key, ".json")
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// erase removes what the run directory says of a resource, the record last;
// the log stays.
func (a *Agent) erase(key string) error {
	for _, suffix := range []string{".out", ".empty", ".json"} {
		if err := os.Remove(a.path(key, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove state: %w", err)
		}
	}
	return nil
}

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// The control socket speaks HTTP with JSON bodies:
//
//	GET  /v1/status            Status
//	POST /v1/{verb}            request -> {}, or failure with status 400 or 500
//	POST /v1/exec              request, then frames both ways (101)
const (
	pathStatus = "/v1/status"
	pathVerb   = "/v1/"
	pathExec   = "/v1/exec"

	requestLimitBytes = 1 << 20
	execProtocol      = "ringfence-lab-exec"
)

// Verbs of the control socket.
const (
	verbHostPowerOn   = "host-power-on"
	verbHostPowerLoss = "host-power-loss"
	verbKillHostd     = "kill-hostd"
	verbStartHostd    = "start-hostd"
	verbQuiet         = "quiet"
	verbPowerOn       = "power-on"
	verbPowerOff      = "power-off"
	verbKill          = "kill"
	verbCut           = "cut"
	verbSplit         = "split"
	verbHeal          = "heal"
	verbCutHost       = "cut-host"
	verbHealHost      = "heal-host"
	verbPause         = "pause"
	verbUnpause       = "unpause"
	verbMigrate       = "migrate"
	verbSave          = "save"
	verbRestore       = "restore"
	verbDown          = "down"
)

// request is the body of every verb; each uses the fields that it needs.
type request struct {
	Nodes  []cluster.NodeName `json:"nodes,omitempty"`
	Hosts  []cluster.HostName `json:"hosts,omitempty"`
	On     bool               `json:"on,omitempty"`     // quiet: yes or no
	Guests bool               `json:"guests,omitempty"` // host-power-on: also the guests
	Where  string             `json:"where,omitempty"`  // exec: a node or a host
	Argv   []string           `json:"argv,omitempty"`   // exec
	// migrate: one of Nodes to one of Hosts
	Duration time.Duration `json:"duration_ns,omitempty"`
	Downtime time.Duration `json:"downtime_ns,omitempty"`
	Failure  string        `json:"failure,omitempty"` // failBefore or failAfter, or ""
}

// When a migration fails: before or after switch-over.
const (
	failBefore = "before"
	failAfter  = "after"
)

type failure struct {
	Message string `json:"message"`
}

// Status is what a lab is made of and how it is.
type Status struct {
	Dir     string       `json:"dir"`
	Cgroups bool         `json:"cgroups"` // guests have them
	Hosts   []HostStatus `json:"hosts"`
	Nodes   []NodeStatus `json:"nodes"`
}

// HostStatus is one host.
type HostStatus struct {
	Name     cluster.HostName `json:"name"`
	Addr     netip.Addr       `json:"addr"`
	Powered  bool             `json:"powered"`
	HostBoot string           `json:"host_boot,omitempty"`
	Hostd    string           `json:"hostd"` // "running", or how it ended
	Quiet    bool             `json:"quiet"`
}

// NodeStatus is one node's guest.
type NodeStatus struct {
	Name  cluster.NodeName      `json:"name"`
	Host  cluster.HostName      `json:"host"`
	Addr  netip.Addr            `json:"addr"`
	Guest cluster.GuestID       `json:"guest"`
	State hypervisor.GuestState `json:"state"`
	Life  cluster.LifeID        `json:"life,omitempty"`
	Boot  cluster.BootID        `json:"boot,omitempty"`
	Cut   bool                  `json:"cut"`
	Split bool                  `json:"split"`
}

// A frame of exec is a kind, the length as 4 bytes big-endian, and the data.
const (
	frameStdin  = 0 // to the command; of no length: end of input
	frameStdout = 1
	frameStderr = 2
	frameExit   = 3 // the exit code, 4 bytes; the last frame
	frameError  = 4 // why the command did not run; the last frame

	frameLimitBytes = 64 << 10
)

func readFrame(r io.Reader) (kind byte, data []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[1:])
	if length > frameLimitBytes {
		return 0, nil, fmt.Errorf("frame of %d bytes, at most %d are allowed", length, frameLimitBytes)
	}
	data = make([]byte, length)
	_, err = io.ReadFull(r, data)
	return head[0], data, err
}

// frameWriter writes whole frames; its streams may be used concurrently.
type frameWriter struct {
	mu sync.Mutex // guards w, so that frames do not mix
	w  io.Writer
}

func (f *frameWriter) write(kind byte, data []byte) error {
	if len(data) > frameLimitBytes {
		return errors.New("frame too long")
	}
	frame := append([]byte{kind}, binary.BigEndian.AppendUint32(nil, uint32(len(data)))...)
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.w.Write(append(frame, data...))
	return err
}

// stream writes what it is given as frames of one kind.
type stream struct {
	frames *frameWriter
	kind   byte
}

func (s stream) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, frameLimitBytes)
		if err := s.frames.write(s.kind, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

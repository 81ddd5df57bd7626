package libvirtlab

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// StartDaemon starts libvirtd and returns when it listens.
func (h *Host) StartDaemon() {
	h.t.Helper()
	h.Run("libvirtd", h.args...)
}

// DaemonPID returns libvirtd's process id inside of the host, 0 when there is none.
func (h *Host) DaemonPID() int {
	text, err := os.ReadFile(h.Path("run", "libvirtd.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || !h.Alive(pid) {
		return 0
	}
	return pid
}

// Signal sends a signal such as STOP, CONT, TERM or KILL to a process of the host.
func (h *Host) Signal(pid int, signal string) {
	h.t.Helper()
	h.Run("kill", "-"+signal, strconv.Itoa(pid))
}

// Alive reports whether the host has a process of that id, a zombie included.
func (h *Host) Alive(pid int) bool {
	_, err := os.Stat(filepath.Join("/proc", strconv.Itoa(h.PID()), "root/proc", strconv.Itoa(pid)))
	return err == nil
}

// StopDaemon ends libvirtd by the signal and returns when it is gone. Guests live
// on.
func (h *Host) StopDaemon(signal string) {
	h.t.Helper()
	pid := h.DaemonPID()
	if pid == 0 {
		h.t.Fatalf("host %s has no libvirtd to stop", h.Name)
	}
	h.Signal(pid, signal)
	for deadline := time.Now().Add(upTimeout); h.Alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("host %s: libvirtd outlives signal %s for %v", h.Name, signal, upTimeout)
		}
	}
}

// Log returns libvirtd's log.
func (h *Host) Log() string {
	text, err := os.ReadFile(h.Path("log", "libvirtd.log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

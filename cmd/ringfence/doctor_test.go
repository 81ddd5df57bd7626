package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/internal/doctor"
	"ringfence/internal/libvirt/libvirtlab"
)

// TestDoctorOnARealHost: the shipped doctor beside the shipped daemon, a real libvirtd
// and a real guest, as guest and as host; and when libvirtd has gone.
func TestDoctorOnARealHost(t *testing.T) {
	h := libvirtlab.Start(t, "h1")
	dir := h.Path("files")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := write("fence.key", strings.Repeat("k", 128))
	conf := write("fence_virt.conf", strings.ReplaceAll(dropInConf, "DIR", dir))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fence_virtd", "ringfence"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	h.Run("ip", "link", "set", "lo", "multicast", "on")
	h.Run("ip", "route", "add", "224.0.0.0/4", "dev", "lo")
	h.Run("ip", "link", "add", "br9", "type", "bridge") // doctor on a guest wants an address
	h.Run("ip", "address", "add", "10.88.0.1/24", "dev", "br9")
	h.Run("ip", "link", "set", "br9", "up")
	g := h.Guest(1)
	h.Run("virsh", "define", write("vm1.xml", g.XML))
	h.Run("virsh", "start", g.Name)
	pidFile := h.Path("files", "pid")
	h.Run(filepath.Join(dir, "fence_virtd"), "-f", conf, "-p", pidFile)
	examine := func(args ...string) doctor.Diagnosis {
		t.Helper()
		out, err := h.Command(t.Context(), filepath.Join(dir, "ringfence"), append([]string{"doctor", "--json"}, args...)...).Output()
		var d doctor.Diagnosis
		if jsonErr := json.Unmarshal(out, &d); jsonErr != nil || d.Healthy != (err == nil) {
			t.Fatalf("doctor %v: %v, %v\n%s", args, err, jsonErr, out)
		}
		return d
	}
	wants := func(want string, d doctor.Diagnosis) {
		t.Helper()
		if got := strings.Join(d.Broken(), " "); got != want {
			t.Errorf("on the %s: broken %q, want %q\n%+v", d.Side, got, want, d.Legs)
		}
	}
	eventually := func(want string, args ...string) {
		t.Helper()
		for end := time.Now().Add(startLimit); strings.Join(examine(args...).Broken(), " ") != want && time.Now().Before(end); {
			time.Sleep(100 * time.Millisecond) // the daemon finds out by itself
		}
		wants(want, examine(args...))
	}
	wants("", examine("--config", conf, "--guest", "vm1"))
	h.StopDaemon("TERM")
	wants(doctor.LegLibvirt, examine("--config", conf))
	eventually(doctor.LegHypervisor, "--key-file", key)
	h.StartDaemon()
	eventually("", "--key-file", key, "--guest", "vm1")
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	h.Run("kill", string(pid))
}

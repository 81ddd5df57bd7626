package doctor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"ringfence/internal/fencevirt"
)

const cDaemon = "/usr/sbin/fence_virtd"

// runC starts the C daemon on br0 with libvirt's test driver, whose guest is "test".
func runC(t *testing.T, key, lines string) (config string) {
	t.Helper()
	config = cConfig(t, key, "multicast", `interface = "br0"; `+lines)
	startC(t, config, fencevirt.KindMulticast)
	return config
}

// cConfig writes a configuration of the C daemon with one listener.
func cConfig(t *testing.T, key, listener, lines string) (path string) {
	t.Helper()
	if _, err := os.Stat(cDaemon); err != nil {
		t.Skipf("SKIPPED: needs %s of Debian's package fence-virtd; as root, make test installs it", cDaemon)
	}
	modules := "/usr/lib64/fence-virt"
	if found, _ := filepath.Glob("/usr/lib/*/fence-virt"); len(found) > 0 {
		modules = found[0]
	}
	path = filepath.Join(t.TempDir(), "fence_virt.conf")
	text := fmt.Sprintf(`fence_virtd { listener = "%s"; backend = "libvirt"; module_path = "%s"; }
listeners { %s { key_file = "%s"; %s } }
backends { libvirt { uri = "test:///default"; } }
`, listener, modules, listener, keyFile(t, key), lines)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func startC(t *testing.T, config string, kind fencevirt.Kind) {
	t.Helper()
	cmd := exec.Command(cDaemon, "-F", "-f", config, "-p", filepath.Join(filepath.Dir(config), "pid"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_ = cmd.Wait() // how it ended is not what is tested
	})
	eventually(t, "the C daemon listens", func() bool {
		_, taken := owner(fencevirt.Listener{Kind: kind, Port: 1229})
		return taken
	})
}

// TestWithTheCDaemonDoctorSaysWhatItCanTell: it does not answer probes, and serves
// them as requests.
func TestWithTheCDaemonDoctorSaysWhatItCanTell(t *testing.T) {
	g := network(t)
	config := runC(t, testKey, "")
	o := client(t)
	o.Target = "test"
	d := g.examine(t, o)
	if !d.Healthy || len(d.Notes) == 0 {
		t.Errorf("a healthy way\n%s", d.text())
	}
	o.Target = "nobody"
	d = g.examine(t, o)
	d.says(t, LegGuest, "the daemon does not say which")
	if !d.Healthy {
		t.Errorf("a guest that is off or unknown\n%s", d.text())
	}
	d = Host(t.Context(), HostOptions{Config: config, OtherURIs: []string{}})
	for _, l := range d.Legs {
		switch l.Name {
		case LegPort, LegDaemon, LegMembership, LegFirewall:
			if l.Status != OK {
				t.Errorf("leg %+v", l)
			}
		case LegRequests:
			if l.Status != Unknown {
				t.Errorf("leg %+v", l)
			}
		}
	}
}

func TestTheCDaemonWithAnotherAuth(t *testing.T) {
	g := network(t)
	runC(t, testKey, `auth = "sha1";`)
	d := g.examine(t, client(t))
	wantBroken(t, d, LegChallenge)
	d.says(t, LegChallenge, "set auth (-C)")
}

func TestTheCDaemonWithAnotherKeyIsSilent(t *testing.T) {
	g := network(t)
	runC(t, "another key", "")
	o := client(t)
	d := g.examine(t, o)
	wantBroken(t, d, LegPacket)
	d.says(t, LegPacket, "silent too when the key differs")
	o.Host = "10.77.0.1"
	wantBroken(t, g.examine(t, o), LegPacket)
}

func TestTheCDaemonInAnotherGroup(t *testing.T) {
	g := network(t)
	runC(t, testKey, `address = "225.0.0.13";`)
	o := client(t)
	o.Host = "10.77.0.1"
	d := g.examine(t, o)
	wantBroken(t, d, LegPacket)
	d.says(t, LegPacket, "takes packets by unicast")
}

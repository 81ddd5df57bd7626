package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/libvirt/libvirtlab"
)

// cDaemon is Debian's fence_virtd, whose place ours takes.
const cDaemon = "/usr/sbin/fence_virtd"

// TestMain: under another name than that of a test, this binary is the program.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); name == "fence_virtd" || name == "ringfence" {
		main()
	}
	os.Exit(m.Run())
}

// A set-up of the C daemon.
const dropInConf = `# As a site has it.
fence_virtd {
	listener = "multicast";
	backend = "libvirt";
	module_path = "/usr/lib/x86_64-linux-gnu/fence-virt";
}
listeners {
	multicast {
		key_file = "DIR/fence.key";
		address = "225.0.0.12";
		interface = "lo";
	}
}
backends {
	libvirt { uri = "qemu:///system"; }
}
groups {
	group {
		name = "one";
		ip = "127.0.0.1";
		uuid = "vm1";
		uuid = "22222222-2222-3333-4444-000000000002";
		uuid = "nowhere";
	}
}
`

// TestTakesThePlaceOfTheCDaemon: with the configuration and the key of the C daemon,
// unedited, in its place on a real libvirtd with real guests, Debian's client sees
// the same.
func TestTakesThePlaceOfTheCDaemon(t *testing.T) {
	for program, pkg := range map[string]string{cDaemon: "fence-virtd", "/usr/sbin/fence_xvm": "fence-virt"} {
		if _, err := os.Stat(program); err != nil {
			t.Skipf("SKIPPED: needs %s: apt-get install %s, as `make test` does as root", program, pkg)
		}
	}
	h := libvirtlab.Start(t, "h1")
	dir := h.Path("files")
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("fence.key", strings.Repeat("k", 128))
	write("fence_virt.conf", strings.ReplaceAll(dropInConf, "DIR", dir))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ours := filepath.Join(dir, "fence_virtd")
	if err := os.Symlink(self, ours); err != nil {
		t.Fatal(err)
	}
	h.Run("ip", "link", "set", "lo", "multicast", "on")
	h.Run("ip", "route", "add", "224.0.0.0/4", "dev", "lo")
	guests := []libvirtlab.Guest{h.Guest(1), h.Guest(2), h.Guest(3)}
	for _, g := range guests {
		write(g.Name+".xml", g.XML)
		h.Run("virsh", "define", filepath.Join(dir, g.Name+".xml"))
		h.Run("virsh", "start", g.Name)
	}

	want := dropIn(t, h, cDaemon, guests)
	got := dropIn(t, h, ours, guests)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the C daemon (-) and ours (+):\n%s", diff)
	}
}

// startLimit bounds how long a daemon may take until it answers.
const startLimit = 20 * time.Second

// dropIn starts a daemon in the background and returns what Debian's client says of
// it, and whether the guests live.
func dropIn(t *testing.T, h *libvirtlab.Host, program string, guests []libvirtlab.Guest) (seen []string) {
	t.Helper()
	dir, pidFile := h.Path("files"), h.Path("files", "pid")
	h.Run(program, "-f", filepath.Join(dir, "fence_virt.conf"), "-p", pidFile)
	client := func(args ...string) string {
		c := h.Command(t.Context(), "fence_xvm", append([]string{"-k", filepath.Join(dir, "fence.key"), "-t", "10"}, args...)...)
		out, _ := c.Output()
		return fmt.Sprintf("%s: exit code %d, %s", strings.Join(args, " "), c.ProcessState.ExitCode(), out)
	}
	// The C daemon's parent does not wait for it.
	for deadline := time.Now().Add(startLimit); !strings.Contains(client("-o", "monitor"), "code 0"); {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer", program)
		}
	}
	lives := func(n int) string { return fmt.Sprintf("%s lives: %v", guests[n].Name, guests[n].Lives(2*time.Second)) }
	uuid := guests[1].UUID
	seen = append(seen,
		client("-o", "list"), client("-o", "status", "-H", "vm1"), client("-o", "status", "-H", uuid), lives(0), lives(2),
		client("-o", "status", "-H", "vm3"), client("-o", "off", "-H", "vm3"), lives(2), // of another group
		client("-o", "status", "-H", "nowhere"), client("-o", "off", "-H", "nowhere"), // no guest of that name
		client("-o", "off", "-H", "vm1"), lives(0), client("-o", "status", "-H", "vm1"), client("-o", "off", "-H", "vm1"),
		client("-o", "reboot", "-H", "vm1"), client("-o", "status", "-H", "vm1"), lives(0), // what is off stays off
		client("-o", "on", "-H", "vm1"), lives(0), client("-o", "on", "-H", "vm1"),
		client("-o", "reboot", "-H", uuid), client("-o", "status", "-H", uuid), lives(1),
	)
	t.Logf("%s:\n%s", program, strings.Join(seen, "\n"))
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	h.Run("kill", string(pid))
	for deadline := time.Now().Add(startLimit); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(pidFile); err != nil {
			return seen
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s leaves its pid file", program)
		}
	}
}

package vmlab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ringfence/internal/fence"
	"ringfence/internal/libvirt/libvirtlab"
	"ringfence/internal/vmlab/agent"
)

const (
	// silence is how long nothing more may come from a guest that is dead: several
	// times what lies between two of its signs of life.
	silence = time.Second
	// beatTimeout is how long a guest that lives may stay silent, on a machine with
	// much else to do.
	beatTimeout = 15 * time.Second
)

// Where the clients are in the guests: those of Debian, and ours.
const (
	debianClients = "/usr/sbin/"
	ourClients    = "/opt/ringfence/"
)

// living is a guest that proves by its own output that it lives.
type living interface {
	Lives(within time.Duration) bool
}

// TestFenceFromInside lets a guest fence others of its host by multicast and over
// its serial line, with the C clients and with ours, where our daemon has taken the
// place of the C daemon. Whether a victim is dead and its neighbours live, their own
// output says.
func TestFenceFromInside(t *testing.T) {
	kernel := needKernel(t)
	if _, err := os.Stat(debianClients + "fence_xvm"); err != nil {
		t.Skip("SKIPPED: needs fence-virt: run `make test` as root, or install it")
	}
	host := libvirtlab.Start(t, "hv")
	AddBridge(host, "10.77.0.1/24")
	linux := linuxGuests(t, host, kernel, "g1", "g2", "g3")
	beating := map[string]living{"g2": linux[1], "g3": linux[2]}
	for n := 1; n <= 4; n++ {
		guest := host.Guest(n)
		createBeating(t, host, guest)
		beating[guest.Name] = guest
	}
	serveFence(t, host)
	ctx, cancel := context.WithTimeout(t.Context(), 2*guestTimeout)
	defer cancel()
	client, err := linux[0].Up(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for name, guest := range beating {
		if !guest.Lives(guestTimeout) {
			t.Fatalf("%s did not come up", name)
		}
	}
	for _, c := range []struct {
		what, victim string
		command      []string
	}{
		{"the C client by multicast", "g2", []string{debianClients + "fence_xvm"}},
		{"our client by multicast", "vm1", []string{ourClients + "fence_xvm"}},
		{"the C client over serial", "vm2", []string{debianClients + "fence_virt", "-D", "/dev/ttyS1"}},
		{"our client over serial", "vm3", []string{ourClients + "fence_virt", "-D", "/dev/ttyS1"}},
	} {
		fenceOne(t, ctx, client, c.what, c.command, c.victim, beating)
		delete(beating, c.victim)
	}
	if len(beating) == 0 {
		t.Error("no neighbour was left to live on")
	}
}

// fenceOne has a guest fence the victim: it alone dies.
func fenceOne(t *testing.T, ctx context.Context, client *agent.Client, what string, command []string, victim string, beating map[string]living) {
	t.Helper()
	for _, step := range []struct {
		action string
		code   int
	}{
		{"status", fence.ExitOK},
		{"off", fence.ExitOK},
		{"status", fence.ExitOff},
	} {
		began := time.Now()
		r, err := client.Run(ctx, append(command, "-o", step.action, "-H", victim)...)
		if err != nil {
			t.Fatalf("%s, %s of %s: %v", what, step.action, victim, err)
		}
		if r.Code != step.code {
			t.Fatalf("%s, %s of %s: exit code %d, want %d\n%s%s", what, step.action, victim, r.Code, step.code, r.Stdout, r.Stderr)
		}
		t.Logf("%s, %s of %s: %d after %v", what, step.action, victim, r.Code, time.Since(began).Round(time.Millisecond))
	}
	if beating[victim].Lives(silence) {
		t.Errorf("%s says that %s is off, and %s still writes", what, victim, victim)
	}
	for name, neighbour := range beating {
		if name != victim && !neighbour.Lives(beatTimeout) {
			t.Errorf("%s fenced %s, and %s died too", what, victim, name)
		}
	}
}

// linuxGuests starts guests on the bridge that have both clients, with a serial
// line each that the daemon serves.
func linuxGuests(t *testing.T, host *libvirtlab.Host, kernel Kernel, names ...string) []*Guest {
	t.Helper()
	dir := host.Path("files")
	root := fencingRoot(t, host, kernel)
	configs := map[string]agent.Config{}
	for i, name := range names {
		configs[name] = agent.Config{Hostname: name, Address: fmt.Sprintf("10.77.0.%d/24", 11+i), Beats: true}
	}
	if err := root.Write(dir, configs); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "serial"), 0o700); err != nil {
		t.Fatal(err)
	}
	var guests []*Guest
	for i, name := range names {
		g := NewGuest(t, host, Domain{
			Name: name, UUID: fmt.Sprintf("33333333-2222-3333-4444-%012d", i+1), MemoryMiB: 160, Kernel: kernel,
			Initrd: filepath.Join(dir, name+".cpio"), Bridge: Bridge, MAC: fmt.Sprintf("02:52:46:00:01:%02x", i+1),
			Ports: []Port{{Socket: filepath.Join(dir, "serial", name)}},
		})
		g.Start()
		guests = append(guests, g)
	}
	return guests
}

// fencingRoot packs what a guest needs that fences: the clients and the key.
func fencingRoot(t *testing.T, host *libvirtlab.Host, kernel Kernel) *Initramfs {
	t.Helper()
	dir := host.Path("files")
	root := newRoot(t, kernel, dir)
	key := []byte("the key of this host and of its guests")
	root.File("/etc/cluster/fence_xvm.key", key)
	if err := os.WriteFile(filepath.Join(dir, "key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	// The C client's cryptography loads these by itself.
	var loaded []string
	for _, name := range []string{"libsoftokn3.so", "libfreebl3.so", "libfreeblpriv3.so"} {
		loaded = append(loaded, "/usr/lib/x86_64-linux-gnu/"+name)
	}
	agents := build(t, dir, "ringfence-agents")
	for _, name := range []string{"fence_xvm", "fence_virt"} {
		if err := root.Program(debianClients+name, loaded...); err != nil {
			t.Fatal(err)
		}
		if err := root.copyFile(ourClients+name, agents); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// createBeating starts a guest of libvirtlab.
func createBeating(t *testing.T, host *libvirtlab.Host, g libvirtlab.Guest) {
	t.Helper()
	file := host.Path("files", g.Name+".xml")
	if err := os.WriteFile(file, []byte(g.XML), 0o600); err != nil {
		t.Fatal(err)
	}
	host.Run("virsh", "-c", "qemu:///system", "create", file)
}

package interop

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/libvirt/libvirtlab"
)

// Address is that of the host on its bridge; its client n has 10.77.0.(10+n).
const Address = "10.77.0.1"

// clientLimit bounds one run of a client, which itself gives up after 30 s.
const clientLimit = 45 * time.Second

// beatLimit bounds how long a guest that was started takes to beat.
const beatLimit = 10 * time.Second

// Host is a host with a real libvirtd, a bridge br0 and clients behind it, each in
// a network namespace of its own.
type Host struct {
	*libvirtlab.Host
	t testing.TB
}

// Need skips the test when a package lacks, or when there is no time for it.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv("RINGFENCE_TEST_LONG") == "" {
		t.Skip("SKIPPED: plays with a real libvirtd and both daemons for most of a minute; `make test` does")
	}
	libvirtlab.Need(t)
	for path, pkg := range map[string]string{CDaemon: "fence-virtd", CFenceXVM: "fence-virt"} {
		if _, err := os.Stat(path); err != nil {
			t.Skipf("SKIPPED: needs %s: apt-get install --no-install-recommends %s", path, pkg)
		}
	}
}

// Start starts a host with that many clients; it ends with the test.
func Start(t testing.TB, name string, clients int) *Host {
	t.Helper()
	Need(t)
	h := &Host{libvirtlab.Start(t, name), t}
	script := "set -e\nip link add br0 type bridge\nip addr add " + Address + "/24 dev br0\nip link set br0 up\n"
	for n := 1; n <= clients; n++ {
		script += fmt.Sprintf(`ip netns add c%[1]d
ip link add v%[1]d type veth peer name eth0 netns c%[1]d
ip link set v%[1]d master br0 up
ip -n c%[1]d link set lo up
ip -n c%[1]d addr add %[2]s/24 dev eth0
ip -n c%[1]d link set eth0 up
`, n, ClientAddress(n))
	}
	h.Run("bash", "-c", script)
	return h
}

// ClientAddress is the address of client n.
func ClientAddress(n int) string { return fmt.Sprintf("10.77.0.%d", 10+n) }

// Write writes a file for the host, readable by root alone, and returns its path,
// which is the same inside and outside.
func (h *Host) Write(name, text string) string {
	h.t.Helper()
	path := h.Path("files", name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// WriteKey writes a key of 4,096 random bytes.
func (h *Host) WriteKey(name string) string {
	var key [4096]byte
	rand.Read(key[:])
	return h.Write(name, string(key[:]))
}

// Virsh runs virsh at the host's libvirtd.
func (h *Host) Virsh(args ...string) string {
	h.t.Helper()
	return h.Run("virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...)
}

// Define defines guests.
func (h *Host) Define(guests ...libvirtlab.Guest) {
	h.t.Helper()
	var commands []string
	for _, g := range guests {
		commands = append(commands, "define "+h.Write(g.Name+".xml", g.XML))
	}
	h.Virsh(strings.Join(commands, "; "))
}

// StartGuests starts guests, at the same time: those of once without a definition
// that stays.
func (h *Host) StartGuests(defined, once []libvirtlab.Guest) {
	h.t.Helper()
	var script strings.Builder
	for _, g := range defined {
		fmt.Fprintf(&script, "start %s\n", g.Name)
	}
	for _, g := range once {
		fmt.Fprintf(&script, "create %s\n", h.Write(g.Name+".xml", g.XML))
	}
	h.Run("bash", "-c", `printf %s "$0" | xargs -P 8 -L 1 virsh -q -c qemu:///system`, script.String())
	for _, g := range append(append([]libvirtlab.Guest{}, defined...), once...) {
		if !g.Lives(beatLimit) {
			h.t.Fatalf("guest %s does not live", g.Name)
		}
	}
}

// Outcome is what one run of a client left.
type Outcome struct {
	Code     int
	Out, Err string
	Took     time.Duration
}

// Text is standard output and standard error: the C client of Debian 12 writes its
// errors to the former, ours to the latter.
func (o Outcome) Text() string { return o.Out + o.Err }

// Client runs a program at client n, or with 0 on the host itself.
func (h *Host) Client(n int, program string, args ...string) Outcome {
	ctx, cancel := context.WithTimeout(context.Background(), clientLimit)
	defer cancel()
	c := h.ClientCommand(ctx, n, program, args...)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(""), &out, &errs
	began := time.Now()
	err := c.Run()
	o := Outcome{Out: out.String(), Err: errs.String(), Took: time.Since(began)}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		o.Code = exit.ExitCode()
	case err != nil:
		h.t.Errorf("%s: %v", program, err)
		o.Code = -1
	}
	return o
}

// ClientCommand is Client as a command.
func (h *Host) ClientCommand(ctx context.Context, n int, program string, args ...string) *exec.Cmd {
	if n == 0 {
		return h.Command(ctx, program, args...)
	}
	return h.Command(ctx, "ip", append([]string{"netns", "exec", fmt.Sprintf("c%d", n), program}, args...)...)
}

// In runs do with the network of client n, or with 0 that of the host. What do opens
// stays there. It may be called from any goroutine.
func (h *Host) In(n int, do func() error) error {
	path := fmt.Sprintf("/proc/%d/ns/net", h.PID())
	if n > 0 {
		path = fmt.Sprintf("/proc/%d/root/run/netns/c%d", h.PID(), n)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := os.Open(path)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network of client %d: %w", n, err)
			return
		}
		done <- do()
	}()
	return <-done
}

// PidOf reads a pid file, of a process inside; 0 for none.
func (h *Host) PidOf(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil || !h.Alive(pid) {
		return 0
	}
	return pid
}

// Modules is where Debian has the plugins of the C daemon.
func Modules() string {
	found, _ := filepath.Glob("/usr/lib/*/fence-virt") // the pattern is well-formed
	if len(found) == 0 {
		return "/usr/lib64/fence-virt"
	}
	return found[0]
}

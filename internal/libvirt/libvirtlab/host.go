package libvirtlab

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// upTimeout bounds how long a host takes to come up, and to go.
const upTimeout = 20 * time.Second

// first is the script of the first process. Bash reaps what others leave behind
// even while it reads; the end of its input, when the test's process is gone, ends
// it and with it the whole host. Cgroups are out of sight: two hosts would use the
// same ones, and a libvirtd that is told to use none kills its guests when it comes
// back.
const first = `set -e
D=$1 CACHE=$2
hostname "$3"
mount --make-rprivate /
mount -t proc proc /proc
mount --bind "$D/run" /run
mkdir -p /run/lock /run/netns /var/lib/libvirt /var/cache/libvirt /var/log/libvirt
mount --bind "$D/etc" /etc/libvirt
mount --bind "$D/lib" /var/lib/libvirt
mount --bind "$D/log" /var/log/libvirt
mount --bind "$CACHE" /var/cache/libvirt
mount --bind "$D/hosts" /etc/hosts
umount -R -l /sys/fs/cgroup 2>/dev/null || true
ip link set lo up
echo ready
read -r _ || true
`

// Host is one host with its libvirtd.
type Host struct {
	Name string
	t    testing.TB
	dir  string
	init *exec.Cmd
	end  io.Closer // the input of the first process
	args []string  // of libvirtd
}

// Options change a host.
type Options struct {
	// Config holds settings of libvirtd.conf beside those that the lab needs.
	Config map[string]string
	// QEMU holds settings of qemu.conf likewise.
	QEMU map[string]string
	// Listen lets libvirtd listen on TCP and TLS, as Config says.
	Listen bool
	// Idle leaves libvirtd off until StartDaemon.
	Idle bool
}

// Need skips the test when libvirtd cannot run here.
func Need(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root for namespaces: run as root")
	}
	for program, pkg := range map[string]string{
		"libvirtd": "libvirt-daemon-system", "virsh": "libvirt-clients", "qemu-system-x86_64": "qemu-system-x86",
		"ip": "iproute2", "nsenter": "util-linux", "bash": "bash",
	} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: needs %s: apt-get install --no-install-recommends %s", program, pkg)
		}
	}
}

// Start is StartWith without options.
func Start(t testing.TB, name string) *Host {
	t.Helper()
	return StartWith(t, name, Options{})
}

// StartWith starts a host and its libvirtd, and ends both with the test.
func StartWith(t testing.TB, name string, o Options) *Host {
	t.Helper()
	Need(t)
	h := &Host{Name: name, t: t, args: []string{"-d", "-p", "/run/libvirtd.pid"}}
	if o.Listen {
		h.args = append(h.args, "-l")
	}
	if err := h.prepare(o); err != nil {
		t.Fatalf("prepare host %s: %v", name, err)
	}
	t.Cleanup(h.Close)
	if err := h.boot(); err != nil {
		t.Fatalf("start host %s: %v", name, err)
	}
	if !o.Idle {
		h.StartDaemon()
	}
	return h
}

// prepare makes the directories and the configuration. The path is short, since a
// unix socket's may have 107 bytes.
func (h *Host) prepare(o Options) (err error) {
	if h.dir, err = os.MkdirTemp("", "rfv"); err != nil {
		return err
	}
	for _, d := range []string{"run", "etc/hooks", "lib", "log", "files"} {
		if err := os.MkdirAll(h.Path(d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(h.dir, 0o755); err != nil {
		return err
	}
	daemon := map[string]string{
		"auth_unix_ro": `"none"`, "auth_unix_rw": `"none"`, "unix_sock_group": `"root"`, "host_uuid": `"` + uuid() + `"`,
		"log_outputs": `"3:file:/var/log/libvirt/libvirtd.log"`,
	}
	qemu := map[string]string{
		"user": `"root"`, "group": `"root"`, "stdio_handler": `"file"`, "security_driver": `"none"`,
		"namespaces": "[]", "dynamic_ownership": "0", "remember_owner": "0",
	}
	maps.Copy(daemon, o.Config)
	maps.Copy(qemu, o.QEMU)
	for name, text := range map[string]string{
		"etc/libvirtd.conf": settings(daemon), "etc/qemu.conf": settings(qemu),
		"hosts": "127.0.0.1 localhost\n127.0.1.1 " + h.Name + "\n",
	} {
		if err := os.WriteFile(h.Path(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func settings(m map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s = %s\n", key, m[key])
	}
	return b.String()
}

// uuid returns a random one; libvirt refuses one with two equal halves of digits.
func uuid() string {
	var b [16]byte
	rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// boot starts the first process. What libvirt learns of QEMU takes seconds, so it
// is kept from run to run.
func (h *Host) boot() error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	cache = filepath.Join(cache, "ringfence-libvirtlab")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	h.init = exec.Command("bash", "-c", first, "first", h.dir, cache, h.Name)
	h.init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID, Setpgid: true,
	}
	h.init.Stderr = os.Stderr
	if h.end, err = h.init.StdinPipe(); err != nil {
		return err
	}
	out, err := h.init.StdoutPipe()
	if err != nil {
		return err
	}
	if err := h.init.Start(); err != nil {
		return err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		return fmt.Errorf("its first process says %q: %w", line, err)
	}
	return nil
}

// Close ends the host with all that runs on it. Tests get it as a cleanup.
func (h *Host) Close() {
	if h.init != nil && h.init.Process != nil {
		_ = h.init.Process.Kill()
		_ = h.init.Wait()
		h.end.Close()
		h.init = nil
	}
	if err := os.RemoveAll(h.dir); err != nil {
		h.t.Errorf("remove host %s: %v", h.Name, err)
	}
}

// PID returns the host's first process as seen from outside.
func (h *Host) PID() int { return h.init.Process.Pid }

// Path returns a path below the host's directory, which is the same inside and
// outside. run, etc, lib and log are /run, /etc/libvirt, /var/lib/libvirt and
// /var/log/libvirt inside; files is for tests.
func (h *Host) Path(elem ...string) string {
	return filepath.Join(append([]string{h.dir}, elem...)...)
}

// Socket returns libvirtd's socket as a path outside.
func (h *Host) Socket() string { return h.Path("run", "libvirt", "libvirt-sock") }

// URI returns a URI by which this host's libvirtd is reached from outside.
func (h *Host) URI(driver, path string) string {
	return driver + "+unix://" + path + "?socket=" + h.Socket()
}

// Command returns a command that runs on the host, as root, in its root directory.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"-t", strconv.Itoa(h.PID()), "-m", "-n", "-u", "-p", "--", name}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
}

// Run runs a command on the host, returns its output, and fails the test when the
// command fails.
func (h *Host) Run(name string, args ...string) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), upTimeout)
	defer cancel()
	out, err := h.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("on host %s: %s %s: %v\n%s\nlibvirtd's log:\n%s", h.Name, name, strings.Join(args, " "), err, out, h.Log())
	}
	return string(out)
}

// Dial connects from the host's network, for TCP and TLS.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if network == "unix" {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.PID()))
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err != nil {
			done <- result{err: err}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// Join connects two hosts by a cable; a gets 10.77.0.1, b 10.77.0.2, and each finds
// the other by name.
func Join(a, b *Host) {
	a.t.Helper()
	out, err := exec.Command("ip", "link", "add", "eth0", "netns", strconv.Itoa(a.PID()), "type", "veth",
		"peer", "name", "eth0", "netns", strconv.Itoa(b.PID())).CombinedOutput()
	if err != nil {
		a.t.Fatalf("join hosts %s and %s: %v\n%s", a.Name, b.Name, err, out)
	}
	hosts := fmt.Sprintf("127.0.0.1 localhost\n10.77.0.1 %s\n10.77.0.2 %s\n", a.Name, b.Name)
	for i, h := range []*Host{a, b} {
		h.Run("ip", "addr", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "eth0")
		h.Run("ip", "link", "set", "eth0", "up")
		if err := os.WriteFile(h.Path("hosts"), []byte(hosts), 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
}

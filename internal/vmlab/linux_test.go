package vmlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"ringfence/internal/fence"
	"ringfence/internal/vmlab/agent"
)

// guestTimeout bounds what a guest does, on a machine with much else to do.
const guestTimeout = 60 * time.Second

// needKernel skips a test where scripts/test-setup has not been.
func needKernel(t *testing.T) Kernel {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("SKIPPED: needs qemu-system-x86: run `make test` as root, or install it")
	}
	dir, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	k, err := FindKernel(dir)
	if errors.Is(err, ErrNoKernel) {
		t.Skip("SKIPPED: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newRoot packs what every guest needs, and the modules.
func newRoot(t *testing.T, kernel Kernel, dir string, modules ...string) *Initramfs {
	t.Helper()
	init, err := BuildInit(dir)
	if err != nil {
		t.Fatal(err)
	}
	root, err := NewInitramfs(kernel, init, modules...)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// boot starts a guest by QEMU alone, without libvirt and root, and returns its
// agent once it obeys.
func boot(t *testing.T, ctx context.Context, kernel Kernel, root *Initramfs, dir string) *agent.Client {
	t.Helper()
	if err := root.Write(dir, map[string]agent.Config{"g1": {Hostname: "g1"}}); err != nil {
		t.Fatal(err)
	}
	console, socket := filepath.Join(dir, "console"), filepath.Join(dir, "agent")
	guest := exec.Command("qemu-system-x86_64", "-accel", "tcg", "-M", "pc", "-cpu", "qemu64", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", kernel.Image, "-initrd", filepath.Join(dir, "g1.cpio"), "-append", commandLine,
		"-serial", "file:"+console, "-device", "virtio-serial", "-device", "virtio-rng",
		"-chardev", "socket,id=a,server=on,wait=off,path="+socket, "-device", "virtserialport,chardev=a,name="+agent.Port)
	// It ends with the test's process, however that ends: with its present thread.
	runtime.LockOSThread()
	guest.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := guest.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = guest.Process.Kill()
		_ = guest.Wait()
		runtime.UnlockOSThread()
	})
	client, err := agent.Dial(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := client.Write(ctx, "/run/vmlab", nil); err != nil {
		text, _ := os.ReadFile(console)
		t.Fatalf("%v; the console says:\n%s", err, text)
	}
	return client
}

func TestLinuxGuestBootsAndObeys(t *testing.T) {
	kernel, dir := needKernel(t), t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), guestTimeout)
	defer cancel()
	client := boot(t, ctx, kernel, newRoot(t, kernel, dir), dir)
	if _, err := client.Run(ctx, "/usr/bin/nothing"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a program that is not there: %v", err)
	}
	if err := client.Write(ctx, "/proc/sysrq-trigger", []byte("o")); err != nil && !errors.Is(err, agent.ErrGone) {
		t.Fatal(err)
	}
	select {
	case <-client.Gone():
	case <-ctx.Done():
		t.Error("the guest did not power off")
	}
}

// TestVsockInsideOfAGuest has our daemon asked over vsock, by a client in the same
// guest: this machine has no vsock between a guest and its host.
func TestVsockInsideOfAGuest(t *testing.T) {
	kernel, dir := needKernel(t), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := newRoot(t, kernel, dir, "vsock_loopback")
	if err := root.Program(self); err != nil {
		t.Fatal(err)
	}
	if err := root.copyFile(ourClients+"fence_virt", build(t, dir, "ringfence-agents")); err != nil {
		t.Fatal(err)
	}
	root.File("/etc/cluster/fence_xvm.key", []byte("the key of both"))
	ctx, cancel := context.WithTimeout(t.Context(), guestTimeout)
	defer cancel()
	client := boot(t, ctx, kernel, root, dir)
	daemon := make(chan string, 1)
	go func() {
		r, err := client.Run(ctx, self, vsockWord) // until the guest ends
		daemon <- fmt.Sprintf("%s%s%v", r.Stdout, r.Stderr, err)
	}()
	ask := func(action string) agent.Reply {
		r, err := client.Run(ctx, ourClients+"fence_virt", "-T", "127.0.0.1", "-p", relayPort, "-o", action, "-H", vsockGuest)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for r := ask("status"); r.Code != fence.ExitOK; r = ask("status") { // the daemon may not listen yet
		select {
		case said := <-daemon:
			t.Fatalf("the daemon ended: %s", said)
		case <-ctx.Done():
			t.Fatalf("no answer over vsock: %d %s%s", r.Code, r.Stdout, r.Stderr)
		case <-time.After(100 * time.Millisecond):
		}
	}
	if r := ask("off"); r.Code != fence.ExitOK {
		t.Errorf("off: %d %s", r.Code, r.Stderr)
	}
	if r := ask("status"); r.Code != fence.ExitOff {
		t.Errorf("status after off: %d %s", r.Code, r.Stderr)
	}
}

package libvirtlab

import (
	"strings"
	"testing"
	"time"
)

func TestTwoHostsSideBySide(t *testing.T) {
	a, b := Start(t, "lab-a"), Start(t, "lab-b")
	for _, h := range []*Host{a, b} {
		if got := strings.TrimSpace(h.Run("virsh", "-c", "qemu:///system", "hostname")); got != h.Name {
			t.Errorf("libvirtd of %s says it is %q", h.Name, got)
		}
	}
	Join(a, b)
	a.Run("bash", "-c", "exec 3<>/dev/tcp/lab-b/1 || true") // refused, not lost: the name and the way are there
	g := a.Guest(1)
	a.Run("bash", "-c", "virsh -c qemu:///system create /dev/stdin <<'X'\n"+g.XML+"\nX\n")
	if !g.Lives(5 * time.Second) {
		t.Fatalf("the guest does not beat; libvirtd's log:\n%s", a.Log())
	}
	a.StopDaemon("KILL")
	if a.DaemonPID() != 0 {
		t.Error("a killed libvirtd is said to run")
	}
	if !g.Lives(5 * time.Second) {
		t.Error("the guest ended with libvirtd")
	}
	a.StartDaemon()
	a.Run("virsh", "-c", "qemu:///system", "suspend", g.Name) // waits until libvirtd controls it again
	a.Run("virsh", "-c", "qemu:///system", "resume", g.Name)
	if !g.Lives(5 * time.Second) {
		t.Error("the guest ended when libvirtd came back")
	}
	began := time.Now()
	a.Run("virsh", "-c", "qemu:///system", "destroy", g.Name)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("destroy took %v: the first process does not reap", took)
	}
	if g.Lives(time.Second) {
		t.Error("the guest beats after its end")
	}
}

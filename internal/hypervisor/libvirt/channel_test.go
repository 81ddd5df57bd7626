package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"ringfence/internal/hypervisor"
	"ringfence/internal/lane"
	lv "ringfence/internal/libvirt"
	"ringfence/internal/libvirt/libvirttest"
)

// wired is the configuration of a guest whose own channel is a socket.
func wired(name, socket string) string {
	return fmt.Sprintf(`<domain type='kvm'><name>%s</name><uuid>%s</uuid><devices>
<channel type='unix'><source mode='bind' path='/other'/><target type='virtio' name='org.other.0'/></channel>
<channel type='unix'><source mode='bind' path='%s'/><target type='virtio' name='%s'/></channel></devices></domain>`, name, guestID(name), socket, ChannelPort)
}

func TestTheChannelIsTheGuestsVirtioPort(t *testing.T) {
	s := libvirttest.New(t)
	f := newFakes(t, s)
	f.qemu("vm1")
	f.qemu("vm2")
	socket := filepath.Join(t.TempDir(), "vm1.sock")
	s.Add(libvirttest.Guest{Name: "vm1", State: lv.StateRunning, XML: wired("vm1", socket)})
	s.Add(libvirttest.Guest{Name: "vm2", State: lv.StateRunning})
	s.Add(libvirttest.Guest{Name: "vm3"})
	if _, err := f.Channel(t.Context(), guestID("vm2")); err == nil || !strings.Contains(err.Error(), ChannelPort) {
		t.Errorf("a guest without the port: %v", err)
	}
	if _, err := f.Channel(t.Context(), guestID("vm3")); !errors.Is(err, hypervisor.ErrNotRunning) {
		t.Errorf("a guest that does not run: %v", err)
	}
	if _, err := f.Channel(t.Context(), "no"); !errors.Is(err, hypervisor.ErrNoGuest) {
		t.Errorf("no guest: %v", err)
	}
	// QEMU's end of the port leads to the guest.
	qemu, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer qemu.Close()
	guest := lane.NewDialer(func() (io.ReadWriteCloser, error) { return qemu.Accept() }, testLog(t))
	defer func() { qemu.Close(); guest.Close() }()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return guest.Dial(ctx) }, DisableKeepAlives: true}}
	for n := range 2 { // the second listener takes the place of the first
		l, err := f.Channel(t.Context(), guestID("vm1"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		want := fmt.Sprintf("listener %d", n)
		go func() {
			_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, want) }))
		}()
		await(t, want+" answers the guest", func() bool {
			resp, err := client.Get("http://hostd/")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			return err == nil && string(text) == want
		})
	}
}

func TestPortsOfGuestsThatRun(t *testing.T) {
	s := libvirttest.New(t)
	f := newFakes(t, s)
	f.qemu("vm1")
	xml := strings.NewReplacer("db1", "vm1", exampleUUID, string(guestID("vm1"))).Replace(exampleXML)
	s.Add(libvirttest.Guest{Name: "vm1", State: lv.StateRunning, XML: xml})
	if ports, err := f.Ports(t.Context(), guestID("vm1")); err != nil || len(ports) != 3 {
		t.Errorf("ports %+v, %v", ports, err)
	}
	if g, err := f.GuestOfCID(t.Context(), 4); err != nil || g.ID != guestID("vm1") || g.State != hypervisor.StateRunning {
		t.Errorf("guest of vsock address 4: %+v, %v", g, err)
	}
	if _, err := f.GuestOfCID(t.Context(), 5); !errors.Is(err, hypervisor.ErrNoGuest) {
		t.Errorf("guest of vsock address 5: %v", err)
	}
	s.Change("vm1", func(g *libvirttest.Guest) { g.State = lv.StateShutoff })
	if _, err := f.Ports(t.Context(), guestID("vm1")); !errors.Is(err, hypervisor.ErrNotRunning) {
		t.Errorf("ports of a guest that is off: %v", err)
	}
}

package vmlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"ringfence/internal/libvirt/libvirtlab"
	"ringfence/internal/vmlab/agent"
)

// Bridge is what guests of a host are connected to.
const Bridge = "br0"

// upTimeout bounds how long a guest may take to boot, on a machine with much else
// to do.
const upTimeout = 60 * time.Second

// AddBridge makes the bridge on a host, with the host's own address on it, such
// as "10.77.0.1/24". It has a MAC address of its own: it would take a guest's, and
// change it when that guest goes, so that neighbours lost the host for a while.
func AddBridge(h *libvirtlab.Host, address string) {
	last := netip.MustParsePrefix(address).Addr().As4()[3]
	h.Run("ip", "link", "add", Bridge, "address", fmt.Sprintf("02:52:46:00:fe:%02x", last), "type", "bridge")
	h.Run("ip", "link", "set", Bridge, "up")
	h.Run("ip", "addr", "add", address, "dev", Bridge)
}

// Guest is a Linux guest on a host.
type Guest struct {
	Domain
	Host *libvirtlab.Host
	t    testing.TB
}

// NewGuest defines a guest on a host from what d says of it. Console and Agent
// are set, unless they are.
func NewGuest(t testing.TB, h *libvirtlab.Host, d Domain) *Guest {
	t.Helper()
	if d.Console == "" {
		d.Console = h.Path("files", d.Name+".console")
	}
	if d.Agent == "" {
		d.Agent = h.Path("files", d.Name+".agent")
	}
	text, err := d.XML()
	if err != nil {
		t.Fatal(err)
	}
	file := h.Path("files", d.Name+".xml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Run("virsh", "-c", "qemu:///system", "define", file)
	return &Guest{Domain: d, Host: h, t: t}
}

// Start switches the guest on; it boots meanwhile.
func (g *Guest) Start() {
	g.t.Helper()
	g.Host.Run("virsh", "-c", "qemu:///system", "start", g.Name)
}

// Up waits until the guest obeys, and returns its agent, which the caller closes.
func (g *Guest) Up(ctx context.Context) (*agent.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	client, err := agent.Dial(ctx, g.Agent)
	if err != nil {
		return nil, err
	}
	if err := client.Write(ctx, "/run/vmlab", nil); err != nil {
		client.Close()
		return nil, fmt.Errorf("guest %s does not come up: %w; its console says:\n%s", g.Name, err, g.Output())
	}
	return client, nil
}

// Output returns what the guest has printed on its console.
func (g *Guest) Output() string {
	text, err := os.ReadFile(g.Console)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return string(text)
}

// Beats counts the signs of life on the console, of a guest that gives them.
func (g *Guest) Beats() int {
	return bytes.Count([]byte(g.Output()), []byte(agent.Beat+"\r\n"))
}

// Lives reports whether the guest gives another sign of life within the time.
func (g *Guest) Lives(within time.Duration) bool {
	for before, end := g.Beats(), time.Now().Add(within); time.Now().Before(end); time.Sleep(agent.BeatInterval / 4) {
		if g.Beats() > before {
			return true
		}
	}
	return false
}

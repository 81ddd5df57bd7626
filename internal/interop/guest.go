package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"ringfence/internal/libvirt/libvirtlab"
)

// relay is the program of a guest that passes bytes on between its second serial
// port, at which the host's daemon listens to it, and its third, which is a
// terminal outside: a client that uses this terminal as its serial device is heard
// over the guest's own line. It beats on the first port, as other guests do.
//
//	        cli; ax=ds=ss=0; sp=7c00
//	        int 0b, int 0c: isr              ; IRQ 3 and 4
//	        2f8, 3e8: FIFO, 8N1, OUT2, interrupt when a byte is there
//	loop:   cli
//	        copy 2f8 to 3e8, 3e8 to 2f8      ; while there are bytes
//	        if one has more, loop
//	        sti; hlt
//	        if 4 ticks have passed since last: write 'H', a digit and '\n' to 3f8
//	        loop
//	isr:    end of interrupt; iret
var relay = []byte{
	0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xb8, 0xb3, 0x7c, 0xa3, 0x2c, 0x00, 0xa3, 0x30, 0x00, 0xc7,
	0x06, 0x2e, 0x00, 0x00, 0x00, 0xc7, 0x06, 0x32, 0x00, 0x00, 0x00, 0xba, 0xf8, 0x02, 0xe8, 0x5a, 0x00, 0xba, 0xe8, 0x03,
	0xe8, 0x54, 0x00, 0xe4, 0x21, 0x24, 0xe7, 0xe6, 0x21, 0xb3, 0x30, 0xb1, 0x04, 0xfa, 0xbe, 0xf8, 0x02, 0xbf, 0xe8, 0x03,
	0xe8, 0x57, 0x00, 0x87, 0xf7, 0xe8, 0x52, 0x00, 0xba, 0xfd, 0x02, 0xec, 0x88, 0xc4, 0xba, 0xed, 0x03, 0xec, 0x08, 0xe0,
	0xa8, 0x01, 0x75, 0xe1, 0xfb, 0xf4, 0xa1, 0x6c, 0x04, 0x2b, 0x06, 0xba, 0x7c, 0x83, 0xf8, 0x04, 0x72, 0xd3, 0xa1, 0x6c,
	0x04, 0xa3, 0xba, 0x7c, 0xba, 0xf8, 0x03, 0xb0, 0x48, 0xee, 0x88, 0xd8, 0xee, 0xb0, 0x0a, 0xee, 0xfe, 0xc3, 0x80, 0xfb,
	0x3a, 0x75, 0xba, 0xb3, 0x30, 0xeb, 0xb6, 0x52, 0x83, 0xc2, 0x02, 0xb0, 0x01, 0xee, 0x42, 0xb0, 0x03, 0xee, 0x42, 0xb0,
	0x0b, 0xee, 0x83, 0xea, 0x03, 0xb0, 0x01, 0xee, 0x5a, 0xc3, 0x8d, 0x54, 0x05, 0xec, 0xa8, 0x01, 0x74, 0x14, 0x89, 0xf2,
	0xec, 0x88, 0xc4, 0x8d, 0x55, 0x05, 0xec, 0xa8, 0x20, 0x74, 0xfb, 0x88, 0xe0, 0x89, 0xfa, 0xee, 0xeb, 0xe4, 0xc3, 0x50,
	0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf, 0x00, 0x00,
}

const floppyBytes = 1474560

// SerialGuest returns the n'th guest as one whose second serial port is a unix
// socket in the directory, and which relays it to Terminal.
func (h *Host) SerialGuest(n int, dir string) libvirtlab.Guest {
	h.t.Helper()
	floppy := make([]byte, floppyBytes)
	copy(floppy, relay)
	copy(floppy[510:], []byte{0x55, 0xAA})
	image := h.Write("relay.img", string(floppy))
	g := h.Guest(n)
	g.XML = strings.Replace(g.XML, "beat.img", filepath.Base(image), 1)
	g.XML = strings.Replace(g.XML, "</serial>", fmt.Sprintf(`</serial>
<serial type='unix'><source mode='bind' path='%s'/><target port='1'/></serial>
<serial type='pty'><target port='2'/></serial>`, filepath.Join(dir, g.Name+".sock")), 1)
	return g
}

var ptyPattern = regexp.MustCompile(`<serial type='pty'>\s*<source path='(/dev/pts/[0-9]+)'/>`)

// Terminal returns the terminal of a SerialGuest that runs. It is kept open: QEMU
// looks only once in a second whether somebody has opened it.
func (h *Host) Terminal(t testing.TB, g libvirtlab.Guest) string {
	t.Helper()
	m := ptyPattern.FindStringSubmatch(h.Virsh("dumpxml", g.Name))
	if m == nil {
		t.Fatalf("guest %s has no terminal", g.Name)
	}
	f, err := os.OpenFile(m[1], os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return m[1]
}

// Drain takes from a terminal what nobody has read. A client flushes its line when
// it opens it, but what a pseudo terminal still holds back comes behind that.
func Drain(t testing.TB, terminal string) {
	t.Helper()
	fd, err := syscall.Open(terminal, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatalf("open %s: %v", terminal, err)
	}
	defer syscall.Close(fd)
	for buffer := make([]byte, 1024); ; {
		if n, err := syscall.Read(fd, buffer); n < 1 || err != nil {
			return
		}
	}
}

// ChannelGuest returns the n'th guest as one with a vmchannel, a unix socket in the
// directory that QEMU gives its network as 10.0.2.179:1229. Client c is on that
// network, in the place of the guest's own system: QEMU connects both by a hub.
func (h *Host) ChannelGuest(n, c int, dir string) libvirtlab.Guest {
	h.t.Helper()
	// QEMU may use the tap device, but not make one.
	h.Run("ip", "tuntap", "add", fmt.Sprintf("tap%d", c), "mode", "tap", "user", "0")
	g := h.Guest(n)
	g.XML = strings.Replace(g.XML, "<domain type='qemu'>", "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>", 1)
	g.XML = strings.Replace(g.XML, "</devices>", fmt.Sprintf(`<channel type='unix'><source mode='bind' path='%s'/>
<target type='guestfwd' address='10.0.2.179' port='1229'/></channel></devices>`, filepath.Join(dir, g.Name+".sock")), 1)
	g.XML = strings.Replace(g.XML, "</domain>", fmt.Sprintf(`<qemu:commandline>
<qemu:arg value='-netdev'/><qemu:arg value='tap,id=tap,ifname=tap%d,script=no,downscript=no'/>
<qemu:arg value='-netdev'/><qemu:arg value='hubport,id=h0,hubid=0,netdev=channel0'/>
<qemu:arg value='-netdev'/><qemu:arg value='hubport,id=h1,hubid=0,netdev=tap'/>
</qemu:commandline></domain>`, c), 1)
	return g
}

// Plug gives client c its end of the network of a ChannelGuest, once that runs.
func (h *Host) Plug(c int) {
	h.t.Helper()
	h.Run("bash", "-ec", fmt.Sprintf(`ip link set tap%[1]d netns c%[1]d
ip -n c%[1]d addr add 10.0.2.15/24 dev tap%[1]d
ip -n c%[1]d link set tap%[1]d up
`, c))
}

// QEMU returns the id of the guest's QEMU on the host, 0 when it does not run.
func (h *Host) QEMU(g libvirtlab.Guest) int {
	return h.PidOf(h.Path("run", "libvirt/qemu", g.Name+".pid"))
}

// Directory makes a directory for the sockets of guests.
func (h *Host) Directory(name string) string {
	h.t.Helper()
	dir := h.Path("run", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

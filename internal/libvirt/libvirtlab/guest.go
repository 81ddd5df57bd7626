package libvirtlab

import (
	"bytes"
	"fmt"
	"os"
	"time"
)

// Guest is a guest that costs 41 MiB and a tenth of a second: 42 bytes of machine
// code that write a line to the first serial port every 0.22 s.
type Guest struct {
	Name string
	UUID string
	XML  string // its configuration; it is not defined yet
	Log  string // the file, outside, to which its serial port writes
}

// beat prints "H" and a digit that counts up, then halts for four timer ticks.
var beat = []byte{
	0xFA, 0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xD0, 0xBC, 0x00, 0x7C, 0xFB, 0xB3, 0x30, 0xBA, 0xF8, 0x03, 0xB0, 0x48, 0xEE,
	0x88, 0xD8, 0xEE, 0xB0, 0x0A, 0xEE, 0xFE, 0xC3, 0x80, 0xFB, 0x3A, 0x75, 0x02, 0xB3, 0x30, 0xB9, 0x04, 0x00,
	0xF4, 0xE2, 0xFD, 0xEB, 0xE3,
}

const floppyBytes = 1474560

// Guest returns the n'th guest of this host; its UUID is the same on every host.
func (h *Host) Guest(n int) Guest {
	h.t.Helper()
	g := Guest{Name: fmt.Sprintf("vm%d", n), UUID: fmt.Sprintf("22222222-2222-3333-4444-%012d", n)}
	g.Log = h.Path("files", g.Name+".log")
	image := h.Path("files", "beat.img")
	if _, err := os.Stat(image); err != nil {
		floppy := make([]byte, floppyBytes)
		copy(floppy, beat)
		copy(floppy[510:], []byte{0x55, 0xAA})
		if err := os.WriteFile(image, floppy, 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
	g.XML = fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>4</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><boot dev='fd'/></os><features><acpi/></features>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='%s'/><target dev='fda' bus='fdc'/><readonly/></disk>
<serial type='file'><source path='%s'/><target port='0'/></serial>
<controller type='usb' model='none'/><memballoon model='none'/></devices><seclabel type='none'/></domain>`,
		g.Name, g.UUID, image, g.Log)
	return g
}

// Beats returns how many lines the guest has written.
func (g Guest) Beats() int {
	text, _ := os.ReadFile(g.Log) // none yet: no beat
	return bytes.Count(text, []byte("H"))
}

// Lives reports whether the guest writes another line within the time.
func (g Guest) Lives(within time.Duration) bool {
	for before, deadline := g.Beats(), time.Now().Add(within); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if g.Beats() > before {
			return true
		}
	}
	return false
}

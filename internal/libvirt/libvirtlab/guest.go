package libvirtlab

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"
)

// Guest is a guest that costs 41 MiB and a tenth of a second: a boot sector that
// writes a line to the first serial port every 0.22 s.
type Guest struct {
	Name string
	UUID string
	XML  string // its configuration; it is not defined yet
	Log  string // the file, outside, to which its serial port writes
}

// beginning sets up the stack, and the digit in BL.
var beginning = []byte{0xFA, 0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xD0, 0xBC, 0x00, 0x7C, 0xFB, 0xB3, 0x30}

// beat writes "H", the digit and a line feed to COM1, and counts the digit up.
var beat = []byte{
	0xBA, 0xF8, 0x03, 0xB0, 0x48, 0xEE, 0x88, 0xD8, 0xEE, 0xB0, 0x0A, 0xEE, 0xFE, 0xC3, 0x80, 0xFB, 0x3A, 0x75, 0x02, 0xB3, 0x30,
}

// onKey powers the machine off, by its ACPI register, once a key was pressed.
var onKey = []byte{0xB4, 0x01, 0xCD, 0x16, 0x74, 0x07, 0xBA, 0x04, 0x06, 0xB8, 0x00, 0x20, 0xEF}

// pause halts until four ticks of the timer have passed.
var pause = []byte{0xB9, 0x04, 0x00, 0xF4, 0xE2, 0xFD}

// at3 writes a byte to an I/O port when the digit has become 3.
func at3(port uint16, value byte) []byte {
	return []byte{0x80, 0xFB, 0x33, 0x75, 0x06, 0xBA, byte(port), byte(port >> 8), 0xB0, value, 0xEE}
}

const floppyBytes = 1474560

// floppy makes an image that boots the code.
func floppy(extra []byte) []byte {
	code := bytes.Join([][]byte{beginning, beat, extra, onKey, pause, {0xEB, 0}}, nil)
	code[len(code)-1] = byte(len(beginning) - len(code)) // back to the beat
	image := make([]byte, floppyBytes)
	copy(image, code)
	copy(image[510:], []byte{0x55, 0xAA})
	return image
}

// Guest returns the n'th guest of this host; its UUID is the same on every host.
func (h *Host) Guest(n int) Guest {
	h.t.Helper()
	return h.guest(n, "beat", nil, "destroy", "")
}

// WatchdogGuest returns a guest whose watchdog runs out 2.7 s after its start;
// action is libvirt's, such as pause or reset.
func (h *Host) WatchdogGuest(n int, action string) Guest {
	h.t.Helper()
	const enable, twoSeconds = 0x443, 0x0E // of the ib700
	return h.guest(n, "watchdog", at3(enable, twoSeconds), "destroy", "<watchdog model='ib700' action='"+action+"'/>")
}

// PanicGuest returns a guest that panics 0.7 s after its start; onCrash is libvirt's,
// such as destroy, restart or preserve.
func (h *Host) PanicGuest(n int, onCrash string) Guest {
	h.t.Helper()
	const pvpanic, panicked = 0x505, 1
	return h.guest(n, "panic", at3(pvpanic, panicked), onCrash, "<panic model='isa'/>")
}

// BrokenDiskGuest returns a guest that boots from a disk that fails, and is paused
// for it before its first beat. Libvirt does not know the disk, so its event names
// none.
func (h *Host) BrokenDiskGuest(n int) Guest {
	h.t.Helper()
	g := h.guest(n, "beat", nil, "destroy", "")
	g.XML = strings.NewReplacer(
		"<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ",
		"<boot dev='fd'/>", "",
		"</domain>", `<qemu:commandline>
<qemu:arg value='-blockdev'/><qemu:arg value='{"driver":"blkdebug","node-name":"broken","image":{"driver":"null-co","size":1048576},
"inject-error":[{"event":"none","iotype":"read","errno":5}]}'/>
<qemu:arg value='-device'/><qemu:arg value='ide-hd,drive=broken,rerror=stop,werror=stop,bootindex=0'/>
</qemu:commandline></domain>`,
	).Replace(g.XML)
	return g
}

func (h *Host) guest(n int, image string, extra []byte, onCrash, devices string) Guest {
	h.t.Helper()
	g := Guest{Name: fmt.Sprintf("vm%d", n), UUID: fmt.Sprintf("22222222-2222-3333-4444-%012d", n)}
	g.Log = h.Path("files", g.Name+".log")
	path := h.Path("files", image+".img")
	if _, err := os.Stat(path); err != nil {
		if err := os.WriteFile(path, floppy(extra), 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
	g.XML = fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>4</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><boot dev='fd'/></os><features><acpi/></features>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>%s</on_crash>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='%s'/><target dev='fda' bus='fdc'/><readonly/></disk>
<serial type='file'><source path='%s'/><target port='0'/></serial>%s
<controller type='usb' model='none'/><memballoon model='none'/></devices><seclabel type='none'/></domain>`,
		g.Name, g.UUID, onCrash, path, g.Log, devices)
	return g
}

// PressKey makes the guest, which runs, power itself off.
func (h *Host) PressKey(g Guest) {
	h.t.Helper()
	h.Run("virsh", "send-key", g.Name, "KEY_Q")
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

package vmlab

import (
	"encoding/xml"
	"fmt"
	"strings"
	"text/template"

	"ringfence/internal/vmlab/agent"
)

// commandLine is that of the guests' kernel: what an emulated guest need not find
// out by waiting, is told. panic=0: a kernel that panics hangs, and its QEMU runs on.
const commandLine = "console=ttyS0 quiet panic=0 net.ifnames=0 nokaslr mitigations=off tsc=reliable no_timer_check lpj=10000000 " +
	"random.trust_cpu=on i8042.noaux audit=0 cryptomgr.notests=1 nowatchdog rcupdate.rcu_expedited=1"

// Port is a line between a guest and a unix socket on its host, where QEMU
// listens. A name is that of a virtio-serial port; without one it is a serial
// line, of which the first is ttyS1.
type Port struct{ Name, Socket string }

// Domain is a Linux guest for libvirt. All paths are absolute.
type Domain struct {
	Name, UUID string
	MemoryMiB  int
	Kernel     Kernel
	Initrd     string // from Initramfs.Write
	Console    string // file with what the guest prints
	Agent      string // socket of the agent's port
	Disk       string // raw image; "" for none
	Bridge     string // "" for no network
	MAC        string
	Ports      []Port
}

// XML returns the domain for libvirt's QEMU driver. The guest is emulated, so
// that no KVM is needed.
func (d Domain) XML() (string, error) {
	view := struct {
		Domain
		CommandLine, Tap string
		Serial, Channels []Port
	}{Domain: d, CommandLine: commandLine, Tap: Tap(d.Name), Channels: []Port{{agent.Port, d.Agent}}}
	for _, p := range d.Ports {
		if p.Name == "" {
			view.Serial = append(view.Serial, p)
		} else {
			view.Channels = append(view.Channels, p)
		}
	}
	var out strings.Builder
	if err := domain.Execute(&out, view); err != nil {
		return "", fmt.Errorf("domain %s: %w", d.Name, err)
	}
	return out.String(), nil
}

func escape(text string) (string, error) {
	var out strings.Builder
	err := xml.EscapeText(&out, []byte(text))
	return out.String(), err
}

// Tap is the name of a guest's link on its host.
func Tap(guest string) string { return guest + "-tap" }

func next(i int) int { return i + 1 }

// A disk's writes outlive its guest in the machine's page cache, and no test
// takes the power from this machine: the guest need not wait for its flushes.
var domain = template.Must(template.New("domain").Funcs(template.FuncMap{"x": escape, "next": next}).Parse(`<domain type='qemu'>
  <name>{{x .Name}}</name>
  <uuid>{{x .UUID}}</uuid>
  <memory unit='MiB'>{{.MemoryMiB}}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{{x .Kernel.Image}}</kernel>
    <initrd>{{x .Initrd}}</initrd>
    <cmdline>{{x .CommandLine}}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
{{- if .Disk}}
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='unsafe'/>
      <source file='{{x .Disk}}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
{{- end}}
{{- if .Bridge}}
    <interface type='bridge'>
      <mac address='{{x .MAC}}'/>
      <source bridge='{{x .Bridge}}'/>
      <target dev='{{x .Tap}}'/>
      <model type='virtio'/>
    </interface>
{{- end}}
    <serial type='file'><source path='{{x .Console}}'/><target port='0'/></serial>
{{- range $i, $p := .Serial}}
    <serial type='unix'><source mode='bind' path='{{x $p.Socket}}'/><target port='{{next $i}}'/></serial>
{{- end}}
{{- range .Channels}}
    <channel type='unix'><source mode='bind' path='{{x .Socket}}'/><target type='virtio' name='{{x .Name}}'/></channel>
{{- end}}
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
  <seclabel type='none'/>
</domain>
`))

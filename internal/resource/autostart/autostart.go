// Package autostart finds what would start managed things by itself: a unit that
// is enabled, a line of fstab, an address in the network configuration. Such a
// machine runs the service after its next start, whoever owns it (rule P24).
// internal/node asks it for every service before it takes part, and again at
// intervals; it only reads.
//
// What it looks at: /etc/fstab, units of systemd, the links of SysV init that
// systemd honours, and static addresses of ifupdown, systemd-networkd,
// NetworkManager and netplan. What it does not see: cron, rc.local, other init
// systems, cluster managers, volume groups that activate themselves.
//
// The invariant: a finding is a thing of the service itself, never one that
// merely resembles it (an interpreter, a second instance of the same program
// with other arguments, a line that starts nothing), since a finding keeps the
// service off the node. Files are read up to a bound; what does not parse is
// passed over.
package autostart

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"ringfence/internal/cluster"
)

// Bounds of what is read.
const (
	fileLimitBytes = 256 << 10
	entryLimit     = 4096 // entries of one directory
	unitLimit      = 2048 // units that are followed
)

// Finding is one thing that would start by itself.
type Finding struct {
	Resource string // name of the resource
	Source   string // file, with line where there is one
	What     string // what it does
	Fix      string // a command, or what to change
}

func (f Finding) String() string {
	return fmt.Sprintf("resource %s: %s %s; %s", f.Resource, f.Source, f.What, f.Fix)
}

// Machine is what a machine would start by itself, at the time of Read.
type Machine struct {
	root      fs.FS
	mounts    []mount
	units     []unit
	addresses []address
}

// Read looks through the file system of a machine; root is its "/".
func Read(root fs.FS) *Machine {
	m := &Machine{root: root}
	u := readUnits(root)
	m.units = u.startable()
	m.mounts = append(readFstab(root), u.mounts()...)
	m.addresses = readAddresses(root, u)
	return m
}

// Find returns what would start a resource of the service, in the order of its
// resources. Parameters that do not parse are the business of the agents.
func (m *Machine) Find(def cluster.ServiceConfig) []Finding {
	var found []Finding
	for _, r := range def.Resources {
		for _, f := range m.findResource(r) {
			f.Resource = r.Name
			found = append(found, f)
		}
	}
	return found
}

func (m *Machine) findResource(r cluster.Resource) []Finding {
	kind := r.Agent
	if parts := strings.Split(r.Agent, ":"); len(parts) == 3 && parts[0] == "ocf" {
		kind = parts[1] + ":" + parts[2]
	}
	switch kind {
	case "exec":
		return m.findCommand(r.Params)
	case "ip":
		return m.findAddress(r.Params["address"])
	case "heartbeat:IPaddr2", "heartbeat:IPaddr":
		return m.findAddress(r.Params["ip"])
	case "heartbeat:IPv6addr":
		return m.findAddress(r.Params["ipv6addr"])
	case "heartbeat:Filesystem":
		return m.findMount(r.Params["device"], r.Params["directory"])
	}
	return m.findAgentUnits(kind, r.Params)
}

// read returns the beginning of a file, "" when it cannot be read.
func read(root fs.FS, name string) string {
	f, err := root.Open(name)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "" // a pipe would block
	}
	data, err := io.ReadAll(io.LimitReader(f, fileLimitBytes))
	if err != nil {
		return ""
	}
	return string(data)
}

// list returns the names in a directory, sorted, at most entryLimit.
func list(root fs.FS, dir string) []string {
	f, err := root.Open(dir)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	d, ok := f.(fs.ReadDirFile)
	if !ok {
		return nil
	}
	entries, _ := d.ReadDir(entryLimit)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}

// linkLimit bounds how many links one name may go through.
const linkLimit = 8

// resolve follows the links of a name itself, not of its directories. Names are
// absolute.
func resolve(root fs.FS, name string) string {
	for range linkLimit {
		target, err := fs.ReadLink(root, strings.TrimPrefix(name, "/"))
		if err != nil {
			return name
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		name = path.Clean(target)
	}
	return name
}

package autostart

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// mount is a file system that is mounted at boot.
type mount struct {
	device, directory string
	source, fix       string
}

// readFstab returns the mounts of /etc/fstab that happen at boot.
func readFstab(root fs.FS) []mount {
	var mounts []mount
	for i, line := range strings.Split(read(root, "etc/fstab"), "\n") {
		m, ok := parseFstab(line)
		if !ok {
			continue
		}
		m.source = fmt.Sprintf("/etc/fstab:%d", i+1)
		m.fix = fmt.Sprintf("add the option noauto to line %d of /etc/fstab, then run: systemctl daemon-reload", i+1)
		mounts = append(mounts, m)
	}
	return mounts
}

// parseFstab reads one line; ok is false where it mounts nothing at boot.
func parseFstab(line string) (m mount, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
		return m, false
	}
	if len(fields) > 3 && slices.Contains(strings.Split(fields[3], ","), "noauto") {
		return m, false
	}
	return mount{device: unescape(fields[0]), directory: unescape(fields[1])}, true
}

// unescape undoes the octal escapes of fstab(5).
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// findMount looks for mounts of a device or at a directory.
func (m *Machine) findMount(device, directory string) []Finding {
	var found []Finding
	device = m.device(device)
	for _, one := range m.mounts {
		sameDir := directory != "" && path.IsAbs(one.directory) && path.Clean(one.directory) == path.Clean(directory)
		if sameDir || device != "" && m.device(one.device) == device {
			found = append(found, Finding{
				Source: one.source, What: fmt.Sprintf("mounts %s on %s at boot", one.device, one.directory), Fix: one.fix,
			})
		}
	}
	return found
}

// device returns one name for a block device, however it is written; "" for
// what is no device of this machine, such as an export of an NFS server, which
// may be mounted in many places.
func (m *Machine) device(name string) string {
	if tag, value, ok := strings.Cut(name, "="); ok {
		dir := map[string]string{"UUID": "by-uuid", "LABEL": "by-label", "PARTUUID": "by-partuuid", "PARTLABEL": "by-partlabel"}[tag]
		value = strings.Trim(value, `"`)
		if dir == "" || value == "" || strings.Contains(value, "/") {
			return ""
		}
		name = "/dev/disk/" + dir + "/" + value
	}
	if !strings.HasPrefix(name, "/dev/") {
		return ""
	}
	return resolve(m.root, path.Clean(name))
}

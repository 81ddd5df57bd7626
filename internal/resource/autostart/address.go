package autostart

import (
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// address is one that the network configuration sets at boot.
type address struct {
	addr   netip.Addr
	source string
}

// findAddress looks for an address, written with or without prefix length.
func (m *Machine) findAddress(text string) []Finding {
	want, ok := parseAddr(text)
	if !ok {
		return nil
	}
	var found []Finding
	for _, a := range m.addresses {
		if a.addr == want {
			found = append(found, Finding{
				Source: a.source, What: fmt.Sprintf("sets the address %s at boot", want), Fix: "remove it there; ringfence sets it where it belongs",
			})
		}
	}
	return found
}

// parseAddr reads an address with or without prefix length, quotes and zone.
func parseAddr(text string) (netip.Addr, bool) {
	text, _, _ = strings.Cut(strings.Trim(strings.TrimSpace(text), `"'`), "/")
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.IsUnspecified() {
		return addr, false // networkd draws from a pool for 0.0.0.0
	}
	return addr.Unmap().WithZone(""), true
}

// readAddresses reads the configuration of the network daemons that a boot starts.
func readAddresses(root fs.FS, u *units) []address {
	var out []address
	if u.runs("networking.service") {
		files := []string{"etc/network/interfaces"}
		for _, name := range list(root, "etc/network/interfaces.d") {
			files = append(files, "etc/network/interfaces.d/"+name)
		}
		out = append(out, interfaces(root, files)...)
	}
	if u.systemd && u.runs("systemd-networkd.service") {
		for _, file := range overriding(root, []string{"etc/systemd/network", "run/systemd/network", "usr/lib/systemd/network"}, ".network") {
			out = append(out, networkd(parseSettings("/"+file, read(root, file)))...)
		}
	}
	if u.runs("NetworkManager.service") {
		for _, dir := range []string{"etc/NetworkManager/system-connections", "run/NetworkManager/system-connections", "usr/lib/NetworkManager/system-connections"} {
			for _, name := range list(root, dir) {
				out = append(out, keyfile(parseSettings("/"+dir+"/"+name, read(root, dir+"/"+name)))...)
			}
		}
	}
	for _, file := range overriding(root, []string{"run/netplan", "etc/netplan", "lib/netplan"}, ".yaml") {
		out = append(out, netplan("/"+file, read(root, file))...)
	}
	return out
}

// overriding lists the files of several directories, of those with one name the
// first only.
func overriding(root fs.FS, dirs []string, ext string) []string {
	var files, seen []string
	for _, dir := range dirs {
		for _, name := range list(root, dir) {
			if path.Ext(name) == ext && !slices.Contains(seen, name) {
				seen = append(seen, name)
				files = append(files, dir+"/"+name)
			}
		}
	}
	return files
}

// interfaces reads ifupdown's files: the static addresses of interfaces that are
// brought up at boot or when they appear, in whatever file it says so.
func interfaces(root fs.FS, files []string) []address {
	type found struct {
		link string
		address
	}
	var all []found
	automatic := map[string]bool{}
	for _, file := range files {
		link, loopback := "", false
		for i, line := range strings.Split(read(root, file), "\n") {
			fields := strings.Fields(line)
			if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
				continue
			}
			source := fmt.Sprintf("/%s:%d", file, i+1)
			switch key := fields[0]; {
			case key == "auto" || strings.HasPrefix(key, "allow-"):
				for _, name := range fields[1:] {
					automatic[name] = true
				}
			case key == "iface":
				link, loopback = fields[1], slices.Contains(fields, "loopback")
			case key == "mapping" || key == "source" || key == "source-directory" || key == "no-auto-down" || key == "no-scripts" || key == "template":
				link = ""
			case key == "address" && !loopback:
				if addr, ok := parseAddr(fields[1]); ok {
					all = append(all, found{link, address{addr, source}})
				}
			case key == "up" || key == "pre-up" || key == "post-up":
				if addr, ok := added(fields[1:]); ok {
					all = append(all, found{link, address{addr, source}})
				}
			}
		}
	}
	var out []address
	for _, one := range all {
		if automatic[one.link] {
			out = append(out, one.address)
		}
	}
	return out
}

// added finds the address of `ip address add A`.
func added(fields []string) (netip.Addr, bool) {
	for i := 1; i+1 < len(fields); i++ {
		if fields[i] == "add" && strings.HasPrefix("address", fields[i-1]) && len(fields[i-1]) > 0 {
			return parseAddr(fields[i+1])
		}
	}
	return netip.Addr{}, false
}

// networkd reads one .network file.
func networkd(text settings) []address {
	var out []address
	for _, s := range text {
		if s.key == "Address" && (s.section == "Network" || s.section == "Address") {
			if addr, ok := parseAddr(s.value); ok {
				out = append(out, address{addr, fmt.Sprintf("%s:%d", s.file, s.line)})
			}
		}
	}
	return out
}

// keyfile reads one connection of NetworkManager.
func keyfile(text settings) []address {
	var out []address
	for _, s := range text {
		switch {
		case s.section == "connection" && s.key == "autoconnect" && (s.value == "false" || s.value == "no" || s.value == "0"):
			return nil
		case s.section != "ipv4" && s.section != "ipv6":
		case s.key == "addresses" || strings.HasPrefix(s.key, "address") && strings.Trim(s.key[len("address"):], "0123456789") == "":
			for _, one := range strings.Split(s.value, ";") {
				one, _, _ = strings.Cut(one, ",") // behind it stands the gateway
				if addr, ok := parseAddr(one); ok {
					out = append(out, address{addr, fmt.Sprintf("%s:%d", s.file, s.line)})
				}
			}
		}
	}
	return out
}

// netplan reads the addresses of one file: what stands under a key addresses and
// has a prefix length, which addresses of name servers have not. It knows of YAML
// what netplan's files use: blocks by indentation, and lists in brackets on one
// line or more.
func netplan(file, text string) []address {
	var out []address
	depth, inside, open := 0, false, false
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, " #")
		item := strings.TrimLeft(line, " ")
		indent := len(line) - len(item)
		rest := strings.TrimSpace(item)
		if rest == "" || strings.HasPrefix(rest, "#") {
			continue
		}
		dash := strings.HasPrefix(rest, "-")
		switch value, isKey := strings.CutPrefix(rest, "addresses:"); {
		case isKey:
			depth, inside, rest = indent, true, value
		case !inside, !open && (indent < depth || indent == depth && !dash):
			inside = false
			continue
		}
		open = (open || strings.Contains(rest, "[")) && !strings.Contains(rest, "]")
		for _, token := range strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune("[]{}, -\"'", r) }) {
			token = strings.TrimSuffix(token, ":")
			if prefix, err := netip.ParsePrefix(token); err == nil {
				out = append(out, address{prefix.Addr(), fmt.Sprintf("%s:%d", file, i+1)})
			}
		}
	}
	return out
}

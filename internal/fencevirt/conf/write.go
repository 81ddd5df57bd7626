package conf

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"ringfence/internal/fencevirt"
	"ringfence/internal/wire/xvm"
)

// Convert writes a configuration in the other format. What has no meaning there
// stands in it as a comment; what restricts anybody is never left out: then it
// fails, with everything that cannot be said.
func Convert(f File) ([]byte, error) {
	if f.Format == FormatTOML {
		return writeVirt(f)
	}
	return writeTOML(f)
}

// writer collects text, and what cannot be written.
type writer struct {
	strings.Builder
	unsayable []string
}

func (w *writer) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

func (w *writer) cannot(format string, args ...any) {
	w.unsayable = append(w.unsayable, fmt.Sprintf(format, args...))
}

func (w *writer) result(format Format) ([]byte, error) {
	if len(w.unsayable) > 0 {
		return nil, fmt.Errorf("a %s cannot say: %s", format, strings.Join(w.unsayable, "; "))
	}
	return []byte(w.String()), nil
}

func (w *writer) dropped(f File) {
	w.line("# From %s by `ringfence hostd config convert`.", comment(f.Path))
	for _, d := range f.Dropped {
		w.line("# not taken over from line %d: %s", d.Line, comment(d.Message))
	}
}

// comment makes a text fit for a comment of one line.
func comment(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

func writeTOML(f File) ([]byte, error) {
	w := &writer{}
	w.dropped(f)
	w.line("\n[hypervisor]\nuris = %s", w.list(unique(f.URIs)))
	if f.WaitForInit {
		w.line("wait = true")
	}
	if len(f.Server.Guests) > 0 {
		w.line("\n[guests]\nmap = %s", w.list(f.Server.Guests))
	}
	for _, l := range f.Server.Listeners {
		w.tomlListener(l)
	}
	return w.result(FormatTOML)
}

func (w *writer) tomlListener(l fencevirt.Listener) {
	w.line("\n[[listener]]\nkind = %s", w.text(string(l.Kind)))
	if l.Address.IsValid() {
		w.line("address = %s", w.text(l.Address.String()))
	}
	if l.Port != 0 {
		w.line("port = %d", l.Port)
	}
	if len(l.Interfaces) > 0 {
		w.line("interfaces = %s", w.list(l.Interfaces))
	}
	if l.Dir != "" {
		if !filepath.IsAbs(l.Dir) {
			w.cannot("%s: path %q, which is not absolute", l.Where, l.Dir)
		}
		w.line("dir = %s", w.text(l.Dir))
	}
	if l.PortName != "" {
		w.line("port_name = %s", w.text(l.PortName))
	}
	byLine := lines(l.Kind)
	for _, k := range l.Keys {
		if byLine {
			w.tomlGroups("listener.group", k.Groups)
			continue
		}
		w.line("\n[[listener.key]]")
		if k.Name != "" {
			if !filepath.IsAbs(k.Name) {
				w.cannot("%s: key file %q, which is not absolute", l.Where, k.Name)
			}
			w.line("file = %s", w.text(k.Name))
		}
		w.line("hash = %s\nauth = %s", w.text(k.Hash.String()), w.text(k.Auth.String()))
		w.tomlGroups("listener.key.group", k.Groups)
	}
}

// lines says whether a listener knows requesters by their own line.
func lines(k fencevirt.Kind) bool {
	return k == fencevirt.KindSerial || k == fencevirt.KindVMChannel || k == fencevirt.KindVirtio
}

func (w *writer) tomlGroups(header string, groups []fencevirt.Group) {
	if groups == nil {
		return
	}
	if len(groups) == 0 {
		w.line("group = []") // without it, everybody could deal with all guests
	}
	for _, g := range groups {
		w.line("\n[[%s]]", header)
		if g.Name != "" {
			w.line("name = %s", w.text(g.Name))
		}
		if len(g.From) > 0 {
			w.line("from = %s", w.list(g.From))
		}
		w.line("guests = %s", w.list(g.Guests))
	}
}

// unique leaves out repetitions.
func unique(in []string) (out []string) {
	seen := map[string]bool{}
	for _, s := range in {
		if !seen[s] {
			out = append(out, s)
		}
		seen[s] = true
	}
	return out
}

func (w *writer) list(in []string) string {
	out := make([]string, 0, len(in))
	for _, s := range in {
		out = append(out, w.text(s))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// text quotes a string for TOML.
func (w *writer) text(s string) string {
	if !utf8.ValidString(s) {
		w.cannot("%q, which is not UTF-8", s)
	}
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			out.WriteRune('\\')
			out.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&out, `\u%04X`, r)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}

func writeVirt(f File) ([]byte, error) {
	w := &writer{}
	if len(f.Server.Listeners) != 1 {
		return nil, errors.New("a fence_virt.conf has exactly one listener, and this file has " + strconv.Itoa(len(f.Server.Listeners)))
	}
	if len(f.Server.Guests) > 0 {
		w.cannot("[guests], the map of guests")
	}
	l := f.Server.Listeners[0]
	name, ok := virtName(l.Kind)
	switch {
	case !ok:
		w.cannot("%s: a listener of kind %s", l.Where, l.Kind)
	case len(l.Keys) != 1:
		w.cannot("%s: %d keys; it has one", l.Where, len(l.Keys))
	case len(l.Interfaces) > 1:
		w.cannot("%s: %d interfaces; it has one", l.Where, len(l.Interfaces))
	}
	if l.NoDiagnosis {
		w.cannot("%s: diagnose = false", l.Where)
	}
	if len(w.unsayable) > 0 {
		return w.result(FormatVirt)
	}
	w.dropped(f)
	w.line("fence_virtd {\n\tlistener = %s;\n\tbackend = \"libvirt\";", w.value(name))
	if f.WaitForInit {
		w.line("\twait_for_init = \"1\";")
	}
	w.line("}\n\nlisteners {\n\t%s {", name)
	w.virtListener(l)
	w.line("\t}\n}\n\nbackends {\n\tlibvirt {")
	for i, uri := range f.URIs {
		number := ""
		if i > 0 {
			number = strconv.Itoa(i)
		}
		w.line("\t\turi%s = %s;", number, w.value(uri))
	}
	w.line("\t}\n}")
	w.virtGroups(l.Keys[0].Groups)
	return w.result(FormatVirt)
}

func virtName(k fencevirt.Kind) (string, bool) {
	switch k {
	case fencevirt.KindMulticast, fencevirt.KindTCP, fencevirt.KindVsock, fencevirt.KindSerial:
		return string(k), true
	case fencevirt.KindVMChannel:
		return string(fencevirt.KindSerial), true
	}
	return "", false
}

func (w *writer) virtListener(l fencevirt.Listener) {
	set := func(key, value string) {
		if value != "" {
			w.line("\t\t%s = %s;", key, w.value(value))
		}
	}
	if lines(l.Kind) {
		set("path", l.Dir)
		set("mode", string(l.Kind))
		return
	}
	if l.Address.IsValid() {
		set("family", map[bool]string{true: "ipv4", false: "ipv6"}[l.Address.Is4()])
		set("address", l.Address.String())
	}
	set("port", strconv.Itoa(int(l.Port)))
	for _, one := range l.Interfaces {
		set("interface", one)
	}
	k := l.Keys[0]
	set("key_file", k.Name)
	set("hash", k.Hash.String())
	if l.Kind != fencevirt.KindMulticast && k.Auth != xvm.HashSHA256 {
		w.line("\t\t# The C daemon takes auth as hash here, and authenticates with sha256.")
	}
	if l.Kind == fencevirt.KindMulticast || k.Auth != xvm.HashSHA256 {
		set("auth", k.Auth.String())
	}
}

func (w *writer) virtGroups(groups []fencevirt.Group) {
	if groups == nil {
		return
	}
	if len(groups) == 0 {
		w.cannot("that nobody may deal with any guest")
	}
	w.line("\ngroups {")
	for _, g := range groups {
		w.line("\tgroup {")
		if g.Name != "" {
			w.line("\t\tname = %s;", w.value(g.Name))
		}
		for _, one := range g.From {
			w.line("\t\tip = %s;", w.value(one))
		}
		for _, one := range g.Guests {
			w.line("\t\tuuid = %s;", w.value(one))
		}
		w.line("\t}")
	}
	w.line("}")
}

// value quotes a string for fence_virt.conf, which has no escapes.
func (w *writer) value(s string) string {
	if strings.Contains(s, `"`) {
		w.cannot("%q, for it holds a quote", s)
	}
	return `"` + s + `"`
}

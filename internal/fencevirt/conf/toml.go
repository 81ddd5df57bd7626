package conf

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"ringfence/internal/config/tomltree"
	"ringfence/internal/fencevirt"
	"ringfence/internal/wire/xvm"
)

// tomlReader gives a hostd.toml its meaning.
type tomlReader struct {
	tomltree.Reader
	world    world
	path     string
	lines    tomltree.Lines
	warnings []tomltree.Problem
}

func parseTOML(path string, data []byte, w world) (File, error) {
	root, err := tomltree.Parse(data)
	if err != nil {
		return File{}, &InvalidError{Faults: tomltree.Errors{tomltree.SyntaxError(path, err)}}
	}
	r := &tomlReader{world: w, path: path, lines: tomltree.NewLines(data)}
	f := r.file(root)
	if len(r.Problems) > 0 {
		return File{}, invalid(path, data, r.Problems...)
	}
	f.Path, f.Format, f.Warnings = path, FormatTOML, notes(path, r.lines, r.warnings)
	return f, nil
}

// Keys of the tables of a hostd.toml.
func tomlKeys(table string) []string {
	return map[string][]string{
		"the file":                      {"hypervisor", "guests", "listener"},
		"[hypervisor]":                  {"uris", "wait"},
		"[guests]":                      {"map"},
		"[[listener]]":                  {"kind", "address", "port", "interfaces", "dir", "port_name", "diagnose", "key", "group"},
		"[[listener.key]]":              {"file", "hash", "auth", "group"},
		"[[listener.key.group]]":        {"name", "from", "guests"},
		"[[listener.group]]":            {"name", "from", "guests"},
		string(fencevirt.KindTCP):       {"address", "port", "diagnose", "key"},
		string(fencevirt.KindUDP):       {"address", "port", "diagnose", "key"},
		string(fencevirt.KindVsock):     {"port", "key"},
		string(fencevirt.KindMulticast): {"address", "port", "interfaces", "diagnose", "key"},
		string(fencevirt.KindSerial):    {"dir", "group"},
		string(fencevirt.KindVMChannel): {"dir", "group"},
		string(fencevirt.KindVirtio):    {"dir", "port_name", "group"},
	}[table]
}

// DefaultPortName is the name of a virtio port in a guest unless told otherwise.
const DefaultPortName = "org.ringfence.fence"

func (r *tomlReader) file(root *tomltree.Node) (f File) {
	r.Known(root, "the file", tomlKeys("the file")...)
	f.URIs = []string{DefaultURI}
	if t := r.table(root, "hypervisor"); t != nil {
		if t.Table["uris"] != nil {
			if f.URIs = r.strings(t, "uris"); len(f.URIs) > uriLimit {
				r.Report(t.Table["uris"].At, "uris holds more than %d hypervisors", uriLimit)
			}
		}
		f.WaitForInit = r.boolean(t, "wait")
	}
	if t := r.table(root, "guests"); t != nil {
		if f.Server.Guests = r.strings(t, "map"); t.Table["map"] == nil {
			r.Report(t.At, "[guests] has no map: name the guests that this host is to have, or take [guests] out")
		}
	}
	tables := r.Tables(root, "listener", "[[listener]]")
	if len(tables) == 0 && root.Table["listener"] == nil {
		r.warnings = append(r.warnings, tomltree.Problem{Message: "the file has no [[listener]]: no client of fence_virt is served"})
	}
	for i, t := range tables {
		if i == listenerLimit {
			r.Report(t.At, "the file has more than %d listeners", listenerLimit)
			break
		}
		l := r.listener(t)
		for i, other := range f.Server.Listeners {
			if why := collide(l, other); why != "" {
				r.Report(t.At, "this listener and that of %s %s", f.Server.Listeners[i].Where, why)
				break
			}
		}
		f.Server.Listeners = append(f.Server.Listeners, l)
	}
	return f
}

// table returns a table with its keys checked; nil when there is none.
func (r *tomlReader) table(t *tomltree.Node, name string) *tomltree.Node {
	n := t.Table[name]
	if n == nil {
		return nil
	}
	if n.Kind != tomltree.KindTable {
		r.Report(n.Key, "%s is %s, want a table: write [%s]", name, n.Describe(), name)
		return nil
	}
	header := "[" + name + "]"
	r.Known(n, header, tomlKeys(header)...)
	return n
}

func (r *tomlReader) strings(t *tomltree.Node, name string) (out []string) {
	n := t.Table[name]
	if n == nil {
		return nil
	}
	seen := map[string]bool{}
	for _, e := range r.Texts(n, name) {
		switch {
		case e.Text == "":
			r.Report(e.At, "%s holds an empty string", name)
		case seen[e.Text]:
			r.Report(e.At, "%s holds %s twice", name, tomltree.Quote(e.Text))
		}
		seen[e.Text] = true
		out = append(out, e.Text)
	}
	return out
}

func (r *tomlReader) boolean(t *tomltree.Node, name string) bool {
	n := t.Table[name]
	if n == nil {
		return false
	}
	if n.Kind != tomltree.KindBool {
		r.Report(n.At, "%s is %s, want true or false", name, n.Describe())
	}
	return n.Text == "true"
}

// string returns a string that may be missing.
func (r *tomlReader) string(t *tomltree.Node, name, preset string) string {
	if n, ok := r.Text(t, name, "", false); ok {
		return n.Text
	}
	return preset
}

func (r *tomlReader) listener(t *tomltree.Node) (l fencevirt.Listener) {
	line, _ := r.lines.Position(t.At)
	l.Where = fmt.Sprintf("%s:%d", r.path, line)
	r.Known(t, "[[listener]]", tomlKeys("[[listener]]")...)
	kind, ok := r.Text(t, "kind", "[[listener]]", true)
	if !ok {
		return l
	}
	l.Kind = fencevirt.Kind(kind.Text)
	if !slices.Contains(fencevirt.Kinds(), l.Kind) {
		r.Report(kind.At, "kind = %s; allowed are %s", tomltree.Quote(kind.Text), kinds())
		return l
	}
	allowed := tomlKeys(kind.Text)
	for _, name := range tomlKeys("[[listener]]")[1:] {
		if n := t.Table[name]; n != nil && !slices.Contains(allowed, name) {
			r.Report(n.Key, "a listener of kind %s has no %s; it has %s", l.Kind, name, strings.Join(allowed, ", "))
		}
	}
	if slices.Contains(allowed, "port") {
		l.Port = uint16(r.Number(t, "port", xvm.DefaultPort, 1, 65535))
	}
	if slices.Contains(allowed, "address") {
		l.Address = r.address(t, l.Kind)
	}
	if slices.Contains(allowed, "interfaces") {
		l.Interfaces = r.strings(t, "interfaces")
	}
	if slices.Contains(allowed, "diagnose") {
		l.NoDiagnosis = t.Table["diagnose"] != nil && !r.boolean(t, "diagnose")
	}
	if slices.Contains(allowed, "dir") {
		l.Dir = r.dir(t)
	}
	if slices.Contains(allowed, "port_name") {
		l.PortName = r.string(t, "port_name", DefaultPortName)
	}
	if slices.Contains(allowed, "group") {
		l.Keys = []fencevirt.Key{{Groups: r.groups(t, "[[listener.group]]")}}
		return l
	}
	l.Keys = r.keys(t)
	if t.Table["key"] == nil {
		r.Report(t.At, "[[listener]] has no [[listener.key]]: name a file with a key, or write hash = \"none\" and auth = \"none\" there")
	}
	return l
}

// keys reads keys that nothing but what a client knows tells apart.
func (r *tomlReader) keys(t *tomltree.Node) (out []fencevirt.Key) {
	contents, hashless := map[string]string{}, false
	for i, n := range r.Tables(t, "key", "[[listener.key]]") {
		if i == listenerLimit {
			r.Report(n.At, "the listener has more than %d keys", listenerLimit)
			break
		}
		k := r.key(n)
		before, known := contents[string(k.Secret)]
		switch {
		case len(k.Secret) > 0 && known:
			r.Report(n.At, "key %s is the same as %s: put their groups together", k.Name, before)
		case k.Hash == xvm.HashNone && hashless:
			r.Report(n.At, "a second key with hash = \"none\": nothing would tell the requests apart")
		}
		contents[string(k.Secret)], hashless = k.Name, hashless || k.Hash == xvm.HashNone
		out = append(out, k)
	}
	return out
}

func kinds() string {
	var out []string
	for _, k := range fencevirt.Kinds() {
		out = append(out, string(k))
	}
	return strings.Join(out, ", ")
}

func (r *tomlReader) address(t *tomltree.Node, kind fencevirt.Kind) netip.Addr {
	if t.Table["address"] == nil && kind == fencevirt.KindMulticast {
		return netip.MustParseAddr(xvm.DefaultGroup4)
	}
	n, ok := r.Text(t, "address", fmt.Sprintf("[[listener]] of kind %s", kind), true)
	if !ok {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(n.Text)
	switch {
	case err != nil:
		r.Report(n.At, "address = %s: want an IP address", tomltree.Quote(n.Text))
	case kind == fencevirt.KindMulticast && (!a.IsMulticast() || a.Zone() != ""):
		r.Report(n.At, "address = %s is no multicast group; want for instance %s or %s", tomltree.Quote(n.Text), xvm.DefaultGroup4, xvm.DefaultGroup6)
	case kind != fencevirt.KindMulticast && a.IsMulticast():
		r.Report(n.At, "address = %s is a multicast group; want a local address for kind %s", tomltree.Quote(n.Text), kind)
	}
	return a
}

func (r *tomlReader) dir(t *tomltree.Node) string {
	n, ok := r.Text(t, "dir", "", false)
	if !ok {
		return ""
	}
	if !filepath.IsAbs(n.Text) {
		r.Report(n.At, "dir = %s: want an absolute path", tomltree.Quote(n.Text))
	}
	return n.Text
}

func (r *tomlReader) hash(t *tomltree.Node, name string) xvm.Hash {
	n, ok := r.Text(t, name, "", false)
	if !ok {
		return xvm.HashSHA256
	}
	h, err := xvm.ParseHash(n.Text)
	if err != nil {
		r.Report(n.At, "%s: %s", name, err)
	}
	return h
}

func (r *tomlReader) key(t *tomltree.Node) fencevirt.Key {
	r.Known(t, "[[listener.key]]", tomlKeys("[[listener.key]]")...)
	k := fencevirt.Key{Hash: r.hash(t, "hash"), Auth: r.hash(t, "auth"), Groups: r.groups(t, "[[listener.key.group]]")}
	open := k.Hash == xvm.HashNone && k.Auth == xvm.HashNone
	if open {
		r.warnings = append(r.warnings, tomltree.Problem{At: t.At, Message: "hash and auth are none: everybody who reaches this listener may turn guests off"})
	}
	n, ok := r.Text(t, "file", "[[listener.key]] with hash or auth", !open)
	if !ok {
		return k
	}
	if !filepath.IsAbs(n.Text) {
		r.Report(n.At, "file = %s: want an absolute path", tomltree.Quote(n.Text))
		return k
	}
	secret, remarks, err := r.world.key(n.Text)
	if err != nil {
		r.Report(n.At, "key file: %s", err)
	}
	for _, remark := range remarks {
		r.Report(n.At, "key file %s %s", n.Text, remark)
	}
	k.Name, k.Secret = n.Text, secret
	return k
}

// groups returns nil where none is named: everybody may deal with all guests.
func (r *tomlReader) groups(t *tomltree.Node, header string) (out []fencevirt.Group) {
	if n := t.Table["group"]; n != nil {
		out = []fencevirt.Group{}
		if n.Kind == tomltree.KindList && len(n.List) == 0 {
			r.warnings = append(r.warnings, tomltree.Problem{At: n.Key, Message: "group is an empty list: nobody may deal with any guest"})
		}
	}
	for _, g := range r.Tables(t, "group", header) {
		r.Known(g, header, tomlKeys(header)...)
		line, _ := r.lines.Position(g.At)
		one := fencevirt.Group{
			Name: r.string(g, "name", ""), Where: fmt.Sprintf("%s:%d", r.path, line),
			From: r.strings(g, "from"), Guests: r.strings(g, "guests"),
		}
		if len(one.Guests) == 0 && g.Table["guests"] == nil {
			r.Report(g.At, "%s has no guests: name at least one", header)
		}
		if len(one.From) == 0 && g.Table["from"] == nil && header == "[[listener.key.group]]" {
			r.Report(g.At, "%s has no from: name at least one who may ask", header)
		}
		for _, from := range one.From {
			if !isRequester(from) {
				r.Report(g.Table["from"].At, "from holds %s, want IP addresses or numbers of vsock CIDs", tomltree.Quote(from))
			}
		}
		out = append(out, one)
	}
	return out
}

// collide says why two listeners cannot both be served; "" if they can.
func collide(a, b fencevirt.Listener) string {
	datagram := func(k fencevirt.Kind) bool { return k == fencevirt.KindMulticast || k == fencevirt.KindUDP }
	addressed := func(l fencevirt.Listener) bool { return datagram(l.Kind) || l.Kind == fencevirt.KindTCP }
	switch {
	case addressed(a) && !a.Address.IsValid(), addressed(b) && !b.Address.IsValid(): // has a fault of its own
	case datagram(a.Kind) && datagram(b.Kind), a.Kind == fencevirt.KindTCP && b.Kind == a.Kind:
		if a.Port == b.Port && overlap(a, b) {
			return fmt.Sprintf("want the same port %d", a.Port)
		}
	case a.Kind == fencevirt.KindVsock && b.Kind == a.Kind && a.Port == b.Port:
		return fmt.Sprintf("want the same port %d", a.Port)
	case a.Dir == "" || b.Dir == "" || filepath.Clean(a.Dir) == filepath.Clean(b.Dir):
		line := func(k fencevirt.Kind) bool {
			return k == fencevirt.KindSerial || k == fencevirt.KindVMChannel || k == fencevirt.KindVirtio
		}
		if a.Kind == b.Kind && line(a.Kind) && a.PortName == b.PortName {
			return fmt.Sprintf("want the same lines of kind %s", a.Kind)
		}
	}
	return ""
}

// overlap says whether something could come to the sockets of both. Multicast is
// heard on the wildcard address; the one of IPv6 takes IPv4 too, but for multicast.
func overlap(a, b fencevirt.Listener) bool {
	wide := func(l fencevirt.Listener) bool { return l.Kind == fencevirt.KindMulticast || l.Address.IsUnspecified() }
	both := func(l fencevirt.Listener) bool {
		return l.Kind != fencevirt.KindMulticast && l.Address == netip.IPv6Unspecified()
	}
	if a.Address.Is4() != b.Address.Is4() {
		return both(a) || both(b)
	}
	return a.Address == b.Address || wide(a) || wide(b)
}

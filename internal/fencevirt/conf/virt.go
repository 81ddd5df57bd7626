package conf

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"ringfence/internal/config/tomltree"
	"ringfence/internal/fencevirt"
	"ringfence/internal/wire/xvm"
)

// virtReader gives a fence_virt.conf its meaning.
type virtReader struct {
	world    world
	path     string
	lines    tomltree.Lines
	faults   []tomltree.Problem
	warnings []tomltree.Problem
	dropped  []tomltree.Problem
	noPart   int // faults that are a listener or backend that does not exist
}

func readVirt(path string, data []byte, w world) (File, error) {
	root, problem := parseVirt(string(data))
	if problem != nil {
		return File{}, invalid(path, data, *problem)
	}
	r := &virtReader{world: w, path: path, lines: tomltree.NewLines(data)}
	f := r.file(root)
	if len(r.faults) > 0 {
		err := invalid(path, data, r.faults...)
		err.NoSuchPart = len(r.faults) == r.noPart
		return File{}, err
	}
	f.Path, f.Format = path, FormatVirt
	f.Warnings, f.Dropped = notes(path, r.lines, r.warnings), notes(path, r.lines, r.dropped)
	return f, nil
}

// virtKeys are the keys of a section; of the file, its sections.
func virtKeys(section string) []string {
	return map[string][]string{
		"the file":    {"fence_virtd", "listeners", "backends", "groups"},
		"fence_virtd": {"listener", "backend", "foreground", "wait_for_init", "wait_for_backend", "debug", "module_path", "name_mode"},
		"multicast":   {"key_file", "hash", "auth", "family", "address", "port", "interface"},
		"tcp":         {"key_file", "hash", "auth", "family", "address", "port"},
		"vsock":       {"key_file", "hash", "auth", "port"},
		"serial":      {"uri", "path", "mode", "key_file"},
		"group":       {"name", "ip", "uuid"},
	}[section]
}

func (r *virtReader) report(at int, format string, args ...any) {
	r.faults = append(r.faults, tomltree.Problem{At: at, Message: fmt.Sprintf(format, args...)})
}

func (r *virtReader) warn(at int, format string, args ...any) {
	r.warnings = append(r.warnings, tomltree.Problem{At: at, Message: fmt.Sprintf(format, args...)})
}

func (r *virtReader) drop(i *item, why string) {
	if i != nil {
		r.dropped = append(r.dropped, tomltree.Problem{At: i.at, Message: fmt.Sprintf("%s = %s: %s", i.name, tomltree.Quote(i.value), why)})
	}
}

// where returns a place for messages of later times.
func (r *virtReader) where(at int) string {
	line, _ := r.lines.Position(at)
	return fmt.Sprintf("%s:%d", r.path, line)
}

// find returns what a name stands for: of repeated keys and sections the last one
// counts, in any case. Of nothing it is nothing.
func (i *item) find(name string, section bool) *item {
	if i == nil {
		return nil
	}
	for _, one := range slices.Backward(i.items) {
		if one.section == section && strings.EqualFold(one.name, name) {
			return one
		}
	}
	return nil
}

func (i *item) key(name string) *item { return i.find(name, false) }

func (i *item) sub(name string) *item { return i.find(name, true) }

// only warns about what a section holds besides these keys and sections, and about
// what a later repetition makes void.
func (r *virtReader) only(s *item, keys, sections, repeated []string) {
	if s == nil {
		return
	}
	type name struct {
		section bool
		name    string
	}
	last := map[name]*item{}
	for _, one := range s.items {
		last[name{one.section, strings.ToLower(one.name)}] = one
	}
	for _, one := range s.items {
		kind, known := "key", keys
		if one.section {
			kind, known = "section", sections
		}
		lower := strings.ToLower(one.name)
		switch {
		case !slices.Contains(known, lower):
			r.warn(one.at, "unknown %s %s: it is ignored; known here: %s", kind, tomltree.Quote(one.name), cmp.Or(strings.Join(known, ", "), "none"))
		case !slices.Contains(repeated, lower) && last[name{one.section, lower}] != one:
			r.warn(one.at, "%s %s stands here again further down, and only the last one counts", kind, one.name)
		}
	}
}

// number reads an integer as C's atoi does: what is none is 0.
func (r *virtReader) number(s *item, name string) int {
	i := s.key(name)
	if i == nil {
		return 0
	}
	n, err := strconv.Atoi(i.value)
	if err != nil {
		r.warn(i.valueAt, "%s = %s is no number: it counts as 0", name, tomltree.Quote(i.value))
		return 0
	}
	return n
}

func (r *virtReader) file(root *item) (f File) {
	r.only(root, nil, virtKeys("the file"), nil)
	main := root.sub("fence_virtd")
	if main == nil {
		r.report(0, `the file has no section fence_virtd: want fence_virtd { listener = "…"; backend = "libvirt"; }`)
		return f
	}
	r.only(main, virtKeys("fence_virtd"), nil, nil)
	f.Debug, f.Foreground = r.number(main, "debug"), r.number(main, "foreground") != 0
	f.WaitForInit = r.number(main, "wait_for_init") != 0 || r.number(main, "wait_for_backend") != 0
	r.drop(main.key("debug"), "give --log-level debug to `ringfence hostd run`")
	r.drop(main.key("foreground"), "`ringfence hostd run` always runs in the foreground")
	r.drop(main.key("module_path"), "listeners and backends are built in")
	r.drop(main.key("name_mode"), "a guest is found by its name and by its UUID")
	listener := main.key("listener")
	groups := r.groups(root, listener != nil && !strings.EqualFold(listener.value, "serial"))
	if l, ok := r.listener(main, root, groups); ok {
		f.Server.Listeners = []fencevirt.Listener{l}
	}
	f.URIs = r.backend(main, root)
	if listener != nil && strings.EqualFold(listener.value, "serial") {
		r.serialURI(root.sub("listeners").sub("serial").key("uri"), f.URIs)
	}
	return f
}

// uriLimit bounds the hypervisors of one daemon, and listenerLimit its listeners and
// the keys of each.
const (
	uriLimit      = 64
	listenerLimit = 64
)

// replacement says what takes the place of the backends that are gone.
func replacement(backend string) string {
	switch backend {
	case "cpg", "checkpoint", "pm-fence":
		return "the host cluster mode of Ringfence will replace it, in which the hosts are a cluster of their own"
	case "libvirt-qmf", "libvirt-qpid":
		return "the directory mode of Ringfence will replace it, in which hosts publish where guests are"
	case "null":
		return "nothing replaces it, for it could not fence"
	}
	return ""
}

func (r *virtReader) backend(main, root *item) []string {
	name := main.key("backend")
	if name == nil {
		r.report(main.at, `fence_virtd has no backend: want backend = "libvirt";`)
		return nil
	}
	which := strings.ToLower(name.value)
	if which != "libvirt" {
		r.noPart++
		if instead := replacement(which); instead != "" {
			r.report(name.valueAt, `backend %s is not served: %s; backend = "libvirt" serves the guests of this host alone`, tomltree.Quote(name.value), instead)
		} else {
			r.report(name.valueAt, "unknown backend %s; allowed is libvirt", tomltree.Quote(name.value))
		}
		return nil
	}
	s := root.sub("backends").sub("libvirt")
	if s.key("uri") == nil {
		r.report(cmp.Or(s, name).at, `backends { libvirt { … } } has no uri, and there is no default: want for instance uri = "qemu:///system";`)
		return nil
	}
	known := []string{"uri"}
	uris := []string{s.key("uri").value}
	for n := 1; s.key(fmt.Sprint("uri", n)) != nil; n++ {
		if n == uriLimit {
			r.report(s.at, "libvirt has more than %d hypervisors", uriLimit)
			return nil
		}
		known = append(known, fmt.Sprint("uri", n))
		uris = append(uris, s.key(fmt.Sprint("uri", n)).value)
	}
	for _, one := range s.items {
		number, isURI := strings.CutPrefix(strings.ToLower(one.name), "uri")
		if _, err := strconv.ParseUint(number, 10, 16); isURI && err == nil && !slices.Contains(known, strings.ToLower(one.name)) {
			r.warn(one.at, "%s is not read: numbers go on from uri1 without a gap, and uri%d is missing", one.name, len(uris))
			known = append(known, strings.ToLower(one.name))
		}
	}
	r.only(s, known, nil, nil)
	return uris
}

// groups returns nil without any section: everybody may deal with all guests.
// network says that requesters are known by their address.
func (r *virtReader) groups(root *item, network bool) []fencevirt.Group {
	s := root.sub("groups")
	if s == nil {
		return nil
	}
	r.only(s, nil, []string{"group"}, []string{"group"})
	out, any := []fencevirt.Group{}, false
	for _, one := range s.items {
		if one.section && strings.EqualFold(one.name, "group") {
			any = true
			if g := r.group(one, network); len(g.Guests) > 0 && (len(g.From) > 0 || !network) {
				out = append(out, g)
			}
		}
	}
	switch {
	case !any:
		r.report(s.at, "groups holds no group, and nobody could fence anything (the C daemon would let everybody fence everything): name at least one group, or take groups out")
	case len(out) == 0 && len(r.faults) == 0:
		r.report(s.at, "no group lets anybody deal with any guest: want ip for who may ask, and uuid for the guests, in the same group")
	}
	return out
}

func (r *virtReader) group(s *item, network bool) fencevirt.Group {
	r.only(s, virtKeys("group"), nil, []string{"ip", "uuid"})
	g := fencevirt.Group{Where: r.where(s.at)}
	if name := s.key("name"); name != nil {
		g.Name = name.value
	}
	asked := 0
	for _, one := range s.items {
		switch {
		case one.section:
		case strings.EqualFold(one.name, "ip"):
			asked++
			if isRequester(one.value) {
				g.From = append(g.From, one.value)
			} else {
				r.warn(one.valueAt, "ip = %s is neither an IP address nor the number of a vsock CID: it stands for nobody", tomltree.Quote(one.value))
			}
		case strings.EqualFold(one.name, "uuid"):
			g.Guests = append(g.Guests, one.value)
		}
	}
	g.From, g.Guests = unique(g.From), unique(g.Guests)
	nobody := ""
	switch {
	case asked == 0 && len(g.Guests) == 0:
		r.report(s.at, "this group has neither ip nor uuid (the C daemon would ignore it and every group above it): give it both, or take it out")
	case len(g.Guests) == 0:
		nobody = "this group has no uuid: nobody may deal with any guest by it"
	case len(g.From) == 0 && network:
		nobody = "this group has no ip: nobody who asks over the network is in it"
	}
	if nobody != "" {
		r.warn(s.at, "%s", nobody)
		r.dropped = append(r.dropped, tomltree.Problem{At: s.at, Message: nobody})
	}
	return g
}

// isRequester says whether an entry can stand for somebody who asks.
func isRequester(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	cid, err := strconv.ParseUint(s, 10, 32)
	return err == nil && cid > 0
}

// hash reads a hash, or its default.
func (r *virtReader) hash(s *item, name string) xvm.Hash {
	i := s.key(name)
	if i == nil {
		return xvm.HashSHA256
	}
	h, err := xvm.ParseHash(i.value)
	if err != nil {
		r.report(i.valueAt, "%s: %s", name, err)
	}
	return h
}

// virtKey reads the key of a listener whose section is s, or at is without one.
func (r *virtReader) virtKey(s *item, at int, groups []fencevirt.Group) fencevirt.Key {
	k := fencevirt.Key{Name: xvm.DefaultKeyFile, Hash: r.hash(s, "hash"), Auth: r.hash(s, "auth"), Groups: groups}
	if file := s.key("key_file"); file != nil {
		k.Name, at = file.value, file.valueAt
	}
	open := k.Hash == xvm.HashNone && k.Auth == xvm.HashNone
	if open {
		r.warn(at, "hash and auth are none: everybody who reaches this listener may turn guests off")
	}
	if !filepath.IsAbs(k.Name) {
		r.warn(at, "key_file = %s is no absolute path: it depends on where the daemon is started", tomltree.Quote(k.Name))
	}
	secret, remarks, err := r.world.key(k.Name)
	switch {
	case open && errors.Is(err, fs.ErrNotExist):
		k.Name = ""
	case err != nil:
		r.report(at, "key_file: %s", err)
	}
	for _, remark := range remarks {
		r.warn(at, "key file %s %s", k.Name, remark)
	}
	k.Secret = secret
	return k
}

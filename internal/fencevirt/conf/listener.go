package conf

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"ringfence/internal/config/tomltree"
	"ringfence/internal/fencevirt"
	"ringfence/internal/wire/xvm"
)

// VirtListeners are the names of listeners in a fence_virt.conf.
func VirtListeners() []string { return []string{"multicast", "tcp", "vsock", "serial"} }

// listener reads the one listener that fence_virtd names.
func (r *virtReader) listener(main, root *item, groups []fencevirt.Group) (l fencevirt.Listener, ok bool) {
	name := main.key("listener")
	if name == nil {
		r.report(main.at, "fence_virtd has no listener: want one of %s", strings.Join(VirtListeners(), ", "))
		return l, false
	}
	which := strings.ToLower(name.value)
	if !slices.Contains(VirtListeners(), which) {
		r.noPart++
		r.report(name.valueAt, "unknown listener %s; allowed are %s", tomltree.Quote(name.value), strings.Join(VirtListeners(), ", "))
		return l, false
	}
	s := root.sub("listeners").sub(which)
	at := cmp.Or(s, name).at
	l = fencevirt.Listener{Kind: fencevirt.Kind(which), Where: r.where(at)}
	r.only(s, virtKeys(which), nil, nil)
	switch l.Kind {
	case fencevirt.KindSerial:
		r.serial(s, &l, groups)
		return l, true
	case fencevirt.KindMulticast:
		l.Address = r.address(s, xvm.DefaultGroup4, xvm.DefaultGroup6, false)
		if i := s.key("interface"); i != nil {
			l.Interfaces = []string{i.value}
		}
	case fencevirt.KindTCP:
		l.Address = r.address(s, "127.0.0.1", "::1", true)
		r.otherAuth(s)
	case fencevirt.KindVsock:
		r.otherAuth(s)
	}
	l.Port = r.port(s)
	l.Keys = []fencevirt.Key{r.virtKey(s, at, groups)}
	return l, true
}

// otherAuth warns of a key that the C daemon took for another one.
func (r *virtReader) otherAuth(s *item) {
	i := s.key("auth")
	if i == nil {
		return
	}
	r.warn(i.at, "auth = %s is how clients authenticate here; the C daemon wrongly took it as hash, whatever hash says, and went on to authenticate with sha256: "+
		"to have what it did write hash = %s and no auth; otherwise set auth of all clients (-C) to %s",
		tomltree.Quote(i.value), tomltree.Quote(i.value), tomltree.Quote(i.value))
}

func (r *virtReader) port(s *item) uint16 {
	i := s.key("port")
	if i == nil {
		return xvm.DefaultPort
	}
	n, err := strconv.ParseUint(i.value, 10, 16)
	if err != nil || n == 0 {
		r.report(i.valueAt, "port = %s: want a number from 1 to 65535", tomltree.Quote(i.value))
	}
	return uint16(n)
}

// address reads address and family. A listener on the network (local) takes a local
// address, also by name; else it is a multicast group.
func (r *virtReader) address(s *item, v4, v6 string, local bool) netip.Addr {
	family := ""
	if i := s.key("family"); i != nil {
		family = strings.ToLower(i.value)
		if family != "ipv4" && family != "ipv6" {
			r.report(i.valueAt, "family = %s: allowed are ipv4 and ipv6", tomltree.Quote(i.value))
			return netip.Addr{}
		}
	}
	i := s.key("address")
	if i == nil {
		if family == "ipv6" {
			return netip.MustParseAddr(v6)
		}
		return netip.MustParseAddr(v4)
	}
	a, err := netip.ParseAddr(i.value)
	switch {
	case err != nil && local:
		a, err = r.world.address(i.value, family)
		if err != nil {
			r.report(i.valueAt, "address = %s: %s", tomltree.Quote(i.value), err)
		}
	case err != nil:
		r.report(i.valueAt, "address = %s: want the address of a multicast group, such as %s", tomltree.Quote(i.value), v4)
	case !local && (!a.IsMulticast() || a.Zone() != ""):
		r.report(i.valueAt, "address = %s is no multicast group; want for instance %s", tomltree.Quote(i.value), v4)
	case family != "" && a.Is4() != (family == "ipv4"):
		r.report(i.valueAt, "address = %s is not of family %s", tomltree.Quote(i.value), family)
	}
	return a
}

// lookupTimeout bounds the look-up of a listener's own name.
const lookupTimeout = 3 * time.Second

// lookup resolves the name of a local address; without a family IPv4 comes first.
func lookup(name, family string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	networks := []string{"ip4", "ip6"}
	switch family {
	case "ipv4":
		networks = networks[:1]
	case "ipv6":
		networks = networks[1:]
	}
	var failed error
	for _, network := range networks {
		found, err := net.DefaultResolver.LookupNetIP(ctx, network, name)
		if err == nil && len(found) > 0 {
			return found[0].Unmap(), nil
		}
		failed = cmp.Or(failed, err)
	}
	return netip.Addr{}, failed
}

// serial reads the listener of lines; its key is the line itself.
func (r *virtReader) serial(s *item, l *fencevirt.Listener, groups []fencevirt.Group) {
	l.Keys = []fencevirt.Key{{Groups: groups}}
	if i := s.key("path"); i != nil {
		l.Dir = i.value
	}
	r.drop(s.key("key_file"), "a line needs no key: it says itself which guest asks")
	if i := s.key("mode"); i != nil {
		switch strings.ToLower(i.value) {
		case "serial", "0":
		case "vmchannel", "1":
			l.Kind = fencevirt.KindVMChannel
		default:
			r.report(i.valueAt, "mode = %s: allowed are serial and vmchannel", tomltree.Quote(i.value))
		}
	}
}

// serialURI warns of lines that are sought elsewhere than guests are.
func (r *virtReader) serialURI(i *item, uris []string) {
	r.drop(i, "lines are those of the guests of all URIs")
	if i != nil && len(uris) > 0 && !slices.Contains(uris, i.value) {
		r.warn(i.valueAt, "uri = %s is ignored: lines are those of the guests of the backend's URIs; name it there if these guests shall be served", tomltree.Quote(i.value))
	}
}

package conf

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"ringfence/internal/config/tomltree"
	"ringfence/internal/fencevirt"
	"ringfence/internal/wire/xvm"
)

// DefaultClusterConf is where RHEL 5 and 6 have the configuration of a cluster.
const DefaultClusterConf = "/etc/cluster/cluster.conf"

// Xvmd is what the fence_xvmd of RHEL 5 is told: on its command line, and by
// <fence_xvmd …/> in cluster.conf, which overrides it. Each value is as it was
// written; "" stands for the default.
type Xvmd struct {
	Family, Address, Port, Interface string
	Auth, Hash, KeyFile              string
	URI                              string
	Debug                            int
	Warnings                         []Warning
}

// XvmdAttributes are the attributes of <fence_xvmd>.
func XvmdAttributes() []string {
	return []string{
		"debug", "family", "ip_family", "multicast_address", "port", "interface", "auth", "hash", "key_file", "uri", "use_uuid", "log_facility", "log_level",
	}
}

// set takes an attribute over; false: it is unknown.
func (x *Xvmd) set(name, value string) (known bool) {
	switch name {
	case "debug":
		x.Debug, _ = strconv.Atoi(value) // as C's atoi
	case "family", "ip_family":
		x.Family = value
	case "multicast_address":
		x.Address = value
	case "port":
		x.Port = value
	case "interface":
		x.Interface = value
	case "auth":
		x.Auth = value
	case "hash":
		x.Hash = value
	case "key_file":
		x.KeyFile = value
	case "uri":
		x.URI = value
	case "use_uuid", "log_facility", "log_level":
	default:
		return false
	}
	return true
}

// ReadClusterConf takes over what <fence_xvmd> in a cluster.conf says; it may be
// missing there. Errors in the file have their line.
func (x *Xvmd) ReadClusterConf(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the cluster's configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, FileLimitBytes+1))
	if err != nil {
		return fmt.Errorf("read the cluster's configuration: %w", err)
	}
	return x.parseClusterConf(path, data)
}

func (x *Xvmd) parseClusterConf(path string, data []byte) error {
	fault := func(line, column int, format string, args ...any) error {
		return &InvalidError{Faults: tomltree.Errors{{File: path, Line: line, Column: column, Message: fmt.Sprintf(format, args...)}}}
	}
	if len(data) > FileLimitBytes {
		return fault(1, 1, "the file is larger than 1 MiB")
	}
	d := xml.NewDecoder(strings.NewReader(string(data)))
	depth, root, found := 0, false, false
	for {
		line, column := d.InputPos()
		token, err := d.Token()
		var syntax *xml.SyntaxError
		switch {
		case errors.Is(err, io.EOF) && root:
			return nil
		case errors.As(err, &syntax):
			return fault(max(syntax.Line, 1), 1, "%s", syntax.Msg)
		case errors.Is(err, io.EOF):
			return fault(1, 1, "the file holds nothing, want <cluster>")
		case err != nil:
			return fault(line, column, "%v", err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			depth++
			root = true
			switch {
			case depth == 1 && e.Name.Local != "cluster":
				return fault(line, column, "the file holds <%.80s>, want <cluster>", e.Name.Local)
			case depth == 2 && e.Name.Local == "fence_xvmd" && found:
				return fault(line, column, "<fence_xvmd> stands here for the second time")
			case depth == 2 && e.Name.Local == "fence_xvmd":
				found = true
				x.take(path, line, e.Attr)
			case depth > depthLimit:
				return fault(line, column, "elements stand more than %d deep in each other", depthLimit)
			}
		case xml.EndElement:
			depth--
		}
	}
}

// take takes over the attributes of <fence_xvmd>.
func (x *Xvmd) take(path string, line int, attributes []xml.Attr) {
	for _, a := range attributes {
		if !x.set(a.Name.Local, a.Value) {
			x.Warnings = append(x.Warnings, Warning{path, line, fmt.Sprintf("unknown attribute %s of <fence_xvmd>: it is ignored; known are %s",
				tomltree.Quote(a.Name.Local), strings.Join(XvmdAttributes(), ", "))})
		}
	}
}

// Where the settings of fence_xvmd stand, for messages.
const xvmdWhere = "fence_xvmd"

// File is what fence_xvmd serves by these settings: one multicast listener, and
// every guest. The key is read; unlike in C, a daemon that cannot read it does not
// go on without authentication.
func (x *Xvmd) File() (File, error) {
	l := fencevirt.Listener{Kind: fencevirt.KindMulticast, Where: xvmdWhere, Port: xvm.DefaultPort}
	k := fencevirt.Key{Name: xvm.DefaultKeyFile, Hash: xvm.HashSHA256, Auth: xvm.HashSHA256}
	f := File{URIs: []string{DefaultURI}, Debug: x.Debug, Warnings: x.Warnings, Path: xvmdWhere}
	var errs []error
	note := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	var err error
	if x.Hash != "" {
		k.Hash, err = xvm.ParseHash(x.Hash)
		note("-c", err)
	}
	if x.Auth != "" {
		k.Auth, err = xvm.ParseHash(x.Auth)
		note("-C", err)
	}
	if x.Port != "" {
		n, err := strconv.ParseUint(x.Port, 10, 16)
		if err != nil || n == 0 {
			note("-p", fmt.Errorf("port %.20q: want a number from 1 to 65535", x.Port))
		}
		l.Port = uint16(n)
	}
	l.Address, err = x.address()
	note("-a", err)
	if x.Interface != "" {
		l.Interfaces = []string{x.Interface}
	}
	if x.URI != "" {
		f.URIs = []string{x.URI}
	}
	if x.KeyFile != "" {
		k.Name = x.KeyFile
	}
	if k.Hash == xvm.HashNone && k.Auth == xvm.HashNone { // then -k is ignored, as in C
		k.Name = ""
		f.Warnings = append(f.Warnings, Warning{xvmdWhere, 1, "hash and auth are none: everybody who reaches this host may turn guests off"})
	} else {
		secret, remarks, err := readKey(k.Name)
		note("-k", err)
		for _, remark := range remarks {
			f.Warnings = append(f.Warnings, Warning{xvmdWhere, 1, fmt.Sprintf("key file %s %s", k.Name, remark)})
		}
		k.Secret = secret
	}
	l.Keys = []fencevirt.Key{k}
	f.Server.Listeners = []fencevirt.Listener{l}
	return f, errors.Join(errs...)
}

// address is the group: as given, or the default of its family.
func (x *Xvmd) address() (netip.Addr, error) {
	family := strings.ToLower(x.Family)
	switch {
	case family != "" && family != "auto" && family != "ipv4" && family != "ipv6":
		return netip.Addr{}, fmt.Errorf("family %.20q (-i): allowed are auto, ipv4 and ipv6", x.Family)
	case x.Address == "" && family == "ipv6":
		return netip.MustParseAddr(xvm.DefaultGroup6), nil
	case x.Address == "":
		return netip.MustParseAddr(xvm.DefaultGroup4), nil
	}
	a, err := netip.ParseAddr(x.Address)
	switch {
	case err != nil || !a.IsMulticast():
		return netip.Addr{}, fmt.Errorf("address %.80q: want a multicast group such as %s or %s", x.Address, xvm.DefaultGroup4, xvm.DefaultGroup6)
	case family == "ipv6" && a.Is4(), family == "ipv4" && !a.Is4():
		return netip.Addr{}, fmt.Errorf("address %s is not of family %s (-i)", a, family)
	}
	return a, nil
}

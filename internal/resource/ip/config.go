package ip

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"ringfence/internal/cluster"
)

// interfaceLimitBytes is the kernel's bound of an interface name.
const interfaceLimitBytes = 15

// params is a checked set of parameters.
type params struct {
	prefix netip.Prefix // address and prefix length as written, not masked
	link   string
}

// parse checks the parameters of a resource. All that is wrong is named.
func parse(r cluster.Resource) (params, error) {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(r.Params)) {
		if key != "address" && key != "interface" {
			errs = append(errs, fmt.Errorf("params.%s = %.60q: no such parameter; allowed are address, interface", key, r.Params[key]))
		}
	}
	prefix, err := address(r.Params["address"])
	errs = append(errs, err, linkName(r.Params["interface"]))
	if err := errors.Join(errs...); err != nil {
		return params{}, fmt.Errorf("resource %q: %w", r.Name, err)
	}
	return params{prefix: prefix, link: r.Params["interface"]}, nil
}

func address(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return prefix, fmt.Errorf("params.address = %.60q: required; an address with prefix length, e.g. \"192.0.2.10/24\" or \"2001:db8::10/64\"", text)
	}
	addr := prefix.Addr()
	if addr.IsUnspecified() || addr.IsMulticast() || addr.Is4In6() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return prefix, fmt.Errorf("params.address = %q: an address that one machine can have is required, no unspecified, multicast, broadcast or mapped one", text)
	}
	return prefix, nil
}

func linkName(name string) error {
	bad := name == "" || len(name) > interfaceLimitBytes || name == "." || name == ".." ||
		strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r > '~' })
	if bad {
		return fmt.Errorf("params.interface = %.60q: required; the name of a network interface, 1 to %d bytes, e.g. \"eth0\"", name, interfaceLimitBytes)
	}
	return nil
}

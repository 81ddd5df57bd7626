package fencevirt

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"ringfence/internal/wire/xvm"
)

// errorf names the listener.
func (l Listener) errorf(format string, args ...any) error {
	return fmt.Errorf("listener %s at %s: %w", l.Kind, l.Where, fmt.Errorf(format, args...))
}

// isLine reports whether guests are known by their lines.
func (k Kind) isLine() bool { return k == KindSerial || k == KindVMChannel || k == KindVirtio }

// Validate returns everything that is wrong with the configuration in itself. What
// this machine lacks shows when New opens the sockets.
func Validate(cfg Config) error {
	var errs []error
	for i, l := range cfg.Listeners {
		errs = append(errs, l.validate(), l.validateKeys())
		for _, before := range cfg.Listeners[:i] {
			if before.conflicts(l) {
				errs = append(errs, l.errorf("it takes what the listener %s at %s takes; "+
					"give one listener several keys, or each a port or directory of its own", before.Kind, before.Where))
			}
		}
	}
	return errors.Join(errs...)
}

func (l Listener) validate() error {
	switch l.Kind {
	case KindMulticast:
		if !l.Address.IsMulticast() || l.Address.Zone() != "" {
			return l.errorf("address %v: want a multicast group such as %s or %s", l.Address, xvm.DefaultGroup4, xvm.DefaultGroup6)
		}
	case KindUDP, KindTCP:
		if !l.Address.IsValid() || l.Address.IsMulticast() {
			return l.errorf("address %v: want an address of this host, or 0.0.0.0 or :: for all", l.Address)
		}
	case KindVirtio:
		if l.PortName == "" {
			return l.errorf("it needs the name that the port has inside of guests")
		}
	case KindVsock, KindSerial, KindVMChannel:
	default:
		return l.errorf("unknown kind; allowed are %v", Kinds())
	}
	return nil
}

func (l Listener) validateKeys() error {
	if l.Kind.isLine() {
		if len(l.Keys) != 1 || len(l.Keys[0].Secret) != 0 || l.Keys[0].Hash != xvm.HashNone || l.Keys[0].Auth != xvm.HashNone {
			return l.errorf("it takes one key without secret, hash and auth: the line says who speaks")
		}
		return l.Keys[0].validateGroups(l)
	}
	if len(l.Keys) == 0 {
		return l.errorf("it has no key")
	}
	var errs []error
	for i, k := range l.Keys {
		errs = append(errs, k.validate(l), k.validateGroups(l))
		for _, before := range l.Keys[:i] {
			switch {
			case k.Hash == xvm.HashNone && before.Hash == xvm.HashNone:
				errs = append(errs, l.errorf("keys %s and %s both take requests without a hash, so nothing tells them apart", before.Name, k.Name))
			case len(k.Secret) > 0 && bytes.Equal(k.Secret, before.Secret):
				errs = append(errs, l.errorf("keys %s and %s have the same content; put their groups together", before.Name, k.Name))
			}
		}
	}
	return errors.Join(errs...)
}

func (k Key) validate(l Listener) error {
	switch {
	case k.Hash > xvm.HashSHA512:
		return l.errorf("key %s: %v: want none, sha1, sha256 or sha512", k.Name, k.Hash)
	case k.Auth > xvm.HashSHA512:
		return l.errorf("key %s: auth by %v: want none, sha1, sha256 or sha512", k.Name, k.Auth)
	case len(k.Secret) > xvm.KeyLimitBytes:
		return l.errorf("key %s has %d bytes, at most %d count", k.Name, len(k.Secret), xvm.KeyLimitBytes)
	case len(k.Secret) == 0 && (k.Hash != xvm.HashNone || k.Auth != xvm.HashNone):
		return l.errorf("key %s is empty; without a key, both hash and auth must be none", k.Name)
	}
	return nil
}

func (k Key) validateGroups(l Listener) error {
	var errs []error
	for _, g := range k.Groups {
		if len(g.Guests) == 0 {
			errs = append(errs, l.errorf("group %q at %s has no guest, so it would allow nothing", g.Name, g.Where))
		}
		for _, who := range g.From {
			if _, ok := ParseRequester(who); !ok {
				errs = append(errs, l.errorf("group %q at %s: requester %.60q: want an IP address or a vsock CID", g.Name, g.Where, who))
			}
		}
	}
	return errors.Join(errs...)
}

// conflicts reports whether a request could be for both listeners.
func (l Listener) conflicts(other Listener) bool {
	datagram := func(k Kind) bool { return k == KindMulticast || k == KindUDP }
	switch {
	case l.Kind.isLine():
		dir, otherDir := filepath.Clean(l.Dir), filepath.Clean(other.Dir)
		return l.Kind == other.Kind && l.PortName == other.PortName && (dir == otherDir || l.Dir == "" || other.Dir == "")
	case l.Port == 0 || l.Port != other.Port:
		return false
	case datagram(l.Kind) && datagram(other.Kind), l.Kind == KindTCP && other.Kind == KindTCP:
		return slices.ContainsFunc(l.binds(), func(a netip.Addr) bool {
			return slices.ContainsFunc(other.binds(), func(b netip.Addr) bool {
				return a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified())
			})
		})
	}
	return l.Kind == KindVsock && other.Kind == KindVsock
}

// binds returns the local addresses of the listener's socket. One for :: takes IPv4
// too; one of a group takes what comes to any address.
func (l Listener) binds() []netip.Addr {
	switch {
	case l.Kind == KindMulticast && l.Address.Is4():
		return []netip.Addr{netip.IPv4Unspecified()}
	case l.Kind == KindMulticast:
		return []netip.Addr{netip.IPv6Unspecified()}
	case l.Address == netip.IPv6Unspecified():
		return []netip.Addr{netip.IPv6Unspecified(), netip.IPv4Unspecified()}
	}
	return []netip.Addr{l.Address}
}

package ip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ringfence/internal/resource"
)

// found is one place where the kernel has the address.
type found struct {
	link netlink.Link
	addr netlink.Addr
}

// lookLimit is how often a look is repeated when the kernel says that its lists
// changed while they were read.
const lookLimit = 10

// errChanged: the lists of the kernel did not fit together.
var errChanged = errors.New("interfaces changed while they were read")

// look lists every place of the address on this machine.
func look(ip netip.Addr) ([]found, error) {
	var places []found
	var err error
	for range lookLimit {
		places, err = lookOnce(ip)
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, errChanged) {
			break
		}
	}
	return places, err
}

func lookOnce(ip netip.Addr) ([]found, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	byIndex := make(map[int]netlink.Link, len(links))
	for _, link := range links {
		byIndex[link.Attrs().Index] = link
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var places []found
	for _, addr := range addrs {
		got, ok := netip.AddrFromSlice(addr.IP)
		if !ok || got.Unmap() != ip {
			continue
		}
		link, ok := byIndex[addr.LinkIndex]
		if !ok {
			return nil, fmt.Errorf("%s is on interface number %d: %w", ip, addr.LinkIndex, errChanged)
		}
		places = append(places, found{link, addr})
	}
	return places, nil
}

// probe is Monitor without ctx; see the package comment for the meaning.
func probe(p params) (resource.Status, error) {
	places, err := look(p.prefix.Addr())
	if err != nil {
		return resource.StatusUnknown, err
	}
	if len(places) == 0 {
		return resource.StatusInactive, nil
	}
	var wrong []error
	for _, place := range places {
		wrong = append(wrong, place.wrong(p))
	}
	if err := errors.Join(wrong...); err != nil {
		return resource.StatusFailed, err
	}
	return resource.StatusActive, nil
}

// wrong says why the address is not well there, or nil.
func (f found) wrong(p params) error {
	name, bits := f.link.Attrs().Name, prefixBits(f.addr)
	switch {
	case name != p.link:
		return fmt.Errorf("%s is on interface %s, not on %s", p.prefix.Addr(), name, p.link)
	case bits != p.prefix.Bits():
		return fmt.Errorf("%s is on %s with prefix length %d, not %d", p.prefix.Addr(), name, bits, p.prefix.Bits())
	case f.addr.Flags&unix.IFA_F_DADFAILED != 0:
		return fmt.Errorf("%s on %s failed duplicate address detection", p.prefix.Addr(), name)
	case f.addr.Flags&unix.IFA_F_TENTATIVE != 0:
		return fmt.Errorf("%s on %s is tentative: somebody else added it, with duplicate address detection", p.prefix.Addr(), name)
	case f.link.Attrs().RawFlags&unix.IFF_UP == 0:
		return fmt.Errorf("interface %s is administratively down", name)
	}
	return nil
}

func prefixBits(addr netlink.Addr) int {
	ones, _ := addr.Mask.Size()
	return ones
}

// add puts the address on its interface, which must be up.
func add(p params) error {
	link, err := netlink.LinkByName(p.link)
	if err != nil {
		return fmt.Errorf("params.interface = %q: %w; see `ip link` for what is there", p.link, err)
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		return fmt.Errorf("interface %s is administratively down; bring it up first, e.g. `ip link set %s up`", p.link, p.link)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{
		IP:   p.prefix.Addr().AsSlice(),
		Mask: net.CIDRMask(p.prefix.Bits(), p.prefix.Addr().BitLen()),
	}}
	if p.prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	err = netlink.AddrAdd(link, addr)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %s to %s: %w", p.prefix, p.link, err)
	}
	return nil
}

// removeAll takes the address from every interface of this machine.
func removeAll(ip netip.Addr) error {
	places, err := look(ip)
	if err != nil {
		return err
	}
	var errs []error
	for _, place := range places {
		addr := place.addr
		err := netlink.AddrDel(place.link, &addr)
		gone := errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV)
		if err != nil && !gone {
			errs = append(errs, fmt.Errorf("remove %s from %s: %w", ip, place.link.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}

// keepSecondaries tells the kernel to keep the other IPv4 addresses of a subnet
// when the first of them is removed; else Stop of one resource would take the
// addresses of others away.
func keepSecondaries(p params) error {
	if p.prefix.Addr().Is6() {
		return nil
	}
	path := "/proc/sys/net/ipv4/conf/" + p.link + "/promote_secondaries"
	if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == "1" {
		return nil
	}
	return os.WriteFile(path, []byte("1"), 0)
}

// forwards reports whether the machine is a router on that interface.
func forwards(link string) bool {
	text, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + link + "/forwarding")
	return err == nil && strings.TrimSpace(string(text)) != "0"
}

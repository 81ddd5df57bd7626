package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// makeNetwork makes the bridge in the supervisor's own network namespace.
func makeNetwork() error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback: %w", err)
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("bring up the loopback: %w", err)
	}
	// A bridge without an address of its own takes a guest's, and changes it
	// when that guest goes: neighbours would lose the hosts for a while.
	mac, err := net.ParseMAC(bridgeMAC)
	if err != nil {
		return fmt.Errorf("address of the bridge: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = Bridge, mac
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add bridge %s: %w", Bridge, err)
	}
	if err := changeAddr(netlink.AddrAdd, netip.MustParsePrefix(bridgeAddr)); err != nil {
		return err
	}
	return setLink(Bridge, netlink.LinkSetUp)
}

// addHostAddr gives a host its address. One that is there already is no error.
func addHostAddr(addr netip.Addr) error {
	err := changeAddr(netlink.AddrAdd, netip.PrefixFrom(addr, addrPrefix))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// removeHostAddr takes a host's address away: addresses are the kernel's and
// would answer for a host without power.
func removeHostAddr(addr netip.Addr) error {
	err := changeAddr(netlink.AddrDel, netip.PrefixFrom(addr, addrPrefix))
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}

func changeAddr(change func(netlink.Link, *netlink.Addr) error, prefix netip.Prefix) error {
	bridge, err := netlink.LinkByName(Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", Bridge, err)
	}
	addr, err := netlink.ParseAddr(prefix.String())
	if err != nil {
		return fmt.Errorf("address %s: %w", prefix, err)
	}
	if err := change(bridge, addr); err != nil {
		return fmt.Errorf("change address %s of the bridge: %w", prefix, err)
	}
	return nil
}

// unplug takes a guest's link down. One that is not there is no error.
func unplug(name string) error {
	err := setLink(name, netlink.LinkSetDown)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	return err
}

// isolate makes a port of the bridge pass nothing to and from other isolated
// ports, or undoes it. Hosts are no ports: the bridge itself has their addresses.
func isolate(name string, on bool) error {
	return setLink(name, func(link netlink.Link) error { return netlink.LinkSetIsolated(link, on) })
}

// isolated reports what isolate last said of the link as it is.
func isolated(name string) (bool, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return false, fmt.Errorf("find link %s: %w", name, err)
	}
	port, err := netlink.LinkGetProtinfo(link)
	if err != nil {
		return false, fmt.Errorf("look at link %s: %w", name, err)
	}
	return port.Isolated, nil
}

func setLink(name string, set func(netlink.Link) error) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := set(link); err != nil {
		return fmt.Errorf("set link %s: %w", name, err)
	}
	return nil
}

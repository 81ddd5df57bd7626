package proc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// carrierLimit bounds the wait for a link to carry; it takes milliseconds.
const carrierLimit = 200 * time.Millisecond

// neighbourRetry is the pause between two questions of a guest for an address.
const neighbourRetry = 100 * time.Millisecond

// guestLink is the name of the guest's end of its veth.
const guestLink = "eth0"

// addLink makes the guest's veth with one end on the bridge, down, and the
// other in the network namespace of the guest's init.
func addLink(bridge string, g Guest, pid int) error {
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	mac, err := net.ParseMAC(g.MAC)
	if err != nil {
		return fmt.Errorf("link of guest %s: %w", g.Name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = g.Link, master.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: guestLink, PeerHardwareAddr: mac, PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add link %s of guest %s: %w", g.Link, g.Name, err)
	}
	return nil
}

// adoptLink takes over the host end of a guest's veth from another host: it
// gets this host's name for it and hangs on this host's bridge, down. One that
// was taken over before is no error.
func adoptLink(from, bridge, to string) error {
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	link, err := netlink.LinkByName(from)
	if missing(err) {
		from = to
		link, err = netlink.LinkByName(to)
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", from, err)
	}
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("set link %s down: %w", from, err)
	}
	if from != to {
		if err := netlink.LinkSetName(link, to); err != nil {
			return fmt.Errorf("rename link %s to %s: %w", from, to, err)
		}
	}
	if err := netlink.LinkSetMaster(link, master); err != nil {
		return fmt.Errorf("put link %s on bridge %s: %w", to, bridge, err)
	}
	return nil
}

// removeLink deletes the host end of a guest's veth, and with it the guest's
// end, and looks that it is gone. A link that is not there is no error.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if missing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	deleted := netlink.LinkDel(link)
	if _, err := netlink.LinkByName(name); missing(err) {
		return nil
	}
	return fmt.Errorf("remove link %s: still there: %w", name, deleted)
}

func setLink(name string, up bool) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	set := netlink.LinkSetDown
	if up {
		set = netlink.LinkSetUp
	}
	if err := set(link); err != nil {
		return fmt.Errorf("set link %s up=%v: %w", name, up, err)
	}
	return nil
}

// awaitCarrier waits until a link that is up carries, or carrierLimit is over:
// the guest may have taken its own end down.
func awaitCarrier(ctx context.Context, name string) error {
	limit := time.Now().Add(carrierLimit)
	return poll(ctx, func() (bool, error) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return false, fmt.Errorf("find link %s: %w", name, err)
		}
		return link.Attrs().OperState == netlink.OperUp || time.Now().After(limit), nil
	})
}

func missing(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

// configureGuestLinks brings up the loopback and eth0; for GuestInit.
func configureGuestLinks(addr string) error {
	if err := setLink("lo", true); err != nil {
		return err
	}
	link, err := netlink.LinkByName(guestLink)
	if err != nil {
		return fmt.Errorf("find link %s: %w", guestLink, err)
	}
	parsed, err := netlink.ParseAddr(addr)
	if err != nil {
		return fmt.Errorf("address %q of %s: %w", addr, guestLink, err)
	}
	if err := netlink.AddrAdd(link, parsed); err != nil {
		return fmt.Errorf("add address %s to %s: %w", addr, guestLink, err)
	}
	if err := setNeighbourRetry(link.Attrs().Index); err != nil {
		return fmt.Errorf("set time between questions for an address on %s: %w", guestLink, err)
	}
	return setLink(guestLink, true)
}

// Attributes of RTM_SETNEIGHTBL, from linux/neighbour.h.
const (
	neighTableName    = 1
	neighTableParms   = 6
	neighParmsIfindex = 1
	neighParmsRetrans = 5
)

// setNeighbourRetry makes the kernel ask neighbourRetry later for the address of
// a neighbour who did not answer. Its own second is long for a guest that stood
// still: unlike a virtual machine's, its kernel goes on, forgets its neighbours
// when the link goes down and asks for them in vain until it comes up.
func setNeighbourRetry(index int) error {
	parms := nl.NewRtAttr(neighTableParms|unix.NLA_F_NESTED, nil)
	parms.AddRtAttr(neighParmsIfindex, nl.Uint32Attr(uint32(index)))
	parms.AddRtAttr(neighParmsRetrans, nl.Uint64Attr(uint64(neighbourRetry.Milliseconds())))
	request := nl.NewNetlinkRequest(unix.RTM_SETNEIGHTBL, unix.NLM_F_ACK)
	request.AddData(&nl.RtGenMsg{RtGenmsg: unix.RtGenmsg{Family: unix.AF_INET}})
	request.AddData(nl.NewRtAttr(neighTableName, nl.ZeroTerminated("arp_cache")))
	request.AddData(parms)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

package ip

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Frames are made by hand; the golden tests show every byte.
//
//	gratuitous ARP (RFC 826, RFC 5227, RFC 5944 section 4.6), 42 bytes:
//	  0  destination ff:ff:ff:ff:ff:ff   6  source MAC   12  type 0806
//	 14  hardware 0001, protocol 0800, lengths 06 04, operation 0001 or 0002
//	 22  sender MAC   28  sender IP   32  target MAC   38  target IP = sender IP
//
//	unsolicited neighbour advertisement (RFC 4861 sections 4.4, 7.2.6), 86 bytes:
//	  0  destination 33:33:00:00:00:01   6  source MAC   12  type 86dd
//	 14  IPv6: version 6, payload 32, next header 58, hop limit 255
//	 22  source = the address   38  destination ff02::1
//	 54  type 136, code 0, checksum, flags (R, not S, O)   62  target = the address
//	 78  option 2 (target link-layer address), length 1, MAC
const (
	etherTypeARP  = 0x0806
	etherTypeIPv6 = 0x86dd

	arpRequest = 1
	arpReply   = 2

	icmpv6             = 58
	neighbourAdvert    = 136
	hopLimit           = 255 // anything less is dropped as forwarded
	flagRouter         = 0x80
	flagOverride       = 0x20
	optionTargetLink   = 2
	adverLengthBytes   = 32
	checksumAtInAdvert = 2
)

// broadcast is where ARP goes.
func broadcast() net.HardwareAddr { return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// allNodesMAC is where frames to ff02::1 go.
func allNodesMAC() net.HardwareAddr { return net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1} }

// gratuitousARP makes the frame that tells everybody that addr is at mac. The
// request form has a zero target MAC (RFC 5227); the reply form repeats mac.
func gratuitousARP(operation uint16, mac net.HardwareAddr, addr netip.Addr) []byte {
	target := net.HardwareAddr{0, 0, 0, 0, 0, 0}
	if operation == arpReply {
		target = mac
	}
	ip := addr.As4()
	f := append(append([]byte{}, broadcast()...), mac...)
	f = binary.BigEndian.AppendUint16(f, etherTypeARP)
	f = append(f, 0, 1, 8, 0, 6, 4)
	f = binary.BigEndian.AppendUint16(f, operation)
	f = append(append(f, mac...), ip[:]...)
	return append(append(f, target...), ip[:]...)
}

// unsolicitedNA makes the frame that tells all nodes on the link that addr is
// at mac, over what they believed. router must be true when the machine
// forwards: the flag tells hosts whether it is a router.
func unsolicitedNA(mac net.HardwareAddr, addr netip.Addr, router bool) []byte {
	src, dst := addr.As16(), netip.IPv6LinkLocalAllNodes().As16()
	flags := byte(flagOverride)
	if router {
		flags |= flagRouter
	}
	advert := append([]byte{neighbourAdvert, 0, 0, 0, flags, 0, 0, 0}, src[:]...)
	advert = append(append(advert, optionTargetLink, 1), mac...)
	binary.BigEndian.PutUint16(advert[checksumAtInAdvert:], checksum6(src, dst, icmpv6, advert))

	f := append(append([]byte{}, allNodesMAC()...), mac...)
	f = binary.BigEndian.AppendUint16(f, etherTypeIPv6)
	f = append(f, 0x60, 0, 0, 0, 0, adverLengthBytes, icmpv6, hopLimit)
	f = append(append(f, src[:]...), dst[:]...)
	return append(f, advert...)
}

// checksum6 is the Internet checksum over the IPv6 pseudo header and payload,
// whose length is even.
func checksum6(src, dst [16]byte, nextHeader byte, payload []byte) uint16 {
	pseudo := append(append([]byte{}, src[:]...), dst[:]...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(payload)))
	pseudo = append(pseudo, 0, 0, 0, nextHeader)
	var sum uint32
	for _, part := range [][]byte{pseudo, payload} {
		for ; len(part) >= 2; part = part[2:] {
			sum += uint32(binary.BigEndian.Uint16(part))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

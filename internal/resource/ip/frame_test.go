package ip

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
)

var testMAC = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}

// golden joins the lines of a frame in hex.
func golden(lines ...string) string { return strings.ReplaceAll(strings.Join(lines, ""), " ", "") }

func TestFrames(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")
	cases := map[string]struct {
		got  []byte
		want string
	}{
		"gratuitous ARP, request form": {gratuitousARP(arpRequest, testMAC, v4), golden(
			"ffffffffffff 525400123456 0806", "0001 0800 06 04 0001",
			"525400123456 c000020a", "000000000000 c000020a")},
		"gratuitous ARP, reply form": {gratuitousARP(arpReply, testMAC, v4), golden(
			"ffffffffffff 525400123456 0806", "0001 0800 06 04 0002",
			"525400123456 c000020a", "525400123456 c000020a")},
		"unsolicited NA, override": {unsolicitedNA(testMAC, v6, false), golden(
			"333300000001 525400123456 86dd", "60000000 0020 3a ff",
			"20010db8000000000000000000000010", "ff020000000000000000000000000001",
			"88 00 7451 20000000", "20010db8000000000000000000000010", "02 01 525400123456")},
		"unsolicited NA of a router": {unsolicitedNA(testMAC, v6, true), golden(
			"333300000001 525400123456 86dd", "60000000 0020 3a ff",
			"20010db8000000000000000000000010", "ff020000000000000000000000000001",
			"88 00 f450 a0000000", "20010db8000000000000000000000010", "02 01 525400123456")},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := hex.EncodeToString(c.got); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// A receiver sums the pseudo header and the whole message, checksum included,
// byte by byte, and must get all ones.
func TestChecksumAsAReceiverSumsIt(t *testing.T) {
	for _, text := range []string{"2001:db8::10", "fe80::ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "::1"} {
		f := unsolicitedNA(testMAC, netip.MustParseAddr(text), false)
		sum := uint32(icmpv6) + uint32(binary.BigEndian.Uint16(f[18:]))
		for i := 22; i < len(f); i += 2 {
			sum += uint32(f[i])<<8 | uint32(f[i+1])
		}
		for sum>>16 != 0 {
			sum = sum>>16 + sum&0xffff
		}
		if sum != 0xffff {
			t.Errorf("%s: sum %#x", text, sum)
		}
	}
}

package observe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"ringfence/internal/demo/trace"
)

// Layout of an ARP packet for IPv4 over Ethernet, behind the Ethernet header:
//
//	0 hardware 1 | 2 protocol 0x0800 | 4 sizes 6, 4 | 6 operation
//	8 sender MAC | 14 sender IP      | 18 target MAC | 24 target IP
const (
	etherHeaderBytes = 14
	arpBytes         = 28

	arpRequest = 1
	arpReply   = 2

	frameLimitBytes = 2048
)

// sniffer hears ARP on the bridge.
type sniffer struct {
	conn    *packet.Conn
	address netip.Addr
}

func openSniffer(s Settings) (*sniffer, error) {
	bridge, err := net.InterfaceByName(s.Bridge)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Verb, err)
	}
	conn, err := packet.Listen(bridge, packet.Raw, unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: listen on %s: %w", Verb, s.Bridge, err)
	}
	// Without it the bridge keeps packets between two guests to itself.
	if err := conn.SetPromiscuous(true); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: listen to all on %s: %w", Verb, s.Bridge, err), conn.Close())
	}
	return &sniffer{conn: conn, address: s.Address.Addr()}, nil
}

// run prints claims until ctx ends, and closes the sniffer.
func (s *sniffer) run(ctx context.Context, lines *printer) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer stop()
	frame := make([]byte, frameLimitBytes)
	for {
		n, _, err := s.conn.ReadFrom(frame)
		at := trace.Now()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("listen for claims: %w", err), s.conn.Close())
		}
		if claim, ok := parseClaim(frame[:n], s.address); ok {
			claim.At = at
			lines.print(trace.Observation{Claim: &claim})
		}
	}
}

// parseClaim reads an Ethernet frame; ok is false unless its sender claims the
// address.
func parseClaim(frame []byte, address netip.Addr) (claim trace.Claim, ok bool) {
	if len(frame) < etherHeaderBytes+arpBytes || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_ARP {
		return claim, false
	}
	arp := frame[etherHeaderBytes : etherHeaderBytes+arpBytes]
	if !bytes.Equal(arp[:6], []byte{0, 1, 8, 0, 6, 4}) || netip.AddrFrom4([4]byte(arp[14:18])) != address {
		return claim, false
	}
	claim.MAC = net.HardwareAddr(arp[8:14]).String()
	switch operation := binary.BigEndian.Uint16(arp[6:]); {
	case bytes.Equal(arp[14:18], arp[24:28]):
		claim.Kind = "gratuitous"
	case operation == arpRequest:
		claim.Kind = "request"
	case operation == arpReply:
		claim.Kind = "reply"
	default:
		return claim, false
	}
	return claim, true
}

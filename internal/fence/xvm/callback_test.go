package xvm

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	wire "ringfence/internal/wire/xvm"
)

// fenceXVM is fence_xvm with a short timeout.
func fenceXVM(t *testing.T, args ...string) peer {
	t.Helper()
	return peer{FenceXVM, append([]string{"-k", writeKey(t, testKey), "-r", "1", "-t", "1"}, args...)}
}

func TestMulticastPackets(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	pc := groupOnLoopback(t)
	got := fenceXVM(t, "-u").run("-o", "off", "-n", "n1")
	if got.code != 1 || !strings.HasPrefix(got.err, string(errTimedOut)+": no daemon called back on TCP port 1229 after ") {
		t.Errorf("nobody answers: %+v", got)
	}
	local := netip.MustParseAddr("127.0.0.1")
	packet, oob := make([]byte, 500), make([]byte, 100)
	salts, seqs := map[[6]byte]bool{}, map[uint32]bool{}
	const packets = 5 // of about ten
	for range packets {
		n, nOOB, _, from, err := pc.ReadMsgUDPAddrPort(packet, oob)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:nOOB])
		if err != nil || len(messages) != 1 || messages[0].Data[0] != 2 {
			t.Errorf("TTL: %v, %v, want 2", messages, err)
		}
		if from.Addr().Unmap() != local {
			t.Errorf("sent from %s, want %s", from, local)
		}
		if err := wire.Verify(packet[:n], []byte(testKey), wire.HashSHA256); err != nil {
			t.Fatal(err)
		}
		r, err := wire.ParseRequest(packet[:n])
		if err != nil {
			t.Fatal(err)
		}
		if r.Op != wire.OpOff || r.Guest != "n1" || r.Address != local || r.Port != wire.DefaultPort || r.Flags != wire.FlagUUID {
			t.Errorf("request %+v", r)
		}
		salts[r.Salt], seqs[r.Seq] = true, true
	}
	if len(salts) != packets || len(seqs) != 1 {
		t.Errorf("%d salts and %d sequence numbers in %d packets, want each its own salt and one number", len(salts), len(seqs), packets)
	}
}

// groupOnLoopback receives packets to the group, with their TTL.
func groupOnLoopback(t *testing.T) *net.UDPConn {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenMulticastUDP("udp4", lo, &net.UDPAddr{IP: net.ParseIP(wire.DefaultGroup4), Port: wire.DefaultPort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	raw, err := pc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var setErr error
	if err := raw.Control(func(fd uintptr) { setErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTTL, 1) }); err != nil || setErr != nil {
		t.Fatal(err, setErr)
	}
	if err := pc.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return pc
}

// daemonsElsewhere returns what makes daemons on another host.
func daemonsElsewhere(t *testing.T) func(t *testing.T) *daemon {
	t.Helper()
	other := otherHost(t)
	return func(t *testing.T) *daemon {
		d := newDaemon(t)
		d.on = other
		return d
	}
}

// The second ways of fence_xvm are taken one after the other, and what one of
// them has carried out none of the others does.
func TestSecondWays(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newDaemon := daemonsElsewhere(t)
	t.Run("multicast answers: nothing else is asked", func(t *testing.T) {
		d, second := newDaemon(t), newDaemon(t)
		d.listenGroup(otherLink)
		second.listenTCP(otherAddress + ":1229")
		fenceXVM(t, "-T", otherAddress, "-t", "6").expectOne(t, d, second)
	})
	t.Run("unicast, on the same listener", func(t *testing.T) {
		d, second := newDaemon(t), newDaemon(t)
		d.listenUDP(otherAddress+":1229", true)
		second.listenTCP(otherAddress + ":1229")
		fenceXVM(t, "-T", otherAddress, "-t", "6").expectOne(t, d, second)
	})
	t.Run("TCP, where unicast is silent", func(t *testing.T) {
		d, deaf := newDaemon(t), newDaemon(t)
		deaf.listenUDP(otherAddress+":1229", false)
		d.listenTCP(otherAddress + ":1229")
		fenceXVM(t, "-T", otherAddress, "-t", "3").expectOne(t, d, deaf)
		if seen, _ := deaf.requests(); len(seen) == 0 {
			t.Error("no unicast packet was sent")
		}
	})
	t.Run("vsock comes last", func(t *testing.T) {
		d := newDaemon(t)
		d.listenTCP(otherAddress + ":1229")
		cl := newClient(config{
			op: wire.OpOff, guest: "n1", timeout: 3 * time.Second, retrans: time.Second / 10, port: 1229, cid: 7, host: "127.0.0.9",
			group: netip.MustParseAddr(wire.DefaultGroup4), hash: wire.HashSHA1, auth: wire.HashSHA256, key: []byte(testKey),
		}, io.Discard)
		cl.dialVsock = func(ctx context.Context, cid, port uint32) (stream, error) {
			if cid != 7 || port != 1229 {
				return nil, fmt.Errorf("CID %d, port %d", cid, port)
			}
			var nd net.Dialer
			return nd.DialContext(ctx, "tcp", otherAddress+":1229")
		}
		if a, err := cl.ask(t.Context()); err != nil || a.exit() != 0 {
			t.Errorf("%+v, %v", a, err)
		}
		if _, done := d.requests(); len(done) != 1 {
			t.Errorf("done %v", done)
		}
	})
}

// Where a daemon may have carried out the request, or may yet do so, no other is
// asked.
func TestNoSecondWay(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newDaemon := daemonsElsewhere(t)
	t.Run("a connection that fails is the last one", func(t *testing.T) {
		liar, second := newDaemon(t), newDaemon(t)
		liar.lies = true
		liar.listenGroup(otherLink)
		second.listenTCP(otherAddress + ":1229")
		fenceXVM(t, "-T", otherAddress).expect(t, 1, "", "-o", "off", "-n", "n1")
		for _, d := range []*daemon{liar, second} {
			if _, done := d.requests(); len(done) != 0 {
				t.Errorf("carried out: %v", done)
			}
		}
	})
	t.Run("silence behind the handshake is the end", func(t *testing.T) {
		silent, second := newDaemon(t), newDaemon(t)
		silent.answer = nil
		silent.listenGroup(otherLink)
		second.listenTCP(otherAddress + ":1229")
		fenceXVM(t, "-T", otherAddress).expect(t, 255, "", "-o", "off", "-n", "n1")
		if _, done := second.requests(); len(done) != 0 {
			t.Errorf("carried out twice: %v", done)
		}
	})
	t.Run("without authentication none for off", func(t *testing.T) {
		second := newDaemon(t)
		second.auth = wire.HashNone
		second.listenTCP(otherAddress + ":1229")
		p := fenceXVM(t, "-T", otherAddress, "-C", "none")
		got := p.expect(t, 1, "", "-o", "off", "-n", "n1")
		if !strings.Contains(got.err, "with auth none there is no second way for off: it might be done twice") {
			t.Errorf("stderr %q", got.err)
		}
		p.expect(t, 0, "Status: ON\n", "-o", "status", "-n", "n1")
	})
}

// expectOne has a guest rebooted, and wants the first daemon alone to have done so,
// once.
func (p peer) expectOne(t *testing.T, does, not *daemon) {
	t.Helper()
	p.expect(t, 0, "", "-o", "reboot", "-n", "n1")
	if _, done := does.requests(); len(done) != 1 || done[0].Op != wire.OpReboot || done[0].Guest != "n1" {
		t.Errorf("done: %+v, want one reboot", done)
	}
	if _, done := not.requests(); len(done) != 0 {
		t.Errorf("done by the other: %+v", done)
	}
}

// One client at a time has the port of the call-back; the next one waits for it.
func TestTwoClientsWaitForEachOther(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d := newDaemon(t)
	d.listenGroup("lo")
	first, err := net.Listen("tcp4", ":1229")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { _ = first.Close() })
	p := fenceXVM(t, "-t", "5")
	p.expect(t, 0, "", "-o", "off", "-n", "n1")
	ln, err := net.Listen("tcp4", ":1229")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := p.expect(t, 1, "", "-o", "off", "-n", "n1", "-t", "1")
	if !strings.Contains(got.err, "is another fence_xvm waiting there?") {
		t.Errorf("stderr %q", got.err)
	}
}

// With more time between packets than there is time, there is one packet and an
// end; the C client would go on for ever.
func TestRetransLongerThanTheTimeout(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	fenceXVM(t, "-r", "20").expect(t, 1, "", "-o", "off", "-n", "n1")
}

// What the package comment relies on: a daemon whose connection was never accepted
// has nothing to go on once the listener is closed.
func TestAClosedListenerHasCarriedOutNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", ln.Addr().String()) // it is in the queue now
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	d := newDaemon(t)
	d.carryOut(conn, wire.Request{Op: wire.OpOff}) // ends, because the connection does
	if _, done := d.requests(); len(done) != 0 {
		t.Errorf("carried out: %v", done)
	}
}

package interop

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/internal/libvirt/libvirtlab"
)

var hashes = []string{"none", "sha1", "sha256", "sha512"}

// Ports of the matrix: one for each weakest hash and auth, as indices of hashes.
func multicastPort(hash, auth int) string { return fmt.Sprint(2000 + 10*hash + auth) }

func tcpPort(hash, auth int) string { return fmt.Sprint(3000 + 10*hash + auth) }

// matrixConfig has a listener of each kind for each weakest hash and auth.
func matrixConfig(key, lines, channels string) string {
	b := strings.Builder{}
	fmt.Fprintf(&b, "[hypervisor]\nuris = [\"qemu:///system\"]\n")
	for hash := range hashes {
		for auth := range hashes {
			secret := fmt.Sprintf("[[listener.key]]\nfile = %q\nhash = %q\nauth = %q\n", key, hashes[hash], hashes[auth])
			fmt.Fprintf(&b, "[[listener]]\nkind = \"multicast\"\ninterfaces = [\"br0\"]\nport = %s\n%s", multicastPort(hash, auth), secret)
			fmt.Fprintf(&b, "[[listener]]\nkind = \"tcp\"\naddress = %q\nport = %s\n%s", Address, tcpPort(hash, auth), secret)
		}
	}
	fmt.Fprintf(&b, "[[listener]]\nkind = \"serial\"\ndir = %q\n[[listener]]\nkind = \"vmchannel\"\ndir = %q\n", lines, channels)
	return b.String()
}

// TestMatrix: both clients, by every transport, with every hash and auth that each
// side may have, and every action. Each series has a guest of its own.
func TestMatrix(t *testing.T) {
	t.Parallel()
	h := Start(t, "matrix", 4)
	lines, channels, key := h.Directory("lines"), h.Directory("channels"), h.WriteKey("key")
	serial, channel := h.SerialGuest(1, lines), h.ChannelGuest(2, 4, channels)
	guests := []libvirtlab.Guest{serial, channel}
	for n := 3; n <= 10; n++ {
		guests = append(guests, h.Guest(n))
	}
	h.Define(guests...)
	h.StartGuests(guests, nil)
	h.Plug(4)
	h.Daemon(t, "fence_virtd", ours(t, "fence_virtd"), "-F", "-f", h.Write("matrix.toml", matrixConfig(key, lines, channels)))
	programs := map[string][2]string{"C": {CFenceXVM, CFenceVirt}, "ours": {ours(t, "fence_xvm"), ours(t, "fence_virt")}}
	awaitAnswer(t, h, 1, []string{CFenceXVM, "-k", key, "-p", multicastPort(2, 2)})
	terminal := h.Terminal(t, serial)
	var group sync.WaitGroup
	series := func(name string, play func(t *testing.T)) { group.Go(func() { t.Run(name, play) }) }
	for i, who := range []string{"C", "ours"} {
		xvm, virt := programs[who][0], programs[who][1]
		g := guests[2+4*i:]
		series(who+" multicast", func(t *testing.T) {
			strengths(t, h, i+1, g[0], func(hash, auth int) []string {
				return []string{xvm, "-k", key, "-t", "20", "-p", multicastPort(hash, auth)}
			})
		})
		series(who+" tcp", func(t *testing.T) {
			strengths(t, h, i+1, g[1], func(hash, auth int) []string {
				return []string{virt, "-k", key, "-t", "20", "-T", Address, "-p", tcpPort(hash, auth)}
			})
		})
	}
	series("lines", func(t *testing.T) { // a line has room for one client
		for i, who := range []string{"C", "ours"} {
			life(t, h, 3, guests[4+4*i], with([]string{programs[who][1], "-D", terminal, "-t", "20"}))
			life(t, h, 4, guests[5+4*i], with([]string{programs[who][1], "-t", "20"}))
		}
	})
	group.Wait()
	wantBeats(t, guests, nil)
}

// strengths plays all that a client may choose towards every listener.
func strengths(t *testing.T, h *Host, client int, g libvirtlab.Guest, command func(hash, auth int) []string) {
	for auth := range hashes {
		for weakest := range hashes {
			for hash := weakest; hash < len(hashes); hash++ {
				c := with(command(weakest, auth), "-c", hashes[hash], "-C", hashes[auth])
				expect(t, h, client, with(c, "-o", "status", "-n", g.Name), 0, "Status: ON")
			}
			c := with(command(weakest, auth), "-c", hashes[weakest], "-C", hashes[auth])
			if weakest == auth {
				life(t, h, client, g, c)
				continue
			}
			expect(t, h, client, with(c, "-o", "list"), 0, listed(g, "on"))
			expect(t, h, client, with(c, "-o", "monitor"), 0, "")
		}
	}
}

// life plays every action on a guest that runs, and once more on one that is off.
func life(t *testing.T, h *Host, client int, g libvirtlab.Guest, command []string) {
	t.Helper()
	ask := func(code int, out, action, guest string) {
		t.Helper()
		c := with(command, "-o", action)
		if guest != "" {
			c = with(c, "-n", guest)
		}
		expect(t, h, client, c, code, out)
	}
	ask(0, "", "monitor", "")
	ask(0, "", "monitor", g.Name)
	ask(1, "Operation failed", "null", g.Name)
	ask(0, listed(g, "on"), "list", "")
	ask(0, listed(g, "on"), "list-status", "")
	ask(2, "Status: OFF", "status", "nobody")
	ask(1, "Operation failed", "off", "nobody")
	ask(0, "", "off", g.UUID)
	wantBeats(t, nil, []libvirtlab.Guest{g})
	ask(2, "Status: OFF", "status", g.Name)
	ask(0, listed(g, "off"), "list", "")
	ask(0, "", "off", g.Name)
	ask(0, "", "reboot", g.UUID)
	ask(2, "Status: OFF", "status", g.UUID)
	ask(0, "", "on", g.Name)
	ask(0, "", "on", g.UUID)
	ask(0, "Status: ON", "status", strings.ToUpper(g.UUID))
	before := h.QEMU(g)
	ask(0, "", "reboot", g.Name)
	if now := h.QEMU(g); now == 0 || now == before {
		t.Errorf("guest %s has process %d behind a reboot, and had %d", g.Name, now, before)
	}
	wantBeats(t, []libvirtlab.Guest{g}, nil)
}

// TestRefusals: who has another key, too weak a hash or another auth, and who has
// heard a request and sends it again, ends nobody.
func TestRefusals(t *testing.T) {
	t.Parallel()
	h := Start(t, "refusals", 3)
	g := h.Guest(1)
	h.Define(g)
	h.StartGuests([]libvirtlab.Guest{g}, nil)
	key, other := h.WriteKey("key"), h.WriteKey("other")
	d := h.Daemon(t, "fence_virtd", ours(t, "fence_virtd"), "-F", "-f", h.Write("refusals.toml", fmt.Sprintf(`
[hypervisor]
uris = ["qemu:///system"]
[[listener]]
kind = "multicast"
interfaces = ["br0"]
[[listener.key]]
file = %[1]q
[[listener]]
kind = "tcp"
address = %[2]q
[[listener.key]]
file = %[1]q
[[listener]]
kind = "tcp"
address = %[2]q
port = 1230
[[listener.key]]
file = %[1]q
auth = "none"
`, key, Address)))
	awaitAnswer(t, h, 1, []string{CFenceXVM, "-k", key})
	for _, command := range [][]string{
		{CFenceXVM, "-r", "5"}, {ours(t, "fence_xvm"), "-r", "5"}, {CFenceVirt, "-T", Address}, {ours(t, "fence_virt"), "-T", Address},
	} {
		for what, args := range map[string][]string{
			"another key": {"-k", other}, "a weak hash": {"-k", key, "-c", "sha1"}, "no hash": {"-k", key, "-c", "none"},
			"another auth": {"-k", key, "-C", "sha512"},
		} {
			got := h.Client(1, command[0], with(command[1:], with(args, "-t", "1", "-o", "off", "-n", g.Name)...)...)
			if got.Code == 0 || got.Code == 2 || got.Code == 3 {
				t.Errorf("%v with %s: exit code %d\n%s", command, what, got.Code, got.Text())
			}
		}
	}
	wantBeats(t, []libvirtlab.Guest{g}, nil)
	replays(t, h, key, g)
	wantBeats(t, []libvirtlab.Guest{g}, nil)
	for _, reason := range []string{"its digest does not fit", "its hash is weaker", "hung up in the handshake", "the identical packet came before"} {
		if !strings.Contains(d.Log(), reason) {
			t.Errorf("the daemon's log does not say %q", reason)
		}
	}
}

// replays hears an off by multicast and by TCP, and sends it again once the guest
// runs again.
func replays(t *testing.T, h *Host, key string, g libvirtlab.Guest) {
	heard := make(chan []byte, 16)
	ear := listen(t, h, heard)
	off := []string{"-k", key, "-t", "20", "-o", "off", "-n", g.Name}
	on := []string{CFenceXVM, "-k", key, "-t", "20", "-o", "on", "-n", g.Name}
	expect(t, h, 1, with([]string{CFenceXVM}, off...), 0, "")
	var packet []byte
	select {
	case packet = <-heard:
	case <-time.After(upLimit):
		t.Fatal("a client on the bridge does not hear the multicast of another one")
	}
	expect(t, h, 1, on, 0, "")
	to := &net.UDPAddr{IP: net.IPv4(10, 77, 0, 1), Port: 1229}
	for range 3 {
		if _, err := ear.WriteTo(packet, to); err != nil {
			t.Error(err)
		}
	}
	wantBeats(t, []libvirtlab.Guest{g}, nil)

	// Without auth the packet is all that a client over TCP sends.
	address := proxy(t, h, heard)
	virt := []string{CFenceVirt, "-T", "10.77.0.13", "-p", address, "-C", "none"}
	expect(t, h, 1, with(virt, off...), 0, "")
	packet = <-heard
	expect(t, h, 1, on, 0, "")
	if got := send(t, h, packet); len(got) > 0 {
		t.Errorf("a replay over TCP is answered by %x", got)
	}
}

// listen gives client 3 an ear in the multicast group; all that it hears goes to the
// channel, as long as there is room.
func listen(t *testing.T, h *Host, heard chan<- []byte) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	err := h.In(3, func() (err error) {
		eth, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		conn, err = net.ListenMulticastUDP("udp4", eth, &net.UDPAddr{IP: net.IPv4(225, 0, 0, 12), Port: 1229})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		buffer := make([]byte, 2048)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			select {
			case heard <- append([]byte{}, buffer[:n]...):
			default:
			}
		}
	}()
	return conn
}

// proxy has client 3 pass a connection on to the daemon's listener without auth, and
// tells what the client at the other end sent first. It returns its port.
func proxy(t *testing.T, h *Host, heard chan []byte) string {
	t.Helper()
	for len(heard) > 0 {
		<-heard
	}
	var listener net.Listener
	if err := h.In(3, func() (err error) { listener, err = net.Listen("tcp4", ":0"); return err }); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-done })
	go func() {
		defer close(done)
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			if err := pass(h, client, heard); err != nil {
				t.Error(err)
			}
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

func pass(h *Host, client net.Conn, heard chan<- []byte) error {
	defer client.Close()
	packet := make([]byte, 176)
	if _, err := io.ReadFull(client, packet); err != nil {
		return err
	}
	heard <- packet
	daemon, err := dial(h, packet)
	if err != nil {
		return err
	}
	defer daemon.Close()
	_, err = io.Copy(client, daemon)
	return err
}

// dial connects client 3 to the listener without auth, and sends a request.
func dial(h *Host, packet []byte) (conn net.Conn, err error) {
	err = h.In(3, func() (err error) { conn, err = net.DialTimeout("tcp4", Address+":1230", upLimit); return err })
	if err != nil {
		return nil, err
	}
	_, err = conn.Write(packet)
	return conn, errors.Join(err, conn.SetReadDeadline(time.Now().Add(upLimit)))
}

// send sends a packet as it is, and returns all that comes back.
func send(t *testing.T, h *Host, packet []byte) []byte {
	t.Helper()
	conn, err := dial(h, packet)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the daemon does not close the connection of a replay")
	}
	return got
}

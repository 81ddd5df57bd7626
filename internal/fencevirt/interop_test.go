package fencevirt

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/nstest"
	"ringfence/internal/wire/xvm"
)

// needC skips a test without the C clients.
func needC(t testing.TB) {
	t.Helper()
	for _, program := range []string{"fence_xvm", "fence_virt"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: needs %s of Debian's package fence-virt; as root, make test installs it", program)
		}
	}
}

func keyFile(t testing.TB, key string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// runner runs a command and returns its exit code and output.
type runner func(t testing.TB, command ...string) (int, string)

func runHere(t testing.TB, command ...string) (int, string) {
	t.Helper()
	result, err := guestJob{Command: command}.do()
	if err != nil {
		t.Fatal(err)
	}
	return result.Exit, result.Output
}

// cClient is a C client with what all its runs have in common.
type cClient struct {
	run  runner
	base []string
}

// expect runs the client and demands the exit code, and the text in its output.
func (c cClient) expect(t testing.TB, exit int, text string, args ...string) {
	t.Helper()
	command := append(append([]string{}, c.base...), args...)
	if got, output := c.run(t, command...); got != exit || !strings.Contains(output, text) {
		t.Errorf("%s: exit code %d, want %d; wanted %q in\n%s", strings.Join(command, " "), got, exit, text, output)
	}
}

// actions goes through all actions on the guests a, which runs, and off.
func (c cClient) actions(t testing.TB) {
	t.Helper()
	c.expect(t, 0, "Status: ON", "-o", "status", "-n", "a")
	c.expect(t, 0, "Status: ON", "-o", "status", "-n", string(idOf("a")))
	c.expect(t, 2, "Status: OFF", "-o", "status", "-n", "off")
	c.expect(t, 2, "Status: OFF", "-o", "status", "-n", "nobody")
	c.expect(t, 0, "", "-o", "reboot", "-n", "a")
	c.expect(t, 0, "", "-o", "off", "-n", "a")
	c.expect(t, 2, "Status: OFF", "-o", "status", "-n", "a")
	c.expect(t, 0, "", "-o", "off", "-n", "a")
	c.expect(t, 0, "", "-o", "reboot", "-n", "off")
	c.expect(t, 2, "Status: OFF", "-o", "status", "-n", "off")
	c.expect(t, 0, "", "-o", "on", "-n", string(idOf("a")))
	c.expect(t, 1, "", "-o", "off", "-n", "nobody")
	c.expect(t, 1, "", "-o", "on", "-n", "nobody")
	c.expect(t, 1, "", "-o", "reboot", "-n", "nobody")
	c.expect(t, 1, "", "-o", "null", "-n", "a")
	c.expect(t, 0, "", "-o", "monitor")
	list := func(name, state string) string { return fmt.Sprintf("%-32s %s %s\n", name, idOf(name), state) }
	c.expect(t, 0, list("a", "on")+list("off", "off"), "-o", "list")
}

func TestTheCClientOverTCP(t *testing.T) {
	needC(t)
	key := keyFile(t, testKey)
	for hash := xvm.HashNone; hash <= xvm.HashSHA512; hash++ {
		for auth := xvm.HashNone; auth <= xvm.HashSHA512; auth++ {
			s := start(t, Config{Listeners: []Listener{tcpListener(Key{Secret: Secret(testKey), Hash: hash, Auth: auth})}}, newHost(t, "a", "off"))
			_, port, _ := net.SplitHostPort(addrOf(t, s, "tcp"))
			c := cClient{runHere, []string{"fence_virt", "-T", "127.0.0.1", "-p", port, "-k", key, "-c", hash.String(), "-C", auth.String(), "-t", "5"}}
			if hash == xvm.HashSHA256 && auth == hash {
				c.actions(t)
			}
			c.expect(t, 0, "Status: ON", "-o", "status", "-n", "a")
			c.expect(t, 0, "", "-o", "off", "-n", "a")
			c.expect(t, 2, "Status: OFF", "-o", "status", "-n", "off")
		}
	}
}

func TestTheCClientWithAnotherKeyOrAWeakHash(t *testing.T) {
	needC(t)
	host := newHost(t, "a")
	s := start(t, Config{Listeners: []Listener{tcpListener(strong(testKey))}}, host)
	_, port, _ := net.SplitHostPort(addrOf(t, s, "tcp"))
	c := cClient{runHere, []string{"fence_virt", "-T", "127.0.0.1", "-p", port, "-t", "2", "-o", "off", "-n", "a"}}
	good := keyFile(t, testKey)
	c.expect(t, 1, "", "-k", keyFile(t, "another"))
	c.expect(t, 1, "", "-k", good, "-c", "sha1")
	c.expect(t, 1, "", "-k", good, "-c", "none")
	if host.Life(idOf("a")) == "" {
		t.Error("it was ended")
	}
	c.expect(t, 0, "", "-k", good, "-c", "sha512")
}

func TestTheCClientAndGroups(t *testing.T) {
	needC(t)
	group := Group{Name: "g", From: []string{"127.0.0.1"}, Guests: []string{"a", string(idOf("b"))}}
	s := start(t, Config{Listeners: []Listener{tcpListener(strong(testKey, group))}}, newHost(t, "a", "b", "c"))
	_, port, _ := net.SplitHostPort(addrOf(t, s, "tcp"))
	c := cClient{runHere, []string{"fence_virt", "-T", "127.0.0.1", "-p", port, "-t", "2", "-k", keyFile(t, testKey)}}
	for _, guest := range []string{"a", "b"} {
		c.expect(t, 0, "Status: ON", "-o", "status", "-n", guest)
		c.expect(t, 0, "Status: ON", "-o", "status", "-n", string(idOf(guest)))
	}
	for _, guest := range []string{"c", string(idOf("c")), "nobody"} {
		for _, action := range []string{"status", "off", "on", "reboot"} {
			c.expect(t, 3, "Permission denied", "-o", action, "-n", guest)
		}
	}
	_, output := c.run(t, append(c.base, "-o", "list")...)
	if strings.Count(output, "\n") != 2 || strings.Contains(output, string(idOf("c"))) {
		t.Errorf("list:\n%s", output)
	}
}

func TestTheCClientByMulticast(t *testing.T) {
	needC(t)
	nstest.Need(t)
	br := nstest.Bridge(t, "br1", "10.77.1.1/24", "fd77:1::1/64")
	guest := newGuest(t, br, "10.77.1.2/24", "fd77:1::2/64")
	key := keyFile(t, testKey)
	for _, group := range []string{xvm.DefaultGroup4, xvm.DefaultGroup6} {
		for hash := xvm.HashNone; hash <= xvm.HashSHA512; hash++ {
			for auth := xvm.HashNone; auth <= xvm.HashSHA512; auth++ {
				whole := hash == xvm.HashSHA256 && auth == hash
				if group == xvm.DefaultGroup6 && !whole {
					continue
				}
				l := multicastListener(group)
				l.Keys = []Key{{Secret: Secret(testKey), Hash: hash, Auth: auth}}
				s, err := New(Config{Listeners: []Listener{l}}, newHost(t, "a", "off"), logOf(t))
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- s.Run(t.Context()) }()
				c := cClient{guest.run, []string{"fence_xvm", "-a", group, "-k", key, "-c", hash.String(), "-C", auth.String(), "-t", "8", "-r", "5"}}
				if whole {
					c.actions(t)
				} else {
					c.expect(t, 0, "Status: ON", "-o", "status", "-n", "a")
					c.expect(t, 0, "", "-o", "off", "-n", "a")
				}
				s.Close()
				<-ended
			}
		}
	}
}

func TestTheCClientByMulticastWithGroupsAndAnotherKey(t *testing.T) {
	needC(t)
	nstest.Need(t)
	br := nstest.Bridge(t, "br1", "10.77.1.1/24")
	one, two := newGuest(t, br, "10.77.1.2/24"), newGuest(t, br, "10.77.1.3/24")
	l := multicastListener(xvm.DefaultGroup4)
	l.Keys = []Key{strong(testKey, Group{From: []string{"10.77.1.2"}, Guests: []string{string(idOf("a"))}})}
	start(t, Config{Listeners: []Listener{l}}, newHost(t, "a"))
	base := []string{"fence_xvm", "-t", "5", "-r", "5", "-k"}
	good, bad := keyFile(t, testKey), keyFile(t, "another")
	cClient{one.run, append(base[:len(base):len(base)], good)}.expect(t, 0, "Status: ON", "-o", "status", "-n", "a")
	cClient{two.run, append(base[:len(base):len(base)], good)}.expect(t, 3, "Permission denied", "-o", "status", "-n", "a")
	cClient{one.run, append(base[:len(base):len(base)], bad, "-t", "1")}.expect(t, 1, "Timed out", "-o", "off", "-n", "a")
}

func TestTheCClientOverALine(t *testing.T) {
	needC(t)
	dir := t.TempDir()
	// The guest that asks is none of those that are ended: its line would end too.
	host := lineHost(t, dir, "a", "off", "z")
	channel, serial := newQEMU(t, filepath.Join(dir, "z.channel")), newQEMU(t, filepath.Join(dir, "z.serial"))
	start(t, Config{Listeners: []Listener{lineListener(KindVMChannel), lineListener(KindSerial)}}, host)
	t.Run("vmchannel", func(t *testing.T) {
		// In a guest, guestfwd of QEMU leads a TCP address to the line.
		forward, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		line, done := channel.line(t), make(chan struct{})
		t.Cleanup(func() { forward.Close(); <-done })
		go func() {
			defer close(done)
			for {
				client, err := forward.Accept()
				if err != nil {
					return
				}
				relay(client, line)
			}
		}()
		_, port, _ := net.SplitHostPort(forward.Addr().String())
		cClient{runHere, []string{"fence_virt", "-A", "127.0.0.1", "-p", port, "-t", "5"}}.actions(t)
	})
	t.Run("serial", func(t *testing.T) {
		device, tty := newPTY(t)
		line := serial.line(t)
		done := make(chan struct{}, 2)
		go func() { _, _ = io.Copy(line, device); done <- struct{}{} }()
		go func() { _, _ = io.Copy(device, line); done <- struct{}{} }()
		t.Cleanup(func() { device.Close(); line.Close(); <-done; <-done })
		c := cClient{runHere, []string{"fence_virt", "-D", tty, "-t", "5"}}
		c.expect(t, 0, "Status: ON", "-o", "status", "-n", "a")
		c.expect(t, 0, "", "-o", "off", "-n", "a")
		c.expect(t, 2, "Status: OFF", "-o", "status", "-n", "a")
		c.expect(t, 0, string(idOf("a"))+" off", "-o", "list")
	})
}

// newPTY is a serial line without hardware: what is written to the tty comes out of
// the device.
func newPTY(t testing.TB) (device *os.File, tty string) {
	t.Helper()
	device, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(device.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(device.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty = fmt.Sprint("/dev/pts/", n)
	// While somebody has it open, the device does not fail between two clients.
	keep, err := os.OpenFile(tty, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keep.Close() })
	return device, tty
}

// relay carries bytes until the client hangs up.
func relay(client, line net.Conn) {
	defer client.Close()
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(client, line)
	}()
	_, _ = io.Copy(line, client)
	_ = line.SetReadDeadline(time.Now()) // ends the way back
	<-back
	_ = line.SetReadDeadline(time.Time{})
}

// BenchmarkTheCClientOverTCP measures a status with the start of the client.
func BenchmarkTheCClientOverTCP(b *testing.B) {
	needC(b)
	s := startLogged(b, Config{Listeners: []Listener{tcpListener(strong(testKey))}}, newHost(b, "a"), quiet())
	_, port, _ := net.SplitHostPort(addrOf(b, s, "tcp"))
	c := cClient{runHere, []string{"fence_virt", "-T", "127.0.0.1", "-p", port, "-k", keyFile(b, testKey), "-o", "status", "-n", "a"}}
	for b.Loop() {
		c.expect(b, 0, "ON")
	}
}

// BenchmarkStatus measures a status over TCP and by datagrams without the start of a
// process.
func BenchmarkStatus(b *testing.B) {
	for _, network := range []string{"tcp", "udp"} {
		b.Run(network, func(b *testing.B) {
			s := startLogged(b, Config{Listeners: []Listener{tcpListener(strong(testKey)), udpListener(strong(testKey))}}, newHost(b, "a"), quiet())
			to := addrOf(b, s, network)
			for b.Loop() {
				clientOf(network, to, xvm.OpStatus, "a").mustAsk(b, xvm.ResultOK)
			}
		})
	}
}

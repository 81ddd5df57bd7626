package xvm

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	cDaemon = "/usr/sbin/fence_virtd"
	// The guest of libvirt's test driver.
	testGuest = "test"
	testUUID  = "6695eb01-f6a4-8304-79aa-97f2502e193f"
)

// cConfig is a configuration of the C daemon with libvirt's test driver.
type cConfig struct {
	listener string // its name
	keys     string // lines within it
	groups   string
	uri      string // "": test:///default
}

func (c cConfig) text() string {
	uri := c.uri
	if uri == "" {
		uri = "test:///default"
	}
	return fmt.Sprintf(`fence_virtd { listener = "%s"; backend = "libvirt"; module_path = "%s"; }
listeners { %s { %s } }
backends { libvirt { uri = "%s"; } }
%s`, c.listener, modules(), c.listener, c.keys, uri, c.groups)
}

// modules is where Debian has the plugins of the C daemon.
func modules() string {
	found, _ := filepath.Glob("/usr/lib/*/fence-virt") // the pattern is well-formed
	if len(found) == 0 {
		return "/usr/lib64/fence-virt"
	}
	return found[0]
}

func needCDaemon(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(cDaemon); err != nil {
		t.Skipf("SKIPPED: needs %s: install fence-virtd", cDaemon)
	}
}

// startC starts a C daemon that ends with the test.
func startC(t *testing.T, c cConfig) {
	t.Helper()
	startCBy(t, c, exec.Command(cDaemon))
}

// onAnotherHost starts a C daemon in a network namespace of its own, behind the
// addresses 10.77.0.1 and fd00:77:1::1 of its interface "eth"; the test has .11 and
// ::11.
func onAnotherHost(t *testing.T, c cConfig) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("SKIPPED: needs ip: install iproute2")
	}
	// The daemon's shell waits for its interface.
	cmd := exec.Command("sh", "-ec", `read go
		ip link set lo up; ip addr add 10.77.0.1/24 dev eth; ip addr add fd00:77:1::1/64 dev eth nodad; ip link set eth up
		exec "$0" "$@"`, cDaemon)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	gate, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	startCBy(t, c, cmd)
	script := fmt.Sprintf(`ip link add veth type veth peer name eth netns %d
		ip addr add 10.77.0.11/24 dev veth; ip addr add fd00:77:1::11/64 dev veth nodad; ip link set veth up`, cmd.Process.Pid)
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := gate.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
}

// startCBy starts the C daemon by a command, which gets the daemon's options.
func startCBy(t *testing.T, c cConfig, cmd *exec.Cmd) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "fence_virt.conf")
	if err := os.WriteFile(conf, []byte(c.text()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Args = append(cmd.Args, "-F", "-d", "5", "-f", conf, "-p", filepath.Join(dir, "pid"))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	// A test that is killed leaves no daemon behind.
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_ = cmd.Wait() // how it ended is not what is tested
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the C daemon with\n%s\nsaid:\n%s", c.text(), text)
		}
	})
}

// writeKey makes a key file.
func writeKey(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// peer is a daemon as a client's options name it.
type peer struct {
	program string
	args    []string
}

func (p peer) run(args ...string) outcome {
	return start(p.program, append(append([]string{}, p.args...), args...)...)
}

// ready waits until the daemon answers.
func (p peer) ready(t *testing.T) {
	t.Helper()
	var last outcome
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if last = p.run("-o", "monitor", "-t", "1"); last.code == 0 {
			return
		}
	}
	t.Fatalf("the daemon does not answer: %+v", last)
}

// expect runs the agent and compares exit code and standard output.
func (p peer) expect(t *testing.T, code int, out string, args ...string) outcome {
	t.Helper()
	got := p.run(args...)
	if got.code != code || got.out != out {
		t.Errorf("%s %v %v = %d\n%s%s\nwant %d\n%s", p.program, p.args, args, got.code, got.out, got.err, code, out)
	}
	return got
}

func listLine(state string) string {
	return fmt.Sprintf("%-32s %s %s\n", testGuest, testUUID, state)
}

// life plays every action but reboot, by name and by UUID.
func (p peer) life(t *testing.T) {
	t.Helper()
	p.expect(t, 0, "Status: ON\n", "-o", "status", "-n", testGuest)
	p.expect(t, 0, listLine("on"), "-o", "list")
	p.expect(t, 1, "", "-o", "null", "-n", testGuest)
	p.expect(t, 0, "", "-o", "monitor", "-n", "nobody") // which the C daemon does not look at
	p.expect(t, 1, "", "-o", "off", "-n", "nobody")
	p.expect(t, 2, "Status: OFF\n", "-o", "status", "-n", "nobody")
	p.expect(t, 0, "", "-o", "off", "-n", testUUID)
	p.expect(t, 2, "Status: OFF\n", "-o", "status", "-H", testUUID)
	p.expect(t, 0, listLine("off"), "-o", "list-status")
	p.expect(t, 0, "", "-o", "on", "-n", testGuest)
	p.expect(t, 0, "Status: ON\n", "-o", "status", "-n", testGuest)
}

// All strengths of hash and auth, over IPv4.
func TestCDaemonByMulticast(t *testing.T) {
	needCDaemon(t)
	if !inNamespace(t) {
		return
	}
	key := writeKey(t, "fence-virt-go interop key\n")
	port := 20000
	for _, auth := range []string{"none", "sha1", "sha256", "sha512"} {
		for _, hashes := range [][]string{{"none"}, {"sha1", "sha256", "sha512"}} {
			port++
			p := peer{FenceXVM, []string{"-k", key, "-C", auth, "-p", fmt.Sprint(port), "-r", "1"}}
			startC(t, cConfig{listener: "multicast", keys: fmt.Sprintf(
				`key_file = "%s"; interface = "lo"; family = "ipv4"; port = "%d"; hash = "%s"; auth = "%s";`, key, port, hashes[0], auth)})
			t.Run(auth+" "+hashes[0], func(t *testing.T) {
				peer{p.program, append(p.args, "-c", hashes[0])}.ready(t)
				for _, hash := range hashes {
					peer{p.program, append(p.args, "-c", hash)}.life(t)
				}
			})
		}
	}
}

// What the defaults of both are, and what goes wrong.
func TestCDaemonRefuses(t *testing.T) {
	needCDaemon(t)
	if !inNamespace(t) {
		return
	}
	key, other := writeKey(t, "the key"), writeKey(t, "another key")
	startC(t, cConfig{listener: "multicast", keys: `key_file = "` + key + `"; interface = "lo";`, groups: `
groups {
	group { ip = "127.0.0.1"; uuid = "named"; uuid = "` + testGuest + `"; }
	group { ip = "fd00:77::9"; uuid = "` + testUUID + `"; }
}`})
	p := peer{FenceXVM, []string{"-k", key, "-r", "1"}}
	p.ready(t)
	p.expect(t, 0, "Status: ON\n", "-o", "status", "-n", testGuest)
	p.expect(t, 0, "", "-o", "reboot", "-n", testGuest)
	p.expect(t, 0, "Status: ON\n", "-o", "status", "-n", testGuest)
	p.expect(t, 0, listLine("on"), "-o", "list")
	denied := p.expect(t, 3, "", "-o", "off", "-n", testUUID)
	if denied.err != "Permission denied\n" {
		t.Errorf("stderr of a denied request: %q", denied.err)
	}
	for name, args := range map[string][]string{
		"another key": {"-k", other}, "a weak hash": {"-c", "sha1"}, "no hash": {"-c", "none"},
	} {
		got := p.expect(t, 1, "", append(args, "-t", "1", "-o", "off", "-n", testGuest)...)
		if !strings.Contains(got.err, string(errTimedOut)) || !strings.HasSuffix(got.err, "\nOperation failed\n") {
			t.Errorf("%s: stderr %q", name, got.err)
		}
	}
	p.expect(t, 1, "", "-C", "sha512", "-o", "off", "-n", testGuest)
	p.expect(t, 0, "Status: ON\n", "-o", "status", "-n", testGuest)
}

func TestCDaemonByMulticastIPv6(t *testing.T) {
	needCDaemon(t)
	if !inNamespace(t) {
		return
	}
	key := writeKey(t, "the key")
	onAnotherHost(t, cConfig{listener: "multicast", keys: `key_file = "` + key + `"; interface = "eth"; family = "ipv6";`})
	p := peer{FenceXVM, []string{"-k", key, "-r", "1", "-i", "ipv6"}}
	p.ready(t)
	p.life(t)
}

// The daemon is in no group that the client knows: unicast finds it.
func TestCDaemonByUnicast(t *testing.T) {
	needCDaemon(t)
	if !inNamespace(t) {
		return
	}
	key := writeKey(t, "the key")
	onAnotherHost(t, cConfig{listener: "multicast", keys: `key_file = "` + key + `"; interface = "eth"; address = "225.0.0.99";`})
	peer{FenceXVM, []string{"-k", key, "-r", "1", "-a", "225.0.0.99"}}.ready(t)
	p := peer{FenceXVM, []string{"-k", key, "-r", "1", "-t", "2"}}
	p.expect(t, 1, "", "-o", "off", "-n", testGuest)
	p.expect(t, 0, "", "-o", "off", "-n", testGuest, "-T", "10.77.0.1", "-t", "6")
	p.expect(t, 2, "Status: OFF\n", "-o", "status", "-n", testGuest, "-T", "10.77.0.1", "-t", "6")
}

func TestCDaemonByTCP(t *testing.T) {
	needCDaemon(t)
	if !inNamespace(t) {
		return
	}
	key := writeKey(t, "the key")
	// The C daemon takes its key "auth" for the hash; its auth stays sha256.
	for i, hash := range []string{"none", "sha1", "sha256", "sha512"} {
		port := fmt.Sprint(21000 + i)
		startC(t, cConfig{listener: "tcp", keys: fmt.Sprintf(`key_file = "%s"; port = "%s"; hash = "%s";`, key, port, hash)})
		p := peer{FenceVirt, []string{"-k", key, "-p", port, "-T", "localhost", "-c", hash}}
		p.ready(t)
		p.life(t)
	}
	// A second way of fence_xvm, where nothing is in its group.
	p := peer{FenceXVM, []string{"-k", key, "-r", "1", "-p", "21002", "-t", "3"}}
	p.expect(t, 1, "", "-o", "status", "-n", testGuest, "-t", "1")
	p.expect(t, 0, "Status: ON\n", "-o", "status", "-n", testGuest, "-T", "127.0.0.1")
	wrong := peer{FenceVirt, []string{"-k", writeKey(t, "another key"), "-p", "21002", "-T", "127.0.0.1"}}
	wrong.expect(t, 1, "", "-o", "off", "-n", testGuest)
}

const nodeXML = `<node>
<domain type='test'><name>%s</name><uuid>%s</uuid><memory>8192</memory><vcpu>1</vcpu>
<os><type>hvm</type></os>
<devices><%s type='unix'><source mode='bind' path='%s'/>%s</%s></devices></domain>
</node>
`

// startLine starts a C daemon that asks over a unix socket, as QEMU gives it, and
// returns what it connects to.
func startLine(t *testing.T, mode, element, target string) net.Conn {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	node := filepath.Join(dir, "node.xml")
	xml := fmt.Sprintf(nodeXML, testGuest, testUUID, element, socket, target, element)
	if err := os.WriteFile(node, []byte(xml), 0o600); err != nil {
		t.Fatal(err)
	}
	key := writeKey(t, "not used")
	startC(t, cConfig{
		listener: "serial", uri: "test://" + node,
		keys: fmt.Sprintf(`key_file = "%s"; uri = "test://%s"; path = "%s"; mode = "%s";`, key, node, dir, mode),
	})
	if err := ln.(*net.UnixListener).SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatalf("the C daemon did not connect: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestCDaemonBySerialLine(t *testing.T) {
	needCDaemon(t)
	if !inNamespace(t) {
		return
	}
	conn := startLine(t, "serial", "serial", "<target port='1'/>")
	master, device := openPty(t)
	relay(t, master, conn)
	peer{FenceVirt, []string{"-D", device, "-t", "5"}}.life(t)
}

func TestCDaemonByVMChannel(t *testing.T) {
	needCDaemon(t)
	if !inNamespace(t) {
		return
	}
	conn := startLine(t, "vmchannel", "channel", "<target type='guestfwd' address='10.0.2.179' port='1229'/>")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	relayEach(t, ln, conn)
	port := fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)
	peer{FenceVirt, []string{"-A", "127.0.0.1", "-p", port, "-t", "5"}}.life(t)
}

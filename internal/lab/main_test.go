package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor/proc"
)

// The test binary plays every part: called with one of these words it is not a
// test but that part.
func TestMain(m *testing.M) {
	parts := map[string]func([]string) int{
		"guest-init":     func([]string) int { return proc.GuestInit() },
		"lab-supervisor": SupervisorMain,
		"hostd":          fakeHostd,
		"node":           fakeNode,
		"ping":           ping,
		"up":             upAndHang,
	}
	if len(os.Args) > 1 {
		if part, ok := parts[os.Args[1]]; ok {
			os.Exit(part(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// asUserEnv tells the tests that they run as an ordinary user already.
const asUserEnv = "RINGFENCE_TEST_AS_USER"

// TestLabOfOrdinaryUser runs the labs again as an ordinary user; run by one, that
// is what they are anyway.
func TestLabOfOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		return
	}
	if os.Getenv("RINGFENCE_TEST_LONG") == "" {
		t.Skip("SKIPPED: the labs once more as another user; `make test` does it")
	}
	binary := sharedBinary(t)
	cmd := exec.Command(binary, "-test.run=^Test(Movable)?Lab$", "-test.timeout=5m", "-test.v="+strconv.FormatBool(testing.Verbose()))
	cmd.Dir, cmd.Env = "/", append(os.Environ(), asUserEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as an ordinary user: %v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
}

// sharedBinary copies the test binary to where every user may run it.
func sharedBinary(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ringfence-lab-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "lab.test")
	if err := os.WriteFile(path, self, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// fakeHostd watches its guests and writes each event to a file, as JSON lines.
func fakeHostd(args []string) int {
	config, err := proc.ReadConfig(args[0])
	if err != nil {
		return report(err)
	}
	d, err := proc.New(context.Background(), config, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return report(err)
	}
	events, err := d.Watch(context.Background())
	if err != nil {
		return report(err)
	}
	out, err := os.OpenFile(args[1], os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return report(err)
	}
	fmt.Println("ready")
	for e := range events {
		if err := json.NewEncoder(out).Encode(e); err != nil {
			return report(err)
		}
	}
	return report(io.EOF)
}

// fakeNode counts into its disk for ever.
func fakeNode(args []string) int {
	for n := 1; ; n++ {
		if err := os.WriteFile("count.new", []byte(strconv.Itoa(n)), 0o600); err != nil {
			return report(err)
		}
		if err := os.Rename("count.new", "count"); err != nil {
			return report(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// ping returns 0 when the address answers, 1 when it is silent.
func ping(args []string) int {
	conn, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return report(err) + 1
	}
	defer conn.Close()
	target := &net.IPAddr{IP: net.ParseIP(args[0])}
	message := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: os.Getpid(), Data: []byte("ringfence")}}
	raw, err := message.Marshal(nil)
	if err != nil {
		return report(err) + 1
	}
	patience, err := time.ParseDuration(args[1])
	if err != nil {
		return report(err) + 1
	}
	deadline := time.Now().Add(patience)
	buffer := make([]byte, 1500)
	for time.Now().Before(deadline) {
		_, _ = conn.WriteTo(raw, target) // unreachable is silence
		_ = conn.SetReadDeadline(time.Now().Add(pingInterval))
		n, from, err := conn.ReadFrom(buffer)
		if err != nil || from.String() != args[0] {
			continue
		}
		if reply, err := icmp.ParseMessage(1, buffer[:n]); err == nil && reply.Type == ipv4.ICMPTypeEchoReply {
			return 0
		}
	}
	return 1
}

func report(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// testOptions are those of every lab here; the guests and hosts are the parts
// of this binary.
func testOptions(dir string) Options {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Options{
		Dir:      dir,
		Attached: true, // an interrupted test leaves nothing
		GuestCommand: func(_ Layout, node cluster.NodeName) []string {
			return []string{self, "node", string(node), dir}
		},
		HostCommand: func(l Layout, host cluster.HostName) []string {
			return []string{self, "hostd", l.HostProcConfig(host), filepath.Join(l.HostDir(host), "events")}
		},
	}
}

// upAndHang is a process that starts a lab and hangs until it is killed.
func upAndHang(args []string) int {
	options := testOptions(args[1])
	options.Attached = args[0] == modeAttached
	l, err := Up(context.Background(), options)
	if err != nil {
		return report(err)
	}
	fmt.Println("up")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return report(l.Down(context.Background()))
}

package interop

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/internal/libvirt/libvirtlab"
)

// Limits of what is waited for. The machine may be busy.
const (
	upLimit = 20 * time.Second
	// still is longer than the pause between two beats.
	still = 700 * time.Millisecond
)

var binaries Binaries

func TestMain(m *testing.M) {
	code := m.Run()
	if err := binaries.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// ours returns one of the shipped binaries.
func ours(t testing.TB, name string) string { return filepath.Join(binaries.Dir(t), name) }

// wantBeats fails the test unless exactly these of the guests live, by their logs.
func wantBeats(t *testing.T, alive, dead []libvirtlab.Guest) {
	t.Helper()
	for _, g := range alive {
		if !g.Lives(beatLimit) {
			t.Errorf("guest %s does not live", g.Name)
		}
	}
	before := make([]int, len(dead))
	for i, g := range dead {
		before[i] = g.Beats()
	}
	if len(dead) > 0 {
		time.Sleep(still)
	}
	for i, g := range dead {
		if g.Beats() != before[i] {
			t.Errorf("guest %s lives", g.Name)
		}
	}
}

// setup is a configuration as the C daemon is used with.
type setup struct {
	listener string // its name
	settings string // of it
	groups   string
}

func (s setup) text() string {
	return fmt.Sprintf(`# Of a set-up that works with the C daemon.
fence_virtd {
	listener = "%s";
	backend = "libvirt";
	module_path = "%s";
}

listeners {
	%s { %s }
}

backends {
	libvirt { uri = "qemu:///system"; }
}
%s`, s.listener, Modules(), s.listener, s.settings, s.groups)
}

// listed is a line of a list.
func listed(g libvirtlab.Guest, state string) string {
	return fmt.Sprintf("%-32s %s %s\n", g.Name, g.UUID, state)
}

// expect runs a client and compares its exit code and output.
func expect(t testing.TB, h *Host, client int, command []string, code int, out string) Outcome {
	t.Helper()
	got := h.Client(client, command[0], command[1:]...)
	if got.Code != code || !strings.Contains(got.Text(), out) {
		t.Errorf("%s = %d\n%s%swant %d with %q", strings.Join(command, " "), got.Code, got.Out, got.Err, code, out)
	}
	return got
}

// with returns a command with more arguments.
func with(command []string, args ...string) []string {
	return append(append([]string{}, command...), args...)
}

// awaitAnswer waits until the daemon answers.
func awaitAnswer(t testing.TB, h *Host, client int, command []string) {
	t.Helper()
	Await(t, upLimit, "the daemon answers", func() bool {
		return h.Client(client, command[0], with(command[1:], "-o", "monitor", "-t", "2")...).Code == 0
	})
}

// notifySocket listens as a service manager does.
func notifySocket(t *testing.T, path string) <-chan string {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	told, done := make(chan string, 16), make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		buffer := make([]byte, 1024)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			told <- string(buffer[:n])
		}
	}()
	return told
}

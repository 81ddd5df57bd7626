package daemon

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// modeEnv tells the test binary, as a daemon in the background, what to do.
const modeEnv = "RINGFENCE_TEST_DAEMON"

func TestMain(m *testing.M) {
	mode := os.Getenv(modeEnv)
	if mode == "" {
		os.Exit(m.Run())
	}
	parent, ok := InBackground()
	if !ok {
		code, err := Background(os.Stderr)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 99
		}
		os.Exit(code)
	}
	fmt.Fprintln(os.Stderr, "said before")
	switch mode {
	case "fails":
		os.Exit(7)
	case "ends":
		os.Exit(0)
	}
	if err := parent.Ready(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(98)
	}
	fmt.Fprintln(os.Stderr, "said after")
	dir, _ := os.Getwd()
	// The session, as field 6 of its stat after the name in parentheses.
	stat, _ := os.ReadFile("/proc/self/stat")
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	out := fmt.Sprintf("dir %s, leads its session %v, environment %q", dir, fields[3] == strconv.Itoa(os.Getpid()), os.Getenv(backgroundEnv))
	if err := os.WriteFile(mode, []byte(out), 0o600); err != nil {
		os.Exit(97)
	}
}

// TestBackground: whoever starts a daemon learns what became of the start.
func TestBackground(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		mode string
		code int
		said string
	}{
		{"fails", 7, "said before\n"},
		{"ends", 99, "said before\nthe daemon ended before it was ready\n"},
		{path, 0, "said before\n"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), modeEnv+"="+c.mode)
		var said bytes.Buffer
		cmd.Stderr = &said
		_ = cmd.Run()
		if cmd.ProcessState.ExitCode() != c.code || said.String() != c.said {
			t.Errorf("%s: exit code %d, said %q", c.mode, cmd.ProcessState.ExitCode(), said.String())
		}
	}
	var data []byte
	for deadline := time.Now().Add(20 * time.Second); len(data) == 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		data, _ = os.ReadFile(path)
	}
	if want := `dir /, leads its session true, environment ""`; string(data) != want {
		t.Errorf("got %q, want %q", data, want)
	}
}

func TestPidFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pid")
	program := filepath.Base(os.Args[0])
	content := func() string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	mine := strconv.Itoa(os.Getpid())

	p, err := ClaimPidFile(path, program)
	if err != nil || content() != mine {
		t.Fatalf("%v, content %q", err, content())
	}
	if _, err := ClaimPidFile(path, program); err == nil || !strings.Contains(err.Error(), "runs already with pid "+mine) {
		t.Errorf("a second instance: %v", err)
	}
	if err := p.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is still there")
	}

	// What is left of one that crashed, or holds nonsense, is taken over; a living
	// process counts only when it is the program.
	other := exec.CommandContext(t.Context(), "sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	pid := strconv.Itoa(other.Process.Pid)
	for _, stale := range []string{"", "none", "-1", "999999999", pid} {
		if err := os.WriteFile(path, []byte(stale), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := ClaimPidFile(path, program)
		if err != nil || content() != mine {
			t.Fatalf("%q: %v, content %q", stale, err, content())
		}
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(path, []byte(pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ClaimPidFile(path, "sleep"); err == nil || content() != pid {
		t.Errorf("the C daemon runs: %v, content %q", err, content())
	}
}

func TestNotify(t *testing.T) {
	conn := listen(t)
	t.Setenv("NOTIFY_SOCKET", conn.LocalAddr().String())
	log := slog.New(slog.DiscardHandler)
	Ready(log)
	Reloading(log)
	Stopping(log)
	for _, want := range []string{`^READY=1$`, `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*$`, `^STOPPING=1$`} {
		if got := receive(t, conn); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("got %q, want %s", got, want)
		}
	}
}

// TestSyslog: messages have the form of syslog; without it nothing waits, and the
// next one that gets through tells how many were lost.
func TestSyslog(t *testing.T) {
	conn := listen(t)
	path := conn.LocalAddr().String()
	log := slog.New(NewSyslog(path, "fence_virtd", slog.LevelInfo)).With("component", "x")
	log.Debug("not this")
	log.Warn("a warning", "key", "a value")
	want := fmt.Sprintf(`^<28>[A-Z][a-z]{2} [ 0-3]\d \d\d:\d\d:\d\d fence_virtd\[%d\]: msg="a warning" component=x key="a value"\n$`, os.Getpid())
	if got := receive(t, conn); !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("got %q, want %s", got, want)
	}
	conn.Close()
	os.Remove(path)
	log.Error("lost")
	log.Error("lost")
	again, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	log.WithGroup("g").Error("found", "a", 1)
	if got := receive(t, again); !strings.HasPrefix(got, "<27>") || !strings.HasSuffix(got, "]: lost=2 msg=found component=x g.a=1\n") {
		t.Errorf("got %q", got)
	}
	// A log that takes nothing.
	began := time.Now()
	for range 2000 {
		log.Info(strings.Repeat("x", 1000))
		if time.Since(began) > 10*time.Second {
			t.Fatal("logging waits for the log")
		}
		if log.Handler().(*Syslog).shared.lost > 2 {
			return
		}
	}
	t.Error("a full log lost nothing")
}

func listen(t *testing.T) *net.UnixConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "rf") // socket paths must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func receive(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	n, err := conn.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

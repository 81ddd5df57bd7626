package fencevirt

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/wire/xvm"
)

// qemu listens at the port of a guest, as the hypervisor does; who gets a connection
// is that guest.
type qemu struct{ *net.UnixListener }

func newQEMU(t testing.TB, path string) qemu {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return qemu{l}
}

// line waits for the daemon to connect.
func (q qemu) line(t testing.TB) net.Conn {
	t.Helper()
	q.SetDeadline(time.Now().Add(10 * time.Second))
	conn, err := q.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// speak sends bytes over the line and reads one answer.
func speak(t testing.TB, conn net.Conn, b []byte) reply {
	t.Helper()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	got, err := readReply(conn, xvm.Magic)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func hasSilence(t testing.TB, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(soon))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the daemon said something: %v", err)
	}
}

func lineHost(t testing.TB, dir string, guests ...string) *withPorts {
	t.Helper()
	h := &withPorts{Driver: newHost(t, guests...), ports: map[cluster.GuestID][]hypervisor.Port{}}
	for _, name := range guests {
		at := func(file string) string { return filepath.Join(dir, name+file) }
		h.ports[idOf(name)] = []hypervisor.Port{
			{Guest: idOf(name), Kind: hypervisor.PortSerial, Path: at(".serial")},
			{Guest: idOf(name), Kind: hypervisor.PortChannel, Path: at(".channel")},
			{Guest: idOf(name), Kind: hypervisor.PortVirtio, Path: at(".virtio"), Name: "org.clusterlabs.fence.0"},
			{Guest: idOf(name), Kind: hypervisor.PortVirtio, Path: at(".agent"), Name: "org.qemu.guest_agent.0"},
		}
	}
	return h
}

func lineListener(kind Kind) Listener {
	l := Listener{Kind: kind, Where: "test:" + string(kind), Keys: openLine}
	if kind == KindVirtio {
		l.PortName = "org.clusterlabs.fence.0"
	}
	return l
}

func TestLinesOfEveryKind(t *testing.T) {
	for kind, file := range map[Kind]string{KindSerial: ".serial", KindVMChannel: ".channel", KindVirtio: ".virtio"} {
		t.Run(string(kind), func(t *testing.T) {
			dir := t.TempDir()
			host := lineHost(t, dir, "a", "b")
			q := newQEMU(t, filepath.Join(dir, "a"+file))
			start(t, Config{Listeners: []Listener{lineListener(kind)}}, host)
			line := q.line(t)
			ask := func(op xvm.Op, guest string, want xvm.Result) reply {
				t.Helper()
				got := speak(t, line, serialBytes(t, op, guest, nextSeq()))
				if got.Result != want {
					t.Errorf("%v of %q: %d, want %d", op, guest, got.Result, want)
				}
				return got
			}
			ask(xvm.OpStatus, "b", xvm.ResultOK)
			ask(xvm.OpOff, "b", xvm.ResultOK)
			ask(xvm.OpStatus, "b", xvm.ResultOff)
			ask(xvm.OpOn, string(idOf("b")), xvm.ResultOK)
			ask(xvm.OpNull, "", xvm.ResultFailed)
			ask(xvm.OpMonitor, "", xvm.ResultOK)
			if got := ask(xvm.OpList, "", xvm.ResultOK); len(got.Entries) != 2 {
				t.Errorf("list: %+v", got)
			}
			if got := speak(t, line, append([]byte("login: ab"), serialBytes(t, xvm.OpStatus, "a", nextSeq())...)); got.Result != xvm.ResultOK {
				t.Errorf("behind noise: %d", got.Result)
			}
		})
	}
}

func TestALineIsItsGuest(t *testing.T) {
	dir := t.TempDir()
	host := lineHost(t, dir, "a", "b", "c")
	qa, qc := newQEMU(t, filepath.Join(dir, "a.serial")), newQEMU(t, filepath.Join(dir, "c.serial"))
	l := lineListener(KindSerial)
	l.Keys = []Key{{Name: "line", Groups: []Group{{Guests: []string{"a", string(idOf("b"))}}}}}
	start(t, Config{Listeners: []Listener{l}}, host)
	a, c := qa.line(t), qc.line(t)
	for _, row := range []struct {
		line  net.Conn
		guest string
		want  xvm.Result
	}{
		{a, "b", xvm.ResultOK},
		{a, "a", xvm.ResultOK},
		{a, "c", xvm.ResultDenied},
		{c, "a", xvm.ResultDenied},
		{c, upper("b"), xvm.ResultDenied},
		{c, "c", xvm.ResultDenied},
	} {
		if got := speak(t, row.line, serialBytes(t, xvm.OpStatus, row.guest, nextSeq())); got.Result != row.want {
			t.Errorf("status of %s: %d, want %d", row.guest, got.Result, row.want)
		}
	}
	if got := speak(t, c, serialBytes(t, xvm.OpList, "", nextSeq())); len(got.Entries) != 0 || !got.Listed {
		t.Errorf("a guest outside of the groups sees %+v", got)
	}
}

func TestARepeatedRequestOverALineGetsNoAnswer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	host := lineHost(t, dir, "a", "b")
	q := newQEMU(t, filepath.Join(dir, "a.serial"))
	start(t, Config{Listeners: []Listener{lineListener(KindSerial)}}, host)
	line := q.line(t)
	speak(t, line, serialBytes(t, xvm.OpReboot, "b", 7))
	life := host.Life(idOf("b"))
	line.Write(serialBytes(t, xvm.OpReboot, "B", 7))
	hasSilence(t, line)
	if host.Life(idOf("b")) != life {
		t.Error("it was carried out")
	}
	if got := speak(t, line, serialBytes(t, xvm.OpReboot, "b", 8)); got.Result != xvm.ResultOK || host.Life(idOf("b")) == life {
		t.Errorf("the next run: %d", got.Result)
	}
}

func TestHalfARequestIsForgotten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	host := lineHost(t, dir, "a")
	q := newQEMU(t, filepath.Join(dir, "a.serial"))
	var log record
	startLogged(t, Config{Listeners: []Listener{lineListener(KindSerial)}}, host, log.log())
	line := q.line(t)
	line.Write(serialBytes(t, xvm.OpOff, "a", 1)[:73])
	eventually(t, "it is forgotten", func() bool { return log.has("no whole request came in time") })
	if got := speak(t, line, serialBytes(t, xvm.OpStatus, "a", 2)); got.Result != xvm.ResultOK {
		t.Errorf("got %d", got.Result)
	}
}

func TestAClosedLineIsConnectedAgainWithoutABusyLoop(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	host := lineHost(t, dir, "a")
	q := newQEMU(t, filepath.Join(dir, "a.serial"))
	start(t, Config{Listeners: []Listener{lineListener(KindSerial)}}, host)
	end := time.Now().Add(time.Second)
	count := 0
	for time.Now().Before(end) {
		q.SetDeadline(end)
		conn, err := q.Accept()
		if err != nil {
			break
		}
		conn.Close()
		count++
	}
	if count < 2 || count > 6 {
		t.Errorf("%d connections in a second, want some and no loop", count)
	}
	if got := speak(t, q.line(t), serialBytes(t, xvm.OpStatus, "a", 1)); got.Result != xvm.ResultOK {
		t.Errorf("got %d", got.Result)
	}
}

func TestLinesComeAndGoWithTheirGuests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	host := lineHost(t, dir, "off-a")
	path := filepath.Join(dir, "off-a.serial")
	start(t, Config{Listeners: []Listener{lineListener(KindSerial)}}, host)
	q := newQEMU(t, path)
	q.SetDeadline(time.Now().Add(soon))
	if _, err := q.Accept(); err == nil {
		t.Fatal("the line of a guest that is off was connected")
	}
	for range 2 {
		if _, err := host.On(t.Context(), idOf("off-a")); err != nil {
			t.Fatal(err)
		}
		line := q.line(t)
		if got := speak(t, line, serialBytes(t, xvm.OpStatus, "off-a", 1)); got.Result != xvm.ResultOK {
			t.Errorf("got %d", got.Result)
		}
		host.End(idOf("off-a"), hypervisor.ReasonShutdown)
		line.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, line); err != nil {
			t.Errorf("the line of a guest that ended stays open: %v", err)
		}
	}
}

func TestAGuestCanEndItselfOverItsLine(t *testing.T) {
	dir := t.TempDir()
	host := lineHost(t, dir, "a")
	q := newQEMU(t, filepath.Join(dir, "a.serial"))
	start(t, Config{Listeners: []Listener{lineListener(KindSerial)}}, host)
	line := q.line(t)
	line.Write(serialBytes(t, xvm.OpOff, "a", 1))
	eventually(t, "it is off", func() bool { return host.Life(idOf("a")) == "" })
}

func TestPortsAreAskedForAgainAfterAFailure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	host := lineHost(t, dir, "a")
	host.fail = errors.New("busy")
	q := newQEMU(t, filepath.Join(dir, "a.serial"))
	start(t, Config{Listeners: []Listener{lineListener(KindSerial)}}, host)
	eventually(t, "the ports are asked for", func() bool {
		host.mu.Lock()
		defer host.mu.Unlock()
		return host.asked > 0
	})
	host.mu.Lock()
	host.fail = nil
	host.mu.Unlock()
	q.line(t)
}

func TestASilentHypervisorIsFollowedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	host := lineHost(t, dir, "a")
	host.SetFault(mem.FaultOn(mem.OpWatch, mem.Fault{Fail: hypervisor.ErrUnavailable}))
	q := newQEMU(t, filepath.Join(dir, "a.serial"))
	var log record
	startLogged(t, Config{Listeners: []Listener{lineListener(KindSerial)}}, host, log.log())
	eventually(t, "that is said", func() bool { return log.has("cannot follow the guests of this host") })
	host.SetFault(nil)
	q.line(t)
}

func TestPortsOfAListener(t *testing.T) {
	port := func(kind hypervisor.PortKind, path, name string) hypervisor.Port {
		return hypervisor.Port{Kind: kind, Path: path, Name: name}
	}
	serial, channel := lineListener(KindSerial), lineListener(KindVMChannel)
	inDir := serial
	inDir.Dir = "/run/fence/"
	for _, c := range []struct {
		listener Listener
		port     hypervisor.Port
		want     bool
	}{
		{serial, port(hypervisor.PortSerial, "/x/y", ""), true},
		{serial, port(hypervisor.PortChannel, "/x/y", ""), false},
		{channel, port(hypervisor.PortChannel, "/x/y", ""), true},
		{channel, port(hypervisor.PortVirtio, "/x/y", "z"), false},
		{lineListener(KindVirtio), port(hypervisor.PortVirtio, "/x/y", "org.clusterlabs.fence.0"), true},
		{lineListener(KindVirtio), port(hypervisor.PortVirtio, "/x/y", "org.qemu.guest_agent.0"), false},
		{inDir, port(hypervisor.PortSerial, "/run/fence/a", ""), true},
		{inDir, port(hypervisor.PortSerial, "//run//fence//a", ""), true},
		{inDir, port(hypervisor.PortSerial, "/run/fence/sub/a", ""), false},
		{inDir, port(hypervisor.PortSerial, "/run/fence2/a", ""), false},
		{inDir, port(hypervisor.PortSerial, "/run/fence/../a", ""), false},
	} {
		if got := c.listener.has(c.port); got != c.want {
			t.Errorf("%s in %q has %+v: %v, want %v", c.listener.Kind, c.listener.Dir, c.port, got, c.want)
		}
	}
}

func TestALongListGoesOverALine(t *testing.T) {
	dir := t.TempDir()
	var guests []string
	for i := range 1000 {
		guests = append(guests, "off"+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676)))
	}
	host := lineHost(t, dir, append(guests, "a")...)
	q := newQEMU(t, filepath.Join(dir, "a.serial"))
	start(t, Config{Listeners: []Listener{lineListener(KindSerial)}}, host)
	got := speak(t, q.line(t), serialBytes(t, xvm.OpList, "", 1))
	if len(got.Entries) != 1001 || got.Result != xvm.ResultOK {
		t.Errorf("%d entries, result %d", len(got.Entries), got.Result)
	}
	want := answer{listed: true, entries: got.Entries}.bytes(xvm.Magic)
	if diff := cmp.Diff(4+1+1002*xvm.EntrySize+4+1, len(want)); diff != "" || !bytes.HasPrefix(want, []byte("abba\xfd")) {
		t.Error(diff)
	}
}

package xvm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	wire "ringfence/internal/wire/xvm"
)

// overTCP is fence_virt's way to a daemon.
func overTCP(t *testing.T, d *daemon) peer {
	t.Helper()
	port := d.listenTCP("127.0.0.1:0")
	return peer{FenceVirt, []string{"-T", "127.0.0.1", "-p", fmt.Sprint(port), "-k", writeKey(t, testKey), "-t", "5"}}
}

func TestAnswers(t *testing.T) {
	guests := list(wire.Entry{Name: "n1", UUID: testUUID, State: wire.StateRunning}, wire.Entry{Name: "n\n2", UUID: "u", State: wire.StatePaused})
	for name, c := range map[string]struct {
		action string
		answer []byte
		code   int
		out    string
		err    string
	}{
		"done":              {"off", []byte{0}, 0, "", ""},
		"on":                {"status", []byte{0}, 0, "Status: ON\n", ""},
		"off":               {"status", []byte{2}, 2, "Status: OFF\n", ""},
		"off, no status":    {"off", []byte{2}, 2, "", ""},
		"failed":            {"off", []byte{1}, 1, "", "Operation failed\n"},
		"failed status":     {"status", []byte{1}, 1, "", "Operation failed\n"},
		"denied":            {"reboot", []byte{3}, 3, "", "Permission denied\n"},
		"another result":    {"on", []byte{77}, 77, "", "Unknown response (77)\n"},
		"a list unasked":    {"off", list(), 253, "", "Unknown response (253)\n"},
		"healthy":           {"monitor", []byte{0}, 0, "", ""},
		"a list":            {"list", guests, 0, listOf("n1", testUUID, "on") + listOf("n?2", "u", "off"), ""},
		"a list of nothing": {"list", list(), 0, "", ""},
		"no list":           {"list", []byte{0}, 1, "", "the daemon's answer has no list\nOperation failed\n"},
		"a list denied":     {"list-status", []byte{3}, 3, "", "Permission denied\n"},
		"nothing":           {"off", []byte{}, 1, "", "the connection ended before the answer (EOF): whether it was carried out is unknown\nOperation failed\n"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t)
			d.answer = c.answer
			got := overTCP(t, d).run("-o", c.action, "-n", "n1")
			got.log = ""
			if diff := cmp.Diff(outcome{code: c.code, out: c.out, err: c.err}, got, cmp.AllowUnexported(outcome{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func listOf(name, uuid, state string) string { return fmt.Sprintf("%-32s %s %s\n", name, uuid, state) }

// A list that is cut anywhere is an error, and nothing of it is printed.
func TestCutLists(t *testing.T) {
	whole := list(wire.Entry{Name: "n1", UUID: "u", State: 1}, wire.Entry{Name: "n2", UUID: "v", State: 5})
	end := len(whole) - 1 // without the result behind the list, which says nothing
	c := newClient(config{op: wire.OpList}, io.Discard)
	for n := range whole {
		a, err := c.readAnswer(bytes.NewReader(whole[:n]))
		if (err == nil) != (n >= end) || a.listed != (err == nil) {
			t.Fatalf("the first %d of %d bytes: %+v, %v", n, len(whole), a, err)
		}
	}
	d := newDaemon(t)
	d.answer = whole[:end-1]
	if got := overTCP(t, d).run("-o", "list"); got.code != 1 || got.out != "" || !strings.Contains(got.err, "without its end") {
		t.Errorf("a cut list: %+v", got)
	}
}

func TestAListHasALimit(t *testing.T) {
	one := wire.Entry{Name: "n", UUID: "u"}.Append(nil)
	of := func(guests int64) io.Reader {
		return io.MultiReader(io.LimitReader(&endless{one: one}, guests*wire.EntrySize), bytes.NewReader(wire.Entry{}.Append(nil)))
	}
	if got, err := readList(of(100_000)); err != nil || len(got) != 100_000 {
		t.Errorf("the longest list: %d guests, %v", len(got), err)
	}
	if _, err := readList(of(100_001)); err == nil || err.Error() != "the list has more than 100000 guests" {
		t.Errorf("a longer list: %v", err)
	}
}

// endless repeats itself.
type endless struct {
	one []byte
	at  int
}

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = e.one[e.at]
		e.at = (e.at + 1) % len(e.one)
	}
	return len(p), nil
}

func TestNoAnswerInTimeIsUnknown(t *testing.T) {
	d := newDaemon(t)
	d.answer = nil
	got := overTCP(t, d).run("-o", "off", "-n", "n1", "-t", "1")
	if got.code != 255 || got.err != "no answer within 1s: whether it was carried out is unknown\nUnknown response (-1)\n" {
		t.Errorf("%+v", got)
	}
	for _, want := range []string{"level=ERROR", "component=fence_virt", "action=off", "guest=n1", "code=255"} {
		if !strings.Contains(got.log, want) {
			t.Errorf("log %q, want %s in it", got.log, want)
		}
	}
}

func TestNobodyWithoutTheKeyIsBelieved(t *testing.T) {
	d := newDaemon(t)
	d.lies = true
	got := overTCP(t, d).run("-o", "off", "-n", "n1")
	if got.code != 1 || got.err != "Invalid response to challenge\nOperation failed\n" {
		t.Errorf("%+v", got)
	}
	if _, done := d.requests(); len(done) != 0 {
		t.Errorf("carried out: %v", done)
	}
}

func TestRequestsOverTCP(t *testing.T) {
	d := newDaemon(t)
	p := overTCP(t, d)
	p.expect(t, 0, "", "-o", "on", "-n", "n1", "-c", "sha512")
	p.expect(t, 0, "", "-o", "monitor", "-n", "n1")
	p.expect(t, 1, "", "-o", "list", "-n", "n1")
	seen, done := d.requests()
	if len(done) != 3 || len(seen) != 3 {
		t.Fatalf("seen %v, done %v", seen, done)
	}
	if third := seen[2]; third.Guest != "" || third.Op != wire.OpList {
		t.Errorf("the third request: %+v", third)
	}
	first, second := seen[0], seen[1]
	if first.Guest != "n1" || first.Op != wire.OpOn || first.Hash != wire.HashSHA512 || first.Port != 0 || first.Address.IsValid() || first.Flags != 0 {
		t.Errorf("the first request: %+v", first)
	}
	if second.Guest != "n1" || second.Op != wire.OpMonitor || second.Hash != wire.HashSHA256 {
		t.Errorf("the second request: %+v", second)
	}
	if first.Salt == second.Salt || first.Seq == second.Seq {
		t.Errorf("salt or sequence number were not drawn anew: %+v, %+v", first, second)
	}
}

func TestWhatIsLogged(t *testing.T) {
	d := newDaemon(t)
	p := overTCP(t, d)
	got := p.run("-o", "off", "-n", "n1")
	if !strings.Contains(got.log, `level=INFO msg="the daemon did it" component=fence_virt action=off guest=n1 code=0`) {
		t.Errorf("log of off: %q", got.log)
	}
	if got := p.run("-o", "status", "-n", "n1"); got.log != "" {
		t.Errorf("log of a status: %q", got.log)
	}
	d.answer = []byte{byte(wire.ResultDenied)}
	if got := p.run("-o", "off", "-n", "n1"); !strings.Contains(got.log, `level=ERROR msg="the daemon refused or failed"`) {
		t.Errorf("log of a refused off: %q", got.log)
	}
}

func TestDebugTellsNoSecret(t *testing.T) {
	d := newDaemon(t)
	got := overTCP(t, d).run("-d", "-o", "off", "-n", "n1")
	if !strings.Contains(got.err, "debug: authenticated by sha256\n") || strings.Contains(got.err+got.log, testKey) {
		t.Errorf("%+v", got)
	}
}

func TestNobodyListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	got := start(FenceVirt, "-T", "127.0.0.1", "-p", fmt.Sprint(port), "-k", writeKey(t, testKey), "-o", "off", "-n", "n1")
	want := fmt.Sprintf("Unable to connect to fence_virtd host 127.0.0.1, port %d: dial tcp 127.0.0.1:%d: connect: connection refused\nOperation failed\n", port, port)
	if got.code != 1 || got.err != want {
		t.Errorf("%d %q, want 1 %q", got.code, got.err, want)
	}
}

// What vsock leads to is tested without vsock: few machines have it.
func TestVsockIsDialledWhereAsked(t *testing.T) {
	for name, c := range map[string]struct {
		config config
		want   []uint32
	}{
		"fence_virt with a CID": {config{way: wayVsock, cid: 7, host: "127.0.0.1"}, []uint32{7}},
		"fence_virt with none":  {config{way: wayTCP, host: "127.0.0.1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t)
			port := d.listenTCP("127.0.0.1:0")
			conf := c.config
			conf.op, conf.guest, conf.port, conf.timeout = wire.OpOff, "n1", port, 5e9
			conf.hash, conf.auth, conf.key = wire.HashSHA256, wire.HashSHA256, []byte(testKey)
			cl := newClient(conf, io.Discard)
			var dialled []uint32
			cl.dialVsock = func(ctx context.Context, cid, port uint32) (stream, error) {
				dialled = append(dialled, cid)
				var nd net.Dialer
				return nd.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
			}
			if a, err := cl.ask(t.Context()); err != nil || a.result != wire.ResultOK {
				t.Fatalf("%+v, %v", a, err)
			}
			if diff := cmp.Diff(c.want, dialled); diff != "" {
				t.Errorf("CIDs dialled (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever a daemon answers: no panic, a list is whole or an error, and one of a
// bounded number of exit codes.
func FuzzAnswer(f *testing.F) {
	whole := list(wire.Entry{Name: "n1", UUID: testUUID, State: 1})
	for _, seed := range [][]byte{{}, {0}, {1}, {253}, whole, whole[:len(whole)-2], noisy("ab", whole), noisy("", []byte{2}), []byte("abab")} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, input []byte, line bool) {
		for _, op := range []wire.Op{wire.OpStatus, wire.OpList} {
			c := newClient(config{op: op}, io.Discard)
			r := bytes.NewReader(input)
			if line {
				if err := seekMagic(r); err != nil {
					return
				}
			}
			a, err := c.readAnswer(r)
			if err != nil && (a.listed || len(a.guests) > 0) {
				t.Errorf("an answer beside an error: %+v, %v", a, err)
			}
			if a.listed && (op != wire.OpList || a.exit() != 0) {
				t.Errorf("a list that nobody asked for, or that failed: %+v", a)
			}
			var out bytes.Buffer
			if err := printList(&out, a.guests); err != nil || strings.Count(out.String(), "\n") != len(a.guests) {
				t.Errorf("%d guests are %q, %v", len(a.guests), out.String(), err)
			}
		}
	})
}

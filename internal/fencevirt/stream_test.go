package fencevirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/vsock"

	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/wire/xvm"
)

// record keeps what is logged.
type record struct {
	mu  sync.Mutex // guards out
	out bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(b)
}

func (r *record) has(part string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(r.out.String(), part)
}

func (r *record) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// clientOf is a client that holds the key.
func clientOf(network, to string, op xvm.Op, guest string) clientJob {
	return clientJob{
		Network: network, To: to, Key: []byte(testKey), Hash: xvm.HashSHA256, Auth: xvm.HashSHA256,
		Op: op, Guest: guest, Seq: nextSeq(), CallBack: loopback,
	}
}

var seqs atomic.Uint32

func nextSeq() uint32 { return seqs.Add(1) }

func (c clientJob) mustAsk(t testing.TB, want xvm.Result) reply {
	t.Helper()
	got, err := c.ask(t.Context())
	if err != nil || got.Result != want {
		t.Errorf("%s %v of %q: %d, %v; want %d", c.Network, c.Op, c.Guest, got.Result, err, want)
	}
	return got
}

// mustFail demands that the client gets no answer.
func (c clientJob) mustFail(t testing.TB) {
	t.Helper()
	if got, err := c.ask(t.Context()); err == nil {
		t.Errorf("%s %v of %q with %v/%v was answered: %d", c.Network, c.Op, c.Guest, c.Hash, c.Auth, got.Result)
	}
}

func TestTCPWithEveryHashAndAuth(t *testing.T) {
	for hash := xvm.HashNone; hash <= xvm.HashSHA512; hash++ {
		for auth := xvm.HashNone; auth <= xvm.HashSHA512; auth++ {
			host := newHost(t, "a", "off")
			s := start(t, Config{Listeners: []Listener{tcpListener(Key{Name: "k", Secret: Secret(testKey), Hash: hash, Auth: auth})}}, host)
			c := clientOf("tcp", addrOf(t, s, "tcp"), 0, "a")
			c.Hash, c.Auth = hash, auth
			ask := func(op xvm.Op, guest string, want xvm.Result) reply {
				c.Op, c.Guest, c.Seq = op, guest, nextSeq()
				return c.mustAsk(t, want)
			}
			ask(xvm.OpStatus, "a", xvm.ResultOK)
			ask(xvm.OpStatus, "off", xvm.ResultOff)
			ask(xvm.OpOff, "a", xvm.ResultOK)
			ask(xvm.OpStatus, "a", xvm.ResultOff)
			ask(xvm.OpOn, string(idOf("off")), xvm.ResultOK)
			ask(xvm.OpReboot, "nobody", xvm.ResultFailed)
			ask(xvm.OpMonitor, "", xvm.ResultOK)
			ask(xvm.OpNull, "", xvm.ResultFailed)
			want := []xvm.Entry{
				{Name: "a", UUID: string(idOf("a")), State: xvm.StateOff}, {Name: "off", UUID: string(idOf("off")), State: xvm.StateRunning},
			}
			if diff := cmp.Diff(want, ask(xvm.OpList, "", xvm.ResultOK).Entries); diff != "" {
				t.Errorf("list (-want +got):\n%s", diff)
			}
		}
	}
}

func TestWhoDoesNotHoldTheKeyGetsNoAnswer(t *testing.T) {
	var log record
	s := startLogged(t, Config{Listeners: []Listener{tcpListener(strong(testKey))}}, newHost(t, "a"), log.log())
	to := addrOf(t, s, "tcp")
	for _, c := range []struct {
		name   string
		change func(*clientJob)
		reason string
	}{
		{"another key", func(c *clientJob) { c.Key = []byte(testKey + "\n") }, "its digest does not fit the key"},
		{"a weaker hash", func(c *clientJob) { c.Hash = xvm.HashSHA1 }, "its hash is weaker than allowed"},
		{"no hash", func(c *clientJob) { c.Hash = xvm.HashNone }, "its hash is weaker than allowed"},
		{"a hash that does not exist", func(c *clientJob) { c.Hash = 9 }, "its hash is none that exists"},
		{"another auth", func(c *clientJob) { c.Auth = xvm.HashSHA1 }, "the client hung up in the handshake: its key or its auth may differ"},
	} {
		job := clientOf("tcp", to, xvm.OpStatus, "a")
		c.change(&job)
		job.mustFail(t)
		eventually(t, c.name+" is logged", func() bool { return log.has(c.reason) })
	}
	job := clientOf("tcp", to, xvm.OpStatus, "a")
	job.Hash = xvm.HashSHA512
	job.mustAsk(t, xvm.ResultOK) // stronger than demanded
	if log.has(testKey) {
		t.Error("the key is in the log")
	}
}

func TestASecretAnswerIsDemanded(t *testing.T) {
	var log record
	host := newHost(t, "a")
	s := startLogged(t, Config{Listeners: []Listener{tcpListener(strong(testKey))}}, host, log.log())
	packet, _ := clientOf("tcp", "", xvm.OpOff, "a").request().Append(nil, []byte(testKey))
	conn, err := net.Dial("tcp", addrOf(t, s, "tcp"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A replayer has a signed packet and no key: it can challenge, and answer nothing.
	conn.Write(append(packet, make([]byte, 2*xvm.ChallengeSize)...))
	got, _ := io.ReadAll(conn)
	if len(got) != 2*xvm.ChallengeSize {
		t.Errorf("the daemon said %d bytes, want an answer, a challenge and no result", len(got))
	}
	eventually(t, "the reason is logged", func() bool { return log.has(errNotOurs.Error()) })
	if host.Life(idOf("a")) == "" {
		t.Error("it was carried out")
	}
}

func TestNobodyCanHaveTheDaemonAnswerForHim(t *testing.T) {
	var log record
	host := newHost(t, "a")
	open := Key{Name: "k", Secret: Secret(testKey), Auth: xvm.HashSHA256}
	s := startLogged(t, Config{Listeners: []Listener{tcpListener(open)}}, host, log.log())
	dial := func(challenge []byte) net.Conn {
		conn, err := net.Dial("tcp", addrOf(t, s, "tcp"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		packet, _ := xvm.Request{Op: xvm.OpOff, Guest: "a", Seq: nextSeq()}.Append(nil, nil)
		conn.Write(append(packet, challenge...))
		return conn
	}
	var said [2 * xvm.ChallengeSize]byte
	first := dial(make([]byte, xvm.ChallengeSize))
	if _, err := io.ReadFull(first, said[:]); err != nil {
		t.Fatal(err)
	}
	// The challenge of the first connection, as one's own on another.
	second := dial(said[xvm.ChallengeSize:])
	if n, _ := io.ReadFull(second, said[:]); n != 0 {
		first.Write(said[:xvm.ChallengeSize])
		io.Copy(io.Discard, first)
		t.Error("the daemon answered its own challenge")
	}
	eventually(t, "the reason is logged", func() bool { return log.has(errReflected.Error()) })
	if host.Life(idOf("a")) == "" {
		t.Error("somebody without the key ended the guest")
	}
}

func TestSeveralKeysAreToldApart(t *testing.T) {
	first := strong("first", Group{From: []string{"127.0.0.1"}, Guests: []string{"a"}})
	second := strong("second", Group{From: []string{"127.0.0.1"}, Guests: []string{"b"}})
	s := start(t, Config{Listeners: []Listener{tcpListener(first, second)}}, newHost(t, "a", "b"))
	for key, results := range map[string][2]xvm.Result{
		"first": {xvm.ResultOK, xvm.ResultDenied}, "second": {xvm.ResultDenied, xvm.ResultOK},
	} {
		for i, guest := range []string{"a", "b"} {
			c := clientOf("tcp", addrOf(t, s, "tcp"), xvm.OpStatus, guest)
			c.Key = []byte(key)
			c.mustAsk(t, results[i])
		}
	}
}

func TestTCPReplayIsClosedWithoutAByte(t *testing.T) {
	s := start(t, Config{Listeners: []Listener{tcpListener(strong(testKey))}}, newHost(t, "a"))
	c := clientOf("tcp", addrOf(t, s, "tcp"), xvm.OpStatus, "a")
	packet, _ := c.request().Append(nil, c.Key)
	if got, err := c.exchange(t.Context(), packet); err != nil || got.Result != xvm.ResultOK {
		t.Fatal(got, err)
	}
	conn, err := net.Dial("tcp", c.To)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write(packet)
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the replay got %d bytes, %v", n, err)
	}
	// Another run that drew the same number is served at once.
	c.mustAsk(t, xvm.ResultOK)
}

func TestTCPWithoutProofHasTheWindowOfC(t *testing.T) {
	for _, c := range []struct{ hash, auth xvm.Hash }{
		{xvm.HashNone, xvm.HashNone}, {xvm.HashSHA256, xvm.HashNone}, {xvm.HashNone, xvm.HashSHA256},
	} {
		host := newHost(t, "a")
		s := start(t, Config{Listeners: []Listener{tcpListener(Key{Secret: Secret(testKey), Hash: c.hash, Auth: c.auth})}}, host)
		job := clientOf("tcp", addrOf(t, s, "tcp"), xvm.OpReboot, "a")
		job.Hash, job.Auth = c.hash, c.auth
		job.mustAsk(t, xvm.ResultOK)
		life := host.Life(idOf("a"))
		job.Guest = "A"
		job.mustFail(t)
		if host.Life(idOf("a")) != life {
			t.Errorf("%v/%v: the repetition was carried out", c.hash, c.auth)
		}
		job.Guest, job.Seq = "a", nextSeq()
		job.mustAsk(t, xvm.ResultOK)
	}
}

// stall opens n connections that stop after so many bytes of a right conversation,
// and do not read. A number beyond it goes on as far as it can.
func stall(t testing.TB, c clientJob, n, after int) {
	t.Helper()
	for range n {
		conn, err := net.Dial("tcp", c.To)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.(*net.TCPConn).SetReadBuffer(2048); err != nil {
			t.Fatal(err)
		}
		c.Seq = nextSeq()
		packet, _ := c.request().Append(nil, c.Key)
		whole := append(packet, make([]byte, xvm.ChallengeSize)...)
		conn.Write(whole[:min(after, len(whole))])
	}
}

func TestStalledClientsDelayNobody(t *testing.T) {
	for _, c := range []struct {
		name  string
		after int
		auth  xvm.Hash
		op    xvm.Op
	}{
		{"idle", 0, xvm.HashSHA256, xvm.OpStatus},
		{"half of a request", 90, xvm.HashSHA256, xvm.OpStatus},
		{"no challenge", xvm.RequestSize, xvm.HashSHA256, xvm.OpStatus},
		{"half of a challenge", xvm.RequestSize + 30, xvm.HashSHA256, xvm.OpStatus},
		{"no answer to the challenge", 1 << 20, xvm.HashSHA256, xvm.OpStatus},
		{"a list that is not read", xvm.RequestSize, xvm.HashNone, xvm.OpList},
	} {
		t.Run(c.name, func(t *testing.T) {
			var guests []string
			within := requestLimit - 100*time.Millisecond // less than any limit of the stalled ones
			if c.op == xvm.OpList {
				within = replyLimit / 2
				for i := range 1500 {
					guests = append(guests, fmt.Sprint("g", i))
				}
			}
			s := startLogged(t, Config{Listeners: []Listener{tcpListener(Key{Secret: Secret(testKey), Hash: xvm.HashSHA256, Auth: c.auth})}},
				newHost(t, append(guests, "a")...), slog.New(slog.DiscardHandler))
			job := clientOf("tcp", addrOf(t, s, "tcp"), c.op, "a")
			job.Auth = c.auth
			stall(t, job, sourceLimit+30, c.after)
			job.Op = xvm.OpStatus
			if c.op == xvm.OpList {
				time.Sleep(soon) // until their lists are made
			}
			for range 10 {
				job.Seq = nextSeq()
				job.Timeout = within
				job.mustAsk(t, xvm.ResultOK)
			}
			for _, e := range s.all() {
				l := e.(*stream).limits
				l.mu.Lock()
				if l.total < sourceLimit/2 {
					t.Errorf("only %d connections are still stalled", l.total)
				}
				l.mu.Unlock()
			}
		})
	}
}

func TestALineOfRequestsInOneConnectionIsOne(t *testing.T) {
	host := newHost(t, "a", "b")
	s := start(t, Config{Listeners: []Listener{tcpListener(Key{Name: "open"})}}, host)
	conn, err := net.Dial("tcp", addrOf(t, s, "tcp"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	first, _ := xvm.Request{Op: xvm.OpOff, Guest: "a", Seq: 1}.Append(nil, nil)
	both, _ := xvm.Request{Op: xvm.OpOff, Guest: "b", Seq: 2}.Append(first, nil)
	conn.Write(both)
	eventually(t, "the first is carried out", func() bool { return host.Life(idOf("a")) == "" })
	io.Copy(io.Discard, conn)
	if host.Life(idOf("b")) == "" {
		t.Error("the second request of a connection was carried out")
	}
}

func TestAHungHypervisorDelaysNoOtherGuest(t *testing.T) {
	host := newHost(t, "a", "b")
	s := start(t, Config{Listeners: []Listener{tcpListener(strong(testKey))}}, host)
	hang := make(chan struct{})
	host.SetFault(func(c mem.Call) mem.Fault {
		if c.Op == mem.OpOff && c.Guest == idOf("a") {
			return mem.Fault{Wait: hang}
		}
		return mem.Fault{}
	})
	first := make(chan reply, 1)
	to := addrOf(t, s, "tcp")
	off := clientOf("tcp", to, xvm.OpOff, "a")
	go func() {
		got, _ := off.ask(context.Background())
		first <- got
	}()
	for range 20 {
		clientOf("tcp", to, xvm.OpStatus, "a").mustAsk(t, xvm.ResultOK)
	}
	clientOf("tcp", to, xvm.OpOff, "b").mustAsk(t, xvm.ResultOK)
	close(hang)
	if got := <-first; got.Result != xvm.ResultOK {
		t.Errorf("the off that hung: %d", got.Result)
	}
}

// addrConn is a connection from a given peer.
type addrConn struct {
	net.Conn
	peer net.Addr
}

func (c addrConn) RemoteAddr() net.Addr { return c.peer }

func TestPeersAreNamed(t *testing.T) {
	for _, c := range []struct {
		addr net.Addr
		want Requester
	}{
		{&net.TCPAddr{IP: net.ParseIP("10.0.0.1")}, address("10.0.0.1")},
		{&net.TCPAddr{IP: net.ParseIP("::ffff:10.0.0.1")}, address("10.0.0.1")},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "br0"}, address("fe80::1")},
		{&vsock.Addr{ContextID: 5, Port: 1024}, Requester{CID: 5}},
		{&net.UnixAddr{Name: "x"}, Requester{}},
	} {
		if got, _ := peer(addrConn{peer: c.addr}); got != c.want {
			t.Errorf("%v is %v, want %v", c.addr, got, c.want)
		}
	}
}

func TestVsockListensOrSaysWhatIsMissing(t *testing.T) {
	l := Listener{Kind: KindVsock, Where: "f:1", Port: uint16(20000 + os.Getpid()%40000), Keys: []Key{strong(testKey)}}
	s, err := New(Config{Listeners: []Listener{l}}, newHost(t), logOf(t))
	if err != nil {
		if !strings.Contains(err.Error(), "load the modules vsock and vhost_vsock") {
			t.Errorf("the error does not help: %v", err)
		}
		return
	}
	defer s.Close()
	if _, err := New(Config{Listeners: []Listener{l}}, newHost(t), logOf(t)); err == nil || !strings.Contains(err.Error(), "another port") {
		t.Errorf("the port was taken twice, or: %v", err)
	}
	if a, ok := s.Addrs()[0].(*vsock.Addr); !ok || a.Port != uint32(l.Port) {
		t.Errorf("it listens at %v", s.Addrs())
	}
}

func TestAVsockPeerIsTheGuestThatHasTheCID(t *testing.T) {
	host := &withPorts{Driver: newHost(t, "a"), cids: map[uint32]hypervisor.Guest{5: guestNamed("a")}}
	d := &daemon{answerer: answererOf(t, host)}
	if got := d.guestOf(t.Context(), 5); got.Name != "a" {
		t.Errorf("CID 5 is %+v", got)
	}
	if got := d.guestOf(t.Context(), 6); got.ID != "" {
		t.Errorf("CID 6 is %+v", got)
	}
	d.answerer.host = host.Driver
	if got := d.guestOf(t.Context(), 5); got.ID != "" {
		t.Errorf("without knowledge, CID 5 is %+v", got)
	}
}

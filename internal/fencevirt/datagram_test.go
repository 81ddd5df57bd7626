package fencevirt

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/nstest"
	"ringfence/internal/wire/xvm"
)

func TestDatagramsWithEveryHashAndAuth(t *testing.T) {
	for hash := xvm.HashNone; hash <= xvm.HashSHA512; hash++ {
		for auth := xvm.HashNone; auth <= xvm.HashSHA512; auth++ {
			host := newHost(t, "a", "off")
			s := start(t, Config{Listeners: []Listener{udpListener(Key{Name: "k", Secret: Secret(testKey), Hash: hash, Auth: auth})}}, host)
			c := clientOf("udp", addrOf(t, s, "udp"), 0, "a")
			c.Hash, c.Auth = hash, auth
			ask := func(op xvm.Op, guest string, want xvm.Result) reply {
				c.Op, c.Guest, c.Seq = op, guest, nextSeq()
				return c.mustAsk(t, want)
			}
			ask(xvm.OpStatus, "a", xvm.ResultOK)
			ask(xvm.OpOff, "a", xvm.ResultOK)
			ask(xvm.OpStatus, "a", xvm.ResultOff)
			if got := ask(xvm.OpList, "", xvm.ResultOK); len(got.Entries) != 2 {
				t.Errorf("list: %+v", got)
			}
		}
	}
}

// sendRaw sends a packet from an address of its own.
func sendRaw(t testing.TB, to string, packet []byte) {
	t.Helper()
	conn, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(packet); err != nil {
		t.Fatal(err)
	}
}

func TestDatagramsThatAreDroppedAreLogged(t *testing.T) {
	var log record
	s := startLogged(t, Config{Listeners: []Listener{udpListener(strong(testKey))}}, newHost(t, "a"), log.log())
	to := addrOf(t, s, "udp")
	request := func(change func(*xvm.Request)) []byte {
		r := clientOf("udp", to, xvm.OpStatus, "a").request()
		r.Address, r.Port = loopback, 9
		change(&r)
		packet, err := r.Append(nil, []byte(testKey))
		if err != nil {
			t.Fatal(err)
		}
		return packet
	}
	at := func(address string) func(*xvm.Request) {
		return func(r *xvm.Request) { r.Address = netip.MustParseAddr(address) }
	}
	wrong := request(func(*xvm.Request) {})
	wrong[4]++
	for _, c := range []struct {
		name   string
		packet []byte
		reason string
	}{
		{"empty", nil, "bytes=0"},
		{"short", request(func(*xvm.Request) {})[:175], "bytes=175"},
		{"changed", wrong, "its digest does not fit the key"},
		{"weak", request(func(r *xvm.Request) { r.Hash = xvm.HashSHA1 }), "its hash is weaker than allowed"},
		{"no address", request(func(r *xvm.Request) { r.Address = netip.Addr{} }), "it names no address to call back"},
		{"no port", request(func(r *xvm.Request) { r.Port = 0 }), "it names no port to call back"},
		{"any address", request(at("0.0.0.0")), "it asks to be called back at 0.0.0.0"},
		{"any address of IPv6", request(at("::")), "it asks to be called back at ::"},
		{"a group", request(at("225.0.0.12")), "it asks to be called back at 225.0.0.12"},
		{"a group of IPv6", request(at("ff05::3:1")), "it asks to be called back at ff05::3:1"},
		{"all", request(at("255.255.255.255")), "it asks to be called back at 255.255.255.255"},
		{"nobody listens", request(func(*xvm.Request) {}), "nobody accepts the call back"},
	} {
		sendRaw(t, to, c.packet)
		// Sources and reasons are logged once in a while only; each of these is new
		// within its reason, or shows its detail.
		if c.name == "short" || c.name == "any address" || c.name == "any address of IPv6" || c.name == "a group" ||
			c.name == "a group of IPv6" || c.name == "all" || c.name == "no port" {
			continue
		}
		eventually(t, c.name+" is logged", func() bool { return log.has(c.reason) })
	}
	clientOf("udp", to, xvm.OpStatus, "a").mustAsk(t, xvm.ResultOK)
}

func TestNobodyIsCalledBackWhereNoSingleClientCanBe(t *testing.T) {
	for _, a := range []string{"0.0.0.0", "::", "225.0.0.12", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0", "::ffff:224.0.0.1"} {
		if callable(xvm.Request{Address: netip.MustParseAddr(a), Port: 1}) == nil {
			t.Errorf("%s was taken", a)
		}
	}
	for _, a := range []string{"127.0.0.1", "::1", "10.0.0.1", "fe80::1"} {
		if err := callable(xvm.Request{Address: netip.MustParseAddr(a), Port: 1}); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	if got := zoned(netip.MustParseAddr("fe80::1"), "br0").String(); got != "fe80::1%br0" {
		t.Errorf("a link-local address is called back at %s", got)
	}
}

func TestALongDatagramIsItsFirst176Bytes(t *testing.T) {
	host := newHost(t, "a")
	s := start(t, Config{Listeners: []Listener{udpListener(strong(testKey))}}, host)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c := clientOf("udp", addrOf(t, s, "udp"), xvm.OpOff, "a")
	r := c.request()
	r.Address, r.Port = loopback, uint16(listener.Addr().(*net.TCPAddr).Port)
	packet, _ := r.Append(nil, c.Key)
	sendRaw(t, c.To, append(packet, make([]byte, 1000)...))
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := c.prove(conn); err != nil {
		t.Fatal(err)
	}
	if got, err := readReply(conn, ""); err != nil || got.Result != xvm.ResultOK {
		t.Error(got, err)
	}
}

// party listens for calls back, and counts them.
type party struct {
	*net.TCPListener
	address netip.AddrPort
}

func newParty(t testing.TB) *party {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &party{l, l.Addr().(*net.TCPAddr).AddrPort()}
}

// packet is a datagram that asks to be called back there.
func (p *party) packet(t testing.TB, c clientJob) []byte {
	t.Helper()
	r := c.request()
	r.Address, r.Port = p.address.Addr(), p.address.Port()
	packet, err := r.Append(nil, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

// called accepts one call back within a short time, or returns nil.
func (p *party) called(t testing.TB, within time.Duration) net.Conn {
	t.Helper()
	p.SetDeadline(time.Now().Add(within))
	conn, err := p.Accept()
	if err != nil {
		return nil
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (c clientJob) answered(t testing.TB, conn net.Conn) reply {
	t.Helper()
	if conn == nil {
		t.Fatal("nobody called back")
	}
	conn.SetDeadline(time.Now().Add(clientTimeout))
	if err := c.prove(conn); err != nil {
		t.Fatal(err)
	}
	got, err := readReply(conn, "")
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// soon is long enough for a call back over loopback, and short enough to wait for
// one that must not come.
const soon = 200 * time.Millisecond

func TestADatagramTwiceIsCalledBackOnce(t *testing.T) {
	t.Parallel()
	var log record
	host := newHost(t, "a")
	s := startLogged(t, Config{Listeners: []Listener{udpListener(strong(testKey))}}, host, log.log())
	c, p := clientOf("udp", addrOf(t, s, "udp"), xvm.OpReboot, "a"), newParty(t)
	packet := p.packet(t, c)
	sendRaw(t, c.To, packet)
	c.answered(t, p.called(t, clientTimeout))
	life := host.Life(idOf("a"))
	sendRaw(t, c.To, packet)
	if p.called(t, soon) != nil {
		t.Error("a replay was called back")
	}
	eventually(t, "the replay is logged", func() bool { return log.has(errReplay.Error()) })
	if host.Life(idOf("a")) != life {
		t.Error("a replay was carried out")
	}
}

func TestARetransmissionWhileTheFirstIsUnderWayIsDropped(t *testing.T) {
	t.Parallel()
	var log record
	host := newHost(t, "a")
	s := startLogged(t, Config{Listeners: []Listener{udpListener(strong(testKey))}}, host, log.log())
	c, p := clientOf("udp", addrOf(t, s, "udp"), xvm.OpReboot, "a"), newParty(t)
	sendRaw(t, c.To, p.packet(t, c))
	conn := p.called(t, clientTimeout)
	c.Guest = "A" // in any case
	sendRaw(t, c.To, p.packet(t, c))
	eventually(t, "the repetition is noticed", func() bool { return log.has("request repeated while it is carried out") })
	if p.called(t, soon) != nil {
		t.Error("a retransmission was called back beside the first")
	}
	c.answered(t, conn)
}

func TestALateRetransmissionIsDroppedQuietly(t *testing.T) {
	var log record
	host := newHost(t, "a")
	s := startLogged(t, Config{Listeners: []Listener{udpListener(strong(testKey))}}, host, log.log())
	c, p := clientOf("udp", addrOf(t, s, "udp"), xvm.OpReboot, "a"), newParty(t)
	sendRaw(t, c.To, p.packet(t, c))
	c.answered(t, p.called(t, clientTimeout))
	life := host.Life(idOf("a"))
	p.Close() // as the C client does
	sendRaw(t, c.To, p.packet(t, c))
	eventually(t, "the late one is noticed", func() bool { return log.has("late retransmission") })
	if log.has("request dropped") || host.Life(idOf("a")) != life {
		t.Errorf("a late retransmission is a drop, or was carried out")
	}
}

func TestARunThatSharesItsNumberDoesNotStall(t *testing.T) {
	host := newHost(t, "a")
	s := start(t, Config{Listeners: []Listener{udpListener(strong(testKey))}}, host)
	c := clientOf("udp", addrOf(t, s, "udp"), xvm.OpReboot, "a")
	lives := map[any]bool{}
	for range 5 {
		began := time.Now()
		c.mustAsk(t, xvm.ResultOK) // a new client with the same number
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		lives[host.Life(idOf("a"))] = true
	}
	if len(lives) != 5 {
		t.Errorf("%d of 5 runs were carried out", len(lives))
	}
}

func TestDatagramsWithoutProofHaveTheWindowOfC(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ hash, auth xvm.Hash }{
		{xvm.HashNone, xvm.HashNone}, {xvm.HashSHA256, xvm.HashNone}, {xvm.HashNone, xvm.HashSHA256},
	} {
		host := newHost(t, "a")
		s := start(t, Config{Listeners: []Listener{udpListener(Key{Secret: Secret(testKey), Hash: c.hash, Auth: c.auth})}}, host)
		job, p := clientOf("udp", addrOf(t, s, "udp"), xvm.OpReboot, "a"), newParty(t)
		job.Hash, job.Auth = c.hash, c.auth
		sendRaw(t, job.To, p.packet(t, job))
		job.answered(t, p.called(t, clientTimeout))
		life := host.Life(idOf("a"))
		sendRaw(t, job.To, p.packet(t, job))
		if p.called(t, soon) != nil || host.Life(idOf("a")) != life {
			t.Errorf("%v/%v: a repetition within the window was called back", c.hash, c.auth)
		}
		job.Seq = nextSeq()
		sendRaw(t, job.To, p.packet(t, job))
		job.answered(t, p.called(t, clientTimeout))
	}
}

func TestWithoutProofTwoAddressesOfOneRunAreServedOnce(t *testing.T) {
	t.Parallel()
	host := newHost(t, "a")
	s := start(t, Config{Listeners: []Listener{udpListener(Key{Name: "open"})}}, host)
	c := clientOf("udp", addrOf(t, s, "udp"), xvm.OpReboot, "a")
	c.Hash, c.Auth = xvm.HashNone, xvm.HashNone
	first, second := newParty(t), newParty(t)
	hold := make(chan struct{})
	host.SetFault(mem.FaultOn(mem.OpOff, mem.Fault{Wait: hold}))
	sendRaw(t, c.To, first.packet(t, c))
	conn := first.called(t, clientTimeout)
	sendRaw(t, c.To, second.packet(t, c))
	if second.called(t, soon) != nil {
		t.Error("both addresses of a run were called back at the same time")
	}
	close(hold)
	if got := c.answered(t, conn); got.Result != xvm.ResultOK {
		t.Errorf("got %d", got.Result)
	}
	if second.called(t, soon) != nil {
		t.Error("a run was called back after it was answered")
	}
	// One that nobody accepts gives the turn to the next.
	c.Seq = nextSeq()
	first.Close()
	sendRaw(t, c.To, first.packet(t, c))
	sendRaw(t, c.To, second.packet(t, c))
	c.answered(t, second.called(t, clientTimeout))
}

func TestClientsThatStallTheirCallBackDelayNobody(t *testing.T) {
	s := startLogged(t, Config{Listeners: []Listener{udpListener(strong(testKey))}}, newHost(t, "a"), slog.New(slog.DiscardHandler))
	to := addrOf(t, s, "udp")
	for range 2 * sourceLimit {
		p := newParty(t) // never says a word
		sendRaw(t, to, p.packet(t, clientOf("udp", to, xvm.OpStatus, "a")))
	}
	for range 10 {
		c := clientOf("udp", to, xvm.OpStatus, "a")
		c.Timeout = time.Second // before its own retransmission
		c.mustAsk(t, xvm.ResultOK)
	}
}

func TestClientsThatCannotBeReachedDelayNobody(t *testing.T) {
	nstest.Need(t)
	nstest.Bridge(t, "br-void", "10.78.0.1/16") // nobody answers there, which takes the kernel 3 s to see
	s := startLogged(t, Config{Listeners: []Listener{udpListener(strong(testKey))}}, newHost(t, "a"), slog.New(slog.DiscardHandler))
	to := addrOf(t, s, "udp")
	for i := range 2 * connectionLimit {
		r := clientOf("udp", to, xvm.OpStatus, "a").request()
		r.Address, r.Port = netip.AddrFrom4([4]byte{10, 78, byte(1 + i/200), byte(1 + i%200)}), 9
		packet, _ := r.Append(nil, []byte(testKey))
		sendRaw(t, to, packet)
	}
	c := clientOf("udp", to, xvm.OpStatus, "a")
	c.Every, c.Timeout = 300*time.Millisecond, 2*time.Second // the flood may fill the buffer of the socket
	c.mustAsk(t, xvm.ResultOK)
	for _, e := range s.all() {
		l := e.(*datagram).limits
		l.mu.Lock()
		if l.total < connectionLimit/2 {
			t.Errorf("only %d clients are still tried to be reached", l.total)
		}
		l.mu.Unlock()
	}
}

func TestManyClientsAtTheSameTime(t *testing.T) {
	host := newHost(t, "a", "b", "c")
	s := startLogged(t, Config{Listeners: []Listener{udpListener(strong(testKey)), tcpListener(strong(testKey))}}, host, slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	for i := range 24 {
		network := []string{"udp", "tcp"}[i%2]
		to := addrOf(t, s, network)
		wg.Go(func() {
			for range 20 {
				c := clientOf(network, to, xvm.OpStatus, "a")
				c.Every = 200 * time.Millisecond
				if got, err := c.ask(context.Background()); err != nil || got.Result != xvm.ResultOK {
					t.Errorf("%s: %d, %v", network, got.Result, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestTheNextRunMayComeAsSoonAsTheClientHears(t *testing.T) {
	d := &daemon{answerer: answererOf(t, newHost(t, "a")), challenges: newChallenges(), work: t.Context()}
	near, far := net.Pipe() // what is written is read at that moment
	defer near.Close()
	h := newHistory(time.Now)
	c := call{run: runOf(xvm.OpStatus, 1, "a")}
	h.begin(c)
	served := make(chan error, 1)
	go func() {
		defer far.Close()
		s := session{daemon: d, conn: far, place: newLimits().enter("x", nil), history: h, done: func() { h.end(c) }}
		_, err := s.serve(Config{}, Key{}, xvm.Request{Op: xvm.OpStatus, Guest: "a", Seq: 1}, address("10.0.0.1"))
		served <- err
	}()
	if got, err := readReply(near, ""); err != nil || got.Result != xvm.ResultOK {
		t.Error(got, err)
	}
	if !h.begin(c) || !h.answered(c.run) {
		t.Error("the run is still under way for the history, or was not remembered")
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

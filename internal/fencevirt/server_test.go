package fencevirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/wire/xvm"
)

// taken is a port of loopback that somebody has.
func taken(t testing.TB) (uint16, net.Listener) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return uint16(l.Addr().(*net.TCPAddr).Port), l
}

func TestTheServerStartsWhollyOrNotAtAll(t *testing.T) {
	port, _ := taken(t)
	free, l := taken(t)
	l.Close()
	good := tcpListener(strong(testKey))
	good.Port = free
	bad := func(change func(*Listener)) Listener {
		l := tcpListener(strong(testKey))
		l.Where = "f:2"
		change(&l)
		return l
	}
	for _, c := range []struct {
		name string
		bad  Listener
		want []string
	}{
		{"a port that is taken", bad(func(l *Listener) { l.Port = port }), []string{"f:2", "address already in use", "another port"}},
		{
			"an address of another host", bad(func(l *Listener) { l.Address = netip.MustParseAddr("192.0.2.1") }),
			[]string{"f:2", "192.0.2.1", "no interface of this host"},
		},
		{"a host without lines", bad(func(l *Listener) { *l = lineListener(KindSerial); l.Where = "f:2" }), []string{"f:2", "lines of its guests"}},
		{
			"an interface that does not exist",
			bad(func(l *Listener) {
				l.Kind, l.Address, l.Interfaces = KindMulticast, netip.MustParseAddr(xvm.DefaultGroup4), []string{"nobr0"}
			}),
			[]string{"f:2", `interface "nobr0" does not exist`, "lo"},
		},
	} {
		s, err := New(Config{Listeners: []Listener{good, c.bad}}, newHost(t), logOf(t))
		if err == nil {
			s.Close()
			t.Errorf("%s was taken", c.name)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", c.name, err, part)
			}
		}
	}
	// Nothing of the failed ones is left.
	start(t, Config{Listeners: []Listener{good}}, newHost(t))
}

func TestReloadKeepsWhatStaysAndIsAllOrNothing(t *testing.T) {
	free := func() uint16 {
		port, l := taken(t)
		l.Close()
		return port
	}
	listener := func(port uint16, groups ...Group) Listener {
		l := tcpListener(strong(testKey, groups...))
		l.Port = port
		return l
	}
	kept, gone, added := free(), free(), free()
	host := newHost(t, "a", "b")
	s := start(t, Config{Listeners: []Listener{listener(kept), listener(gone)}}, host)
	at := func(port uint16) string { return netip.AddrPortFrom(loopback, port).String() }
	ask := func(port uint16, guest string, want xvm.Result) {
		t.Helper()
		clientOf("tcp", at(port), xvm.OpStatus, guest).mustAsk(t, want)
	}
	ask(kept, "a", xvm.ResultOK)
	ask(gone, "a", xvm.ResultOK)

	// A replay stays one, and a connection goes on with what it began with.
	c := clientOf("tcp", at(kept), xvm.OpStatus, "a")
	packet, _ := c.request().Append(nil, c.Key)
	if _, err := c.exchange(t.Context(), packet); err != nil {
		t.Fatal(err)
	}
	only := Group{Name: "g", Where: "f:3", From: []string{"127.0.0.1"}, Guests: []string{"b"}}
	if err := s.Reload(Config{Listeners: []Listener{listener(kept, only), listener(added)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.exchange(t.Context(), packet); err == nil {
		t.Error("a replay was taken after a reload")
	}
	ask(kept, "a", xvm.ResultDenied)
	ask(kept, "b", xvm.ResultOK)
	ask(added, "a", xvm.ResultOK)
	if conn, err := net.Dial("tcp", at(gone)); err == nil {
		conn.Close()
		t.Error("a listener that was taken out still listens")
	}

	port, _ := taken(t)
	for name, bad := range map[string]Config{
		"a port that is taken": {Listeners: []Listener{listener(kept), listener(free()), listener(port)}},
		"no key":               {Listeners: []Listener{{Kind: KindTCP, Address: loopback}}},
	} {
		if err := s.Reload(bad); err == nil {
			t.Errorf("%s was taken", name)
		}
		ask(kept, "a", xvm.ResultDenied)
		ask(added, "a", xvm.ResultOK)
	}
	if n := len(s.Addrs()); n != 2 {
		t.Errorf("%d listeners", n)
	}
	if err := s.Reload(Config{Listeners: []Listener{listener(kept)}, Guests: []string{"b"}}); err != nil {
		t.Fatal(err)
	}
	ask(kept, "a", xvm.ResultOff)
}

var errDone = errors.New("it was answered as done")

func TestCloseEndsEverything(t *testing.T) {
	t.Parallel()
	host := lineHost(t, t.TempDir(), "a")
	listeners := []Listener{tcpListener(strong(testKey)), udpListener(strong(testKey)), lineListener(KindSerial)}
	s, err := New(Config{Listeners: listeners}, host, logOf(t))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(context.Background()) }()
	c := clientOf("tcp", addrOf(t, s, "tcp"), xvm.OpOff, "a")
	stall(t, c, 3, 10)
	asked, hangs := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	host.SetFault(func(c mem.Call) mem.Fault {
		if c.Op == mem.OpOff {
			once.Do(func() { close(asked) })
		}
		return mem.Fault{Hang: c.Op == mem.OpOff}
	})
	go func() {
		got, err := c.ask(context.Background())
		if err == nil && got.Result == xvm.ResultOK {
			err = errDone
		}
		hangs <- err
	}()
	<-asked
	began := time.Now()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > stopLimit+2*time.Second {
		t.Errorf("closing took %v", took)
	}
	if err := <-hangs; errors.Is(err, errDone) {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	if err := s.Run(context.Background()); err != nil {
		t.Errorf("there is nothing to run any more: %v", err)
	}
	if s.Reload(Config{}) == nil {
		t.Error("a closed server reloads")
	}
	unstarted, err := New(Config{Listeners: listeners[:2]}, host, logOf(t))
	if err != nil {
		t.Fatal(err)
	}
	addrs := unstarted.Addrs()
	unstarted.Close()
	for _, a := range addrs {
		if a.Network() == "tcp" {
			if conn, err := net.Dial("tcp", a.String()); err == nil {
				conn.Close()
				t.Error("a server that was never run still listens")
			}
		}
	}
}

func TestGuestsThatMigrateAreNotHere(t *testing.T) {
	host := newHost(t, "a", "b")
	elsewhere := mem.New("hostboot-2", mem.Guest{ID: idOf("a"), Name: "a"}, mem.Guest{ID: idOf("b"), Name: "b"})
	var logged record
	told := func(guest string, why Loss) func() bool {
		event := fmt.Sprintf("requests for it are answered as for an unknown guest\" component=fencevirt guest=%s reason=%s\n", guest, why)
		if why == LossNone {
			event = fmt.Sprintf("a guest of the map is here again\" component=fencevirt guest=%s\n", guest)
		}
		return func() bool { return logged.has(event) }
	}
	s, err := New(Config{Listeners: []Listener{tcpListener(strong(testKey))}, Guests: []string{"a", "c"}}, host, logged.log())
	if err != nil {
		t.Fatal(err)
	}
	runUntilEnd(t, s)
	to := addrOf(t, s, "tcp")
	ask := func(op xvm.Op, want xvm.Result) {
		t.Helper()
		clientOf("tcp", to, op, "a").mustAsk(t, want)
	}
	eventually(t, "c is missing", told("c", LossMissing))
	ask(xvm.OpStatus, xvm.ResultOK)
	if err := host.BeginMove(t.Context(), elsewhere, idOf("a")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a is leaving", told("a", LossLeaving))
	ask(xvm.OpStatus, xvm.ResultOff)
	ask(xvm.OpOff, xvm.ResultFailed)
	ask(xvm.OpReboot, xvm.ResultFailed)
	if host.Life(idOf("a")) == "" {
		t.Error("a guest of the map was ended while it was leaving")
	}
	if err := host.FinishMove(idOf("a")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a has migrated", told("a", LossMigrated))
	ask(xvm.OpStatus, xvm.ResultOff)
	for _, op := range []xvm.Op{xvm.OpOff, xvm.OpOn, xvm.OpReboot} {
		ask(op, xvm.ResultFailed) // its definition is still here, and it runs elsewhere
	}
	if host.Life(idOf("a")) != "" || elsewhere.Life(idOf("a")) == "" {
		t.Error("a guest that has migrated was started here, or ended there")
	}
	elsewhere.MoveTo(host, idOf("a"))
	eventually(t, "a is back", told("a", LossNone))
	ask(xvm.OpOff, xvm.ResultOK)
}

func TestAnArrivalIsNotHereYet(t *testing.T) {
	from := newHost(t, "a")
	host := mem.New("hostboot-2", mem.Guest{ID: idOf("a"), Name: "a"})
	if err := from.BeginMove(t.Context(), host, idOf("a")); err != nil {
		t.Fatal(err)
	}
	a := answererOf(t, host)
	for op, want := range map[xvm.Op]xvm.Result{
		xvm.OpStatus: xvm.ResultOff, xvm.OpOff: xvm.ResultFailed, xvm.OpOn: xvm.ResultFailed, xvm.OpReboot: xvm.ResultFailed,
	} {
		if got := a.ask(t, op, "a"); got != want {
			t.Errorf("%v: %d, want %d", op, got, want)
		}
	}
	if err := from.FinishMove(idOf("a")); err != nil {
		t.Errorf("the migration was disturbed: %v", err)
	}
}

func TestAnOffOfAGuestThatLeftMeanwhileIsNotDone(t *testing.T) {
	host := newHost(t, "a")
	elsewhere := mem.New("hostboot-2", mem.Guest{ID: idOf("a"), Name: "a"})
	host.SetFault(func(c mem.Call) mem.Fault {
		if c.Op == mem.OpOff {
			host.SetFault(nil)
			host.MoveTo(elsewhere, idOf("a"))
		}
		return mem.Fault{}
	})
	if got := answererOf(t, host).ask(t, xvm.OpOff, "a"); got != xvm.ResultFailed {
		t.Errorf("off: %d, and it runs elsewhere: %q", got, elsewhere.Life(idOf("a")))
	}
}

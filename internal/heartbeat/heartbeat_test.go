package heartbeat

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/beat"
)

var testDomain = beat.Domain{Cluster: "6f1d2c3b4a5968778695a4b3c2d1e0ff", Incarnation: 1}

var testKey = beat.Key{1, 2, 3}

// logBuffer collects log lines of several goroutines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func testConfig(name, address string) Config {
	start := time.Now()
	return Config{
		Address: address, Domain: testDomain, Key: testKey, Node: cluster.NodeName(name),
		Boot: cluster.BootID("boot of " + name), Logger: slog.New(slog.DiscardHandler),
		Now: func() time.Duration { return time.Since(start) },
	}
}

func open(t *testing.T, config Config) *Transport {
	t.Helper()
	tr, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

func peer(name string, t *Transport) []Peer {
	return []Peer{{Node: cluster.NodeName(name), Address: t.LocalAddr().String()}}
}

// exchange lets both send rounds until b has heard what accept wants.
func exchange(a, b *Transport, payload Payload, accept func(Received) bool) Received {
	for {
		a.Send(peer("b", b), payload)
		b.Send(peer("a", a), Payload{})
		select {
		case got := <-b.Beats():
			if accept(got) {
				return got
			}
		case <-time.After(time.Millisecond): // next round; the test binary's time limit ends it
		}
	}
}

func TestBeatsArriveWithTheirPayload(t *testing.T) {
	for name, address := range map[string]string{"IPv4": "127.0.0.1", "IPv6": "::1"} {
		t.Run(name, func(t *testing.T) {
			if probe, err := net.ListenPacket("udp", net.JoinHostPort(address, "0")); err != nil {
				t.Skipf("SKIPPED: needs %s on loopback: %v", name, err)
			} else {
				probe.Close()
			}
			a, b := open(t, testConfig("a", address)), open(t, testConfig("b", address))
			want := Payload{Tick: 7, Revision: 42, Quorum: true}
			got := exchange(a, b, want, func(Received) bool { return true })
			if got.Node != "a" || got.Boot != "boot of a" || (Payload{got.Tick, got.Revision, got.Quorum}) != want {
				t.Errorf("got %+v, want a's beat with %+v", got, want)
			}
			if !got.EchoOK || got.EchoSent > got.At {
				t.Errorf("got %+v, want an echo of a beat sent before it arrived", got)
			}
		})
	}
}

// A flood of everything that a stranger can send must not silence a member.
func TestHostileFloodDoesNotStopValidBeats(t *testing.T) {
	a, b := open(t, testConfig("a", "127.0.0.1")), open(t, testConfig("b", "127.0.0.1"))
	conn, err := net.Dial("udp", b.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	other := beat.Key{9}
	forged, err := beat.Append(nil, &other, testDomain, beat.Beat{Node: "a", Boot: "boot of a", Counter: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var flood sync.WaitGroup
	flood.Go(func() {
		for !stop.Load() {
			for _, data := range [][]byte{forged, {}, forged[:40], make([]byte, 1400)} {
				_, _ = conn.Write(data) // an overrun is what a flood does
			}
		}
	})
	heard := 0
	exchange(a, b, Payload{}, func(Received) bool { heard++; return heard == 20 })
	stop.Store(true)
	flood.Wait()
	refused := b.Stats().Refused
	if refused[beat.ErrKey.Error()] == 0 || refused[beat.ErrSize.Error()] == 0 {
		t.Errorf("the flood was not counted: %v", refused)
	}
}

func TestRefusalsAreLoggedWithSourceAndReason(t *testing.T) {
	logs := &logBuffer{}
	config := testConfig("b", "127.0.0.1")
	config.Logger = slog.New(slog.NewTextHandler(logs, nil))
	config.Now = func() time.Duration { return time.Second } // stands: one line only
	a, b := open(t, testConfig("a", "127.0.0.1")), open(t, config)
	conn, err := net.Dial("udp", b.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 50 {
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	exchange(a, b, Payload{}, func(Received) bool { return true })
	text := logs.String()
	if n := strings.Count(text, "beat refused"); n != 1 {
		t.Errorf("%d lines on refused beats, want 1:\n%s", n, text)
	}
	for _, want := range []string{"component=heartbeat", "address=" + conn.LocalAddr().String(), `reason="beat: wrong size"`} {
		if !strings.Contains(text, want) {
			t.Errorf("log lacks %s:\n%s", want, text)
		}
	}
}

func TestBeatWithOwnNameIsRefused(t *testing.T) {
	a, twin := open(t, testConfig("a", "127.0.0.1")), open(t, testConfig("a", "127.0.0.1"))
	for a.Stats().Refused[reasonOwnName] == 0 {
		twin.Send(peer("a", a), Payload{})
		time.Sleep(time.Millisecond)
	}
	if got := a.Stats().Accepted; got != 0 {
		t.Errorf("%d beats accepted, want none", got)
	}
}

func TestSlowReaderLosesTheOldestBeats(t *testing.T) {
	tr := &Transport{out: make(chan Received, 3), faults: newFaults()}
	for i := range 5 {
		tr.deliver(Received{Tick: uint64(i)})
	}
	for want := uint64(2); want < 5; want++ {
		if got := (<-tr.out).Tick; got != want {
			t.Errorf("got beat %d, want %d", got, want)
		}
	}
	if got := tr.Stats().Overflow; got != 2 {
		t.Errorf("counted %d, want 2", got)
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	taken := open(t, testConfig("a", "127.0.0.1"))
	inUse := testConfig("b", "127.0.0.1")
	inUse.Port = int(taken.LocalAddr().Port())
	_, err := New(inUse)
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("got %v, want EADDRINUSE", err)
	}
	for _, want := range []string{"127.0.0.1", "beat_port", "in use"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %q", err, want)
		}
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"foreign address": {func(c *Config) { c.Address = "192.0.2.1" }, "not an address of this machine"},
		"host name":       {func(c *Config) { c.Address = "node1" }, `address "node1": want an IP address`},
		"port":            {func(c *Config) { c.Port = 65536 }, "beat_port 65536: want 1 to 65535"},
		"no boot":         {func(c *Config) { c.Boot = "" }, "boot id of 0 bytes"},
	} {
		config := testConfig("b", "127.0.0.1")
		c.change(&config)
		if _, err := New(config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestCloseEndsBeatsAndMayBeRepeated(t *testing.T) {
	tr := open(t, testConfig("a", "127.0.0.1"))
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	if _, open := <-tr.Beats(); open {
		t.Error("Beats is still open")
	}
	tr.Send([]Peer{{Node: "b", Address: "127.0.0.1:9"}}, Payload{}) // must not panic or hang
	if err := tr.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// names is a resolver whose answers wait until they are let go.
type names struct {
	release chan struct{}
	answer  []netip.Addr
}

func (n *names) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	select {
	case <-n.release:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if host != "slow.example" {
		return nil, errors.New("no such host")
	}
	return n.answer, nil
}

func TestSlowNamesDelayNobodyAndAreUsedOnceFound(t *testing.T) {
	dns := &names{
		release: make(chan struct{}),
		answer:  []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("127.0.0.1")},
	}
	config := testConfig("a", "127.0.0.1")
	config.Resolver = dns
	a, b := open(t, config), open(t, testConfig("b", "127.0.0.1"))
	_, port, err := net.SplitHostPort(b.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	byName := []Peer{{Node: "b", Address: "slow.example:" + port}}
	a.Send(byName, Payload{}) // returns although nobody answers
	if got := a.Stats().Unsent; got != 1 {
		t.Fatalf("%d beats not sent, want 1", got)
	}
	close(dns.release)
	for b.Stats().Refused[reasonStranger] == 0 {
		a.Send(byName, Payload{})
		time.Sleep(time.Millisecond)
	}
}

func TestPeerAddressMustBeHostAndPort(t *testing.T) {
	a := open(t, testConfig("a", "127.0.0.1"))
	for _, bad := range []string{"", "n1", ":7946", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:beat"} {
		if _, err := a.resolver.address(bad); !errors.Is(err, errAddress) {
			t.Errorf("address %q: got %v, want %v", bad, err, errAddress)
		}
	}
}

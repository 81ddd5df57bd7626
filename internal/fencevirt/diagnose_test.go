package fencevirt

import (
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"ringfence/internal/nstest"
	"ringfence/internal/wire/xvm"
	"ringfence/internal/wire/xvmdiag"
)

// prober sends probes to a server and takes the reports.
type prober struct {
	*net.UDPConn
	to string
}

func newProber(t testing.TB, to string) *prober {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &prober{conn, to}
}

// send sends a probe around the packet.
func (p *prober) send(t testing.TB, packet []byte) xvmdiag.Nonce {
	t.Helper()
	var nonce xvmdiag.Nonce
	rand.Read(nonce[:])
	probe, err := xvmdiag.AppendProbe(nil, packet, nonce)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.WriteToUDPAddrPort(probe, netip.MustParseAddrPort(p.to)); err != nil {
		t.Fatal(err)
	}
	return nonce
}

// next returns the next report, or false after a time.
func (p *prober) next(t testing.TB, within time.Duration) (xvmdiag.Report, bool) {
	t.Helper()
	p.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, xvmdiag.ProbeSize)
	n, err := p.Read(b)
	if err != nil {
		return xvmdiag.Report{}, false
	}
	if n > xvmdiag.ReportLimit {
		t.Errorf("a report of %d bytes", n)
	}
	r, err := xvmdiag.ParseReport(b[:n])
	if err != nil {
		t.Fatal(err)
	}
	return r, true
}

func (p *prober) want(t testing.TB, nonce xvmdiag.Nonce, stage xvmdiag.Stage, outcome xvmdiag.Outcome) xvmdiag.Report {
	t.Helper()
	r, ok := p.next(t, clientTimeout)
	if !ok || r.Nonce != nonce || r.Stage != stage || r.Outcome != outcome {
		t.Fatalf("got %+v (%v), want stage %d, outcome %d", r, ok, stage, outcome)
	}
	return r
}

func TestAProbeIsToldWhatBecameOfIt(t *testing.T) {
	l := udpListener(Key{Name: "other", Secret: Secret("other"), Hash: xvm.HashSHA512, Auth: xvm.HashNone}, strong(testKey, Group{
		From: []string{"127.0.0.1"}, Guests: []string{"a", "gone"},
	}))
	s := start(t, Config{Listeners: []Listener{l}, Version: "v9"}, newHost(t, "a", "b"))
	to := addrOf(t, s, "udp")
	p, client := newProber(t, to), newParty(t)
	arrived := func(c clientJob, want xvmdiag.Outcome) xvmdiag.Report {
		t.Helper()
		return p.want(t, p.send(t, client.packet(t, c)), xvmdiag.StageArrived, want)
	}
	c := clientOf("udp", to, xvm.OpStatus, "a")
	c.Key = []byte("a third one")
	r := arrived(c, xvmdiag.OutcomeDigest)
	if r.Fits != 0 || len(r.Keys) != 2 || r.Keys[1] != (xvmdiag.Key{Fingerprint: xvmdiag.FingerprintOf([]byte(testKey)), Hash: xvm.HashSHA256, Auth: xvm.HashSHA256}) {
		t.Errorf("keys %+v", r.Keys)
	}
	if r.Kind != xvmdiag.KindUDP || r.Version != "v9" || r.Source.String() != p.LocalAddr().String() || r.ToGroup {
		t.Errorf("report %+v", r)
	}
	c.Key = []byte(testKey)
	c.Hash = xvm.HashSHA1
	arrived(c, xvmdiag.OutcomeWeakHash)
	c.Hash = 7
	arrived(c, xvmdiag.OutcomeNoHash)
	c.Hash = xvm.HashSHA256
	for _, step := range []struct {
		op      xvm.Op
		guest   string
		outcome xvmdiag.Outcome
		result  xvm.Result
	}{
		{xvm.OpMonitor, "", xvmdiag.OutcomeServed, xvm.ResultOK},
		{xvm.OpStatus, "a", xvmdiag.OutcomeServed, xvm.ResultOK},
		{xvm.OpStatus, "b", xvmdiag.OutcomeServed, xvm.ResultDenied},
		{xvm.OpStatus, "gone", xvmdiag.OutcomeNoGuest, xvm.ResultOff},
		{xvm.OpStatus, "nobody", xvmdiag.OutcomeServed, xvm.ResultDenied}, // nothing is told of other guests
	} {
		c.Op, c.Guest, c.Seq = step.op, step.guest, nextSeq()
		packet := client.packet(t, c)
		nonce := p.send(t, packet)
		if r := p.want(t, nonce, xvmdiag.StageArrived, xvmdiag.OutcomeAccepted); r.Fits != 2 {
			t.Errorf("key %d fits", r.Fits)
		}
		c.answered(t, client.called(t, clientTimeout))
		if r := p.want(t, nonce, xvmdiag.StageEnded, step.outcome); r.Result != step.result {
			t.Errorf("%v of %q: result %d, want %d", step.op, step.guest, r.Result, step.result)
		}
		p.want(t, p.send(t, packet), xvmdiag.StageArrived, xvmdiag.OutcomeReplay)
	}
}

func TestAProbeIsToldHowTheCallBackFailed(t *testing.T) {
	s := start(t, Config{Listeners: []Listener{udpListener(strong(testKey))}}, newHost(t, "a"))
	to := addrOf(t, s, "udp")
	p := newProber(t, to)
	for outcome, behave := range map[xvmdiag.Outcome]func(*party){
		xvmdiag.OutcomeRefused:   func(c *party) { c.Close() },
		xvmdiag.OutcomeHungUp:    func(c *party) { c.called(t, clientTimeout).Close() },
		xvmdiag.OutcomeChallenge: func(c *party) { c.called(t, clientTimeout).Write(make([]byte, 2*xvm.ChallengeSize)) },
	} {
		client := newParty(t)
		packet := client.packet(t, clientOf("udp", to, xvm.OpStatus, "a"))
		if outcome == xvmdiag.OutcomeRefused {
			behave(client)
		}
		nonce := p.send(t, packet)
		p.want(t, nonce, xvmdiag.StageArrived, xvmdiag.OutcomeAccepted)
		if outcome != xvmdiag.OutcomeRefused {
			behave(client)
		}
		p.want(t, nonce, xvmdiag.StageEnded, outcome)
	}
}

func TestWithoutDiagnosisAProbeIsAnOrdinaryRequest(t *testing.T) {
	l := udpListener(strong(testKey))
	l.NoDiagnosis = true
	s := start(t, Config{Listeners: []Listener{l}}, newHost(t, "a"))
	to := addrOf(t, s, "udp")
	p, client, c := newProber(t, to), newParty(t), clientOf("udp", to, xvm.OpStatus, "a")
	p.send(t, client.packet(t, c))
	if got := c.answered(t, client.called(t, clientTimeout)); got.Result != xvm.ResultOK {
		t.Errorf("result %d", got.Result)
	}
	if r, ok := p.next(t, soon); ok {
		t.Errorf("it was answered: %+v", r)
	}
}

// TestReportsAreBounded for each source and in total, and a quiet source is forgotten.
func TestReportsAreBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	r := newReportLimit(func() time.Time { return now })
	count := func(source netip.Addr) (n int) {
		for range 1000 {
			if r.allow(source) {
				n++
			}
		}
		return n
	}
	one := netip.MustParseAddr("192.0.2.1")
	if n := count(one); n != reportBurst {
		t.Errorf("%d reports to one source", n)
	}
	now = now.Add(time.Second)
	if n := count(netip.MustParseAddr("::ffff:192.0.2.1")); n != reportRate {
		t.Errorf("%d reports a second later", n)
	}
	total := 0
	for i := range 100 {
		total += count(netip.AddrFrom4([4]byte{192, 0, 3, byte(i)}))
	}
	if total > reportTotalBurst {
		t.Errorf("%d reports in total", total)
	}
	for i := range 2 * reportSourceLimit {
		r.allow(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	if len(r.sources) > reportSourceLimit {
		t.Errorf("%d sources are remembered", len(r.sources))
	}
	now = now.Add(time.Minute)
	if !r.allow(netip.MustParseAddr("198.51.100.1")) || len(r.sources) != 1 {
		t.Errorf("%d sources are remembered a minute later", len(r.sources))
	}
}

// TestAReportSaysWhereTheGroupIsJoined, also to a probe that multicast did not bring.
func TestAReportSaysWhereTheGroupIsJoined(t *testing.T) {
	nstest.Need(t)
	_, two := nstest.Bridge(t, "br1", "10.77.1.1/24"), nstest.Bridge(t, "br2", "10.77.2.1/24")
	_ = newGuest(t, two, "10.77.2.2/24")
	start(t, Config{Listeners: []Listener{multicastListener(xvm.DefaultGroup4, "br1")}}, newHost(t, "a"))
	p := newProber(t, "10.77.1.1:1229")
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p.UDPConn = conn
	c := clientOf("udp", p.to, xvm.OpStatus, "a")
	c.Key = []byte("wrong")
	packet := newParty(t).packet(t, c)
	r := p.want(t, p.send(t, packet), xvmdiag.StageArrived, xvmdiag.OutcomeDigest)
	want := xvmdiag.Interface{Name: "br1", Prefix: netip.MustParsePrefix("10.77.1.1/24"), Joined: true, Arrived: true, Snoops: true}
	if r.Kind != xvmdiag.KindMulticast || r.Address.String() != xvm.DefaultGroup4 || r.Port != testPort || len(r.Interfaces) == 0 || r.Interfaces[len(r.Interfaces)-1] != want {
		t.Errorf("report %+v", r)
	}
	// Somebody else of this host has joined on br2, so that a packet arrives there.
	l := multicastListener(xvm.DefaultGroup4, "br2")
	l.Port = 1230
	start(t, Config{Listeners: []Listener{l}}, newHost(t))
	if err := leaveBy(conn, "br2"); err != nil {
		t.Fatal(err)
	}
	p.to = "225.0.0.12:1229"
	r = p.want(t, p.send(t, packet), xvmdiag.StageArrived, xvmdiag.OutcomeInterface)
	if !r.ToGroup || r.Interfaces[0].Name != "br2" || r.Interfaces[0].Joined || !r.Interfaces[0].Arrived {
		t.Errorf("report %+v", r)
	}
}

// TestByTCPAChallengeMayAskWhy a request was not taken.
func TestByTCPAChallengeMayAskWhy(t *testing.T) {
	quietly := tcpListener(strong(testKey))
	quietly.NoDiagnosis = true
	for _, l := range []Listener{tcpListener(strong(testKey)), quietly} {
		s := start(t, Config{Listeners: []Listener{l}, Version: "v9"}, newHost(t, "a"))
		c := clientOf("tcp", addrOf(t, s, "tcp"), xvm.OpStatus, "a")
		c.Key = []byte("wrong")
		packet, err := c.request().Append(nil, c.Key)
		if err != nil {
			t.Fatal(err)
		}
		var random [xvm.ChallengeSize]byte
		rand.Read(random[:])
		nonce := xvmdiag.Nonce{1, 2, 3}
		for _, challenge := range [][xvm.ChallengeSize]byte{xvmdiag.ChallengeProbe(random, nonce), random} {
			conn, err := net.Dial("tcp", c.To)
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(clientTimeout))
			conn.Write(append(packet, challenge[:]...))
			got, _ := io.ReadAll(conn)
			conn.Close()
			_, asks := xvmdiag.ParseChallenge(challenge)
			if !asks || l.NoDiagnosis {
				if len(got) != 0 {
					t.Errorf("an answer of %d bytes to whom nobody asked, or may tell", len(got))
				}
				continue
			}
			r, err := xvmdiag.ParseReport(got)
			if err != nil || r.Nonce != nonce || r.Outcome != xvmdiag.OutcomeDigest || r.Kind != xvmdiag.KindTCP || len(r.Keys) != 1 || r.Version != "v9" {
				t.Errorf("report %+v, %v", r, err)
			}
		}
	}
}

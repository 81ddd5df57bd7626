package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/hostclient"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/wire/hostapi"
)

const (
	g1     cluster.GuestID = "00000000-0000-4000-8000-000000000001"
	g2     cluster.GuestID = "00000000-0000-4000-8000-000000000002"
	alpha                  = cluster.ClusterID("alpha")
	beta                   = cluster.ClusterID("beta")
	boots1                 = "hb1"
	boots2                 = "hb2"
)

var quiet = slog.New(slog.DiscardHandler)

// still is a host that guests cannot leave and whose boots are known.
type still struct{ *mem.Driver }

func (still) Immobile() bool { return true }

func (still) BootOf(life cluster.LifeID) cluster.BootID { return cluster.BootID("boot of " + life) }

// authority is a cluster's certificate authority.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, der := certify(t, x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func (a authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// node makes a node's certificate.
func (a authority) node(t *testing.T) tls.Certificate {
	t.Helper()
	key, der := certify(t, x509.Certificate{Subject: pkix.Name{CommonName: "db1"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, &a)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func certify(t *testing.T, template x509.Certificate, by *authority) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := &template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// rig is a host with two guests and the cluster alpha, which may deal with both.
type rig struct {
	t      *testing.T
	dir    string
	driver *mem.Driver
	server *Server
	ca     authority
	stop   func()
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: filepath.Join(t.TempDir(), "host"), ca: newAuthority(t), stop: func() {}}
	r.driver = mem.New(boots1, mem.Guest{ID: g1, Name: "db1"}, mem.Guest{ID: g2, Name: "db2"})
	must(t, Init(r.dir, "h1", "127.0.0.1:0"))
	must(t, Allow(r.dir, ClusterGrant{Cluster: alpha, CA: r.ca.pem(), Guests: []cluster.GuestID{g1, g2}}))
	r.start()
	return r
}

// start runs hostd until the test ends or stop is called.
func (r *rig) start() {
	r.t.Helper()
	server, err := New(Config{Dir: r.dir, Driver: still{r.driver}, Log: quiet, Version: "test"})
	must(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- server.Run(ctx) }()
	stopped := false
	r.server = server
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		must(r.t, <-ran)
	}
	r.t.Cleanup(r.stop)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) client() *hostclient.Client {
	r.t.Helper()
	return r.clientWith(r.ca.node(r.t))
}

func (r *rig) clientWith(cert tls.Certificate) *hostclient.Client {
	r.t.Helper()
	host, err := Public(r.dir)
	must(r.t, err)
	host.Address = r.server.Addr().String()
	c, err := hostclient.New(host, cert)
	must(r.t, err)
	r.t.Cleanup(c.Close)
	return c
}

// claim starts a guest and binds it to alpha over its own channel.
func (r *rig) claim(id cluster.GuestID) cluster.LifeID {
	r.t.Helper()
	life, err := r.driver.On(context.Background(), id)
	must(r.t, err)
	ch := r.channel(id)
	self, err := ch.Self(context.Background())
	must(r.t, err)
	if self.Life != life || self.Boot != cluster.BootID("boot of "+life) {
		r.t.Fatalf("self %+v", self)
	}
	_, err = ch.Bind(context.Background(), hostapi.BindRequest{Cluster: alpha, Node: "db1", Boot: self.Boot, Nonce: "n"})
	must(r.t, err)
	return life
}

// channel reaches hostd as the guest; it waits until hostd listens there.
func (r *rig) channel(id cluster.GuestID) *hostclient.Channel {
	return hostclient.NewChannel(func(ctx context.Context) (net.Conn, error) {
		for {
			conn, err := r.driver.DialChannel(ctx, id)
			if err == nil || ctx.Err() != nil {
				return conn, err
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func order1(life cluster.LifeID, decision string) hostapi.Order {
	return hostapi.Order{Cluster: alpha, Incarnation: 1, Epoch: 1, Decision: decision, Life: life}
}

// follow streams events; the returned channel closes with the stream.
func (r *rig) follow(c *hostclient.Client, since uint64) <-chan hostclient.Event {
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan hostclient.Event, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(events)
		_ = c.Stream(ctx, since, func(ev hostclient.Event) error { events <- ev; return nil })
	}()
	r.t.Cleanup(func() { cancel(); <-done })
	return events
}

func (r *rig) certificate(events <-chan hostclient.Event) cluster.DeathCertificate {
	r.t.Helper()
	for ev := range events {
		if ev.Certificate != nil {
			return *ev.Certificate
		}
	}
	r.t.Fatal("the stream ended without a certificate")
	return cluster.DeathCertificate{}
}

// hello waits for the stream to begin.
func (r *rig) hello(events <-chan hostclient.Event) hostapi.Hello {
	r.t.Helper()
	ev, ok := <-events
	if !ok || ev.Hello == nil {
		r.t.Fatalf("the stream begins with %+v", ev)
	}
	return *ev.Hello
}

// The main job: a claimed guest dies, and its cluster has the certificate.
func TestTheDeathOfAClaimedGuestIsPushed(t *testing.T) {
	r := newRig(t)
	life := r.claim(g1)
	c := r.client()
	events := r.follow(c, 0)
	if hello := r.hello(events); hello != (hostapi.Hello{Host: "h1", HostBoot: boots1}) {
		t.Errorf("hello %+v", hello)
	}
	r.driver.End(g1, hypervisor.ReasonCrashed)
	cert := r.certificate(events)
	if cert.Life != life || cert.Guest != g1 || cert.Cluster != alpha || cert.Cause != cluster.CauseCrashed {
		t.Errorf("certificate %+v", cert)
	}
	again := r.follow(c, cert.Seq)
	r.hello(again)
	if diff := cmp.Diff(cert, r.certificate(again)); diff != "" {
		t.Errorf("unacknowledged, and not repeated: %s", diff)
	}
	must(t, c.Ack(context.Background(), hostapi.Ack{Seq: cert.Seq, Revision: 7}))
	if err := c.Ack(context.Background(), hostapi.Ack{Seq: 99, Revision: 7}); err == nil {
		t.Error("an ack of no certificate was taken")
	}
}

// Who comes later learns what it missed: a guest that was paused before.
func TestAStreamBeginsWithEveryGuestThatTheClusterMaySee(t *testing.T) {
	r := newRig(t)
	life := r.claim(g1)
	r.claim(g2)
	c := r.client()
	must(t, outcome(c.Pause(context.Background(), g1, order1(life, "p1"))))
	events := r.follow(c, 0)
	r.hello(events)
	seen := map[cluster.GuestID]string{}
	for len(seen) < 2 {
		ev := <-events
		if ev.Guest == nil {
			t.Fatalf("before the guests comes %+v", ev)
		}
		seen[ev.Guest.ID] = ev.Guest.State
	}
	if diff := cmp.Diff(map[cluster.GuestID]string{g1: "paused", g2: "running"}, seen); diff != "" {
		t.Error(diff)
	}
}

// C-8: certificates wait for their cluster, over restarts of hostd and host.
func TestCertificatesWaitForTheirCluster(t *testing.T) {
	r := newRig(t)
	life := r.claim(g1)
	r.claim(g2)
	r.driver.End(g2, hypervisor.ReasonShutdown)
	r.stop()
	r.driver.RestartHost(boots2)
	r.start()
	events := r.follow(r.client(), 0)
	if hello := r.hello(events); hello.HostBoot != boots2 || hello.LastSeq != 2 {
		t.Errorf("hello %+v", hello)
	}
	got := map[cluster.GuestID]cluster.Cause{}
	for range 2 {
		cert := r.certificate(events)
		got[cert.Guest] = cert.Cause
		if cert.Guest == g1 && cert.Life != life {
			t.Errorf("certificate %+v", cert)
		}
	}
	if got[g1] != cluster.CauseHostRestarted {
		t.Errorf("causes %v", got)
	}
}

func TestOffEndsTheNamedLifeAndNoOther(t *testing.T) {
	r := newRig(t)
	life := r.claim(g1)
	c := r.client()
	ctx := context.Background()
	reply, err := c.Off(ctx, g1, order1("hb1:1:1", "d0"))
	var refused *hostclient.RefusedError
	if !errors.As(err, &refused) || refused.Code != hostapi.CodeOtherLife || reply.Outcome != cluster.OutcomeNotDone {
		t.Errorf("another life: reply %+v, error %v", reply, err)
	}
	if r.driver.Life(g1) != life {
		t.Fatal("the wrong life was ended")
	}
	reply, err = c.Off(ctx, g1, order1(life, "d1"))
	if err != nil || reply.Outcome != cluster.OutcomeDone || reply.Certificate == nil || reply.Certificate.Cause != cluster.CauseFenced {
		t.Errorf("reply %+v, error %v", reply, err)
	}
	if r.driver.Life(g1) != "" {
		t.Error("the life runs on")
	}
	on, err := c.On(ctx, g1, order1("", "d2"))
	if err != nil || on.Outcome != cluster.OutcomeDone || on.Life != r.driver.Life(g1) {
		t.Errorf("on: reply %+v, error %v", on, err)
	}
	again, err := c.Off(ctx, g1, order1(life, "d1"))
	if diff := cmp.Diff(reply, again); diff != "" || err != nil {
		t.Errorf("a late repeat of off: error %v\n%s", err, diff)
	}
	if r.driver.Life(g1) != on.Life {
		t.Error("a late off has hit the successor")
	}
	must(t, outcome(c.Pause(ctx, g1, order1(on.Life, "d3"))))
	if g, err := c.Guest(ctx, g1); err != nil || g.State != string(hypervisor.StatePaused) {
		t.Errorf("guest %+v, error %v", g, err)
	}
	must(t, outcome(c.Unpause(ctx, g1, order1(on.Life, "d4"))))
}

func outcome(r hostapi.Reply, err error) error {
	if err == nil && r.Outcome != cluster.OutcomeDone {
		err = fmt.Errorf("outcome %q: %s", r.Outcome, r.Detail)
	}
	return err
}

// A hypervisor call that hangs for one guest delays no other guest.
func TestAHungGuestDelaysNoOther(t *testing.T) {
	r := newRig(t)
	one, two := r.claim(g1), r.claim(g2)
	asked, release := make(chan struct{}), make(chan struct{})
	r.driver.SetFault(func(c mem.Call) mem.Fault {
		if c.Op == mem.OpOff && c.Guest == g1 {
			close(asked)
			return mem.Fault{Wait: release}
		}
		return mem.Fault{}
	})
	c := r.client()
	hung := make(chan error, 1)
	go func() { hung <- outcome(c.Off(context.Background(), g1, order1(one, "d1"))) }()
	<-asked
	must(t, outcome(c.Off(context.Background(), g2, order1(two, "d2"))))
	if _, err := c.Guests(context.Background()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-hung:
		t.Fatalf("the hung call returned: %v", err)
	default:
	}
	close(release)
	must(t, <-hung)
}

// The caller hangs up while off is under way: it is carried out and certified.
func TestAnOrderOutlivesItsCaller(t *testing.T) {
	r := newRig(t)
	life := r.claim(g1)
	asked, release := make(chan struct{}), make(chan struct{})
	r.driver.SetFault(func(c mem.Call) mem.Fault {
		if c.Op == mem.OpOff {
			close(asked)
			return mem.Fault{Wait: release}
		}
		return mem.Fault{}
	})
	c := r.client()
	events := r.follow(c, 0)
	ctx, cancel := context.WithCancel(context.Background())
	answer := make(chan hostapi.Reply, 1)
	go func() { reply, _ := c.Off(ctx, g1, order1(life, "d1")); answer <- reply }()
	<-asked
	cancel()
	if reply := <-answer; reply.Outcome != cluster.OutcomeUnknown {
		t.Errorf("reply %+v", reply)
	}
	close(release)
	if cert := r.certificate(events); cert.Cause != cluster.CauseFenced || cert.Life != life {
		t.Errorf("certificate %+v", cert)
	}
}

// P7 over the wire: a memory image of an ended life comes back from elsewhere.
func TestAResurrectedLifeIsDestroyed(t *testing.T) {
	r := newRig(t)
	life := r.claim(g1)
	c := r.client()
	must(t, outcome(c.Off(context.Background(), g1, order1(life, "d1"))))
	twin := mem.New(boots1, mem.Guest{ID: g1, Name: "db1"})
	if again, err := twin.On(context.Background(), g1); err != nil || again != life {
		t.Fatalf("twin life %s, want %s; %v", again, life, err)
	}
	events := r.follow(c, 0)
	r.hello(events)
	twin.MoveTo(r.driver, g1)
	var states []string
	for ev := range events {
		if ev.Guest != nil && ev.Guest.ID == g1 {
			if states = append(states, ev.Guest.State); len(states) == 3 {
				break
			}
		}
	}
	if diff := cmp.Diff([]string{"off", "running", "off"}, states); diff != "" || r.driver.Life(g1) != "" {
		t.Errorf("life %s; %s", r.driver.Life(g1), diff)
	}
}

// Only the cluster whose authority signed the certificate is served, only for
// its own guests, and a change of the grants counts at once.
func TestWhoMayAskForWhat(t *testing.T) {
	r := newRig(t)
	life := r.claim(g1)
	ctx := context.Background()
	other := newAuthority(t)
	cert := other.node(t)
	if _, err := r.clientWith(cert).Host(ctx); err == nil {
		t.Error("a certificate of an unknown cluster is served")
	}
	must(t, Allow(r.dir, ClusterGrant{Cluster: beta, CA: other.pem()}))
	must(t, r.server.Reload())
	c := r.clientWith(cert)
	if host, err := c.Host(ctx); err != nil || host != (hostapi.Host{Name: "h1", HostBoot: boots1, Version: "test"}) {
		t.Errorf("host %+v, error %v", host, err)
	}
	if guests, err := c.Guests(ctx); err != nil || len(guests) != 0 {
		t.Errorf("guests %+v, error %v", guests, err)
	}
	_, hidden := c.Guest(ctx, g1)
	_, missing := c.Guest(ctx, "00000000-0000-4000-8000-0000000000ff")
	if hidden == nil || missing == nil || hidden.Error() != missing.Error() {
		t.Errorf("a hidden guest: %v; a missing guest: %v", hidden, missing)
	}
	forged := order1(life, "d")
	for _, id := range []cluster.ClusterID{alpha, beta} {
		forged.Cluster = id
		if reply, err := c.Off(ctx, g1, forged); err == nil || reply.Outcome != cluster.OutcomeNotDone {
			t.Errorf("order as %s: reply %+v, error %v", id, reply, err)
		}
	}
	if r.driver.Life(g1) != life {
		t.Error("a cluster ended a guest that it may not ask about")
	}
	must(t, Allow(r.dir, ClusterGrant{Cluster: beta, CA: other.pem(), Guests: []cluster.GuestID{g2}}))
	must(t, r.server.Reload())
	shared, err := r.driver.On(ctx, g2)
	must(t, err)
	if reply, err := c.Off(ctx, g2, order1(shared, "d")); err == nil || r.driver.Life(g2) != shared {
		t.Errorf("an order in the name of a cluster that may: reply %+v, error %v", reply, err)
	}
	must(t, os.Remove(filepath.Join(r.dir, dirClusters, "beta.json")))
	must(t, r.server.Reload())
	if _, err := c.Host(ctx); err == nil {
		t.Error("a cluster is served after its grant has ended")
	}
}

// Two clusters on one host: neither speaks, hears or ends for the other.
func TestClustersOnOneHostAreApart(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	const gone cluster.GuestID = "00000000-0000-4000-8000-0000000000fe"
	other := newAuthority(t)
	must(t, Allow(r.dir, ClusterGrant{Cluster: alpha, CA: r.ca.pem(), Guests: []cluster.GuestID{g1}}))
	must(t, Allow(r.dir, ClusterGrant{Cluster: beta, CA: other.pem(), Guests: []cluster.GuestID{g2, gone}}))
	must(t, r.server.Reload())
	c := r.clientWith(other.node(t))
	one := r.claim(g1)
	two, err := r.driver.On(ctx, g2)
	must(t, err)
	_, err = r.channel(g2).Bind(ctx, hostapi.BindRequest{Cluster: beta, Node: "web1", Boot: cluster.BootID("boot of " + two), Nonce: "n"})
	must(t, err)
	if reply, err := c.Off(ctx, g2, order1(two, "d")); err == nil || r.driver.Life(g2) != two {
		t.Errorf("an order in the name of another cluster: reply %+v, error %v", reply, err)
	}
	_, hidden := c.Guest(ctx, g1)
	_, missing := c.Guest(ctx, gone)
	if hidden == nil || missing == nil || hidden.Error() != missing.Error() {
		t.Errorf("a hidden guest: %v; a granted guest that does not exist: %v", hidden, missing)
	}
	events := r.follow(c, 0)
	r.hello(events)
	mine := r.follow(r.client(), 0)
	r.hello(mine)
	r.driver.End(g1, hypervisor.ReasonCrashed)
	if cert := r.certificate(mine); cert.Life != one {
		t.Errorf("alpha hears of %+v", cert)
	}
	r.driver.End(g2, hypervisor.ReasonCrashed)
	for ev := range events {
		if ev.Guest != nil && ev.Guest.ID != g2 || ev.Certificate != nil && ev.Certificate.Life != two {
			t.Errorf("beta hears of %+v", ev)
		}
		if ev.Certificate != nil {
			break
		}
	}
	if cert := r.certificate(r.follow(c, 0)); cert.Life != two {
		t.Errorf("beta's past is %+v", cert)
	}
}

// A thousand clients that stall, each in one of four ways, delay nobody.
func TestAThousandStalledClientsDelayNobody(t *testing.T) {
	r := newRig(t)
	life := r.claim(g1)
	cert := r.ca.node(t)
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", r.server.Addr().String())
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	speak := func(text string) *tls.Conn {
		conn := tls.Client(dial(), &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
		_, err := io.WriteString(conn, text)
		must(t, err)
		return conn
	}
	const each = 250
	var streams []*bufio.Reader
	for range each {
		dial() // no handshake
		speak("POST /v1/ack HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{")
		speak("GET /v1/gue")
		streams = append(streams, bufio.NewReaderSize(speak("GET /v1/events HTTP/1.1\r\nHost: h\r\n\r\n"), 16))
	}
	for _, s := range streams { // each is let in; from here on it reads nothing
		if line, err := s.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatalf("stream answers %q, %v", line, err)
		}
	}
	c := r.client()
	events := r.follow(c, 0)
	r.hello(events)
	for range 100 {
		if _, err := c.Guest(context.Background(), g1); err != nil {
			t.Fatal(err)
		}
	}
	must(t, outcome(c.Off(context.Background(), g1, order1(life, "d1"))))
	if got := r.certificate(events); got.Life != life {
		t.Errorf("certificate %+v", got)
	}
	for _, s := range streams { // each is still there, and has missed nothing
		for line := ""; line != "event: certificate\n"; {
			var err error
			if line, err = s.ReadString('\n'); err != nil {
				t.Fatalf("a stalled stream has ended: %v", err)
			}
		}
	}
}

// A guest binds for itself only, and once to one cluster; who may not is told.
func TestTheChannelIsTheGuest(t *testing.T) {
	r := newRig(t)
	life := r.claim(g1)
	_, err := r.driver.On(context.Background(), g2)
	must(t, err)
	ch := r.channel(g2)
	self, err := ch.Self(context.Background())
	must(t, err)
	if self.Guest != g2 || self.Name != "db2" || self.Life == life {
		t.Errorf("self %+v", self)
	}
	_, err = ch.Bind(context.Background(), hostapi.BindRequest{Cluster: beta, Node: "db2", Boot: self.Boot, Nonce: "n"})
	if err == nil || !strings.Contains(err.Error(), "does not allow cluster beta") {
		t.Errorf("error %v", err)
	}
	if _, err := ch.Bind(context.Background(), hostapi.BindRequest{Cluster: alpha, Node: "db2", Boot: "another", Nonce: "n"}); err == nil {
		t.Error("another boot could bind")
	}
}

// Who did what stands in the audit log, refusals too.
func TestTheAuditLogHasEveryCallAndRefusal(t *testing.T) {
	r := newRig(t)
	life := r.claim(g1)
	c := r.client()
	must(t, outcome(c.Off(context.Background(), g1, order1(life, "d1"))))
	if _, err := c.Off(context.Background(), "nonsense", order1(life, "d2")); err == nil {
		t.Error("accepted")
	}
	_, _ = r.clientWith(newAuthority(t).node(t)).Host(context.Background())
	r.stop()
	data, err := os.ReadFile(filepath.Join(r.dir, fileAudit))
	must(t, err)
	for _, want := range []string{
		`"cluster":"alpha","certificate":"db1","remote":"127.0.0.1:`,
		`"action":"off","guest":"` + string(g1) + `","life":"` + string(life) + `","incarnation":1,"epoch":1,"decision":"d1","outcome":"done"`,
		`"guest":"nonsense"`, `"outcome":"refused"`, `"action":"connect"`, `"action":"bind"`,
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %s in\n%s", want, data)
		}
	}
	if strings.Contains(string(data), "PRIVATE") {
		t.Error("a secret is in the audit log")
	}
}

package hostd_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostclient"
	"ringfence/internal/hostd"
	"ringfence/internal/hostd/hostdtest"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/wire/hostapi"
)

const (
	guest cluster.GuestID   = "00000000-0000-4000-8000-000000000001"
	alpha cluster.ClusterID = "alpha"
	beta  cluster.ClusterID = "beta"
)

var (
	quiet = slog.New(slog.DiscardHandler)
	key   = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
)

// grants lets one cluster deal with the guest.
type grants cluster.ClusterID

func (g grants) Allows(c cluster.ClusterID, id cluster.GuestID) bool {
	return c == cluster.ClusterID(g) && id == guest
}

func (g grants) Clusters(id cluster.GuestID) []cluster.ClusterID {
	if id != guest {
		return nil
	}
	return []cluster.ClusterID{cluster.ClusterID(g)}
}

// entries is an audit log.
type entries struct {
	mu  sync.Mutex // guards all
	all []hostd.AuditEntry
}

func (e *entries) Note(entry hostd.AuditEntry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, entry)
}

// outcomes returns the outcome of each action.
func (e *entries) outcomes() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]string{}
	for _, entry := range e.all {
		out[entry.Action] = entry.Outcome
	}
	return out
}

// bubble is a hostd in a bubble of synctest: no socket, no file, no real clock.
type bubble struct {
	t       *testing.T
	host    cluster.HostName
	driver  *mem.Driver
	storage *journal.Memory
	granted grants
	audit   *entries
	daemon  *hostd.Daemon
	stop    func()
}

func newBubble(t *testing.T) *bubble {
	return newBubbleAt(t, "h1")
}

func newBubbleAt(t *testing.T, host cluster.HostName) *bubble {
	b := &bubble{t: t, host: host, driver: mem.New("boot of "+string(host), mem.Guest{ID: guest, Name: "db1"}), storage: &journal.Memory{}, granted: grants(alpha), audit: &entries{}}
	b.make()
	return b
}

// make reads the journal; run comes next.
func (b *bubble) make() {
	b.t.Helper()
	j, err := journal.Open(b.storage, quiet)
	must(b.t, err)
	b.daemon = hostd.New(hostd.Config{
		Host: b.host, Key: key, Journal: j, Driver: b.driver, Grants: b.granted, Audit: b.audit, Version: "test", Log: quiet,
	})
}

func (b *bubble) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- b.daemon.Run(ctx) }()
	b.stop = func() { cancel(); must(b.t, <-ran) }
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// client is a client of a cluster, and what carries its requests.
func (b *bubble) client(who hostd.Caller) (*hostclient.Client, *hostdtest.Transport) {
	b.t.Helper()
	transport := &hostdtest.Transport{Handler: b.daemon.Handler(), Caller: who}
	host := cluster.Host{Name: b.host, Address: "192.0.2.7:7411", SigningKey: key.Public().(ed25519.PublicKey)}
	c, err := hostclient.NewWithTransport(host, transport)
	must(b.t, err)
	return c, transport
}

// claim starts the guest and binds its life to alpha over its own channel.
func (b *bubble) claim() cluster.LifeID {
	b.t.Helper()
	life, err := b.driver.On(context.Background(), guest)
	must(b.t, err)
	synctest.Wait() // the channel is open
	_, err = b.bind()
	must(b.t, err)
	return life
}

// bind is what a node in the guest does.
func (b *bubble) bind() (cluster.Binding, error) {
	ch := hostclient.NewChannel(func(ctx context.Context) (net.Conn, error) { return b.driver.DialChannel(ctx, guest) })
	defer ch.Close()
	return ch.Bind(context.Background(), hostapi.BindRequest{Cluster: alpha, Node: "db1", Boot: "b1", Nonce: "n"})
}

// follow streams events into a slice, until ctx ends.
func follow(ctx context.Context, c *hostclient.Client, since uint64) (events func() []hostclient.Event, ended <-chan error) {
	var mu sync.Mutex
	var all []hostclient.Event
	done := make(chan error, 1)
	go func() {
		done <- c.Stream(ctx, since, func(ev hostclient.Event) error {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, ev)
			return nil
		})
	}()
	return func() []hostclient.Event {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return all
	}, done
}

func certificates(events []hostclient.Event) (out []cluster.DeathCertificate) {
	for _, ev := range events {
		if ev.Certificate != nil {
			out = append(out, *ev.Certificate)
		}
	}
	return out
}

// The whole of hostd without a machine: stream, off, certificate, ack.
func TestADaemonNeedsNoMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.run()
		c, transport := b.client(hostd.Caller{Cluster: alpha, Name: "db1"})
		ctx, cancel := context.WithCancel(context.Background())
		events, ended := follow(ctx, c, 0)
		life := b.claim()
		if got := events(); len(got) == 0 || got[0].Hello == nil || len(certificates(got)) != 0 {
			t.Fatalf("the stream begins with %+v", got)
		}
		time.Sleep(10 * time.Minute) // comments keep it open
		reply, err := c.Off(ctx, guest, hostapi.Order{Cluster: alpha, Incarnation: 1, Epoch: 1, Decision: "d1", Life: life})
		if err != nil || reply.Outcome != cluster.OutcomeDone || reply.Certificate == nil || b.driver.Life(guest) != "" {
			t.Fatalf("reply %+v, error %v", reply, err)
		}
		told := certificates(events())
		if len(told) != 1 || told[0].Life != life || told[0].Cause != cluster.CauseFenced {
			t.Fatalf("pushed %+v", told)
		}
		must(t, c.Ack(ctx, hostapi.Ack{Seq: told[0].Seq, Revision: 7}))
		again, lost := follow(ctx, c, told[0].Seq)
		if got := certificates(again()); len(got) != 0 {
			t.Errorf("acknowledged, and repeated: %+v", got)
		}
		cancel()
		for _, end := range []<-chan error{ended, lost} {
			if err := <-end; !errors.Is(err, context.Canceled) {
				t.Errorf("stream ends with %v", err)
			}
		}
		b.stop()
		transport.Wait()
		if got := b.audit.outcomes(); got["bind"] != "done" || got["off"] != "done" {
			t.Errorf("audit log %v", got)
		}
	})
}

// P9 over a crash: what was told is still told by the next run, until it is
// acknowledged.
func TestADaemonComesBackWithItsJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.run()
		life := b.claim()
		b.driver.End(guest, hypervisor.ReasonCrashed)
		synctest.Wait()
		b.stop()
		b.make()
		b.run()
		c, transport := b.client(hostd.Caller{Cluster: alpha})
		ctx, cancel := context.WithCancel(context.Background())
		events, ended := follow(ctx, c, 0)
		if got := certificates(events()); len(got) != 1 || got[0].Life != life {
			t.Errorf("told %+v", got)
		}
		b.stop() // ends the stream
		if err := <-ended; err == nil || ctx.Err() != nil {
			t.Errorf("stream ends with %v", err)
		}
		cancel()
		transport.Wait()
	})
}

// Requests wait for the daemon, and are refused after it.
func TestNobodyIsServedBeforeOrAfterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.driver.SetAvailable(false)
		c, transport := b.client(hostd.Caller{Cluster: alpha})
		answered := make(chan error, 1)
		go func() { _, err := c.Host(context.Background()); answered <- err }()
		b.run()
		time.Sleep(3 * time.Second)
		select {
		case err := <-answered:
			t.Fatalf("answered before the hypervisor has: %v", err)
		case <-b.daemon.Ready():
			t.Fatal("ready before the hypervisor has answered")
		default:
		}
		b.driver.SetAvailable(true)
		must(t, <-answered)
		b.stop()
		var refused *hostclient.RefusedError
		if _, err := c.Host(context.Background()); err == nil || errors.As(err, &refused) {
			t.Errorf("after the end: %v, want an error that is no refusal", err)
		}
		transport.Wait()
	})
}

// A question that hangs in the hypervisor does not keep Run from ending.
func TestRequestsUnderWayEndWithRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.run()
		c, transport := b.client(hostd.Caller{Cluster: alpha})
		b.driver.SetFault(mem.FaultOn(mem.OpState, mem.Fault{Hang: true}))
		answered := make(chan error, 1)
		go func() { _, err := c.Guest(context.Background(), guest); answered <- err }()
		synctest.Wait()
		began := time.Now()
		b.stop()
		if err := <-answered; err == nil || time.Since(began) != 0 {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
		transport.Wait()
	})
}

// Whom nobody has vouched for, and whom the host does not allow any more, is
// refused and stands in the audit log.
func TestOnlyKnownCallersAreServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.run()
		life := b.claim()
		ctx := context.Background()
		gone, first := b.client(hostd.Caller{Cluster: alpha, Refused: "no more"})
		other, second := b.client(hostd.Caller{Cluster: beta})
		var refused *hostclient.RefusedError
		if _, err := gone.Host(ctx); !errors.As(err, &refused) || refused.Message != "no more" {
			t.Errorf("error %v", err)
		}
		if err := gone.Stream(ctx, 0, func(hostclient.Event) error { return nil }); !errors.As(err, &refused) {
			t.Errorf("stream: %v", err)
		}
		nobody := httptest.NewRecorder()
		b.daemon.Handler().ServeHTTP(nobody, httptest.NewRequest(http.MethodGet, "/v1/guests", nil))
		if nobody.Code != http.StatusForbidden {
			t.Errorf("a request of nobody gets status %d: %s", nobody.Code, nobody.Body)
		}
		order := hostapi.Order{Cluster: alpha, Incarnation: 1, Epoch: 1, Decision: "d1", Life: life}
		for _, c := range []*hostclient.Client{gone, other} {
			if reply, err := c.Off(ctx, guest, order); err == nil || reply.Outcome != cluster.OutcomeNotDone || b.driver.Life(guest) != life {
				t.Errorf("reply %+v, error %v", reply, err)
			}
		}
		b.stop()
		first.Wait()
		second.Wait()
		if got := b.audit.outcomes(); got["host"] != "refused" || got["events"] != "refused" || got["off"] != "refused" {
			t.Errorf("audit log %v", got)
		}
	})
}

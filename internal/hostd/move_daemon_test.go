package hostd_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostclient"
	"ringfence/internal/hostd"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/wire/hostapi"
)

// pair is two hosts, and a node that follows both and writes places down.
type pair struct {
	*testing.T
	ctx      context.Context
	source   *bubble
	target   *bubble
	fromHost map[cluster.HostName]*hostclient.Client
	mu       sync.Mutex // guards what follows
	absences []cluster.Absence
	certs    []cluster.DeathCertificate
	refuse   string
	hold     chan struct{} // when set, the node answers no arrival before it is closed
}

// moves plays a scenario with a claimed guest on h1. Without a node nobody
// follows the hosts.
func moves(t *testing.T, node bool, play func(p *pair, life cluster.LifeID)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		p := &pair{T: t, ctx: ctx, source: newBubbleAt(t, "h1"), target: newBubbleAt(t, "h2"), fromHost: map[cluster.HostName]*hostclient.Client{}}
		var done []func()
		for _, b := range []*bubble{p.source, p.target} {
			b.run()
			c, transport := b.client(hostd.Caller{Cluster: alpha, Name: "db2"})
			p.fromHost[b.host] = c
			done = append(done, func() { b.stop() }, transport.Wait)
			if node {
				go func() { _ = c.Stream(ctx, 0, func(ev hostclient.Event) error { p.take(c, ev); return nil }) }()
			}
		}
		life := p.source.claim()
		play(p, life)
		cancel()
		for _, f := range done {
			f()
		}
	})
}

func (p *pair) take(c *hostclient.Client, ev hostclient.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case ev.Absence != nil:
		p.absences = append(p.absences, *ev.Absence)
	case ev.Certificate != nil:
		p.certs = append(p.certs, *ev.Certificate)
	case ev.Arriving != nil:
		placed := hostapi.Placed{Arriving: *ev.Arriving, Revision: 7, Member: true, Refused: p.refuse}
		hold := p.hold
		go func() {
			if hold != nil {
				<-hold
			}
			_, _ = c.Placed(p.ctx, placed)
		}()
	}
}

// said returns what the hosts have pushed so far.
func (p *pair) said() (absences []cluster.Absence, certs []cluster.DeathCertificate) {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.absences, p.certs
}

func (p *pair) begin() error {
	return p.source.driver.BeginMove(p.ctx, p.target.driver, guest)
}

func (p *pair) off(host cluster.HostName, life cluster.LifeID) hostapi.Reply {
	p.Helper()
	reply, err := p.fromHost[host].Off(p.ctx, guest, hostapi.Order{Cluster: alpha, Incarnation: 1, Epoch: 1, Decision: "fence/b1", Life: life})
	if err != nil {
		p.Fatalf("off at %s: %v", host, err)
	}
	return reply
}

func TestAMigrationWaitsForItsPlace(t *testing.T) {
	moves(t, true, func(p *pair, life cluster.LifeID) {
		must(p.T, p.begin())
		synctest.Wait()
		for host, c := range p.fromHost {
			if g, err := c.Guest(p.ctx, guest); err != nil || !g.Moving || g.Life != life {
				t.Errorf("host %s says %+v, error %v; want it to be moving", host, g, err)
			}
		}
		must(p.T, p.source.driver.FinishMove(guest))
		absences, certs := p.said()
		if len(absences) != 1 || absences[0].Host != "h1" || absences[0].Life != life || len(certs) != 0 {
			t.Fatalf("the hosts say %+v, %+v; want that h1 has it no more", absences, certs)
		}
		p.target.driver.EndSilently(guest)
		p.target.driver.BreakStreams()
		time.Sleep(10 * time.Second)
		if _, certs := p.said(); len(certs) != 0 {
			t.Errorf("certified what nobody saw: %+v", certs)
		}
	})
}

func TestTheTargetCertifiesWhatCameToIt(t *testing.T) {
	moves(t, true, func(p *pair, life cluster.LifeID) {
		must(p.T, p.begin())
		must(p.T, p.source.driver.FinishMove(guest))
		synctest.Wait()
		if reply := p.off("h1", life); reply.Outcome != cluster.OutcomeDone || reply.Certificate != nil || reply.Absence == nil || !reply.Absence.Final {
			t.Errorf("h1 answers %+v, want done by a final absence", reply)
		}
		if reply := p.off("h2", life); reply.Outcome != cluster.OutcomeDone || reply.Certificate == nil {
			t.Errorf("h2 answers %+v, want done by a certificate", reply)
		}
		if p.target.driver.Life(guest) != "" {
			t.Error("it runs on")
		}
	})
}

func TestWithoutTheWordOfItsClusterNoLifeComes(t *testing.T) {
	for _, c := range []struct {
		name string
		node bool
		do   func(p *pair)
		want string
	}{
		{"nobody follows the host", false, func(*pair) {}, "is a node with quorum connected"},
		{"the cluster refuses", true, func(p *pair) { p.refuse = "boot b1 is being fenced" }, "is being fenced"},
	} {
		t.Run(c.name, func(t *testing.T) {
			moves(t, c.node, func(p *pair, life cluster.LifeID) {
				c.do(p)
				if err := p.begin(); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("error %v, want %q", err, c.want)
				}
				if p.source.driver.Life(guest) != life || p.target.driver.Life(guest) != "" {
					t.Error("something has begun")
				}
				if absences, _ := p.said(); c.node && (len(absences) != 1 || absences[0].Host != "h2") {
					t.Errorf("absences %+v, want that h2 does not have it", absences)
				}
			})
		})
	}
}

func TestHostsWithoutHostdTakeNobody(t *testing.T) {
	moves(t, true, func(p *pair, _ cluster.LifeID) {
		stop := p.target.stop
		p.target.stop = func() {}
		stop()
		if err := p.begin(); err == nil {
			t.Error("a life came past a hostd that has stopped")
		}
	})
}

// restart begins another run of a hostd, with other grants.
func (p *pair) restart(b *bubble, granted cluster.ClusterID) {
	b.stop()
	b.granted = grants(granted)
	b.make()
	b.run()
	synctest.Wait()
}

// Which cluster has the guest goes with it, so that a host that knows nothing of
// that cluster refuses it, also when the host that it leaves can say nothing.
func TestHostsWithoutAGrantTakeNobodyThatIsClaimed(t *testing.T) {
	moves(t, false, func(p *pair, life cluster.LifeID) {
		p.restart(p.target, beta)
		stop := p.source.stop
		p.source.stop = func() {}
		stop()
		if err := p.begin(); err == nil || !strings.Contains(err.Error(), `cluster "alpha", for which this host has no grant`) {
			t.Errorf("error %v, want that its cluster has no grant", err)
		}
		must(t, p.source.driver.Off(p.ctx, guest, life))
		if _, err := p.source.driver.On(p.ctx, guest); err != nil {
			t.Fatal(err)
		}
		if err := p.begin(); err == nil || !strings.Contains(err.Error(), "is a node with quorum connected") {
			t.Errorf("a new life, which nobody has claimed: error %v, want that the cluster with the grant is asked", err)
		}
	})
}

// A claim that the hypervisor does not take binds nobody.
func TestABindingWaitsForItsClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.run()
		defer func() { b.stop() }()
		life, err := b.driver.On(t.Context(), guest)
		must(t, err)
		synctest.Wait()
		b.driver.SetFault(mem.FaultOn(mem.OpClaim, mem.Fault{Fail: hypervisor.ErrUnavailable}))
		if binding, err := b.bind(); err == nil {
			t.Errorf("bound: %+v", binding)
		}
		b.driver.SetFault(nil)
		if binding, err := b.bind(); err != nil || binding.Life != life {
			t.Errorf("binding %+v, error %v", binding, err)
		}
	})
}

// A guest is fenced in the middle of its migration, at both hosts, in either
// order: one of them ends it, the other refuses it for good.
func TestOffWhileItMoves(t *testing.T) {
	for _, order := range [][]cluster.HostName{{"h1", "h2"}, {"h2", "h1"}} {
		t.Run(string(order[0]+" first"), func(t *testing.T) {
			moves(t, true, func(p *pair, life cluster.LifeID) {
				must(p.T, p.begin())
				synctest.Wait()
				replies := map[cluster.HostName]hostapi.Reply{}
				for _, host := range order {
					replies[host] = p.off(host, life)
				}
				if r := replies["h1"]; r.Outcome != cluster.OutcomeDone || r.Certificate == nil {
					t.Errorf("the source answers %+v, want a certificate", r)
				}
				if r := replies["h2"]; r.Outcome != cluster.OutcomeDone || r.Absence == nil || !r.Absence.Final {
					t.Errorf("the target answers %+v, want a final absence", r)
				}
				if p.source.driver.Life(guest) != "" || p.target.driver.Life(guest) != "" {
					t.Error("it runs on")
				}
			})
		})
	}
}

// The order to end it comes between the question to the cluster and the begin.
func TestOffRefusesWhatIsAboutToCome(t *testing.T) {
	moves(t, true, func(p *pair, life cluster.LifeID) {
		p.hold = make(chan struct{})
		begun := make(chan error, 1)
		go func() { begun <- p.begin() }()
		synctest.Wait()
		reply := p.off("h2", life)
		close(p.hold)
		if err := <-begun; err == nil || !strings.Contains(err.Error(), "ending the life") {
			t.Errorf("error %v, want that it is refused", err)
		}
		if reply.Outcome != cluster.OutcomeDone || reply.Absence == nil {
			t.Errorf("the target answers %+v", reply)
		}
	})
}

// A restart of hostd in the middle: the target remembers the arrival, and can
// still speak of it.
func TestARestartedTargetRemembersTheArrival(t *testing.T) {
	moves(t, true, func(p *pair, life cluster.LifeID) {
		must(p.T, p.begin())
		synctest.Wait()
		p.target.stop()
		p.target.make()
		p.target.run()
		c, transport := p.target.client(hostd.Caller{Cluster: alpha, Name: "db2"})
		p.fromHost["h2"] = c
		if reply := p.off("h2", life); reply.Outcome != cluster.OutcomeDone || reply.Absence == nil {
			t.Errorf("the target answers %+v, want an absence", reply)
		}
		if p.source.driver.Life(guest) != life {
			t.Error("the source lost it")
		}
		stop := p.target.stop
		p.target.stop = func() {}
		stop()
		transport.Wait()
	})
}

// The migration fails by itself: the source has it, and the target says not.
func TestAFailedMigrationFreesTheTarget(t *testing.T) {
	moves(t, true, func(p *pair, life cluster.LifeID) {
		must(p.T, p.begin())
		must(p.T, p.source.driver.FailMove(guest, false))
		absences, _ := p.said()
		if len(absences) != 1 || absences[0].Host != "h2" || absences[0].Final {
			t.Fatalf("absences %+v, want one of the target", absences)
		}
		time.Sleep(5 * time.Second) // it was seen running at its source
		if reply := p.off("h1", life); reply.Certificate == nil {
			t.Errorf("the source answers %+v", reply)
		}
	})
}

package node

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store/mem"
)

// TestChaos lets a cluster live under random faults for a virtual minute. While
// they last no service may have effects on two nodes (the agents watch that);
// when they are over, every service must run again. A failure names the seed:
// NODE_CHAOS_SEED=N plays only that one, NODE_CHAOS_SEEDS=N plays so many.
//
// The faults are drawn from the seed; the order of goroutines is not, so that a
// seed may need to be played more than once.
func TestChaos(t *testing.T) {
	first, count := uint64(1), 40
	if s := os.Getenv("NODE_CHAOS_SEEDS"); s != "" {
		count, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("NODE_CHAOS_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
		count = 1
	}
	for seed := first; seed < first+uint64(count); seed++ {
		t.Run(fmt.Sprintf("seed-%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newChaos(t, seed).play() })
		})
	}
}

type chaos struct {
	*world
	random *rand.Rand
	names  []cluster.NodeName
	said   []string // the story: faults with their times
}

func newChaos(t *testing.T, seed uint64) *chaos {
	return &chaos{
		world: newWorld(t), random: rand.New(rand.NewPCG(seed, seed)),
		names: []cluster.NodeName{"n1", "n2", "n3"},
	}
}

var chaosServices = []string{"a", "b", "c"}

func (c *chaos) play() {
	for _, n := range c.names {
		c.boot(n)
	}
	var defs []cluster.ServiceConfig
	for _, name := range chaosServices {
		def := service(name)
		def.FailureExpiry = 5 * time.Second
		defs = append(defs, def)
	}
	c.configure(defs...)
	time.Sleep(3 * time.Second)
	for c.now() < time.Minute {
		c.fault()
		time.Sleep(time.Duration(c.random.IntN(3000)) * time.Millisecond)
	}
	c.heal()
	if missing := c.settle(2 * time.Minute); missing != "" {
		c.t.Errorf("after the faults: %s\nfaults: %q\nstory: %s", missing, c.said, c.story())
	}
	if got := c.contradictions(); len(got) > 0 {
		c.t.Errorf("no host lied, and yet: %+v", got)
	}
	if c.t.Failed() {
		c.t.Logf("faults: %q", c.said)
	}
}

// fault does one random thing to one random node.
func (c *chaos) fault() {
	name := c.names[c.random.IntN(len(c.names))]
	c.mu.Lock()
	g := c.guests[name]
	alive, ended := g.alive, g.err != nil
	c.mu.Unlock()
	faults := []string{"kill", "kill quietly", "cut", "cut beats", "mend", "daemon", "crash", "mute host", "unmute host", "stall store", "lose answers", "bad start", "bad stop", "standby", "unstandby", "leave", "pause"}
	what := faults[c.random.IntN(len(faults))]
	if !alive || ended {
		what = "boot"
	}
	c.said = append(c.said, fmt.Sprintf("%v %s %s", c.now().Round(time.Millisecond), what, name))
	c.do(what, name, g)
}

func (c *chaos) do(what string, name cluster.NodeName, g *guest) {
	switch what {
	case "kill", "kill quietly":
		c.kill(name, what == "kill")
	case "cut":
		c.isolate(name)
	case "daemon":
		boot := g.boot
		g.cancel()
		time.Sleep(time.Duration(c.random.IntN(1000)) * time.Millisecond)
		if g.alive && g.boot == boot { // else it was fenced and started anew
			c.daemon(g)
		}
	case "pause":
		boot := g.boot
		c.pause(name)
		time.Sleep(time.Duration(c.random.IntN(6000)) * time.Millisecond)
		if g.boot == boot { // else it was fenced and started anew
			c.unpause(name)
		}
	case "crash":
		c.breakOne(name)
	case "leave":
		g.node.Leave()
	case "boot":
		c.reboot(g)
	case "standby":
		c.put(cluster.KeyStandby(name), cluster.Standby{Node: name, By: "chaos"})
	case "unstandby":
		_, _ = c.store.Client("setup").Commit(c.ctx, tx(cluster.Remove(cluster.KeyStandby(name))))
	case "stall store":
		g.client.SetFault(mem.Fault{StallWatches: true})
	case "lose answers":
		g.client.SetFault(mem.Fault{Commit: []mem.CommitFault{mem.CommitLost, mem.CommitUnacknowledged, mem.CommitLate}[c.random.IntN(3)]})
	default:
		c.set(what, name, g)
	}
}

// set changes a flag of the world.
func (c *chaos) set(what string, name cluster.NodeName, g *guest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch what {
	case "cut beats":
		c.cut[name] = true
	case "mend":
		c.cut[name] = false
		g.client.SetFault(mem.Fault{})
		g.agent.failStart, g.agent.failStop = false, false
	case "mute host":
		c.hostOf(name).silent = true
	case "unmute host":
		c.hostOf(name).silent = false
	case "bad start":
		g.agent.failStart = true
	case "bad stop":
		g.agent.failStop = true
	}
}

// breakOne ends the process of a service that the node runs, if there is one.
func (c *chaos) breakOne(name cluster.NodeName) {
	for _, svc := range chaosServices {
		c.mu.Lock()
		runs := c.active[svc] == name
		c.mu.Unlock()
		if runs {
			c.crash(name, svc)
			return
		}
	}
}

// reboot ends a guest whose daemon has given up and starts it cold; its host
// saw the former life end.
func (c *chaos) reboot(g *guest) {
	c.mu.Lock()
	if g.alive {
		g.die()
	}
	former := guest{name: g.name, life: g.life}
	c.cut[g.name] = false
	c.mu.Unlock()
	c.hostOf(g.name).certify(&former, cluster.CauseDestroyed)
	c.boot(g.name)
}

// heal ends all faults; guests that are down stay down until settle.
func (c *chaos) heal() {
	c.said = append(c.said, fmt.Sprintf("%v heal", c.now().Round(time.Millisecond)))
	for _, n := range c.names {
		c.set("mend", n, c.guests[n])
		c.set("unmute host", n, c.guests[n])
		_, _ = c.store.Client("setup").Commit(c.ctx, tx(cluster.Remove(cluster.KeyStandby(n))))
	}
}

// settle boots what is down and waits until every service runs.
func (c *chaos) settle(limit time.Duration) string {
	missing := "?"
	for began := c.now(); c.now()-began < limit && missing != ""; time.Sleep(500 * time.Millisecond) {
		for _, n := range c.names {
			c.mu.Lock()
			g := c.guests[n]
			down := !g.alive || errors.Is(g.err, ErrDoomed) || errors.Is(g.err, ErrLeft)
			c.mu.Unlock()
			if down {
				c.reboot(g)
				time.Sleep(time.Second)
			}
		}
		missing = ""
		c.mu.Lock()
		for _, svc := range chaosServices {
			if c.active[svc] == "" {
				missing += svc + " does not run; "
			}
		}
		c.mu.Unlock()
	}
	return missing
}

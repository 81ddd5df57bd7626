package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/config"
	"ringfence/internal/demo"
	"ringfence/internal/demo/trace"
	"ringfence/internal/lab"
	"ringfence/internal/nodeapi"
)

const (
	// opTimeout is how long a client waits before it calls the outcome unknown.
	opTimeout = 4 * time.Second
	// Clients rest minRest to maxRest between two operations.
	minRest = 50 * time.Millisecond
	maxRest = 400 * time.Millisecond
	// base is what the register's value is added to: a service's
	// failure_expiry, in microseconds, since that restarts nothing. It is short
	// so that a node is soon tried again that could not run a service.
	base = 5 * time.Second
	// repeatShare is how often, in 100, a value is written that stood before.
	repeatShare = 15
)

// clients read and write the configuration on all nodes and keep the history.
type clients struct {
	bed     *demo.Bed
	seed    uint64
	initial state

	mu      sync.Mutex // guards what follows
	config  cluster.Config
	values  int64 // the latest that was made up
	history []op
}

func newClients(b *demo.Bed, seed uint64) *clients { return &clients{bed: b, seed: seed} }

// begin writes the first value and starts the clients: one at the API of each
// node, one that goes from node to node, and one that uses the shipped command.
func (c *clients) begin(ctx context.Context, workers *sync.WaitGroup) error {
	first := c.bed.Dial(lab.Nodes()[0])
	defer first.Close()
	have, err := first.Config(ctx)
	if err != nil {
		return err
	}
	c.config = have.Config
	for i := range c.config.Services {
		c.config.Services[i].FailureExpiry = base
	}
	done, err := first.Apply(ctx, nodeapi.ConfigOrder{By: "chaos", Config: c.config})
	if err != nil {
		return fmt.Errorf("write the first configuration: %w", err)
	}
	c.initial = state{rev: int64(done.Revision)}
	nodes := lab.Nodes()
	for i, all := range [][]cluster.NodeName{nodes[:1], nodes[1:2], nodes[2:], nodes, nodes} {
		one := &client{
			clients: c, id: i, nodes: all, shipped: i == len(nodes)+1,
			rng: rand.New(rand.NewPCG(c.seed, uint64(i+1))), last: c.initial,
		}
		workers.Go(func() { one.work(ctx) })
	}
	return nil
}

// with returns the configuration that holds a value.
func (c *clients) with(value int64) cluster.Config {
	out := c.config
	out.Services = slices.Clone(c.config.Services)
	out.Services[0].FailureExpiry = base + time.Duration(value)*time.Microsecond
	return out
}

// valueOf is the inverse of with.
func valueOf(c cluster.Config) (int64, error) {
	if len(c.Services) == 0 {
		return 0, errors.New("a configuration without services was read")
	}
	return (c.Services[0].FailureExpiry - base).Microseconds(), nil
}

func (c *clients) fresh() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values++
	return c.values
}

func (c *clients) note(o op) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history = append(c.history, o)
}

// ops returns the history so far.
func (c *clients) ops() []op {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.history)
}

// client does one operation after the other.
type client struct {
	*clients
	id      int
	nodes   []cluster.NodeName
	shipped bool // by the shipped command, not by the API
	rng     *rand.Rand
	last    state // what it read last
}

func (c *client) work(ctx context.Context) {
	for sleep(ctx, between(c.rng, minRest, maxRest)) == nil {
		o := op{Client: c.id, Node: c.nodes[c.rng.IntN(len(c.nodes))], Kind: []opKind{read, put, compare}[c.rng.IntN(3)]}
		if c.shipped && o.Kind == compare {
			o.Kind = put // `config apply` compares with what it read itself
		}
		if o.Kind != read {
			o.Value, o.Expect = c.fresh(), c.last.rev
			if c.rng.IntN(100) < repeatShare {
				o.Value = c.last.value
			}
		}
		o.Call = trace.Now()
		c.do(ctx, &o)
		o.Return = trace.Now()
		if o.Kind == read && o.Outcome == ok {
			c.last = state{rev: o.Rev, value: o.Value}
		}
		c.note(o)
	}
}

// do carries the operation out and fills in what came of it.
func (c *client) do(ctx context.Context, o *op) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	var err error
	switch {
	case c.shipped && o.Kind == read:
		err = c.show(ctx, o)
	case c.shipped:
		err = c.apply(ctx, o)
	default:
		err = c.ask(ctx, o)
	}
	o.Outcome = outcomeOf(err)
	if c.shipped && err != nil {
		o.Outcome = outcomeOfText(err.Error())
	}
	if err != nil {
		o.Err = err.Error()
	}
}

// ask uses the API.
func (c *client) ask(ctx context.Context, o *op) error {
	api := c.bed.Dial(o.Node)
	defer api.Close()
	if o.Kind == read {
		got, err := api.Config(ctx)
		if err != nil {
			return err
		}
		return o.read(got)
	}
	order := nodeapi.ConfigOrder{By: "chaos", Config: c.with(o.Value)}
	if o.Kind == compare {
		expect := cluster.Revision(o.Expect)
		order.Expect = &expect
	}
	done, err := api.Apply(ctx, order)
	o.Rev, o.Changed = int64(done.Revision), done.Changed
	return err
}

func (o *op) read(got nodeapi.Configuration) (err error) {
	o.Rev = int64(got.Revision)
	o.Stale = got.Stale
	o.Value, err = valueOf(got.Config)
	return err
}

// show uses `ringfence config show`.
func (c *client) show(ctx context.Context, o *op) error {
	out, err := c.bed.Ringfence(ctx, string(o.Node), "config", "show", "--json")
	if err != nil {
		return err
	}
	var got nodeapi.Configuration
	if err := json.Unmarshal(out, &got); err != nil {
		return err
	}
	return o.read(got)
}

// apply uses `ringfence config apply`.
func (c *client) apply(ctx context.Context, o *op) error {
	text, err := config.Marshal(c.with(o.Value))
	if err != nil {
		return err
	}
	file := filepath.Join(c.bed.Shared(), "client.toml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	out, err := c.bed.Ringfence(ctx, string(o.Node), "config", "apply", "--yes", file)
	if err != nil {
		return err
	}
	_, after, applied := strings.Cut(string(out), "the configuration is applied, at revision ")
	if !applied {
		return nil // it says that there was nothing to change
	}
	o.Changed = true
	_, err = fmt.Sscanf(after, "%d;", &o.Rev)
	return err
}

// outcomeOf says what an error means for the register.
func outcomeOf(err error) outcome {
	var refused *nodeapi.Error
	var unreached *nodeapi.UnreachableError
	var net *net.OpError
	switch {
	case err == nil:
		return ok
	case errors.As(err, &refused):
		switch refused.Code {
		case nodeapi.CodeConflict:
			return conflict
		case nodeapi.CodeUnavailable, nodeapi.CodeBadRequest, nodeapi.CodeNotFound, nodeapi.CodeTooMany, nodeapi.CodeRefused:
			return nothing
		}
	case errors.As(err, &unreached) && errors.As(err, &net) && net.Op == "dial":
		return nothing
	}
	return unknown
}

// outcomeOfText is outcomeOf for the shipped command, whose exit codes mean
// several things each. What it does not know is unknown.
func outcomeOfText(text string) outcome {
	for part, means := range map[string]outcome{
		"somebody else changed the configuration": conflict,
		"no node runs here":                       nothing,
		"nothing can run in it":                   nothing, // the guest is paused
		"guest is not running":                    nothing,
		"has no power":                            nothing,
	} {
		if strings.Contains(text, part) && !strings.Contains(text, "may have been done") {
			return means
		}
	}
	return unknown
}

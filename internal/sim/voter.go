package sim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"ringfence/internal/hostclient"
	"ringfence/internal/wire/hostapi"
	"ringfence/internal/wire/voter"
)

// errStaleDisk ends a daemon whose voter is refused: its disk was rolled back.
var errStaleDisk = errors.New("sim: this voter is refused")

// votes is what a guest keeps over its lives: of the store, only the count of
// its voter's starts matters here.
type votes struct {
	identity string // drawn by each join
	count    uint64
	highest  uint64 // ever used under this identity: the truth
}

func joined(n int) votes {
	return votes{identity: strings.Repeat(fmt.Sprintf("%x", n%16), 64)}
}

// confirm has the host confirm that the voter's disk is not older than what it
// remembers (rule P22), as app does before the store starts.
func (d *daemon) confirm() error {
	d.g.mu.Lock()
	v := &d.g.votes
	claim := voter.Claim{
		Cluster: clusterID, Incarnation: 1, Node: d.g.node(), Identity: v.identity, Run: rand.Text(), Count: v.count + 1, Previous: v.count,
	}
	rolledBack := v.count < v.highest
	v.count++
	v.highest = max(v.highest, v.count)
	d.g.mu.Unlock()
	channel := hostclient.NewChannel(d.dialChannel)
	defer channel.Close()
	err := d.insist(func(ctx context.Context) error {
		_, err := channel.Voter(ctx, claim)
		if refused := new(hostclient.RefusedError); errors.As(err, &refused) && refused.Code == hostapi.CodeStaleVoter {
			return fmt.Errorf("%w: %w", errStaleDisk, err)
		}
		return err
	})
	if err == nil && rolledBack && !d.g.w.inDoubt() {
		d.g.w.violate("P22", "%s votes with a disk that was rolled back", d.g.name)
	}
	return err
}

// rejoin is what an administrator does with a node whose disk is stale: it is
// removed and joins again with an empty one.
func (g *guest) rejoin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.joins++
	g.votes = joined(g.joins)
	g.staleDisk = false
}

// diskRevert gives a guest a disk back that it had before, and starts it cold.
func (a *attack) diskRevert() string {
	g, span := a.virtual(), a.span(time.Second, 15*time.Second)
	h := g.place()
	g.mu.Lock()
	kept := g.votes.count
	g.mu.Unlock()
	a.later(span, func() {
		h.dies(g, true)
		g.mu.Lock()
		g.votes.count = kept
		g.mu.Unlock()
		h.powerOn(g)
	})
	return fmt.Sprintf("%s to its disk of now, in %v", g.name, span.Round(time.Millisecond))
}

// inDoubt reports whether a host has lost something that it had promised to
// remember.
func (w *World) inDoubt() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.doubt
}

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
	highest  uint64 // that was ever confirmed under this identity: the truth
}

func joined(n int) votes {
	return votes{identity: strings.Repeat(fmt.Sprintf("%x", n%16), 64)}
}

// confirm has others confirm that the voter's disk is not older than what they
// remember (rule P22), as app does before the store starts: the host, or where
// that knows nothing all other voters, or in the end a quorum of them.
func (d *daemon) confirm() error {
	d.g.mu.Lock()
	v := &d.g.votes
	claim := voter.Claim{
		Cluster: clusterID, Incarnation: 1, Node: d.g.node(), Identity: v.identity, Run: rand.Text(), Count: v.count + 1, Previous: v.count,
	}
	v.count++
	d.g.mu.Unlock()
	channel := hostclient.NewChannel(d.dialChannel)
	defer channel.Close()
	sure, round := false, 0
	err := d.insist(func(ctx context.Context) error {
		round++
		byHost, err := d.askVoter(ctx, channel, claim)
		if err != nil {
			return err
		}
		others, answered, err := d.askPeers(claim)
		if err != nil {
			return err
		}
		sure = byHost || answered == others
		if !sure && (round < 3 || 2*(answered+1) <= others+1) {
			return errors.New("sim: too few voters answer")
		}
		claim.Vouched = true
		_, err = d.askVoter(ctx, channel, claim)
		return err
	})
	if err != nil {
		return err
	}
	d.g.mu.Lock()
	rolledBack := claim.Identity == v.identity && claim.Count <= v.highest
	v.highest = max(v.highest, claim.Count)
	d.g.mu.Unlock()
	if rolledBack && sure && !d.g.w.inDoubt() {
		d.g.w.violate("P22", "%s votes with a disk that was rolled back", d.g.name)
	}
	return nil
}

// askVoter asks the host and reports whether it remembers the voter.
func (d *daemon) askVoter(ctx context.Context, channel *hostclient.Channel, claim voter.Claim) (bool, error) {
	answer, err := channel.Voter(ctx, claim)
	if refused := new(hostclient.RefusedError); errors.As(err, &refused) && refused.Code == hostapi.CodeStaleVoter {
		return false, fmt.Errorf("%w: %w", errStaleDisk, err)
	}
	return answer.Known, err
}

// askPeers asks the other voters that run and can be reached.
func (d *daemon) askPeers(claim voter.Claim) (others, answered int, err error) {
	for _, peer := range d.g.w.sortedGuests() {
		if peer == d.g {
			continue
		}
		others++
		if !d.g.w.runs(peer.name) || !d.g.w.net.both(d.name, peer.name) {
			continue
		}
		peer.mu.Lock()
		next, _, refused := peer.remembers[claim.Node].Judge(claim, 1)
		peer.remembers[claim.Node] = next
		peer.mu.Unlock()
		if refused != nil {
			return others, answered, fmt.Errorf("%w: %w", errStaleDisk, refused)
		}
		answered++
	}
	return others, answered, nil
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
	g.mu.Lock()
	kept := g.votes.count
	g.mu.Unlock()
	a.later(span, func() {
		h := g.place() // where it is by then: nobody starts a guest at two hosts
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

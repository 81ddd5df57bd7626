package app

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostclient"
	"ringfence/internal/nodeapi"
	"ringfence/internal/pki"
	"ringfence/internal/wire/hostapi"
	"ringfence/internal/wire/voter"
)

// Timings of the confirmation of a voter's start.
const (
	// askTimeout bounds one question to a host or a voter.
	askTimeout = time.Second
	// askPause is the time between two rounds of questions.
	askPause = 500 * time.Millisecond
	// askRounds is after how many rounds a start goes on with the word of
	// enough voters for quorum, where those that are missing do not answer.
	askRounds = 4
	// countInterval is how often a running voter counts on: a disk that is
	// rolled back by more than that is noticed.
	countInterval = time.Minute
	// peersLimitBytes bounds the file of the other voters.
	peersLimitBytes = 64 << 10
	countLimitBytes = 32
)

// confirmation asks memories outside of this guest's disks whether what its
// store remembers is the newest that it ever was (rule P22).
type confirmation struct {
	*nodeRun
	claim voter.Claim
	peers []nodeapi.VoterPeer
	host  *hostclient.Channel // nil: no host can be asked
}

// peerList is the file of the other voters. The founder of an incarnation has
// none: those of the former one do not count.
type peerList struct {
	Incarnation cluster.Incarnation `json:"incarnation"`
	Voters      []nodeapi.VoterPeer `json:"voters"`
}

// confirm returns once this voter may start its store.
func (r *nodeRun) confirm(ctx context.Context) error {
	c := &confirmation{nodeRun: r, claim: voter.Claim{
		Cluster: r.data.Identity.Cluster, Incarnation: r.data.Identity.Incarnation, Node: r.data.Identity.Node,
		Identity: r.data.Credentials.Identity(), Run: rand.Text(),
	}}
	if err := c.count(); err != nil {
		return err
	}
	var list peerList
	err := nodeapi.ReadSmallJSON(r.data.Dir.VoterPeers(), peersLimitBytes, &list)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list of the other voters: %w", err)
	}
	if list.Incarnation == c.claim.Incarnation {
		c.peers = list.Voters
	}
	if r.hasHost() {
		c.host = r.channel()
		r.down.add("channel to the host", func() error { c.host.Close(); return nil })
	}
	if err := c.insist(ctx); err != nil {
		return err
	}
	c.claim.Vouched = true
	r.voter = c
	return nil
}

// count raises the count on disk before anybody is told of it.
func (c *confirmation) count() error {
	file := c.data.Dir.VoterCount()
	was, err := readCount(file)
	if err != nil {
		return fmt.Errorf("count of this voter's starts: %w", err)
	}
	c.claim.Previous, c.claim.Count = was, was+1
	return pki.WriteFile(file, []byte(strconv.FormatUint(was+1, 10)+"\n"), 0o600)
}

func readCount(file string) (uint64, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(data) > countLimitBytes {
		return 0, fmt.Errorf("%s has more than %d bytes: bring it back, or remove this node and join again", file, countLimitBytes)
	}
	count, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%s is damaged: bring it back, or remove this node and join again: %w", file, err)
	}
	return count, nil
}

// insist asks until the start is confirmed, or refused by anybody: a refusal is
// for good.
func (c *confirmation) insist(ctx context.Context) error {
	for round := 1; ; round++ {
		heard := c.ask(ctx)
		if heard.refused != nil {
			return fmt.Errorf("this voter must not start: %w", heard.refused)
		}
		if why, sure, ok := heard.enough(round); ok {
			level := slog.LevelInfo
			if !sure {
				level = slog.LevelWarn
			}
			c.Log.Log(ctx, level, "voter may start", "component", "voter", "count", c.claim.Count, "confirmed_by", why)
			return nil
		}
		if round == askRounds {
			c.Log.Warn("waiting for a host or enough voters to confirm that this voter's memory is the newest", "component", "voter",
				"answered", heard.answered, "voters", heard.voters, "err", errors.Join(heard.failed...))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ended before this voter was confirmed: %w", errors.Join(append(heard.failed, ctx.Err())...))
		case <-time.After(askPause):
		}
	}
}

// heard is what one round of questions brought.
type heard struct {
	refused  error
	byHost   bool // the host remembers, and confirms
	deaf     bool // there is a host, and it does not answer
	answered int  // other voters that did not refuse
	voters   int  // of the cluster, this one included
	failed   []error
}

// enough says by whom the start is confirmed. The host's memory is outside of
// all disks of guests and enough by itself. Else all other voters must have
// answered; after some rounds so many as make a quorum, which is a residue: the
// one that is missing may be the only one that remembers. Fewer could not start
// the cluster anyway. sure is false for a residue.
func (h heard) enough(round int) (why string, sure, ok bool) {
	switch others := h.voters - 1; {
	case h.byHost:
		return "the host", true, true
	case others == 0:
		return "nobody: neither a host nor another voter remembers it", false, !h.deaf
	case h.answered == others:
		return "all other voters", true, true
	case round >= askRounds && 2*(h.answered+1) > h.voters:
		return fmt.Sprintf("%d of %d other voters; the rest does not answer, and may remember more", h.answered, others), false, true
	}
	return "", false, false
}

// ask puts the claim to the host and to all other voters at once: any of them
// may know that it must be refused.
func (c *confirmation) ask(ctx context.Context) heard {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	type reply struct {
		answer voter.Answer
		err    error
	}
	var host reply
	peers := make([]reply, len(c.peers))
	var wg sync.WaitGroup
	if c.host != nil {
		wg.Go(func() { host.answer, host.err = c.host.Voter(ctx, c.claim) })
	}
	for i, peer := range c.peers {
		wg.Go(func() { peers[i].answer, peers[i].err = nodeapi.AskVoter(ctx, c.data.Credentials, peer, c.claim) })
	}
	wg.Wait()
	h := heard{voters: 1 + len(peers), byHost: host.answer.Known, deaf: host.err != nil}
	for _, r := range append(peers, host) {
		if refuses(r.err) {
			h.refused = r.err
		} else if r.err != nil {
			h.failed = append(h.failed, r.err)
		}
	}
	for _, r := range peers {
		if r.err == nil {
			h.answered++
		}
	}
	return h
}

// refuses tells the refusal of a claim from every other failure.
func refuses(err error) bool {
	var byVoter *nodeapi.Error
	var byHost *hostclient.RefusedError
	return errors.As(err, &byVoter) && byVoter.Code == nodeapi.CodeRefused ||
		errors.As(err, &byHost) && byHost.Code == hostapi.CodeStaleVoter
}

// goOn counts on while the voter runs, tells it to all that remember, and keeps
// the list of those. It returns the refusal that ends this voter.
func (c *confirmation) goOn(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.node.Mirror.Ready():
	}
	for {
		if err := c.learnPeers(); err != nil {
			c.Log.Warn("list of the other voters not written", "component", "voter", "err", err)
		}
		if err := c.count(); err != nil {
			c.Log.Warn("count of this voter not written", "component", "voter", "err", err)
		} else if h := c.ask(ctx); h.refused != nil {
			return fmt.Errorf("this voter must not go on: %w", h.refused)
		}
		changed := c.node.Mirror.Read(func(*cluster.State) {})
		wait := time.After(countInterval)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-wait:
				waiting = false
			case <-changed:
				waiting = slices.Equal(c.others(), c.peers)
				changed = c.node.Mirror.Read(func(*cluster.State) {})
			}
		}
	}
}

// others returns the other nodes on record.
func (c *confirmation) others() (out []nodeapi.VoterPeer) {
	c.node.Mirror.Read(func(s *cluster.State) {
		for name, node := range s.Nodes {
			if name != c.claim.Node {
				out = append(out, nodeapi.VoterPeer{Name: name, Address: node.Value.Address, JoinPort: node.Value.JoinPort})
			}
		}
	})
	slices.SortFunc(out, func(a, b nodeapi.VoterPeer) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return out
}

// learnPeers writes down where the other voters are, for the next start.
func (c *confirmation) learnPeers() error {
	now := c.others()
	if slices.Equal(now, c.peers) {
		return nil
	}
	data, err := json.MarshalIndent(peerList{Incarnation: c.claim.Incarnation, Voters: now}, "", "  ")
	if err != nil {
		return err
	}
	if err := pki.WriteFile(c.data.Dir.VoterPeers(), append(data, '\n'), 0o600); err != nil {
		return err
	}
	c.peers = now
	return nil
}

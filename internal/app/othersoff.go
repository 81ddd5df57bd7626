package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/backup"
	"ringfence/internal/cluster"
)

// knockTimeout bounds one look at a port of another node.
const knockTimeout = 2 * time.Second

// others returns the other nodes that the records know.
func (r *recovery) others() []cluster.Node {
	found := map[cluster.NodeName]cluster.Node{}
	for _, from := range []*backup.Backup{r.from, r.own} { // the later is the newer
		if from == nil {
			continue
		}
		s, err := from.State()
		if err != nil {
			continue // Carry says it
		}
		for name, node := range s.Nodes {
			found[name] = node.Value
		}
	}
	delete(found, r.data.Identity.Node)
	var out []cluster.Node
	for _, name := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[name])
	}
	return out
}

// othersAreOff refuses while anything says that the operator errs: a daemon
// that accepts a connection is there, and be it paused. No answer proves
// nothing; that is what the operator's word is for.
func (r *recovery) othersAreOff(ctx context.Context, others []cluster.Node) error {
	answers := make([]answer, len(others))
	var wg sync.WaitGroup
	for i, node := range others {
		wg.Go(func() { answers[i] = knock(ctx, node) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var there []string
	for i, node := range others {
		switch answers[i] {
		case answerDaemon:
			there = append(there, fmt.Sprintf("%s (%s)", node.Name, node.Address))
		case answerMachine:
			r.Progress("the machine at the address of %s is on, without a daemon; by your word it was restarted since, and nothing of the cluster runs there", node.Name)
		}
	}
	if len(there) > 0 {
		return refuse("the daemon of %s is there, so not all other nodes are off; nothing was changed. "+
			"With %d of %d voters the cluster has quorum by itself: start this node with `ringfence node run`. "+
			"If they are too few, turn their machines off first", strings.Join(there, ", "), (len(others)+1)/2+1, len(others)+1)
	}
	return nil
}

// answer is what is heard of a node.
type answer int

const (
	answerNone    answer = iota
	answerMachine        // nobody listens there, and the machine says so
	answerDaemon         // somebody listens
)

func knock(ctx context.Context, node cluster.Node) answer {
	best := answerNone
	for _, port := range []int{node.PeerPort, node.JoinPort} {
		dialer := net.Dialer{Timeout: knockTimeout}
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(node.Address, strconv.Itoa(port)))
		switch {
		case err == nil:
			_ = conn.Close() // only looked
			return answerDaemon
		case errors.Is(err, unix.ECONNREFUSED):
			best = answerMachine
		}
	}
	return best
}

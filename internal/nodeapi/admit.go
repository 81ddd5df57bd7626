package nodeapi

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/mirror"
	"ringfence/internal/pki"
	"ringfence/internal/plan"
	"ringfence/internal/store"
	"ringfence/internal/wire/beat"
)

// Bounds of the join listener.
const (
	joinConnLimit = 32
	// joinBurst requests may come at once, joinEvery lets one more come. A token
	// has 128 random bits: this spares the machine, not the secret.
	joinBurst = 10
	joinEvery = time.Second
	// admitTimeout bounds one admission; the store takes up to 20 s for it.
	admitTimeout = 45 * time.Second
	// promotePause is the time between two looks for voters without a vote.
	promotePause = time.Second
	// nodeLimit bounds the cluster: every node votes, and each voter more makes
	// every commit slower.
	nodeLimit = 7
)

// Voters changes who votes in the store; *etcd.Server is one.
type Voters interface {
	// AddVoter announces a voter, without a vote as yet, and returns its id and
	// what its first start needs. Called again for the same URL before that, it
	// returns the same.
	AddVoter(ctx context.Context, name, peerURL string) (id uint64, initialCluster map[string]string, err error)
	// PromoteWhenReady gives it its vote once it has caught up; nil when it has it.
	PromoteWhenReady(ctx context.Context, id uint64) error
	// RemoveVoter takes one out for good; nil when it is out.
	RemoveVoter(ctx context.Context, id uint64) error
}

// AdmitConfig is what admitting nodes takes. All fields are required but CA.
type AdmitConfig struct {
	Identity pki.Identity // of this member
	Mirror   *mirror.Mirror
	Store    store.Store
	Voters   Voters
	// CA is nil where the authority's key is not kept; joins are refused then.
	CA      *pki.CA
	BeatKey beat.Key
	// RaftLeader names the store's leader, as in Deps.
	RaftLeader func() (name string, isMe, ok bool)
	Wall       func() time.Time     // for the dates in certificates
	Now        func() time.Duration // monotonic, for the rate
	Log        *slog.Logger
}

// Admitter is the member's side of the join protocol.
type Admitter struct {
	AdmitConfig
	log  *slog.Logger
	turn sync.Mutex // held while a node is admitted: one at a time
	rate rate
}

// NewAdmitter returns an Admitter.
func NewAdmitter(c AdmitConfig) *Admitter {
	return &Admitter{AdmitConfig: c, log: c.Log.With("component", "join"), rate: rate{now: c.Now}}
}

// ListenJoin opens the join port of a node.
func ListenJoin(address string, port int) (net.Listener, error) {
	at := net.JoinHostPort(address, strconv.Itoa(port))
	ln, err := net.Listen("tcp", at)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("join port %s is in use by another program: stop that, or give this node another join_port in cluster.json", at)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, fmt.Errorf("join port %s: this machine has no address %s; correct the address in cluster.json", at, address)
	case err != nil:
		return nil, fmt.Errorf("listen on join port %s: %w", at, err)
	}
	return ln, nil
}

// serveJoin answers the join protocol.
func (a *Admitter) serveJoin(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), admitTimeout)
	defer cancel()
	reply, err := a.admit(w, r.WithContext(ctx))
	if err != nil {
		e := asError(err)
		a.log.Warn("join refused", "remote", r.RemoteAddr, "code", e.Code, "err", e.Message)
		writeJSON(w, e.status(), e)
		return
	}
	writeJSON(w, http.StatusOK, reply)
}

func (a *Admitter) admit(w http.ResponseWriter, r *http.Request) (JoinReply, error) {
	if !a.rate.take() {
		return JoinReply{}, refusal(CodeTooMany, "too many nodes ask to join at once; try again in a moment")
	}
	var req JoinRequest
	if err := readJSON(w, r, joinBodyLimitBytes, &req); err != nil {
		return JoinReply{}, err
	}
	// The server's bound was for reading; the store may take longer than that,
	// and a read that runs into it would cancel the request.
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
		return JoinReply{}, err
	}
	if a.CA == nil {
		return JoinReply{}, refusal(CodeConflict, "node %s does not keep the authority's key (ca.key): join at another member", a.Identity.Node)
	}
	token, err := pki.ParseToken(req.Token)
	if err != nil {
		return JoinReply{}, refusal(CodeBadRequest, "%v", err)
	}
	if err := checkSelf(req.Node, req.Address, req.BeatPort, req.PeerPort, req.JoinPort); err != nil {
		return JoinReply{}, err
	}
	cert, err := a.CA.IssueNode(req.Node, []string{req.Address}, []byte(req.CSR), a.Wall())
	if err != nil {
		return JoinReply{}, refusal(CodeBadRequest, "%v", err)
	}
	a.turn.Lock()
	defer a.turn.Unlock()
	if err := a.record(r.Context(), token, req); err != nil {
		return JoinReply{}, err
	}
	voters, err := a.announce(r.Context(), req)
	if err != nil {
		return JoinReply{}, err
	}
	a.log.Info("node admitted", "joined", req.Node, "address", req.Address, "token", token, "remote", r.RemoteAddr)
	id := a.Identity
	id.Node, id.Address, id.InitialCluster = req.Node, req.Address, voters
	id.BeatPort, id.PeerPort, id.JoinPort, id.Witness = req.BeatPort, req.PeerPort, req.JoinPort, req.Witness
	return JoinReply{
		CACert: string(a.CA.CertPEM), CAKey: string(a.CA.KeyPEM), NodeCert: string(cert),
		BeatKey: hex.EncodeToString(a.BeatKey[:]), Identity: id, Warnings: a.risksWith(req.Node),
	}, nil
}

// risksWith says which loss of one machine would cost quorum once a node that
// has just been admitted runs, on a machine of its own.
func (a *Admitter) risksWith(newcomer cluster.NodeName) []string {
	s, _ := a.Mirror.Snapshot()
	nodes := nodeStatuses(&s, plan.Plan(plan.Snapshot{State: s, Now: a.Now(), Self: a.Identity.Node}), nil)
	for i := range nodes {
		if nodes[i].Name == newcomer {
			nodes[i].Voter, nodes[i].State, nodes[i].Hosts = true, string(cluster.NodeMember), nil
		}
	}
	return quorumRisks(nodes)
}

// Run gives voters their vote: on the member that leads the store, every node
// on record that this run has not seen voting yet. It ends with ctx.
func (a *Admitter) Run(ctx context.Context) {
	voting := map[uint64]bool{}
	for ctx.Err() == nil {
		s, changed := a.Mirror.Snapshot()
		forgetRemoved(voting, &s)
		behind := false
		if _, leads, ok := a.RaftLeader(); ok && leads {
			behind = a.promote(ctx, &s, voting)
		}
		var again <-chan time.Time
		if behind || len(voting)+1 < len(s.Nodes) {
			again = time.After(promotePause)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-again:
		}
	}
}

// forgetRemoved drops the voters that are on record no more.
func forgetRemoved(voting map[uint64]bool, s *cluster.State) {
	known := map[uint64]bool{}
	for _, node := range s.Nodes {
		known[node.Value.Member] = true
	}
	maps.DeleteFunc(voting, func(id uint64, _ bool) bool { return !known[id] })
}

func (a *Admitter) promote(ctx context.Context, s *cluster.State, voting map[uint64]bool) (behind bool) {
	for name, node := range s.Nodes {
		id := node.Value.Member
		if id == 0 || node.Value.Removing || voting[id] || name == a.Identity.Node { // who leads has a vote
			continue
		}
		if err := a.Voters.PromoteWhenReady(ctx, id); err != nil {
			a.log.Debug("voter has no vote yet", "voter", name, "err", err)
			behind = true
			continue
		}
		voting[id] = true
		a.log.Info("voter has its vote", "voter", name)
	}
	return behind
}

// rate lets a burst through, then one request each joinEvery.
type rate struct {
	now  func() time.Duration
	mu   sync.Mutex // guards used and last
	used int
	last time.Duration
}

func (r *rate) take() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if back := int((now - r.last) / joinEvery); back > 0 || r.used == 0 {
		r.used = max(0, r.used-back)
		r.last = now
	}
	if r.used >= joinBurst {
		return false
	}
	r.used++
	return true
}

package nodeapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"

	"ringfence/internal/cluster"
	"ringfence/internal/pki"
	"ringfence/internal/wire/voter"
)

// Bounds of the memory of voters.
const (
	// memoryLimitBytes bounds its file: a line of some hundred bytes for each
	// node that ever voted.
	memoryLimitBytes = 1 << 20
	// memoryLimit bounds the nodes that are remembered; a certificate of the
	// cluster is needed to become one.
	memoryLimit = 256
	// claimLimitBytes bounds a claim and its answer.
	claimLimitBytes = 4 << 10
)

// VoterMemory is what this node remembers of the starts of the other voters
// (rule P22), in a file of its own: in the store it would be rolled back with
// the voters that it is to watch. It is safe for concurrent use.
type VoterMemory struct {
	path     string
	identity pki.Identity
	log      *slog.Logger

	mu    sync.Mutex // guards known and the file; held while it is written
	known map[cluster.NodeName]voter.Memory
}

// OpenVoterMemory reads the memory; one that is not there is empty.
func OpenVoterMemory(path string, id pki.Identity, log *slog.Logger) (*VoterMemory, error) {
	m := &VoterMemory{path: path, identity: id, log: log.With("component", "voter"), known: map[cluster.NodeName]voter.Memory{}}
	err := ReadSmallJSON(path, memoryLimitBytes, &m.known)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("memory of the other voters: %w; move it away to begin with an empty one", err)
	}
	return m, nil
}

// ReadSmallJSON reads one value from a file of at most limit bytes.
func ReadSmallJSON(path string, limit int64, to any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	if err := json.Unmarshal(data, to); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// answer judges the claim of another voter; what it says is durable before.
func (m *VoterMemory) answer(w http.ResponseWriter, r *http.Request) {
	var c voter.Claim
	err := readJSON(w, r, claimLimitBytes, &c)
	var answer voter.Answer
	if err == nil {
		answer, err = m.Judge(r.TLS, c)
	}
	if err != nil {
		e := asError(err)
		m.log.Warn("claim of a voter refused", "remote", r.RemoteAddr, "code", e.Code, "err", e.Message)
		writeJSON(w, e.status(), e)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

// Judge remembers and answers a claim that came over a connection.
func (m *VoterMemory) Judge(conn *tls.ConnectionState, c voter.Claim) (voter.Answer, error) {
	if err := c.Check(); err != nil {
		return voter.Answer{}, refusal(CodeBadRequest, "%v", err)
	}
	if conn == nil {
		return voter.Answer{}, refusal(CodeBadRequest, "only members may ask this, over TLS with their certificates")
	}
	node, err := pki.PeerNode(*conn)
	if err != nil || node != c.Node || c.Node == m.identity.Node || c.Cluster != m.identity.Cluster {
		return voter.Answer{}, refusal(CodeBadRequest, "the certificate is not that of node %s of cluster %s, or this is that node (%v)", c.Node, c.Cluster, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	was, known := m.known[c.Node]
	if !known && len(m.known) >= memoryLimit {
		return voter.Answer{}, refusal(CodeTooMany, "%d nodes are remembered; more are not allowed", memoryLimit)
	}
	next, answer, err := was.Judge(c, m.identity.Incarnation)
	if err != nil {
		return answer, refusal(CodeRefused, "%v", err)
	}
	if answer.Known && (!known || next.Count != was.Count || next.Identity != was.Identity || next.Incarnation != was.Incarnation) {
		if err := m.remember(c.Node, next); err != nil {
			return voter.Answer{}, err
		}
	}
	return answer, nil
}

// remember makes the memory of one voter durable.
func (m *VoterMemory) remember(node cluster.NodeName, next voter.Memory) error {
	was, known := m.known[node]
	m.known[node] = next
	data, err := json.MarshalIndent(m.known, "", "  ")
	if err == nil {
		err = pki.WriteFile(m.path, append(data, '\n'), 0o600)
	}
	if err != nil {
		if m.known[node] = was; !known {
			delete(m.known, node)
		}
		return fmt.Errorf("remember the start of voter %s: %w", node, err)
	}
	return nil
}

// VoterPeer is where another voter is asked.
type VoterPeer struct {
	Name     cluster.NodeName `json:"name"`
	Address  string           `json:"address"`
	JoinPort int              `json:"join_port"`
}

// AskVoter puts a claim to another voter. An *Error with CodeRefused is its
// refusal for good; any other error says nothing.
func AskVoter(ctx context.Context, credentials *pki.Credentials, peer VoterPeer, c voter.Claim) (voter.Answer, error) {
	web := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: credentials.ClientTLS(), DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer web.CloseIdleConnections()
	var answer voter.Answer
	body, err := json.Marshal(c)
	if err != nil {
		return answer, err
	}
	url := "https://" + net.JoinHostPort(peer.Address, strconv.Itoa(peer.JoinPort)) + voter.Path
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	resp, err := web.Do(req)
	if err != nil {
		return answer, fmt.Errorf("ask voter %s: %w", peer.Name, err)
	}
	defer resp.Body.Close()
	if node, err := pki.PeerNode(*resp.TLS); err != nil || node != peer.Name {
		return answer, fmt.Errorf("ask voter %s: at its address is %q (%v)", peer.Name, node, err)
	}
	if resp.StatusCode != http.StatusOK {
		return answer, fmt.Errorf("voter %s: %w", peer.Name, readError(resp))
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, claimLimitBytes)).Decode(&answer); err != nil {
		return answer, fmt.Errorf("ask voter %s: %w", peer.Name, err)
	}
	return answer, nil
}

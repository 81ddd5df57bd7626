package nodeapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/pki"
	"ringfence/internal/wire/beat"
)

// The join protocol is one request over TLS to the join port of any member:
//
//	POST /v1/join  JoinRequest -> JoinReply
//
// The new node knows the member by the fingerprint in its token, the member
// knows the new node by the secret in it. In this order:
//
//	1  the new node looks that its data directory can be made, and draws its key;
//	2  the member checks token, name, address and certificate request, and signs;
//	3  one transaction uses up the token and writes the cluster.Node record;
//	4  the member announces the voter to the store (a learner as yet), and
//	   writes the voter's id into the record;
//	5  it answers with certificates, keys and identity;
//	6  the new node writes its data directory, the identity file last;
//	7  its first `node run` starts the learner, and whichever member leads the
//	   store gives it its vote (Admitter.Run).
//
// Who dies in between leaves nothing that could act: after 3 a node record
// without a boot stands, after 4 a learner that never started beside it. The
// same node may then join again with a new token, from the same or another
// address, as long as it has never booted; its learner is removed if it moved.
//
// Every node gets the authority's key, so that each can admit others and none
// is needed for it. Whoever takes over one node as root can therefore admit
// more; such a one could already order services about through the store.
const joinPath = "/v1/join"

const (
	joinBodyLimitBytes = 32 << 10
	// joinTimeout bounds the request at the new node: the member waits for the
	// store to take the voter in, up to 20 s.
	joinTimeout = 60 * time.Second
)

// JoinRequest asks to be admitted. Token is a secret.
type JoinRequest struct {
	Token    string           `json:"token"`
	Node     cluster.NodeName `json:"node"`
	Address  string           `json:"address"`
	BeatPort int              `json:"beat_port"`
	PeerPort int              `json:"peer_port"`
	JoinPort int              `json:"join_port"`
	Witness  bool             `json:"witness,omitempty"`
	CSR      string           `json:"csr"` // PEM
}

// JoinReply is all that the new node needs. It holds secrets.
type JoinReply struct {
	CACert   string       `json:"ca_cert"`
	CAKey    string       `json:"ca_key"`
	NodeCert string       `json:"node_cert"`
	BeatKey  string       `json:"beat_key"` // hex
	Identity pki.Identity `json:"identity"`
	// Warnings say what the loss of one host would cost once the new node runs
	// (rule P14).
	Warnings []string `json:"warnings,omitempty"`
}

// JoinOptions says who joins whom.
type JoinOptions struct {
	Token pki.Token
	// Member is host:port of the join listener of a member.
	Member string
	// Node, Address and the ports are those of the new node.
	Node                         cluster.NodeName
	Address                      string
	BeatPort, PeerPort, JoinPort int
	// Witness: join as a voter without services.
	Witness bool
	// Data is the data directory to be made.
	Data string
}

// Joined is how a join ended.
type Joined struct {
	pki.Identity
	// Warnings are those of JoinReply.
	Warnings []string
}

// Join carries out the new node's side and returns who it is now. When it fails
// before the member was asked, the token is still good.
func Join(ctx context.Context, o JoinOptions) (Joined, error) {
	if err := checkSelf(o.Node, o.Address, o.BeatPort, o.PeerPort, o.JoinPort); err != nil {
		return Joined{}, err
	}
	remove, err := claimDir(o.Data)
	if err != nil {
		return Joined{}, err
	}
	id, err := join(ctx, o)
	if err != nil {
		remove()
	}
	return id, err
}

func join(ctx context.Context, o JoinOptions) (Joined, error) {
	keyPEM, csr, err := pki.NewKeyAndCSR(o.Node)
	if err != nil {
		return Joined{}, err
	}
	reply, err := askMember(ctx, o, JoinRequest{
		Token: o.Token.Text(), Node: o.Node, Address: o.Address,
		BeatPort: o.BeatPort, PeerPort: o.PeerPort, JoinPort: o.JoinPort, Witness: o.Witness, CSR: string(csr),
	})
	if err != nil {
		return Joined{}, err
	}
	contents, err := reply.contents(o, keyPEM)
	if err != nil {
		return Joined{}, fmt.Errorf("the answer of %s: %w", o.Member, err)
	}
	if _, err := pki.CreateDir(o.Data, contents); err != nil {
		return Joined{}, err
	}
	if _, err := pki.Open(o.Data, time.Now()); err != nil {
		return Joined{}, err
	}
	return Joined{Identity: contents.Identity, Warnings: reply.warnings()}, nil
}

// warnings bounds what a member says to people here.
func (r JoinReply) warnings() []string { return r.Warnings[:min(len(r.Warnings), nodeLimit)] }

// contents checks that the answer is for us and turns it into files.
func (r JoinReply) contents(o JoinOptions, keyPEM []byte) (pki.Contents, error) {
	c := pki.Contents{
		Identity: r.Identity, CACert: []byte(r.CACert), CAKey: []byte(r.CAKey),
		NodeCert: []byte(r.NodeCert), NodeKey: keyPEM,
	}
	ca, err := pki.ParseCertificate(c.CACert)
	if err != nil {
		return c, fmt.Errorf("certificate of the authority: %w", err)
	}
	if pki.FingerprintOf(ca) != o.Token.Authority {
		return c, errors.New("it names another authority than the token")
	}
	if r.Identity.Node != o.Node || r.Identity.Address != o.Address {
		return c, fmt.Errorf("it is for node %q at %q", r.Identity.Node, r.Identity.Address)
	}
	if r.Identity.Witness != o.Witness {
		return c, errors.New("it is from a member that knows no witnesses: upgrade that one, and remove this node before it joins again")
	}
	raw, err := hex.DecodeString(r.BeatKey)
	if err != nil || len(raw) != len(beat.Key{}) {
		return c, errors.New("its beat key is damaged")
	}
	copy(c.BeatKey[:], raw)
	return c, nil
}

// askMember makes the one request.
func askMember(ctx context.Context, o JoinOptions, request JoinRequest) (JoinReply, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		return JoinReply{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+o.Member+joinPath, bytes.NewReader(body))
	if err != nil {
		return JoinReply{}, fmt.Errorf("address %q of a member: want host:port", o.Member)
	}
	web := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: pki.JoinTLS(o.Token), DisableKeepAlives: true, TLSHandshakeTimeout: dialTimeout * 5},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := web.Do(req)
	if err != nil {
		return JoinReply{}, joinError(o.Member, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return JoinReply{}, readError(resp)
	}
	var reply JoinReply
	if err := json.NewDecoder(io.LimitReader(resp.Body, bodyLimitBytes)).Decode(&reply); err != nil {
		return JoinReply{}, fmt.Errorf("read the answer of %s: %w; if the token was used up by this, make another", o.Member, err)
	}
	return reply, nil
}

// joinError says what is wrong with the way to the member.
func joinError(member string, err error) error {
	var op *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, pki.ErrNotTheCluster):
		return fmt.Errorf("%s is not a member of the cluster that the token is for: check the address", member)
	case errors.As(err, &record):
		return fmt.Errorf("%s does not speak TLS: give the address of a member's join port", member)
	case errors.As(err, &op) && op.Op == "dial":
		return &UnreachableError{Socket: member, Err: op.Err}
	}
	return fmt.Errorf("ask %s to be admitted: %w", member, err)
}

// checkSelf checks what a person typed of a node before anything is done.
func checkSelf(node cluster.NodeName, address string, beatPort, peerPort, joinPort int) error {
	if err := cluster.CheckName(string(node)); err != nil {
		return refusal(CodeBadRequest, "node: %v", err)
	}
	if err := checkAddress(address); err != nil {
		return err
	}
	for _, p := range []struct {
		what string
		port int
	}{{"beat", beatPort}, {"peer", peerPort}, {"join", joinPort}} {
		if p.port < 1 || p.port > 65535 {
			return refusal(CodeBadRequest, "%s port %d: want 1 to 65535", p.what, p.port)
		}
	}
	if peerPort == joinPort {
		return refusal(CodeBadRequest, "peer port and join port are both %d: want two ports", peerPort)
	}
	return nil
}

// addressLimitBytes is the longest host name.
const addressLimitBytes = 253

// checkAddress accepts what other nodes can dial: an IP address that names one
// machine, or a host name.
func checkAddress(address string) error {
	ip, err := netip.ParseAddr(address)
	switch {
	case err == nil && (ip.IsUnspecified() || ip.IsMulticast()):
		return refusal(CodeBadRequest, "address %s is not that of one machine: give the address at which the other nodes reach this one", address)
	case err == nil:
		return nil
	case address == "":
		return refusal(CodeBadRequest, "address is empty: give the IP address or host name at which the other nodes reach this one")
	case len(address) > addressLimitBytes:
		return refusal(CodeBadRequest, "address has %d bytes, at most %d are allowed", len(address), addressLimitBytes)
	}
	if host, _, err := net.SplitHostPort(address); err == nil && host != "" {
		return refusal(CodeBadRequest, "address %s: give it without a port; ports have flags of their own", address)
	}
	if cluster.CheckName(address) != nil && len(address) <= 63 {
		return refusal(CodeBadRequest, "address %q: want an IP address or a host name", address)
	}
	return nil
}

// peerURL is where the store of a node is reached, as package etcd writes it.
func peerURL(address string, port int) string {
	return "https://" + net.JoinHostPort(address, strconv.Itoa(port))
}

// claimDir makes the data directory, so that a token is not used up for a node
// that cannot keep what it gets. The returned function takes it back if it is
// still empty.
func claimDir(path string) (remove func(), err error) {
	if err := pki.CheckFree(path); err != nil {
		return nil, err
	}
	_, statErr := os.Stat(path)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	probe, err := os.CreateTemp(path, ".probe.*")
	if err != nil {
		return nil, fmt.Errorf("write into the data directory: %w", err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return nil, fmt.Errorf("write into the data directory: %w", err)
	}
	return func() {
		if statErr != nil {
			_ = os.Remove(path) // fails, as it should, when anything is in it
		}
	}, nil
}

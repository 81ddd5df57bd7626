package nodeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/pki"
	"ringfence/internal/store/mem"
)

// fakeVoters behaves as the store does: one newcomer at a time, known by URL.
type fakeVoters struct {
	mu      sync.Mutex
	fail    error
	next    uint64
	waiting map[string]uint64 // URL to id of voters without a vote
	voting  map[uint64]bool
	promote error
	keep    error // RemoveVoter fails
	removed []uint64
	onAdd   func() // runs while a voter is announced
}

func newFakeVoters() *fakeVoters {
	return &fakeVoters{next: 100, waiting: map[string]uint64{}, voting: map[uint64]bool{}}
}

func (f *fakeVoters) AddVoter(_ context.Context, name, url string) (uint64, map[string]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return 0, nil, f.fail
	}
	if f.onAdd != nil {
		f.onAdd()
	}
	if _, ok := f.waiting[url]; !ok {
		if len(f.waiting) > 0 {
			return 0, nil, fmt.Errorf("too many learners: %v", f.waiting)
		}
		f.next++
		f.waiting[url] = f.next
	}
	return f.waiting[url], map[string]string{"n1": "https://127.0.0.1:2", name: url}, nil
}

func (f *fakeVoters) PromoteWhenReady(_ context.Context, id uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.promote != nil {
		return f.promote
	}
	for url, waits := range f.waiting {
		if waits == id {
			delete(f.waiting, url)
		}
	}
	f.voting[id] = true
	return nil
}

func (f *fakeVoters) RemoveVoter(_ context.Context, id uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for url, waits := range f.waiting {
		if waits == id {
			delete(f.waiting, url)
		}
	}
	if f.keep != nil {
		return f.keep
	}
	f.removed = append(f.removed, id)
	return nil
}

// door is a bench with an open join port.
type door struct {
	*bench
	admitter *Admitter
	address  string
	leads    bool
}

func openDoor(t *testing.T) *door {
	d := &door{bench: newBench(t), leads: true}
	d.admitter = NewAdmitter(AdmitConfig{
		Identity: d.id, Mirror: d.mirror, Store: d.mem, Voters: d.voters, CA: d.data.CA, BeatKey: d.data.BeatKey,
		RaftLeader: func() (string, bool, bool) { d.mu.Lock(); defer d.mu.Unlock(); return "n1", d.leads, true },
		Wall:       time.Now, Now: d.now, Log: slog.New(slog.NewTextHandler(d.log, nil)),
	})
	ln, err := ListenJoin("127.0.0.1", freePort(t))
	must(t, err)
	d.address = ln.Addr().String()
	memory, err := OpenVoterMemory(d.data.Dir.VoterMemory(), d.id, slog.New(slog.DiscardHandler))
	must(t, err)
	front := NewDoor(d.data.Credentials, memory, slog.New(slog.DiscardHandler))
	front.LetIn(d.admitter)
	d.run(func(ctx context.Context) { must(t, front.Serve(ctx, ln)) })
	return d
}

// token makes a join token.
func (d *door) token() pki.Token {
	d.t.Helper()
	made, err := d.api.NewToken(d.t.Context())
	must(d.t, err)
	token, err := pki.ParseToken(made.Text)
	must(d.t, err)
	return token
}

func (d *door) options(token pki.Token, node cluster.NodeName, address string) JoinOptions {
	return JoinOptions{
		Token: token, Member: d.address, Node: node, Address: address,
		BeatPort: 7401, PeerPort: 7402, JoinPort: 7403, Data: filepath.Join(d.t.TempDir(), string(node)),
	}
}

func TestJoinGivesAllThatANodeNeeds(t *testing.T) {
	d := openDoor(t)
	o := d.options(d.token(), "n4", "127.0.0.9")
	joined, err := Join(t.Context(), o)
	must(t, err)
	want := pki.Identity{
		Cluster: d.id.Cluster, Name: "demo", Incarnation: 1, Node: "n4", Address: "127.0.0.9",
		BeatPort: 7401, PeerPort: 7402, JoinPort: 7403,
		InitialCluster: map[string]string{"n1": "https://127.0.0.1:2", "n4": "https://127.0.0.9:7402"},
	}
	if diff := cmp.Diff(Joined{Identity: want}, joined); diff != "" {
		t.Error(diff)
	}
	data, err := pki.Open(o.Data, time.Now())
	must(t, err)
	if data.BeatKey != d.data.BeatKey || !bytes.Equal(data.CA.KeyPEM, d.data.CA.KeyPEM) {
		t.Error("beat key or authority's key is not the cluster's")
	}
	node := d.state().Nodes["n4"].Value
	if diff := cmp.Diff(cluster.Node{Name: "n4", Address: "127.0.0.9", BeatPort: 7401, PeerPort: 7402, JoinPort: 7403, Member: 101}, node); diff != "" {
		t.Error(diff)
	}
	for _, secret := range []string{o.Token.Secret, strings.Split(string(d.data.CA.KeyPEM), "\n")[1]} {
		if strings.Contains(d.log.String(), secret) {
			t.Error("a secret stands in the log")
		}
	}
}

func TestTokenIsGoodOnce(t *testing.T) {
	d := openDoor(t)
	token := d.token()
	_, err := Join(t.Context(), d.options(token, "n4", "127.0.0.9"))
	must(t, err)
	o := d.options(token, "n5", "127.0.0.10")
	_, err = Join(t.Context(), o)
	refused(t, err, CodeRefused, "token was used already, by node n4; make another with `ringfence token create`")
	if _, err := os.Stat(o.Data); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused join left a data directory: %v", err)
	}
}

func TestTwoNodesWithOneTokenAtOnce(t *testing.T) {
	d := openDoor(t)
	token := d.token()
	results := make(chan error, 2)
	for i, node := range []cluster.NodeName{"n4", "n5"} {
		o := d.options(token, node, fmt.Sprintf("127.0.0.%d", 10+i))
		go func() { _, err := Join(t.Context(), o); results <- err }()
	}
	first, second := <-results, <-results
	if (first == nil) == (second == nil) {
		t.Errorf("one token, and the two joins ended with %v and %v", first, second)
	}
}

func TestAJoinWhoseCommitLostItsAnswerAdmitsOnce(t *testing.T) {
	d := openDoor(t)
	o := d.options(d.token(), "n4", "127.0.0.9")
	d.mem.SetFault(mem.Fault{Commit: mem.CommitUnacknowledged})
	_, err := Join(t.Context(), o)
	must(t, err)
	d.mem.SetFault(mem.Fault{})
	if got := d.state().Tokens[o.Token.ID].Value.Node; got != "n4" {
		t.Errorf("the token was used by %q", got)
	}
}

func TestAJoinThatBrokeOffMayBeRepeatedWithANewToken(t *testing.T) {
	for _, c := range []struct {
		rule, address string
		prepare       func(d *door)
	}{
		{"the answer was lost", "127.0.0.9", func(d *door) {
			_, err := Join(d.t.Context(), d.options(d.token(), "n4", "127.0.0.9"))
			must(d.t, err)
		}},
		{"the answer was lost, and the node has moved", "127.0.0.10", func(d *door) {
			_, err := Join(d.t.Context(), d.options(d.token(), "n4", "127.0.0.9"))
			must(d.t, err)
		}},
		{"the store failed behind the record", "127.0.0.9", func(d *door) {
			d.voters.fail = errors.New("no quorum")
			_, err := Join(d.t.Context(), d.options(d.token(), "n4", "127.0.0.9"))
			refused(d.t, err, CodeUnavailable, "the token is used up, make another")
			d.voters.fail = nil
		}},
		{"the member died before it noted the voter's id, and the node has moved", "127.0.0.10", func(d *door) {
			d.put(cluster.KeyNode("n4"), cluster.Node{Name: "n4", Address: "127.0.0.9", PeerPort: 7402})
			_, _, err := d.voters.AddVoter(d.t.Context(), "n4", "https://127.0.0.9:7402")
			must(d.t, err)
		}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			d := openDoor(t)
			c.prepare(d)
			_, err := Join(t.Context(), d.options(d.token(), "n4", c.address))
			must(t, err)
			want := map[string]uint64{peerURL(c.address, 7402): d.state().Nodes["n4"].Value.Member}
			if diff := cmp.Diff(want, d.voters.waiting); diff != "" {
				t.Errorf("voters announced: %s", diff)
			}
		})
	}
}

func TestJoinsThatAreRefused(t *testing.T) {
	wrong := func(token pki.Token) pki.Token { token.Secret = strings.Repeat("0", 32); return token }
	for _, c := range []struct {
		rule    string
		options func(d *door) JoinOptions
		code    string
		text    string
	}{
		{"a token with another secret", func(d *door) JoinOptions { return d.options(wrong(d.token()), "n4", "127.0.0.9") }, CodeRefused, "does not know this token"},
		{"a node that has taken part", func(d *door) JoinOptions { return d.options(d.token(), "n2", "127.0.0.9") }, CodeConflict, "node n2 has taken part in the cluster already"},
		{"the address of another", func(d *door) JoinOptions {
			o := d.options(d.token(), "n4", "192.0.2.2")
			o.PeerPort = 2
			return o
		}, CodeConflict, "is that of node n2"},
		{"while another has joined and never started", func(d *door) JoinOptions {
			_, err := Join(d.t.Context(), d.options(d.token(), "n4", "127.0.0.9"))
			must(d.t, err)
			return d.options(d.token(), "n5", "127.0.0.10")
		}, CodeConflict, "node n4 has joined and never started"},
		{"a cluster that is full", func(d *door) JoinOptions {
			for _, name := range []cluster.NodeName{"m4", "m5", "m6", "m7"} {
				d.put(cluster.KeyNode(name), cluster.Node{Name: name, Address: string(name), PeerPort: 2})
				d.put(cluster.KeyBoot(bootOf(name)), cluster.Boot{ID: bootOf(name), Node: name})
			}
			return d.options(d.token(), "n8", "127.0.0.9")
		}, CodeConflict, "the cluster has 7 nodes"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			d := openDoor(t)
			o := c.options(d)
			_, err := Join(t.Context(), o)
			refused(t, err, c.code, c.text)
			if got := d.state().Tokens[o.Token.ID].Value.Node; got != "" {
				t.Errorf("the refused join used up the token, for %q", got)
			}
		})
	}
}

func TestJoinLooksAtHomeFirst(t *testing.T) {
	d := openDoor(t)
	token := d.token()
	o := d.options(token, "n4", "127.0.0.9")
	must(t, os.MkdirAll(o.Data, 0o700))
	must(t, os.WriteFile(filepath.Join(o.Data, "x"), nil, 0o600))
	_, err := Join(t.Context(), o)
	wantError(t, err, "is not empty")
	o.Data = filepath.Join(o.Data, "x", "below-a-file")
	_, err = Join(t.Context(), o)
	wantError(t, err, "not a directory")
	if got := d.state().Tokens[token.ID].Value.Node; got != "" {
		t.Errorf("the token was used up by %q", got)
	}
}

func TestJoinTrustsTheAuthorityInTheTokenOnly(t *testing.T) {
	d := openDoor(t)
	token := d.token()
	token.Authority[0] ^= 1
	_, err := Join(t.Context(), d.options(token, "n4", "127.0.0.9"))
	wantError(t, err, "is not a member of the cluster that the token is for")
	o := d.options(d.token(), "n4", "127.0.0.9")
	o.Member = net.JoinHostPort("127.0.0.1", fmt.Sprint(freePort(t)))
	_, err = Join(t.Context(), o)
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) {
		t.Errorf("where nobody listens: %v", err)
	}
}

func TestJoinRequestsAreBounded(t *testing.T) {
	d := openDoor(t)
	token := d.token()
	post := func(body []byte) error {
		web := &http.Client{Transport: &http.Transport{TLSClientConfig: pki.JoinTLS(token)}}
		defer web.CloseIdleConnections()
		resp, err := web.Post("https://"+d.address+joinPath, "application/json", bytes.NewReader(body))
		must(t, err)
		defer resp.Body.Close()
		return readError(resp)
	}
	refused(t, post(bytes.Repeat([]byte(" "), joinBodyLimitBytes+1)), CodeBadRequest, "larger than 32768 bytes")
	refused(t, post([]byte(`{"token":"rf1.x"}`)), CodeBadRequest, "was all of it copied?")
	_, csr, err := pki.NewKeyAndCSR("n4")
	must(t, err)
	request := JoinRequest{Token: token.Text(), Node: "n4", Address: "127.0.0.9", BeatPort: 1, PeerPort: 2, JoinPort: 3, CSR: string(csr)}
	for text, spoil := range map[string]func(*JoinRequest){
		"letters, digits":          func(r *JoinRequest) { r.Node = "../x" },
		"peer port 0":              func(r *JoinRequest) { r.PeerPort = 0 },
		"without a port":           func(r *JoinRequest) { r.Address = "127.0.0.9:1" },
		"want one CERTIFICATE REQ": func(r *JoinRequest) { r.CSR = "x" },
	} {
		bad := request
		spoil(&bad)
		body, err := json.Marshal(bad)
		must(t, err)
		refused(t, post(body), CodeBadRequest, text)
	}
	for range joinBurst - 6 {
		_ = post([]byte("x"))
	}
	refused(t, post([]byte("x")), CodeTooMany, "try again in a moment")
	d.set(func() { d.clock = joinEvery })
	refused(t, post([]byte("x")), CodeBadRequest, "cannot be read")
	refused(t, post([]byte("x")), CodeTooMany, "try again in a moment")
}

func TestVotersGetTheirVoteFromWhoLeadsTheStore(t *testing.T) {
	d := openDoor(t)
	d.set(func() { d.leads = false })
	d.voters.promote = errors.New("not caught up")
	d.run(d.admitter.Run)
	_, err := Join(t.Context(), d.options(d.token(), "n4", "127.0.0.9"))
	must(t, err)
	voting := func() bool { d.voters.mu.Lock(); defer d.voters.mu.Unlock(); return d.voters.voting[101] }
	d.put(cluster.KeyStandby("n2"), cluster.Standby{})
	if voting() {
		t.Error("a member that does not lead gave a vote")
	}
	d.set(func() { d.leads = true })
	d.voters.mu.Lock()
	d.voters.promote = nil
	d.voters.mu.Unlock()
	for deadline := time.Now().Add(20 * time.Second); !voting(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the voter never got its vote")
		}
	}
}

func TestJoinPortInUse(t *testing.T) {
	port := freePort(t)
	ln, err := ListenJoin("127.0.0.1", port)
	must(t, err)
	defer ln.Close()
	_, err = ListenJoin("127.0.0.1", port)
	wantError(t, err, fmt.Sprintf("join port 127.0.0.1:%d is in use by another program", port))
	_, err = ListenJoin("192.0.2.77", port)
	wantError(t, err, "this machine has no address 192.0.2.77")
}

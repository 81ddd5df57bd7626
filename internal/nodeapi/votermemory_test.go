package nodeapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/pki"
	"ringfence/internal/wire/voter"
)

// twoVoters is two members of a cluster: n2 asks, n1 remembers.
type twoVoters struct {
	*testing.T
	one, two *pki.Data
	peer     VoterPeer
	stop     func()
}

func newTwoVoters(t *testing.T) *twoVoters {
	dir := t.TempDir()
	contents, err := found(FoundOptions{Name: "demo", Node: "n1", Address: "127.0.0.1", BeatPort: 1, PeerPort: 2, JoinPort: 3}, time.Now())
	must(t, err)
	_, err = pki.CreateDir(filepath.Join(dir, "n1"), contents)
	must(t, err)
	p := &twoVoters{T: t}
	p.one, err = pki.Open(filepath.Join(dir, "n1"), time.Now())
	must(t, err)
	key, csr, err := pki.NewKeyAndCSR("n2")
	must(t, err)
	cert, err := p.one.CA.IssueNode("n2", []string{"127.0.0.1"}, csr, time.Now())
	must(t, err)
	contents.NodeCert, contents.NodeKey, contents.Identity.Node = cert, key, "n2"
	_, err = pki.CreateDir(filepath.Join(dir, "n2"), contents)
	must(t, err)
	p.two, err = pki.Open(filepath.Join(dir, "n2"), time.Now())
	must(t, err)
	p.peer = VoterPeer{Name: "n1", Address: "127.0.0.1", JoinPort: freePort(t)}
	p.open()
	t.Cleanup(func() { p.stop() })
	return p
}

// open runs the door of n1, over the memory on its disk.
func (p *twoVoters) open() {
	memory, err := OpenVoterMemory(p.one.Dir.VoterMemory(), p.one.Identity, slog.New(slog.DiscardHandler))
	must(p.T, err)
	ln, err := ListenJoin(p.peer.Address, p.peer.JoinPort)
	must(p.T, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	door := NewDoor(p.one.Credentials, memory, slog.New(slog.DiscardHandler))
	go func() { done <- door.Serve(ctx, ln) }()
	p.stop = func() { cancel(); must(p.T, <-done); p.stop = func() {} }
}

func (p *twoVoters) claim(run string, previous uint64) voter.Claim {
	return voter.Claim{
		Cluster: p.two.Identity.Cluster, Incarnation: p.two.Identity.Incarnation, Node: "n2", Identity: p.two.Credentials.Identity(),
		Run: run, Count: previous + 1, Previous: previous,
	}
}

func (p *twoVoters) ask(c voter.Claim) (voter.Answer, error) {
	return AskVoter(p.Context(), p.two.Credentials, p.peer, c)
}

func (p *twoVoters) wantCode(what, code, text string, err error) {
	p.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, text) {
		p.Errorf("%s: %v, want code %s and %q", what, err, code, text)
	}
}

// P22: what a voter remembers of another survives its own restart.
func TestAVoterRefusesAnotherThatWasRolledBack(t *testing.T) {
	p := newTwoVoters(t)
	for n := range uint64(3) {
		answer, err := p.ask(p.claim("run", n))
		if err != nil || !answer.Known {
			t.Fatalf("start %d: %+v %v", n+1, answer, err)
		}
	}
	p.stop()
	p.open()
	_, err := p.ask(p.claim("next", 1))
	p.wantCode("a disk from before the last start", CodeRefused, "rolled back", err)
	if answer, err := p.ask(p.claim("next", 3)); err != nil || !answer.Known {
		t.Errorf("the next start: %+v %v", answer, err)
	}
	older := p.claim("next", 9)
	p.stop()
	p.one.Identity.Incarnation = 2
	p.open()
	_, err = p.ask(older)
	p.wantCode("from before a recovery", CodeRefused, "recovered as incarnation 2", err)
}

func TestClaimsThatAVoterDoesNotTake(t *testing.T) {
	p := newTwoVoters(t)
	for what, spoil := range map[string]func(*voter.Claim){
		"of another node":        func(c *voter.Claim) { c.Node = "n3" },
		"of the node itself":     func(c *voter.Claim) { c.Node = "n1" },
		"of another cluster":     func(c *voter.Claim) { c.Cluster = "other" },
		"that says nothing":      func(c *voter.Claim) { *c = voter.Claim{} },
		"with a long run":        func(c *voter.Claim) { c.Run = strings.Repeat("r", 65) },
		"above all that is read": func(c *voter.Claim) { c.Run = strings.Repeat("r", claimLimitBytes) },
	} {
		c := p.claim("run", 0)
		spoil(&c)
		_, err := p.ask(c)
		p.wantCode(what, CodeBadRequest, "", err)
	}
	if _, err := os.Stat(p.one.Dir.VoterMemory()); err == nil {
		t.Error("what was refused is remembered")
	}
	// Without a certificate nobody is a voter, and nodes that join need none.
	memory, err := OpenVoterMemory(p.one.Dir.VoterMemory(), p.one.Identity, slog.New(slog.DiscardHandler))
	must(t, err)
	_, err = memory.Judge(nil, p.claim("run", 0))
	p.wantCode("without a certificate", CodeBadRequest, "only members", err)
	// Whoever answers at the address of a voter is not that voter for that.
	elsewhere := p.peer
	elsewhere.Name = "n9"
	if _, err := AskVoter(t.Context(), p.two.Credentials, elsewhere, p.claim("run", 0)); err == nil || !strings.Contains(err.Error(), `at its address is "n1"`) {
		t.Errorf("another node answers: %v", err)
	}
}

func TestAMemoryThatIsNotWrittenConfirmsNothing(t *testing.T) {
	p := newTwoVoters(t)
	if err := os.Mkdir(p.one.Dir.VoterMemory(), 0o700); err != nil { // a rename over it fails
		t.Fatal(err)
	}
	answer, err := p.ask(p.claim("run", 0))
	p.wantCode("not durable", CodeInternal, "remember the start of voter n2", err)
	if answer.Known {
		t.Error("confirmed")
	}
	if _, err := OpenVoterMemory(p.one.Dir.VoterMemory(), p.one.Identity, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a memory that cannot be read is taken for an empty one")
	}
}

func TestADoorWithoutAnAdmitterAdmitsNobody(t *testing.T) {
	p := newTwoVoters(t)
	token, err := pki.NewToken(strings.NewReader(strings.Repeat("x", 100)), pki.FingerprintOf(p.one.Credentials.CA))
	must(t, err)
	_, err = askMember(t.Context(), JoinOptions{Token: token, Member: fmt.Sprintf("127.0.0.1:%d", p.peer.JoinPort)}, JoinRequest{Node: cluster.NodeName("n3")})
	p.wantCode("join", CodeUnavailable, "is starting", err)
}

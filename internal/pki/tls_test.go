package pki

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
)

func testCredentials(t *testing.T, ca *CA, node cluster.NodeName) *Credentials {
	t.Helper()
	dir := Dir(t.TempDir())
	cert, key := issue(t, ca, node, time.Now(), "127.0.0.1")
	for path, data := range map[string][]byte{dir.CACert(): ca.CertPEM, dir.NodeCert(): cert, dir.NodeKey(): key} {
		if err := WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return must(LoadCredentials(dir.CACert(), dir.NodeCert(), dir.NodeKey(), time.Now()))
}

// shake carries out one handshake and returns how each side saw it.
func shake(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	conn := tls.Server(a, server)
	done := make(chan error, 1)
	go func() {
		err := conn.HandshakeContext(t.Context())
		if err != nil {
			a.Close()
		}
		done <- err
	}()
	c := tls.Client(b, client)
	clientErr = c.HandshakeContext(t.Context())
	if clientErr == nil {
		go func() { _, _ = c.Read(make([]byte, 1)) }() // take the server's last flight
	} else {
		b.Close()
	}
	serverErr = <-done
	return conn.ConnectionState(), serverErr, clientErr
}

func TestMembersTalkToEachOther(t *testing.T) {
	ca := must(CreateCA(testCluster, "demo", time.Now()))
	server, client := testCredentials(t, ca, "n1"), testCredentials(t, ca, "n2")
	for _, name := range []string{"n1", "127.0.0.1"} {
		config := client.ClientTLS()
		config.ServerName = name
		state, serverErr, clientErr := shake(t, server.ServerTLS(), config)
		if serverErr != nil || clientErr != nil {
			t.Fatalf("as %s: server %v, client %v", name, serverErr, clientErr)
		}
		if got, err := PeerNode(state); got != "n2" || err != nil {
			t.Errorf("the server takes the client for %q (%v), want n2", got, err)
		}
		if state.Version != tls.VersionTLS13 {
			t.Errorf("version %x, want TLS 1.3", state.Version)
		}
	}
}

func TestStrangersAreRefused(t *testing.T) {
	ca := must(CreateCA(testCluster, "demo", time.Now()))
	otherCA := must(CreateCA("c2", "demo", time.Now()))
	member, stranger := testCredentials(t, ca, "n1"), testCredentials(t, otherCA, "n1")
	trusting := func(c *tls.Config) *tls.Config {
		c.InsecureSkipVerify = true
		return c
	}
	named := func(c *tls.Config, name string) *tls.Config {
		c.ServerName = name
		return c
	}
	for name, c := range map[string]struct{ server, client *tls.Config }{
		"client of another cluster":  {member.ServerTLS(), trusting(stranger.ClientTLS())},
		"client without certificate": {member.ServerTLS(), trusting(&tls.Config{})},
		"client of TLS 1.2":          {member.ServerTLS(), trusting(&tls.Config{MaxVersion: tls.VersionTLS12})},
		"server of another cluster":  {stranger.ServerTLS(), named(member.ClientTLS(), "n1")},
		"server of another name":     {member.ServerTLS(), named(member.ClientTLS(), "n9")},
		"server of TLS 1.2":          {&tls.Config{MaxVersion: tls.VersionTLS12, Certificates: member.JoinServerTLS().Certificates}, named(member.ClientTLS(), "n1")},
	} {
		if _, serverErr, clientErr := shake(t, c.server, c.client); serverErr == nil && clientErr == nil {
			t.Errorf("%s: both sides are content", name)
		} else if strings.HasPrefix(name, "client") && serverErr == nil {
			t.Errorf("%s: the server is content", name)
		}
	}
}

func TestJoinTrustsOnlyTheAuthorityInTheToken(t *testing.T) {
	ca := must(CreateCA(testCluster, "demo", time.Now()))
	otherCA := must(CreateCA(testCluster, "demo", time.Now()))
	token := must(NewToken(rand.Reader, FingerprintOf(ca.Certificate)))
	member, stranger := testCredentials(t, ca, "n1"), testCredentials(t, otherCA, "n1")
	state, serverErr, clientErr := shake(t, member.JoinServerTLS(), JoinTLS(token))
	if serverErr != nil || clientErr != nil {
		t.Fatalf("member: server %v, client %v", serverErr, clientErr)
	}
	if got, err := PeerNode(state); err == nil {
		t.Errorf("a joining node without certificate passes for %q", got)
	}
	if _, _, err := shake(t, stranger.JoinServerTLS(), JoinTLS(token)); !errors.Is(err, ErrNotTheCluster) {
		t.Errorf("stranger: got %v, want ErrNotTheCluster", err)
	}
	// The right authority behind a certificate that it did not sign.
	pretender := stranger.JoinServerTLS()
	pretender.Certificates[0].Certificate[1] = ca.Certificate.Raw
	if _, _, err := shake(t, pretender, JoinTLS(token)); !errors.Is(err, ErrNotTheCluster) {
		t.Errorf("pretender: got %v, want ErrNotTheCluster", err)
	}
}

// The authority is found among the issuers only, never taken for a member.
func TestAuthorityAloneIsNoMember(t *testing.T) {
	ca := must(CreateCA(testCluster, "demo", time.Now()))
	for name, chain := range map[string][]*x509.Certificate{"nothing": nil, "authority alone": {ca.Certificate}} {
		if err := verifyMember(chain, FingerprintOf(ca.Certificate)); !errors.Is(err, ErrNotTheCluster) {
			t.Errorf("%s: got %v, want ErrNotTheCluster", name, err)
		}
	}
}

func TestJoinWithWrongClockSaysSo(t *testing.T) {
	past := time.Now().AddDate(-20, 0, 0)
	ca := must(CreateCA(testCluster, "demo", past))
	certPEM, _ := issue(t, ca, "n1", past)
	chain := []*x509.Certificate{must(ParseCertificate(certPEM)), ca.Certificate}
	err := verifyMember(chain, FingerprintOf(ca.Certificate))
	if err == nil || !strings.Contains(err.Error(), "check this machine's clock") || errors.Is(err, ErrNotTheCluster) {
		t.Errorf("got %v, want advice about the clock", err)
	}
}

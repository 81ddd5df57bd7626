package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
)

const testCluster = cluster.ClusterID("6f1d2c3b4a5968778695a4b3c2d1e0ff")

// must returns v, or ends the test binary: for steps that are not under test.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// issue makes a node's key and certificate.
func issue(t *testing.T, ca *CA, node cluster.NodeName, now time.Time, addresses ...string) (cert, key []byte) {
	t.Helper()
	key, csr, err := NewKeyAndCSR(node)
	if err != nil {
		t.Fatal(err)
	}
	return must(ca.IssueNode(node, addresses, csr, now)), key
}

func TestAuthorityOutlivesWrongClocks(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ca := must(CreateCA(testCluster, "demo", now))
	c := ca.Certificate
	if !c.IsCA || c.MaxPathLen != 0 || !c.MaxPathLenZero {
		t.Errorf("IsCA %v, MaxPathLen %d: want an authority that signs no other", c.IsCA, c.MaxPathLen)
	}
	if want := now.Add(-24 * time.Hour); !c.NotBefore.Equal(want) {
		t.Errorf("not before %s, want %s", c.NotBefore, want)
	}
	if want := now.Add(3650 * 24 * time.Hour); !c.NotAfter.Equal(want) {
		t.Errorf("not after %s, want %s", c.NotAfter, want)
	}
	if diff := cmp.Diff([]string{string(testCluster)}, c.Subject.Organization); diff != "" {
		t.Error(diff)
	}
}

func TestNodeCertificateNamesNodeClusterAndAddresses(t *testing.T) {
	now := time.Now()
	ca := must(CreateCA(testCluster, "demo", now))
	certPEM, _ := issue(t, ca, "n1", now, "10.0.0.1", "fd00::1", "n1.example")
	c := must(ParseCertificate(certPEM))
	if c.Subject.CommonName != "n1" || c.Subject.Organization[0] != string(testCluster) {
		t.Errorf("subject is %s", c.Subject)
	}
	if diff := cmp.Diff([]string{"n1", "n1.example"}, c.DNSNames); diff != "" {
		t.Error(diff)
	}
	want := []net.IP{net.ParseIP("10.0.0.1").To4(), net.ParseIP("fd00::1")}
	if diff := cmp.Diff(want, c.IPAddresses); diff != "" {
		t.Error(diff)
	}
	uses := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if diff := cmp.Diff(uses, c.ExtKeyUsage); diff != "" {
		t.Error(diff)
	}
	if !c.NotAfter.Equal(ca.Certificate.NotAfter) {
		t.Errorf("ends %s, want together with the authority, %s", c.NotAfter, ca.Certificate.NotAfter)
	}
	if err := c.CheckSignatureFrom(ca.Certificate); err != nil {
		t.Error(err)
	}
}

// What the request says of names counts for nothing: the token does.
func TestRequestCannotChooseItsName(t *testing.T) {
	ca := must(CreateCA(testCluster, "demo", time.Now()))
	_, csr, err := NewKeyAndCSR("evil")
	if err != nil {
		t.Fatal(err)
	}
	c := must(ParseCertificate(must(ca.IssueNode("n2", nil, csr, time.Now()))))
	if c.Subject.CommonName != "n2" {
		t.Errorf("got the name %q, want n2", c.Subject.CommonName)
	}
}

func TestIssueRefusesBadRequests(t *testing.T) {
	ca := must(CreateCA(testCluster, "demo", time.Now()))
	_, csr, err := NewKeyAndCSR("n1")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(csr)
	block.Bytes[len(block.Bytes)-1] ^= 1
	forged := pem.EncodeToMemory(block)
	weak := must(rsa.GenerateKey(rand.Reader, 2048))
	other := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak))
	for name, c := range map[string]struct {
		node      cluster.NodeName
		addresses []string
		csr       []byte
		want      string
	}{
		"bad node name":     {"-", nil, csr, `name "-"`},
		"bad address":       {"n1", []string{"a b"}, csr, `address "a b": want an IP address or a host name`},
		"long address":      {"n1", []string{strings.Repeat("a.", 200)}, csr, "address of 400 bytes"},
		"too many":          {"n1", make([]string, 17), csr, "17 addresses, at most 16"},
		"no request":        {"n1", nil, []byte("hello"), "want one CERTIFICATE REQUEST"},
		"two requests":      {"n1", nil, append(bytes.Clone(csr), csr...), "want one CERTIFICATE REQUEST"},
		"huge request":      {"n1", nil, make([]byte, fileLimitBytes+1), "at most 65536"},
		"forged signature":  {"n1", nil, forged, "not signed with its own key"},
		"another key kind":  {"n1", nil, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: other}), "want ECDSA P-256"},
		"garbage in PEM":    {"n1", nil, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1}}), "read the certificate request"},
		"certificate given": {"n1", nil, ca.CertPEM, "want one CERTIFICATE REQUEST"},
	} {
		_, err := ca.IssueNode(c.node, c.addresses, c.csr, time.Now())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestExpiryIsAnnounced(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ca := must(CreateCA(testCluster, "demo", now))
	end := ca.Certificate.NotAfter
	for _, c := range []struct {
		left time.Duration
		want Urgency
		text string
	}{
		{90*day + time.Second, UrgencyNone, ""},
		{90 * day, UrgencyWarn, "expires in 90 days, on 2035-12-30"},
		{30*day + time.Second, UrgencyWarn, "expires in 30 days"},
		{30 * day, UrgencyAlarm, "expires in 30 days"},
		{0, UrgencyAlarm, "expired on 2035-12-30"},
		{-day, UrgencyAlarm, "expired on 2035-12-30"},
	} {
		at := end.Add(-c.left)
		if got := Expiry(ca.Certificate, at); got != c.left {
			t.Errorf("Expiry is %s, want %s", got, c.left)
		}
		got, text := Warn(ca.Certificate, at)
		if got != c.want || !strings.Contains(text, c.text) || (c.text == "") != (text == "") {
			t.Errorf("%s left: got %v %q, want %v %q", c.left, got, text, c.want, c.text)
		}
	}
}

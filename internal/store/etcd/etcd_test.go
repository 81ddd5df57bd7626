package etcd_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/store/etcd"
)

// hang bounds what a test waits for; nothing measures it.
const hang = 30 * time.Second

// authority is a CA that lives for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key))(t)
	a := authority{cert: must(x509.ParseCertificate(der))(t), key: key}
	a.file = writePEM(t, "CERTIFICATE", der)
	return a
}

// issue returns the files of a certificate for a name and an address.
func (a authority) issue(t testing.TB, name string, ip net.IP) (certFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{ip}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key))(t)
	keyDER := must(x509.MarshalECPrivateKey(key))(t)
	return writePEM(t, "CERTIFICATE", der), writePEM(t, "EC PRIVATE KEY", keyDER)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
}

func writePEM(t testing.TB, kind string, der []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// plan is the configurations of a cluster's voters.
type plan struct {
	testing.TB
	ca      authority
	configs map[string]etcd.Config
	started []*etcd.Server
}

// newPlan makes configurations for voters on ports that are free now.
func newPlan(t testing.TB, names ...string) *plan {
	t.Helper()
	p := &plan{TB: t, ca: newAuthority(t), configs: map[string]etcd.Config{}}
	t.Cleanup(func() { p.close(p.started...) })
	all := map[string]string{}
	for _, name := range names {
		p.configs[name] = p.config(name)
		all[name] = etcd.PeerURL(p.configs[name].Address, p.configs[name].PeerPort)
	}
	for name, c := range p.configs {
		c.InitialCluster = all
		p.configs[name] = c
	}
	return p
}

// config makes the configuration of one voter that begins a cluster alone.
func (p *plan) config(name string) etcd.Config {
	p.Helper()
	// A loopback address of this process keeps other tests' ports away.
	ip := net.IPv4(127, 77, byte(os.Getpid()>>8), byte(os.Getpid()))
	l := must(net.Listen("tcp", net.JoinHostPort(ip.String(), "0")))(p)
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	cert, key := p.ca.issue(p, name, ip)
	return etcd.Config{
		Name: name, DataDir: filepath.Join(p.TempDir(), "store"), Address: ip.String(), PeerPort: port,
		InitialCluster: map[string]string{name: etcd.PeerURL(ip.String(), port)},
		New:            true, Token: "test-cluster",
		CertFile: cert, KeyFile: key, CAFile: p.ca.file,
		Logger:  slog.New(slog.NewTextHandler(p.Output(), nil)).With("voter", name),
		OnFatal: func(err error) { panic("etcd called for the end: " + err.Error()) },
	}
}

// start starts a voter; the test's end closes it.
func (p *plan) start(name string) *etcd.Server {
	p.Helper()
	s, err := etcd.Start(p.Context(), p.configs[name])
	if err != nil {
		p.Fatalf("start %s: %v", name, err)
	}
	p.started = append(p.started, s)
	return s
}

// close closes voters at once, since each takes up to a second.
func (p *plan) close(voters ...*etcd.Server) {
	p.Helper()
	var closing sync.WaitGroup
	for _, s := range voters {
		closing.Go(func() {
			if err := s.Close(); err != nil {
				p.Errorf("close: %v", err)
			}
		})
	}
	closing.Wait()
}

// startAll starts every voter of the plan and waits until all are ready.
func (p *plan) startAll() map[string]*etcd.Server {
	p.Helper()
	voters := map[string]*etcd.Server{}
	for name := range p.configs {
		voters[name] = p.start(name)
	}
	for _, s := range voters {
		p.ready(s)
	}
	return voters
}

func (p *plan) ready(s *etcd.Server) {
	p.Helper()
	select {
	case <-s.Ready():
	case <-time.After(hang):
		p.Fatal("voter did not become ready")
	}
}

// write commits until it succeeds.
func (p *plan) write(s *etcd.Server, key, value string) cluster.Revision {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), hang)
	defer cancel()
	for {
		rev, err := s.Commit(ctx, put(key, value))
		if err == nil {
			return rev
		}
		if ctx.Err() != nil {
			p.Fatalf("commit: %v", err)
		}
	}
}

// want compares all records of the store with "key=value ...".
func (p *plan) want(s *etcd.Server, want string) {
	p.Helper()
	kvs, _, err := s.Load(p.Context(), "")
	if err != nil {
		p.Fatal(err)
	}
	var parts []string
	for _, kv := range kvs {
		parts = append(parts, fmt.Sprintf("%s=%s", kv.Key, kv.Value))
	}
	if got := strings.Join(parts, " "); got != want {
		p.Errorf("store holds %q, want %q", got, want)
	}
}

// leader returns the raft leader's name as s knows it, once it knows one.
func (p *plan) leader(s *etcd.Server) string {
	p.Helper()
	for deadline := time.Now().Add(hang); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if name, _, ok := s.Leader(); ok {
			return name
		}
	}
	p.Fatal("no leader")
	return ""
}

func put(key, value string) store.Tx {
	return store.Tx{Writes: []cluster.Write{{Key: key, Value: []byte(value)}}}
}

package server

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"testing"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor/mem"
)

func limited(t *testing.T, limits Limits) *rig {
	r := &rig{t: t, dir: filepath.Join(t.TempDir(), "host"), ca: newAuthority(t), driver: mem.New(boots1)}
	must(t, Init(r.dir, "h1", "127.0.0.1:0"))
	must(t, Allow(r.dir, ClusterGrant{Cluster: alpha, CA: r.ca.pem(), Guests: []cluster.GuestID{g1}}))
	server, err := New(Config{Dir: r.dir, Driver: r.driver, Log: quiet, Limits: limits})
	must(t, err)
	r.server = server
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- server.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-ran) })
	return r
}

// A handshake that stalls gives way to one that does not.
func TestStalledHandshakesGiveWay(t *testing.T) {
	r := limited(t, Limits{Handshakes: 4})
	for range 20 {
		conn, err := net.Dial("tcp", r.server.Addr().String())
		must(t, err)
		defer conn.Close()
	}
	if _, err := r.client().Host(context.Background()); err != nil {
		t.Error(err)
	}
	r.server.gate.mu.Lock()
	defer r.server.gate.mu.Unlock()
	if n := r.server.gate.shaking.Len(); n > 4 {
		t.Errorf("%d handshakes are open, at most 4 are allowed", n)
	}
}

func TestConnectionsOfAClusterAreBounded(t *testing.T) {
	r := limited(t, Limits{Cluster: 2})
	cert := r.ca.node(t)
	open := func() (*tls.Conn, error) {
		conn, err := tls.Dial("tcp", r.server.Addr().String(), &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		if _, err := conn.Write([]byte("GET /v1/host HTTP/1.1\r\nHost: h\r\n\r\n")); err != nil {
			return conn, err
		}
		_, err = conn.Read(make([]byte, 1))
		return conn, err
	}
	first, err := open()
	must(t, err)
	_, err = open()
	must(t, err)
	if _, err := open(); err == nil {
		t.Fatal("a third connection is served")
	}
	must(t, first.Close())
	for { // until hostd has noticed
		if _, err := open(); err == nil {
			break
		}
	}
}

func TestAPortThatCannotBeHadIsNamed(t *testing.T) {
	taken, err := listenTCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct{ address, want string }{
		{taken.Addr().String(), "hostd cannot listen on " + taken.Addr().String() + ": the port is in use; stop the other program (another hostd?)"},
		{"192.0.2.1:7411", "hostd cannot listen on 192.0.2.1:7411: this machine has no such address; make the host directory anew with `ringfence hostd init --address`"},
	} {
		if ln, err := listenTCP(t.Context(), c.address); err == nil || err.Error() != c.want {
			t.Errorf("listen on %s: %v, %v; want %s", c.address, ln, err, c.want)
		}
	}
}

package libvirt_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"ringfence/internal/libvirt"
	"ringfence/internal/libvirt/libvirtlab"
	"ringfence/internal/libvirt/libvirttest"
)

// authority signs certificates into a directory as pkipath wants it.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	raw, err := x509.CreateCertificate(rand.Reader, authorityTemplate(), authorityTemplate(), &key.PublicKey, key)
	ok(t, err)
	cert, err := x509.ParseCertificate(raw)
	ok(t, err)
	return authority{cert, key}
}

func authorityTemplate() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}

// issue writes a certificate for 127.0.0.1, its key, and the authority's own.
func (a authority) issue(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	raw, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, // libvirt insists on both
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.cert, &key.PublicKey, a.key)
	ok(t, err)
	secret, err := x509.MarshalECPrivateKey(key)
	ok(t, err)
	for file, block := range map[string]pem.Block{
		"cacert.pem": {Type: "CERTIFICATE", Bytes: a.cert.Raw}, name + "cert.pem": {Type: "CERTIFICATE", Bytes: raw},
		name + "key.pem": {Type: "EC PRIVATE KEY", Bytes: secret},
	} {
		ok(t, os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(&block), 0o600))
	}
}

// says checks that the host answers a session.
func says(t *testing.T, uri, host string, o libvirt.Options) {
	t.Helper()
	s := openReal(t, uri, o)
	if name, err := s.Hostname(t.Context()); err != nil || name != host {
		t.Errorf("%s: host name %q, %v", uri, name, err)
	}
}

// refuses checks that a session does not come to be, and why.
func refuses(t *testing.T, uri, why string, o libvirt.Options) {
	t.Helper()
	s, err := libvirt.Open(t.Context(), parsed(t, uri), o)
	if err == nil {
		s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%s: %v, want: %s", uri, err, why)
	}
}

func TestTransportsToARealLibvirtd(t *testing.T) {
	pki, good, other := t.TempDir(), newAuthority(t), newAuthority(t)
	server, client, stranger := filepath.Join(pki, "s"), filepath.Join(pki, "c"), filepath.Join(pki, "x")
	good.issue(t, server, "server")
	good.issue(t, client, "client")
	other.issue(t, stranger, "client")
	file := func(name string) string { return `"` + filepath.Join(server, name) + `"` }
	h := libvirtlab.StartWith(t, "far", libvirtlab.Options{Listen: true, Config: map[string]string{
		"listen_tls": "1", "listen_tcp": "1", "auth_tcp": `"none"`, "auth_tls": `"none"`,
		"ca_file": file("cacert.pem"), "cert_file": file("servercert.pem"), "key_file": file("serverkey.pem"),
	}})
	o := libvirt.Options{Dial: h.Dial}
	says(t, "qemu+tcp://127.0.0.1/system", "far", o)
	says(t, "qemu+tcp://127.0.0.1:16509/system", "far", o)
	says(t, "qemu+tls://127.0.0.1/system?pkipath="+client, "far", o)
	refuses(t, "qemu+tls://127.0.0.1/system", "pkipath", o)
	refuses(t, "qemu+tls://127.0.0.1/system?pkipath="+stranger, "certificate", o)
	refuses(t, "qemu+tls://127.0.0.1/system?no_verify=1&pkipath="+stranger, "refuses the client certificate", o)
	refuses(t, "qemu+tls://127.0.0.2/system?pkipath="+client, "127.0.0.2", o)
	refuses(t, "qemu+tls://127.0.0.1:16509/system?pkipath="+client, "TLS", o)
	refuses(t, "qemu+tcp://127.0.0.1:1/system", "connection refused", o)
	refuses(t, "qemu+unix:///system?socket="+h.Path("none"), "is libvirtd, or virtqemud, started?", libvirt.Options{})
	t.Run("ssh", func(t *testing.T) { testSSH(t, h) })
}

// testSSH runs a script in ssh's place: it drops the options and runs the command
// on the host, where the real virt-ssh-helper is.
func testSSH(t *testing.T, h *libvirtlab.Host) {
	ssh := func(script string) {
		dir := t.TempDir()
		ok(t, os.WriteFile(filepath.Join(dir, "ssh"), []byte("#!/bin/sh\n"+script), 0o755))
		t.Setenv("PATH", dir+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	ssh(fmt.Sprintf("while [ \"$1\" != -- ]; do shift; done\nexec nsenter -t %d -m -n -u -p -- sh -c \"$3\"\n", h.PID()))
	says(t, "qemu+ssh://far/system", "far", libvirt.Options{})
	says(t, "test+ssh://me@far:22/default", "far", libvirt.Options{})
	ssh("echo 'ssh: connect to host far port 22: Connection refused' >&2\nexit 255\n")
	refuses(t, "qemu+ssh://far/system", "ssh says: ssh: connect to host far port 22: Connection refused", libvirt.Options{})
	ssh("exec sleep 1000\n")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	if _, err := libvirt.Open(ctx, parsed(t, "qemu+ssh://far/system"), libvirt.Options{}); err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("an ssh that says nothing: %v after %v", err, time.Since(began))
	}
}

// A libvirtd that wants more than a transport says so for real.
func TestARealLibvirtdThatWantsMore(t *testing.T) {
	t.Parallel()
	h := libvirtlab.StartWith(t, "strict", libvirtlab.Options{Listen: true, Config: map[string]string{
		"listen_tls": "0", "listen_tcp": "1", "auth_tcp": `"sasl"`, "auth_unix_rw": `"polkit"`,
	}})
	refuses(t, "qemu+tcp://127.0.0.1/system", "SASL", libvirt.Options{Dial: h.Dial})
	says(t, h.URI("qemu", "/system"), "strict", libvirt.Options{}) // root is not asked
	refuses(t, h.URI("qemu", "/system"), "run as root", libvirt.Options{Dial: asNobody})
}

// asNobody connects as another user: the kernel notes who a thread is.
func asNobody(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		const nobody, same = 65534, ^uintptr(0)
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, same, nobody, same); errno != 0 {
			done <- result{nil, errno}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// The socket that exists first may be one that nobody listens on any more.
func TestTheNextSocketIsTriedWhenOneIsDead(t *testing.T) {
	fake := libvirttest.New(t)
	var tried []string
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		tried = append(tried, address)
		if len(tried) < 3 {
			return nil, syscall.ECONNREFUSED
		}
		return fake.Dial(ctx, network, address)
	}
	s, err := libvirt.Open(t.Context(), parsed(t, "qemu:///system"), libvirt.Options{Dial: dial})
	ok(t, err)
	s.Close()
	if len(tried) != 3 || tried[0] != "/run/libvirt/virtqemud-sock" || tried[2] != "/run/libvirt/libvirt-sock" {
		t.Errorf("tried %v", tried)
	}
}

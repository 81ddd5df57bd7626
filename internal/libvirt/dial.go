package libvirt

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The ports of libvirtd.
const (
	portTCP = 16509
	portTLS = 16514
)

// dial makes the connection that the URI asks for.
func dial(ctx context.Context, u URI, o Options) (net.Conn, error) {
	switch u.Transport {
	case TransportUnix:
		return dialUnix(ctx, u, o)
	case TransportTCP:
		return o.Dial(ctx, "tcp", u.address(portTCP))
	case TransportTLS:
		return dialTLS(ctx, u, o)
	case TransportSSH:
		return dialSSH(ctx, u)
	}
	return nil, fmt.Errorf("no transport %q: ParseURI has not made this URI", u.Transport)
}

func (u URI) address(port uint16) string {
	if u.Port != 0 {
		port = u.Port
	}
	return net.JoinHostPort(u.Host, strconv.Itoa(int(port)))
}

// dialUnix tries the sockets one after the other: that one exists does not mean
// that its daemon runs.
func dialUnix(ctx context.Context, u URI, o Options) (net.Conn, error) {
	var errs []error
	for _, path := range u.sockets(os.Geteuid(), os.Getenv) {
		conn, err := o.Dial(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("is libvirtd, or virt%sd, started? %w", u.Driver, errors.Join(errs...))
}

// sockets returns where a daemon on this machine may listen: that of the driver
// first, then libvirtd.
func (u URI) sockets(euid int, env func(string) string) []string {
	if u.Socket != "" {
		return []string{u.Socket}
	}
	dirs := []string{"/run/libvirt", "/var/run/libvirt"}
	if u.Path == "/session" || u.Driver == "test" && euid != 0 {
		dirs = []string{userDir(env)}
	}
	names := []string{"libvirt-sock"}
	switch u.Driver {
	case "qemu":
		names = []string{"virtqemud-sock", "libvirt-sock"}
	case "xen":
		names = []string{"virtxend-sock", "libvirt-sock"}
	}
	var list []string
	for _, name := range names {
		for _, dir := range dirs {
			list = append(list, filepath.Join(dir, name))
		}
	}
	return list
}

func userDir(env func(string) string) string {
	if dir := env("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "libvirt")
	}
	if dir := env("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "libvirt")
	}
	return filepath.Join(env("HOME"), ".cache", "libvirt")
}

// accepted is the byte that libvirtd sends when it likes the client's certificate.
const accepted = 1

func dialTLS(ctx context.Context, u URI, o Options) (net.Conn, error) {
	config, err := u.tlsConfig()
	if err != nil {
		return nil, err
	}
	raw, err := o.Dial(ctx, "tcp", u.address(portTLS))
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	if err = conn.HandshakeContext(ctx); err == nil {
		err = verdict(conn)
	}
	if !stop() {
		err = errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS with %s: %w", raw.RemoteAddr(), err)
	}
	return conn, nil
}

// verdict reads what libvirtd thinks of the client's certificate.
func verdict(conn io.Reader) error {
	var b [1]byte
	_, err := io.ReadFull(conn, b[:])
	if err == nil && b[0] == accepted {
		return nil
	}
	return fmt.Errorf("libvirtd refuses the client certificate: has its authority signed it, "+
		"does tls_allowed_dn_list in libvirtd.conf allow it? (%w)", cmp.Or(err, fmt.Errorf("it answers %d", b[0])))
}

// tlsConfig reads the certificates from where libvirt's own clients have them.
func (u URI) tlsConfig() (*tls.Config, error) {
	ca, cert, key := "/etc/pki/CA/cacert.pem", "/etc/pki/libvirt/clientcert.pem", "/etc/pki/libvirt/private/clientkey.pem"
	if dir := u.PKIPath; dir != "" {
		ca, cert, key = filepath.Join(dir, "cacert.pem"), filepath.Join(dir, "clientcert.pem"), filepath.Join(dir, "clientkey.pem")
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Host, InsecureSkipVerify: u.NoVerify}
	if !u.NoVerify {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("certificate of the authority (parameter pkipath names its directory): %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificate of the authority: no certificate in %s", ca)
		}
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	switch {
	case errors.Is(err, fs.ErrNotExist): // libvirtd decides whether it wants one
	case err != nil:
		return nil, fmt.Errorf("client certificate %s with key %s: %w", cert, key, err)
	default:
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// shellQuote makes one word of s for the shell on the far side of ssh.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

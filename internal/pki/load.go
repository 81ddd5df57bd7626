package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"ringfence/internal/cluster"
)

// fileLimitBytes bounds every file and request that is read.
const fileLimitBytes = 64 << 10

// Credentials are what a node shows to others and checks them by.
type Credentials struct {
	CA   *x509.Certificate
	Node *x509.Certificate
	key  crypto.Signer
}

// LoadCredentials reads and checks a node's certificate, its key and the
// certificate of the cluster's authority. Each error names the file.
func LoadCredentials(caFile, certFile, keyFile string, now time.Time) (*Credentials, error) {
	ca, err := loadAuthority(caFile, now)
	if err != nil {
		return nil, err
	}
	node, err := loadCertificate(certFile, now)
	if err != nil {
		return nil, err
	}
	if err := node.CheckSignatureFrom(ca); err != nil {
		return nil, fmt.Errorf("certificate %s is not signed by the authority in %s: %w", certFile, caFile, err)
	}
	key, _, err := loadKey(keyFile, node, certFile)
	if err != nil {
		return nil, err
	}
	return &Credentials{CA: ca, Node: node, key: key}, nil
}

// LoadCA reads and checks the cluster's authority with its key.
func LoadCA(certFile, keyFile string, now time.Time) (*CA, error) {
	certificate, err := loadAuthority(certFile, now)
	if err != nil {
		return nil, err
	}
	key, keyPEM, err := loadKey(keyFile, certificate, certFile)
	if err != nil {
		return nil, err
	}
	return &CA{Certificate: certificate, CertPEM: certPEM(certificate.Raw), KeyPEM: keyPEM, key: key}, nil
}

func loadAuthority(file string, now time.Time) (*x509.Certificate, error) {
	certificate, err := loadCertificate(file, now)
	if err != nil {
		return nil, err
	}
	if !certificate.IsCA || certificate.CheckSignatureFrom(certificate) != nil {
		return nil, fmt.Errorf("certificate %s is not that of a cluster's authority", file)
	}
	return certificate, nil
}

func loadCertificate(file string, now time.Time) (*x509.Certificate, error) {
	data, err := readFile(file, false)
	if err != nil {
		return nil, err
	}
	certificate, err := ParseCertificate(data)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", file, err)
	}
	const form = "2006-01-02 15:04 MST"
	if now.Before(certificate.NotBefore) {
		return nil, fmt.Errorf("certificate %s is not valid before %s, and this machine's clock says %s: correct the clock",
			file, certificate.NotBefore.UTC().Format(form), now.UTC().Format(form))
	}
	if now.After(certificate.NotAfter) {
		return nil, fmt.Errorf("certificate %s expired on %s, and this machine's clock says %s: correct the clock, or issue it anew",
			file, certificate.NotAfter.UTC().Format(form), now.UTC().Format(form))
	}
	return certificate, nil
}

// ParseCertificate reads exactly one certificate in PEM.
func ParseCertificate(data []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) != 0 {
		return nil, errors.New("want one CERTIFICATE in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

func loadKey(file string, certificate *x509.Certificate, certFile string) (crypto.Signer, []byte, error) {
	data, err := readFile(file, true)
	if err != nil {
		return nil, nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) != 0 {
		return nil, nil, fmt.Errorf("key %s: want one PRIVATE KEY in PEM", file)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("key %s: %w", file, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("key %s is of another kind: want ECDSA P-256", file)
	}
	if !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, nil, fmt.Errorf("key %s does not belong to certificate %s", file, certFile)
	}
	return key, data, nil
}

// readFile reads a whole small file; a secret one must be closed to others.
func readFile(file string, secret bool) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a fifo must not hold us
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing; bring it back from a backup, or remove the node and join again", file)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", file)
	}
	if mode := info.Mode().Perm(); secret && mode&0o077 != 0 {
		return nil, fmt.Errorf("%s: mode %04o lets others read it; run: chmod 600 %s", file, mode, file)
	}
	data, err := io.ReadAll(io.LimitReader(f, fileLimitBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(data) > fileLimitBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, fileLimitBytes)
	}
	return data, nil
}

// belongsTo checks that the credentials are those of one node of one cluster.
func (c *Credentials) belongsTo(node cluster.NodeName, id cluster.ClusterID, certFile string) error {
	if c.Node.Subject.CommonName != string(node) {
		return fmt.Errorf("certificate %s is that of node %q, not of %q", certFile, c.Node.Subject.CommonName, node)
	}
	if o := c.Node.Subject.Organization; len(o) != 1 || o[0] != string(id) {
		return fmt.Errorf("certificate %s is of cluster %q, not of %q", certFile, o, id)
	}
	return nil
}

// certificate returns what is shown in a handshake: the node's certificate, and
// the authority's, which a joining node compares with its token.
func (c *Credentials) certificate() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.Node.Raw, c.CA.Raw}, PrivateKey: c.key, Leaf: c.Node}
}

// Package pki is the cluster's own certificate authority, the certificates and
// TLS settings of its nodes, join tokens, and the data directory of a node that
// holds all of them. `ringfence init`, `join` and `node run` are its callers.
//
// The invariant: a private key is never written where others could read it and
// never loaded from where they can; and nothing is trusted but certificates of
// this cluster's own authority, over TLS 1.3.
//
// Beats do not depend on it: they have a key of their own, so that a wrong
// clock or an expired certificate cannot make a node look dead.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"time"

	"ringfence/internal/cluster"
)

const (
	// Validity is how long an authority and the certificates of its nodes are
	// valid. A node's certificate lasts as long as the authority, because
	// nothing renews certificates yet, and a cluster whose certificates all run
	// out on one day fails on one day. Shorter would buy nothing: who may take
	// part is decided by the node's record in the store, not by an expiry date.
	Validity = 10 * 365 * 24 * time.Hour
	// Backdate is how far validity reaches into the past: clocks of guests may
	// be wrong by a time zone, and more after a restore.
	Backdate = 24 * time.Hour

	serialBits = 127
)

// CA is the authority of one cluster.
type CA struct {
	Certificate *x509.Certificate
	CertPEM     []byte
	KeyPEM      []byte // secret
	key         crypto.Signer
}

// Fingerprint is the SHA-256 of a certificate.
type Fingerprint [sha256.Size]byte

// String returns the fingerprint in hex, as `openssl x509 -fingerprint` prints
// it but for colons and case.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// FingerprintOf returns the fingerprint of a certificate.
func FingerprintOf(c *x509.Certificate) Fingerprint { return sha256.Sum256(c.Raw) }

// CreateCA makes the authority of a new cluster.
func CreateCA(id cluster.ClusterID, name string, now time.Time) (*CA, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("create the cluster's authority: %w", err)
	}
	template, err := newTemplate(pkix.Name{CommonName: "Ringfence cluster " + name, Organization: []string{string(id)}},
		now.Add(-Backdate), now.Add(Validity))
	if err != nil {
		return nil, fmt.Errorf("create the cluster's authority: %w", err)
	}
	template.IsCA = true
	template.MaxPathLenZero = true // signs nodes, no further authorities
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("create the cluster's authority: %w", err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, fmt.Errorf("create the cluster's authority: %w", err)
	}
	return &CA{Certificate: certificate, CertPEM: certPEM(raw), KeyPEM: keyPEM, key: key}, nil
}

// NewKeyAndCSR makes a node's private key and the request (PEM) with which the
// node asks a member for its certificate. The key never leaves the node.
func NewKeyAndCSR(node cluster.NodeName) (keyPEM, csrPEM []byte, err error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, fmt.Errorf("create the key of node %s: %w", node, err)
	}
	request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(node)}}
	raw, err := x509.CreateCertificateRequest(rand.Reader, request, key)
	if err != nil {
		return nil, nil, fmt.Errorf("create the certificate request of node %s: %w", node, err)
	}
	return keyPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw}), nil
}

const (
	addressLimit       = 16 // names in one certificate
	hostNameLimitBytes = 253
)

// IssueNode signs the certificate (PEM) of a node. Of the request only the key
// and the proof that the sender holds it are taken: name and addresses are the
// caller's, who has checked the sender's token.
func (ca *CA) IssueNode(node cluster.NodeName, addresses []string, csrPEM []byte, now time.Time) ([]byte, error) {
	raw, err := ca.issueNode(node, addresses, csrPEM, now)
	if err != nil {
		return nil, fmt.Errorf("issue the certificate of node %.64s: %w", node, err)
	}
	return certPEM(raw), nil
}

func (ca *CA) issueNode(node cluster.NodeName, addresses []string, csrPEM []byte, now time.Time) ([]byte, error) {
	if err := cluster.CheckName(string(node)); err != nil {
		return nil, err
	}
	if len(addresses) > addressLimit {
		return nil, fmt.Errorf("%d addresses, at most %d are allowed", len(addresses), addressLimit)
	}
	public, err := requestKey(csrPEM)
	if err != nil {
		return nil, err
	}
	subject := pkix.Name{CommonName: string(node), Organization: ca.Certificate.Subject.Organization}
	template, err := newTemplate(subject, now.Add(-Backdate), ca.Certificate.NotAfter)
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames = []string{string(node)}
	for _, a := range addresses {
		if err := addAddress(template, a); err != nil {
			return nil, err
		}
	}
	return x509.CreateCertificate(rand.Reader, template, ca.Certificate, public, ca.key)
}

// addAddress puts an IP address or a host name among the names of a template.
func addAddress(template *x509.Certificate, address string) error {
	if ip, err := netip.ParseAddr(address); err == nil {
		template.IPAddresses = append(template.IPAddresses, ip.Unmap().WithZone("").AsSlice())
		return nil
	}
	if len(address) > hostNameLimitBytes {
		return fmt.Errorf("address of %d bytes: want an IP address or a host name", len(address))
	}
	for label := range strings.SplitSeq(address, ".") {
		if cluster.CheckName(label) != nil {
			return fmt.Errorf("address %q: want an IP address or a host name", address)
		}
	}
	template.DNSNames = append(template.DNSNames, address)
	return nil
}

// requestKey returns the public key of a request after checking its signature.
func requestKey(csrPEM []byte) (*ecdsa.PublicKey, error) {
	if len(csrPEM) > fileLimitBytes {
		return nil, fmt.Errorf("request of %d bytes, at most %d are allowed", len(csrPEM), fileLimitBytes)
	}
	block, rest := pem.Decode(csrPEM)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) != 0 {
		return nil, errors.New("want one CERTIFICATE REQUEST in PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the certificate request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request is not signed with its own key: %w", err)
	}
	public, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("certificate request holds another kind of key: want ECDSA P-256")
	}
	return public, nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func newTemplate(subject pkix.Name, from, to time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: subject,
		NotBefore: from, NotAfter: to, BasicConstraintsValid: true,
	}, nil
}

func certPEM(raw []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

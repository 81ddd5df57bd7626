package pki

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"ringfence/internal/cluster"
)

// ServerTLS returns the settings of a server that only members may talk to.
func (c *Credentials) ServerTLS() *tls.Config {
	config := c.JoinServerTLS()
	config.ClientAuth = tls.RequireAndVerifyClientCert
	return config
}

// JoinServerTLS returns the settings of the join listener. Nodes that join have
// no certificate yet; the token in the request is what admits them. Members show
// theirs, and PeerNode tells who they are.
func (c *Credentials) JoinServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.certificate()},
		ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: c.pool(),
	}
}

// ClientTLS returns the settings of a client that talks to members. The server
// must bear the dialled address or, when ServerName is set to it, the node name.
func (c *Credentials) ClientTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.certificate()}, RootCAs: c.pool()}
}

// Identity is the fingerprint of the node's public key: another one for each
// join, whatever certificates are issued for it.
func (c *Credentials) Identity() string {
	sum := sha256.Sum256(c.Node.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func (c *Credentials) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.CA)
	return pool
}

// PeerNode returns which node of the cluster is at the other end of a mutual
// TLS connection.
func PeerNode(state tls.ConnectionState) (cluster.NodeName, error) {
	if len(state.VerifiedChains) == 0 {
		return "", errors.New("the peer has not shown a certificate of this cluster")
	}
	node := state.PeerCertificates[0].Subject.CommonName
	if err := cluster.CheckName(node); err != nil {
		return "", fmt.Errorf("the peer's certificate: %w", err)
	}
	return cluster.NodeName(node), nil
}

// ErrNotTheCluster: the server is not a member of the cluster that the token
// is for.
var ErrNotTheCluster = errors.New("the server does not belong to the cluster of this token")

// JoinTLS returns the settings of a client that trusts exactly the authority
// whose fingerprint stands in the token. Any member may answer at the address
// that a person typed, so the server's name is not compared.
func JoinTLS(token Token) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Verification is not skipped: VerifyConnection does it, against an
		// authority that is only known by its fingerprint before the handshake.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			return verifyMember(state.PeerCertificates, token.Authority)
		},
	}
}

// verifyMember checks that chain begins with a server certificate issued by the
// authority with this fingerprint, which must be part of the chain.
func verifyMember(chain []*x509.Certificate, authority Fingerprint) error {
	if len(chain) == 0 {
		return ErrNotTheCluster
	}
	roots := x509.NewCertPool()
	found := false
	for _, c := range chain[1:] {
		if FingerprintOf(c) == authority {
			roots.AddCert(c)
			found = true
		}
	}
	if !found {
		return ErrNotTheCluster
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("check this machine's clock: %w", err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotTheCluster, err)
	}
	return nil
}

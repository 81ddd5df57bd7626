package server

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"ringfence/internal/cluster"
)

// Files of a host directory (mode 0700, every file 0600).
const (
	fileHost    = "host.json"   // name and address
	fileTLSKey  = "tls.key"     // of the native API
	fileTLSCert = "tls.crt"     // self-signed; clusters pin exactly this one
	fileSignKey = "signing.key" // Ed25519, signs certificates and bindings
	fileJournal = "journal"
	fileAudit   = "audit.log"
	dirClusters = "clusters" // one grant a file
)

const (
	// certificateLife is long: clusters pin the certificate, so nothing is won
	// by letting it end, and on that day no cluster could fence.
	certificateLife = 10 * 365 * 24 * time.Hour
	// certificateBackdate covers clocks that are behind this host's.
	certificateBackdate = 24 * time.Hour
	// configLimitBytes bounds every file that is read.
	configLimitBytes = 1 << 20
)

// hostFile is host.json.
type hostFile struct {
	Name    cluster.HostName `json:"name"`
	Address string           `json:"address"`
}

func (h hostFile) check() error {
	if err := cluster.CheckName(string(h.Name)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	host, port, err := net.SplitHostPort(h.Address)
	if err != nil || host == "" {
		return fmt.Errorf("address %.80q: want host:port as the nodes reach it, such as 192.0.2.7:7411", h.Address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		return fmt.Errorf("address %.80q: port %q is not a number up to 65535", h.Address, port)
	}
	return nil
}

// Init creates a host directory with fresh keys and a self-signed certificate
// for the address. It refuses a directory that exists: its keys and its
// journal are the identity and the memory of a host.
func Init(dir string, name cluster.HostName, address string) error {
	h := hostFile{Name: name, Address: address}
	if err := h.check(); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("%s exists already; it may hold the keys and the journal of a host: choose another directory", dir)
		}
		return fmt.Errorf("create host directory: %w", err)
	}
	if err := fill(dir, h, time.Now()); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

func fill(dir string, h hostFile, now time.Time) error {
	if err := os.Mkdir(filepath.Join(dir, dirClusters), 0o700); err != nil {
		return fmt.Errorf("create host directory: %w", err)
	}
	tlsKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("draw the TLS key: %w", err)
	}
	_, signKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("draw the signing key: %w", err)
	}
	cert, err := selfSigned(h, tlsKey, now)
	if err != nil {
		return fmt.Errorf("make the TLS certificate: %w", err)
	}
	about, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return err
	}
	tlsPEM, err := keyPEM(tlsKey)
	if err != nil {
		return err
	}
	signPEM, err := keyPEM(signKey)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	for name, data := range map[string][]byte{fileHost: append(about, '\n'), fileTLSKey: tlsPEM, fileTLSCert: certPEM, fileSignKey: signPEM} {
		if err := writeFile(filepath.Join(dir, name), data); err != nil {
			return err
		}
	}
	return nil
}

func keyPEM(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func selfSigned(h hostFile, key *ecdsa.PrivateKey, now time.Time) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: string(h.Name)},
		NotBefore: now.Add(-certificateBackdate), NotAfter: now.Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	host, _, err := net.SplitHostPort(h.Address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	return x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
}

// writeFile puts a private file in place, whole or not at all, durably.
func writeFile(path string, data []byte) error {
	temp := path + ".new"
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(temp)))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

package server

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/hostapi"
)

// Files is a host directory, read and found good.
type Files struct {
	Dir     string
	Name    cluster.HostName
	Address string
	// TLS is the certificate and key of the native API.
	TLS tls.Certificate
	// CertificatePEM is what clusters pin.
	CertificatePEM string
	// Key signs certificates and bindings.
	Key    ed25519.PrivateKey
	Grants *Grants
}

// Load reads a host directory. An error names the file and what to do.
func Load(dir string) (*Files, error) { return loadAt(dir, time.Now()) }

func loadAt(dir string, now time.Time) (*Files, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	f := &Files{Dir: dir}
	var host hostFile
	if err := readJSON(filepath.Join(dir, fileHost), &host); err != nil {
		return nil, err
	}
	if err := host.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, fileHost), err)
	}
	f.Name, f.Address = host.Name, host.Address
	if err := f.loadTLS(now); err != nil {
		return nil, err
	}
	if err := f.loadSigningKey(); err != nil {
		return nil, err
	}
	var err error
	f.Grants, err = loadGrants(filepath.Join(dir, dirClusters))
	return f, err
}

func (f *Files) loadTLS(now time.Time) error {
	certPath, keyPath := filepath.Join(f.Dir, fileTLSCert), filepath.Join(f.Dir, fileTLSKey)
	certPEM, err := readPrivate(certPath)
	if err != nil {
		return err
	}
	keyPEM, err := readPrivate(keyPath)
	if err != nil {
		return err
	}
	if f.TLS, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return fmt.Errorf("%s and %s: %w; restore both from a backup, or make a new host directory and enrol the host anew", certPath, keyPath, err)
	}
	if leaf := f.TLS.Leaf; now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return fmt.Errorf("%s is valid from %s to %s only; correct this host's clock, or make a new host directory and enrol the host anew", certPath, leaf.NotBefore.Format(time.DateOnly), leaf.NotAfter.Format(time.DateOnly))
	}
	f.CertificatePEM = string(certPEM)
	return nil
}

func (f *Files) loadSigningKey() error {
	path := filepath.Join(f.Dir, fileSignKey)
	data, err := readPrivate(path)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return fmt.Errorf("%s holds no PEM block; restore it from a backup, or make a new host directory and enrol the host anew", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("%s: %w; restore it from a backup, or make a new host directory and enrol the host anew", path, err)
	}
	signing, ok := key.(ed25519.PrivateKey)
	if !ok {
		return fmt.Errorf("%s holds a %T, want an Ed25519 key", path, key)
	}
	f.Key = signing
	return nil
}

// Public returns what a cluster is told of this host when it is enrolled.
func Public(dir string) (cluster.Host, error) {
	f, err := Load(dir)
	if err != nil {
		return cluster.Host{}, err
	}
	return f.Public(), nil
}

// Public returns what a cluster is told of this host when it is enrolled.
func (f *Files) Public() cluster.Host {
	return cluster.Host{
		Name: f.Name, Address: f.Address, Certificate: f.CertificatePEM,
		SigningKey: bytes.Clone(f.Key.Public().(ed25519.PublicKey)),
	}
}

func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if os.IsNotExist(err) {
		return fmt.Errorf("host directory %s does not exist; run: ringfence hostd init", dir)
	}
	if err != nil {
		return fmt.Errorf("host directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	return private(dir, info, 0o700)
}

func private(path string, info os.FileInfo, mode os.FileMode) error {
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is open to others (mode %04o); run: chmod %04o %s", path, info.Mode().Perm(), mode, path)
	}
	return nil
}

// readPrivate reads a small file that nobody else can read.
func readPrivate(path string) ([]byte, error) {
	file, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("%s is missing; restore it from a backup, or make a new host directory and enrol the host anew", path)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if err := private(path, info, 0o600); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(file, configLimitBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > configLimitBytes {
		return nil, fmt.Errorf("%s has more than %d bytes", path, configLimitBytes)
	}
	return data, nil
}

func readJSON(path string, to any) error {
	data, err := readPrivate(path)
	if err != nil {
		return err
	}
	if err := hostapi.Decode(bytes.NewReader(data), to); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

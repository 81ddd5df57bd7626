package server

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ringfence/internal/cluster"
)

const (
	// grantLimit bounds the clusters of one host.
	grantLimit = 256
	// guestLimit bounds the guests of one grant.
	guestLimit = 4096
)

// ClusterGrant says what one cluster may do on this host. An empty list of
// guests means none.
type ClusterGrant struct {
	Cluster cluster.ClusterID `json:"cluster"`
	// CA is the PEM of the cluster's certificate authority: who shows a
	// certificate of it speaks for the cluster.
	CA string `json:"ca"`
	// Guests are the guests that the cluster may ask about, turn off and on,
	// and claim.
	Guests []cluster.GuestID `json:"guests"`
}

// Allow writes the grant of one cluster into a host directory, in place of an
// earlier one. A running hostd takes it over with Reload.
func Allow(dir string, g ClusterGrant) error {
	if _, err := parseGrant(g); err != nil {
		return fmt.Errorf("grant of cluster %.70q: %w", g.Cluster, err)
	}
	if err := checkDir(dir); err != nil {
		return err
	}
	data, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, dirClusters, string(g.Cluster)+".json"), append(data, '\n'))
}

// Grants is what all clusters may do. It never changes; Reload makes another.
type Grants struct {
	byID map[cluster.ClusterID]*grant
}

type grant struct {
	pool   *x509.CertPool
	ca     *x509.Certificate
	guests map[cluster.GuestID]bool
}

func parseGrant(g ClusterGrant) (*grant, error) {
	if err := cluster.CheckName(string(g.Cluster)); err != nil {
		return nil, fmt.Errorf("cluster id: %w", err)
	}
	block, rest := pem.Decode([]byte(g.CA))
	if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("ca: want exactly one PEM certificate")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if !ca.IsCA {
		return nil, errors.New("ca: the certificate is no certificate authority")
	}
	if len(g.Guests) > guestLimit {
		return nil, fmt.Errorf("guests: %d, at most %d are allowed", len(g.Guests), guestLimit)
	}
	out := &grant{pool: x509.NewCertPool(), ca: ca, guests: map[cluster.GuestID]bool{}}
	out.pool.AddCert(ca)
	for _, id := range g.Guests {
		if err := cluster.CheckGuestID(id); err != nil {
			return nil, err
		}
		out.guests[id] = true
	}
	return out, nil
}

func loadGrants(dir string) (*Grants, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the grants: %w", err)
	}
	g := &Grants{byID: map[cluster.ClusterID]*grant{}}
	for _, file := range files {
		name, ok := strings.CutSuffix(file.Name(), ".json")
		if !ok {
			continue
		}
		if err := g.load(filepath.Join(dir, file.Name()), cluster.ClusterID(name)); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func (g *Grants) load(path string, id cluster.ClusterID) error {
	var on ClusterGrant
	if err := readJSON(path, &on); err != nil {
		return err
	}
	if on.Cluster != id {
		return fmt.Errorf("%s: it is the grant of cluster %.70q; the file must be named %.70s.json", path, on.Cluster, on.Cluster)
	}
	parsed, err := parseGrant(on)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for other, have := range g.byID {
		if have.ca.Equal(parsed.ca) {
			return fmt.Errorf("%s: cluster %s has the same ca; a certificate must tell whose it is", path, other)
		}
	}
	if len(g.byID) >= grantLimit {
		return fmt.Errorf("%s: more than %d clusters", path, grantLimit)
	}
	g.byID[id] = parsed
	return nil
}

// Allows reports whether a cluster may deal with a guest.
func (g *Grants) Allows(c cluster.ClusterID, id cluster.GuestID) bool {
	on := g.byID[c]
	return on != nil && on.guests[id]
}

// Clusters returns the clusters that may deal with a guest, in order.
func (g *Grants) Clusters(id cluster.GuestID) []cluster.ClusterID {
	var out []cluster.ClusterID
	for c, on := range g.byID {
		if on.guests[id] {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out
}

// identify returns the cluster whose authority signed a certificate.
func (g *Grants) identify(certs []*x509.Certificate) (cluster.ClusterID, error) {
	if len(certs) == 0 {
		return "", errors.New("the client shows no certificate")
	}
	opts := x509.VerifyOptions{Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	var found cluster.ClusterID
	var failed error
	for id, on := range g.byID {
		opts.Roots = on.pool
		if _, err := certs[0].Verify(opts); err != nil {
			failed = err
			continue
		}
		if found != "" {
			return "", fmt.Errorf("the certificate %q belongs to two clusters, %s and %s", certs[0].Subject.CommonName, found, id)
		}
		found = id
	}
	if found == "" {
		return "", fmt.Errorf("the certificate %q is of no cluster that this host allows: %w", certs[0].Subject.CommonName, failed)
	}
	return found, nil
}

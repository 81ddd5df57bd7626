package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd"
)

func newDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "host")
	must(t, Init(dir, "h1", "192.0.2.7:7411"))
	return dir
}

func TestAFreshDirectoryLoads(t *testing.T) {
	dir := newDir(t)
	f, err := Load(dir)
	must(t, err)
	if err := f.TLS.Leaf.VerifyHostname("192.0.2.7"); err != nil {
		t.Error(err)
	}
	public, err := Public(dir)
	must(t, err)
	if public.Name != "h1" || public.Address != "192.0.2.7:7411" || public.Certificate != f.CertificatePEM || !bytes.Equal(public.SigningKey, f.Key[32:]) {
		t.Errorf("public %+v", public)
	}
	if strings.Contains(public.Certificate, "PRIVATE") {
		t.Error("a private key is made public")
	}
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	}))
}

func TestInitRefuses(t *testing.T) {
	dir := newDir(t)
	if err := Init(dir, "h1", "192.0.2.7:7411"); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("an existing directory: %v", err)
	}
	for _, bad := range [][2]string{{"h/1", "a:1"}, {"h1", "nowhere"}, {"h1", ":7411"}, {"h1", "a:70000"}, {"h1", "a:http"}} {
		fresh := filepath.Join(t.TempDir(), "host")
		if err := Init(fresh, cluster.HostName(bad[0]), bad[1]); err == nil {
			t.Errorf("name %q, address %q: accepted", bad[0], bad[1])
		}
		if _, err := os.Stat(fresh); !os.IsNotExist(err) {
			t.Errorf("name %q, address %q: left something behind", bad[0], bad[1])
		}
	}
}

// One clear error with the file and what to do.
func TestLoadSaysWhatIsWrong(t *testing.T) {
	write := func(name, data string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600) }
	}
	for name, c := range map[string]struct {
		spoil func(dir string) error
		says  []string
	}{
		"no directory":            {os.RemoveAll, []string{"does not exist", "ringfence hostd init"}},
		"an open directory":       {func(dir string) error { return os.Chmod(dir, 0o755) }, []string{"run: chmod 0700"}},
		"a key others can read":   {func(dir string) error { return os.Chmod(filepath.Join(dir, fileTLSKey), 0o640) }, []string{fileTLSKey, "run: chmod 0600"}},
		"an open signing key":     {func(dir string) error { return os.Chmod(filepath.Join(dir, fileSignKey), 0o604) }, []string{fileSignKey, "run: chmod 0600"}},
		"no signing key":          {func(dir string) error { return os.Remove(filepath.Join(dir, fileSignKey)) }, []string{fileSignKey, "is missing", "backup"}},
		"no TLS certificate":      {func(dir string) error { return os.Remove(filepath.Join(dir, fileTLSCert)) }, []string{fileTLSCert, "is missing"}},
		"an empty TLS key":        {write(fileTLSKey, ""), []string{fileTLSKey, "backup"}},
		"an empty signing key":    {write(fileSignKey, ""), []string{fileSignKey, "no PEM block"}},
		"a wrong signing key":     {func(dir string) error { return copyFile(dir, fileTLSKey, fileSignKey) }, []string{fileSignKey, "want an Ed25519 key"}},
		"an unknown key of a":     {write(fileHost, `{"name":"h1","address":"a:1","adress":"b:1"}`), []string{fileHost, "adress"}},
		"a bad address":           {write(fileHost, `{"name":"h1","address":"a"}`), []string{fileHost, "want host:port"}},
		"a file that is too long": {write(fileHost, strings.Repeat(" ", configLimitBytes+1)), []string{fileHost, "more than"}},
		"a grant in a wrong file": {write("clusters/x.json", `{"cluster":"y","ca":"","guests":[]}`), []string{"x.json", "must be named y.json"}},
		"a grant without ca":      {write("clusters/x.json", `{"cluster":"x","ca":"","guests":[]}`), []string{"x.json", "want exactly one PEM certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			must(t, c.spoil(dir))
			_, err := Load(dir)
			for _, want := range c.says {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q", err, want)
				}
			}
		})
	}
	if _, err := loadAt(newDir(t), time.Now().Add(certificateLife+time.Hour)); err == nil || !strings.Contains(err.Error(), "is valid from") {
		t.Errorf("an expired certificate: %v", err)
	}
}

func copyFile(dir, from, to string) error {
	data, err := os.ReadFile(filepath.Join(dir, from))
	return errors.Join(err, os.WriteFile(filepath.Join(dir, to), data, 0o600))
}

func TestGrantsAreChecked(t *testing.T) {
	dir := newDir(t)
	ca := newAuthority(t)
	good := ClusterGrant{Cluster: alpha, CA: ca.pem(), Guests: []cluster.GuestID{g1}}
	must(t, Allow(dir, good))
	f, err := Load(dir)
	must(t, err)
	if !f.Grants.Allows(alpha, g1) || f.Grants.Allows(alpha, g2) || f.Grants.Allows(beta, g1) {
		t.Error("the grant does not say what was written")
	}
	for name, edit := range map[string]func(*ClusterGrant){
		"an id with a slash":  func(g *ClusterGrant) { g.Cluster = "../x" },
		"two certificates":    func(g *ClusterGrant) { g.CA += g.CA },
		"no certificate":      func(g *ClusterGrant) { g.CA = "x" },
		"a node's":            func(g *ClusterGrant) { g.CA = f.CertificatePEM },
		"a name for a guest":  func(g *ClusterGrant) { g.Guests = []cluster.GuestID{"db1"} },
		"too many guests":     func(g *ClusterGrant) { g.Guests = make([]cluster.GuestID, guestLimit+1) },
		"an upper-case guest": func(g *ClusterGrant) { g.Guests = []cluster.GuestID{"4F7C0C1E-9D2B-4A57-8F0E-3B1F2A6C7D10"} },
	} {
		g := good
		edit(&g)
		if err := Allow(dir, g); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	must(t, Allow(dir, ClusterGrant{Cluster: beta, CA: ca.pem()}))
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "has the same ca") {
		t.Errorf("two clusters with one authority: %v", err)
	}
}

// A grant that cannot be read does not take the others away.
func TestReloadKeepsTheOldGrantsOnAnError(t *testing.T) {
	r := newRig(t)
	must(t, os.WriteFile(filepath.Join(r.dir, dirClusters, "bad.json"), []byte("{"), 0o600))
	if err := r.server.Reload(); err == nil || !strings.Contains(err.Error(), "bad.json") {
		t.Errorf("error %v", err)
	}
	if !r.server.Allows(alpha, g1) {
		t.Error("the old grants are gone")
	}
}

func TestTheAuditLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	a, err := openAudit(path, quiet)
	must(t, err)
	a.limit = 2000
	for range 100 {
		a.write(hostd.AuditEntry{Action: "off", Detail: clip(strings.Repeat("x", 10000))})
	}
	must(t, a.file.Close())
	for _, name := range []string{path, path + ".1"} {
		data, err := os.ReadFile(name)
		must(t, err)
		if len(data) == 0 || len(data) > 2001 {
			t.Errorf("%s has %d bytes", name, len(data))
		}
		for line := range strings.Lines(string(data)) {
			if !json.Valid([]byte(line)) {
				t.Errorf("%s: line %q", name, line)
			}
		}
	}
}

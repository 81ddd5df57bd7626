package pki

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
)

func testIdentity() Identity {
	return Identity{
		Cluster: testCluster, Name: "demo", Incarnation: 1, Node: "n1", Address: "10.0.0.1",
		BeatPort: 7000, PeerPort: 7001, JoinPort: 7002,
		InitialCluster: map[string]string{"n1": "https://10.0.0.1:7001"},
	}
}

// testDir makes a data directory that is right.
func testDir(t *testing.T) (Dir, Contents) {
	t.Helper()
	now := time.Now()
	ca := must(CreateCA(testCluster, "demo", now))
	cert, key := issue(t, ca, "n1", now, "127.0.0.1")
	c := Contents{
		Identity: testIdentity(), CACert: ca.CertPEM, CAKey: ca.KeyPEM, NodeCert: cert, NodeKey: key,
		BeatKey: must(NewBeatKey(rand.Reader)),
	}
	return must(CreateDir(filepath.Join(t.TempDir(), "a", "data"), c)), c
}

func TestDirComesBackAsItWasCreated(t *testing.T) {
	d, c := testDir(t)
	got, err := Open(string(d), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.Identity, got.Identity); diff != "" {
		t.Error(diff)
	}
	if got.BeatKey != c.BeatKey {
		t.Error("the beat key changed")
	}
	if diff := cmp.Diff(string(c.CAKey), string(got.CA.KeyPEM)); diff != "" {
		t.Error(diff)
	}
	if got.Credentials.Node.Subject.CommonName != "n1" {
		t.Errorf("the certificate is that of %s", got.Credentials.Node.Subject)
	}
}

func TestReloadedAuthorityIssues(t *testing.T) {
	d, _ := testDir(t)
	data := must(Open(string(d), time.Now()))
	cert, _ := issue(t, data.CA, "n2", time.Now())
	if err := must(ParseCertificate(cert)).CheckSignatureFrom(data.Credentials.CA); err != nil {
		t.Error(err)
	}
}

func TestDirWithoutAuthorityKey(t *testing.T) {
	d, c := testDir(t)
	c.CAKey = nil
	joined := must(CreateDir(filepath.Join(t.TempDir(), "data"), c))
	if got := must(Open(string(joined), time.Now())); got.CA != nil {
		t.Error("an authority appeared from nowhere")
	}
	if _, err := os.Stat(joined.CAKey()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ca.key: %v, want it missing", err)
	}
	if got := must(Open(string(d), time.Now())); got.CA == nil {
		t.Error("the authority's key was not loaded")
	}
}

func TestSecretsAreClosedToOthers(t *testing.T) {
	d, _ := testDir(t)
	want := map[string]fs.FileMode{string(d): 0o700, d.CAKey(): 0o600, d.NodeKey(): 0o600, d.BeatKey(): 0o600, d.Store(1): 0o700}
	for path, mode := range want {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != mode {
			t.Errorf("%s has mode %04o, want %04o", path, got, mode)
		}
	}
	leftovers, err := filepath.Glob(filepath.Join(string(d), ".*"))
	if err != nil || len(leftovers) != 0 {
		t.Errorf("temporary files left: %v %v", leftovers, err)
	}
}

func TestCreateRefusesWhatIsThere(t *testing.T) {
	d, c := testDir(t)
	half := t.TempDir()
	if err := os.WriteFile(filepath.Join(half, "ca.crt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(half, "ca.crt")
	for name, k := range map[string]struct{ path, want string }{
		"a cluster":    {string(d), "already holds cluster demo (id " + string(testCluster) + "); use another --data or remove it"},
		"other files":  {half, "is not empty (it holds ca.crt)"},
		"a plain file": {file, "use " + file + " as data directory"},
	} {
		if _, err := CreateDir(k.path, c); err == nil || !strings.Contains(err.Error(), k.want) {
			t.Errorf("%s: got %v, want %q", name, err, k.want)
		}
	}
	if _, err := CreateDir(t.TempDir(), c); err != nil {
		t.Errorf("an empty directory is refused: %v", err)
	}
}

func TestFailedCreateIsNotTakenForComplete(t *testing.T) {
	_, c := testDir(t)
	c.Identity.BeatPort = 0
	path := filepath.Join(t.TempDir(), "data")
	if _, err := CreateDir(path, c); err == nil || !strings.Contains(err.Error(), "beat_port 0: want 1 to 65535") {
		t.Fatalf("got %v", err)
	}
	if err := CheckFree(path); err != nil {
		t.Errorf("a refused identity left something behind: %v", err)
	}
}

// Every fault of a data directory is one error that names the file.
func TestOpenSaysWhatIsWrong(t *testing.T) {
	other := must(CreateCA(testCluster, "other", time.Now()))
	otherCert, otherKey := issue(t, other, "n1", time.Now())
	past := time.Now().AddDate(-20, 0, 0)
	pastCA := must(CreateCA(testCluster, "demo", past))
	chmod := func(path func(Dir) string, mode fs.FileMode) func(*testing.T, Dir) {
		return func(t *testing.T, d Dir) {
			if err := os.Chmod(path(d), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(path func(Dir) string, data []byte) func(*testing.T, Dir) {
		return func(t *testing.T, d Dir) {
			if err := os.WriteFile(path(d), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(path func(Dir) string) func(*testing.T, Dir) {
		return func(t *testing.T, d Dir) {
			if err := os.Remove(path(d)); err != nil {
				t.Fatal(err)
			}
		}
	}
	identity := func(change func(*Identity)) func(*testing.T, Dir) {
		return func(t *testing.T, d Dir) {
			id := testIdentity()
			change(&id)
			if err := d.WriteIdentity(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		damage func(*testing.T, Dir)
		want   string // DIR stands for the directory
	}{
		{"key open to the group", chmod(Dir.NodeKey, 0o640), "DIR/node.key: mode 0640 lets others read it; run: chmod 600 DIR/node.key"},
		{"key open to all", chmod(Dir.CAKey, 0o644), "DIR/ca.key: mode 0644 lets others read it; run: chmod 600 DIR/ca.key"},
		{"beat key open", chmod(Dir.BeatKey, 0o604), "DIR/beat.key: mode 0604 lets others read it; run: chmod 600 DIR/beat.key"},
		{"key that others may write", chmod(Dir.NodeKey, 0o602), "DIR/node.key: mode 0602"},
		{"directory open", chmod(func(d Dir) string { return string(d) }, 0o777), "mode 0777 lets others change it; run: chmod 700 DIR"},
		{"no identity", remove(Dir.Identity), "it holds no cluster (cluster.json is missing)"},
		{"no node certificate", remove(Dir.NodeCert), "DIR/node.crt is missing"},
		{"no authority", remove(Dir.CACert), "DIR/ca.crt is missing"},
		{"no key", remove(Dir.NodeKey), "DIR/node.key is missing"},
		{"no beat key", remove(Dir.BeatKey), "DIR/beat.key is missing"},
		{"another node's key", write(Dir.NodeKey, otherKey), "key DIR/node.key does not belong to certificate DIR/node.crt"},
		{"another authority's key", write(Dir.CAKey, other.KeyPEM), "key DIR/ca.key does not belong to certificate DIR/ca.crt"},
		{"another authority's certificate", write(Dir.NodeCert, otherCert), "certificate DIR/node.crt is not signed by the authority in DIR/ca.crt"},
		{"no authority but a node", write(Dir.CACert, otherCert), "certificate DIR/ca.crt is not that of a cluster's authority"},
		{"expired", write(Dir.CACert, pastCA.CertPEM), "certificate DIR/ca.crt expired on " + pastCA.Certificate.NotAfter.UTC().Format(time.DateOnly)},
		{"garbage certificate", write(Dir.NodeCert, []byte("x")), "certificate DIR/node.crt: want one CERTIFICATE in PEM"},
		{"garbage key", write(Dir.NodeKey, []byte("x")), "key DIR/node.key: want one PRIVATE KEY in PEM"},
		{"garbage beat key", write(Dir.BeatKey, []byte("abc\n")), "DIR/beat.key: want 64 hex digits"},
		{"huge file", write(Dir.NodeCert, make([]byte, fileLimitBytes+1)), "DIR/node.crt is larger than 65536 bytes"},
		{"garbage identity", write(Dir.Identity, []byte("x")), "DIR/cluster.json: invalid character 'x'"},
		{"unknown key in identity", write(Dir.Identity, []byte(`{"nod":"n1"}`)), `DIR/cluster.json: json: unknown field "nod"`},
		{"bad port", write(Dir.Identity, []byte(`{"cluster":"c","name":"d","node":"n1","address":"::1","beat_port":-1}`)), "DIR/cluster.json: beat_port -1: want 1 to 65535"},
		{"other node", identity(func(id *Identity) { id.Node = "n2" }), `certificate DIR/node.crt is that of node "n1", not of "n2"`},
		{"other cluster", identity(func(id *Identity) { id.Cluster = "c2" }), `certificate DIR/node.crt is of cluster ["` + string(testCluster) + `"], not of "c2"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, _ := testDir(t)
			c.damage(t, d)
			_, err := Open(string(d), time.Now())
			want := strings.ReplaceAll(c.want, "DIR", string(d))
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestOpenWithWrongClock(t *testing.T) {
	d, _ := testDir(t)
	for name, c := range map[string]struct {
		now  time.Time
		want string
	}{
		"far behind": {time.Now().AddDate(-1, 0, 0), "is not valid before"},
		"far ahead":  {time.Now().AddDate(11, 0, 0), "expired on"},
	} {
		if _, err := Open(string(d), c.now); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "correct the clock") {
			t.Errorf("%s: got %v, want %q and advice", name, err, c.want)
		}
	}
	if _, err := Open(string(d), time.Now().Add(-23*time.Hour)); err != nil {
		t.Errorf("a clock one day behind: %v", err)
	}
}

func TestOpenWithoutDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	if _, err := Open(path, time.Now()); err == nil || !strings.Contains(err.Error(), "it is missing; run `ringfence init`") {
		t.Errorf("got %v", err)
	}
}

func TestIdentityRules(t *testing.T) {
	for want, change := range map[string]func(*Identity){
		"want a cluster id":                   func(id *Identity) { id.Cluster = "" },
		"cluster name: name":                  func(id *Identity) { id.Name = "a b" },
		"node: name":                          func(id *Identity) { id.Node = cluster.NodeName(strings.Repeat("n", 64)) },
		`address "": want an IP address`:      func(id *Identity) { id.Address = "" },
		`address "n1": want an IP address`:    func(id *Identity) { id.Address = "n1" },
		"peer_port 65536: want 1 to 65535":    func(id *Identity) { id.PeerPort = 65536 },
		"join_port 0: want 1 to 65535":        func(id *Identity) { id.JoinPort = 0 },
		"peer_port and join_port are both 10": func(id *Identity) { id.PeerPort, id.JoinPort = 10, 10 },
	} {
		id := testIdentity()
		change(&id)
		if err := id.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestWriteFileReplacesWholeAndLeavesNothingOnFailure(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, data := range []string{"first, longer", "second"} {
		if err := WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := must(os.ReadFile(path)); string(got) != data {
			t.Errorf("got %q, want %q", got, data)
		}
	}
	blocked := filepath.Join(dir, "blocked")
	if err := os.MkdirAll(filepath.Join(blocked, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(blocked, nil, 0o600); err == nil {
		t.Error("replaced a directory")
	}
	if entries := must(os.ReadDir(dir)); len(entries) != 2 {
		t.Errorf("%d entries, want 2: something was left behind", len(entries))
	}
}

package etcd_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/internal/store/etcd"
)

// wantRefusal starts a voter that must not start, with an error that holds all parts.
func (p *plan) wantRefusal(c etcd.Config, parts ...string) {
	p.Helper()
	s, err := etcd.Start(p.Context(), c)
	if err == nil {
		p.close(s)
		p.Fatal("the voter started")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			p.Errorf("error is %q; want it to say %q", err, part)
		}
	}
}

func TestPortInUseIsNamed(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a")
	c := p.configs["a"]
	url := strings.TrimPrefix(c.InitialCluster["a"], "https://")
	l := must(net.Listen("tcp", url))(t)
	defer l.Close()
	p.wantRefusal(c, "cannot listen on "+url, "address already in use", "stop the other program, or give this node another peer_port")
}

func TestForeignAddressIsNamed(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a")
	c := p.configs["a"]
	c.Address = "192.0.2.1" // set aside for documentation: no machine has it
	c.InitialCluster = map[string]string{"a": etcd.PeerURL(c.Address, c.PeerPort)}
	p.wantRefusal(c, "cannot listen on 192.0.2.1", "no such address")
}

func TestDataDirMustBeOursAlone(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a")
	c := p.configs["a"]
	if err := os.Mkdir(c.DataDir, 0o750); err != nil {
		t.Fatal(err)
	}
	p.wantRefusal(c, c.DataDir, "open to others (mode 0750)", "chmod 700")
	if err := os.Chmod(c.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := p.start("a")
	p.wantRefusal(c, c.DataDir, "another process uses it")
	p.close(s)
	c.DataDir = filepath.Join(c.CertFile, "store") // below a file
	p.wantRefusal(c, c.DataDir, "cannot be created")
}

func TestDamagedLogIsAnErrorOfStart(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a")
	a := p.startAll()["a"]
	p.write(a, "k", strings.Repeat("x", 1000))
	p.close(a)
	wals := must(filepath.Glob(filepath.Join(p.configs["a"].DataDir, "member", "wal", "*.wal")))(t)
	if len(wals) == 0 {
		t.Fatal("no log to damage")
	}
	// In the first commit's value, then in the head of the file.
	log := must(os.ReadFile(wals[0]))(t)
	for _, at := range []int{bytes.Index(log, []byte("xxxx")), 16} {
		f := must(os.OpenFile(wals[0], os.O_RDWR, 0))(t)
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, 64), int64(at)); err != nil {
			t.Fatal(err)
		}
		f.Close()
		c := p.configs["a"]
		c.PeerPort = p.config("other").PeerPort // a failed start keeps its port
		c.InitialCluster = map[string]string{"a": etcd.PeerURL(c.Address, c.PeerPort)}
		copied := filepath.Join(t.TempDir(), "store") // and its locks
		if err := os.CopyFS(copied, os.DirFS(c.DataDir)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(copied, 0o700); err != nil {
			t.Fatal(err)
		}
		c.DataDir = copied
		p.wantRefusal(c, "start store in "+copied)
	}
}

func TestConfigErrorsNameTheField(t *testing.T) {
	good := newPlan(t, "a").configs["a"]
	for field, spoil := range map[string]func(*etcd.Config){
		"Name is empty":             func(c *etcd.Config) { c.Name = "" },
		"Token is empty":            func(c *etcd.Config) { c.Token = "" },
		"CAFile is empty":           func(c *etcd.Config) { c.CAFile = "" },
		"Logger is nil":             func(c *etcd.Config) { c.Logger = nil },
		"peer port 0":               func(c *etcd.Config) { c.PeerPort = 0 },
		"client port 65536":         func(c *etcd.Config) { c.ClientPort = 65536 },
		"but Address and PeerPort":  func(c *etcd.Config) { c.PeerPort++ },
		"is not of the form https:": func(c *etcd.Config) { c.InitialCluster["b"] = "http://h:1" },
		"empty or holds '='":        func(c *etcd.Config) { c.InitialCluster["b=c"] = "https://h:1" },
	} {
		c := good
		c.InitialCluster = map[string]string{"a": good.InitialCluster["a"]}
		spoil(&c)
		s, err := etcd.Start(t.Context(), c)
		if err == nil {
			s.Close()
			t.Fatalf("%s: started", field)
		}
		if !strings.Contains(err.Error(), field) {
			t.Errorf("error is %q; want it to say %q", err, field)
		}
	}
}

func TestJoinWithoutAnybodyThereSaysSo(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a", "b")
	c := p.configs["a"]
	c.New = false
	p.wantRefusal(c, "cannot join by the voters", c.InitialCluster["b"])
}

func TestPeersWithoutACertificateOfTheCAAreRefused(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a")
	p.startAll()
	url := p.configs["a"].InitialCluster["a"] + "/members"
	stranger := newAuthority(t)
	strangerCert, strangerKey := stranger.issue(t, "a", net.IPv4(127, 0, 0, 1))
	for who, pair := range map[string][2]string{
		"nobody":           {},
		"another CA":       {strangerCert, strangerKey},
		"the cluster's CA": {p.configs["a"].CertFile, p.configs["a"].KeyFile},
	} {
		conf := &tls.Config{InsecureSkipVerify: true} // it is the server's check that is tested
		if pair[0] != "" {
			conf.Certificates = []tls.Certificate{must(tls.LoadX509KeyPair(pair[0], pair[1]))(t)}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}, Timeout: hang}
		resp, err := client.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		client.CloseIdleConnections()
		if let := err == nil; let != (who == "the cluster's CA") {
			t.Errorf("client of %s: error %v", who, err)
		}
	}
}

// The logger is the only place where etcd may speak.
func TestEtcdSpeaksOnlyThroughTheLogger(t *testing.T) {
	p := newPlan(t, "a", "b")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = w, w
	var log bytes.Buffer
	c := p.configs["a"]
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s, startErr := etcd.Start(t.Context(), c)
	if startErr == nil {
		time.Sleep(3 * etcd.ElectionTimeout) // b is missing: reason enough to complain
		startErr = s.Close()
	}
	os.Stdout, os.Stderr = stdout, stderr
	w.Close()
	said := must(io.ReadAll(r))(t)
	if startErr != nil || len(said) != 0 {
		t.Errorf("start and close: %v; written past the logger: %q", startErr, said)
	}
	if !strings.Contains(log.String(), `msg="etcd reports" component=store`) {
		t.Errorf("the logger got %q", log.String())
	}
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "level=WARN") && !strings.Contains(line, "level=ERROR") {
			t.Errorf("not a warning: %s", line)
		}
	}
}

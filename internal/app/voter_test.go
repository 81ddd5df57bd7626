package app

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/pki"
	"ringfence/internal/wire/hostapi"
	"ringfence/internal/wire/voter"
)

// rollBack puts a directory back to what copied holds.
func rollBack(t *testing.T, dir, copied string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(dir), save(copied, dir)); err != nil {
		t.Fatal(err)
	}
}

// save copies a data directory, closed to others.
func save(from, to string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	return filepath.WalkDir(to, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
}

// P22, Q-8: power is lost everywhere, all voters start at once and confirm each
// other; one whose disk is older than what the others remember does not vote.
func TestVotersConfirmEachOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n1, door := foundOne(t, dir)
	more := withTwoMore(t, n1, door, dir)
	n3 := more[1]
	all := []*daemon{n1, more[0], n3}
	for _, d := range all {
		d.crash()
	}
	old := filepath.Join(dir, "old")
	if err := save(n3.o.Data, old); err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		d.run()
	}
	for _, d := range all {
		d.await("the cold start is over", members(3))
	}
	n3.crash()
	rollBack(t, n3.o.Data, old)
	n3.run()
	n3.wantEnd("the disk of node n3 was rolled back")

	// The same with one of the others down: the one that is left remembers.
	more[0].crash()
	rollBack(t, n3.o.Data, old)
	n3.run()
	n3.wantEnd("the disk of node n3 was rolled back")
}

// hostOf is the host end of a guest's channel, with the memory of hostd.
type hostOf struct {
	mu     sync.Mutex // guards memory
	memory voter.Memory
}

func (h *hostOf) Voter(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var c voter.Claim
	err := json.NewDecoder(r.Body).Decode(&c)
	var answer voter.Answer
	if err == nil {
		h.memory, answer, err = h.memory.Judge(c, 0)
	}
	if err != nil {
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(hostapi.Error{Code: hostapi.CodeStaleVoter, Message: err.Error()})
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (h *hostOf) open(t *testing.T) string {
	dir, err := os.MkdirTemp("", "rf")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "channel.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	life := cluster.LifeID("boot:1:1")
	mux.HandleFunc("GET /v1/self", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(hostapi.Self{Host: "h1", HostBoot: "boot", Guest: "g", Life: life, Boot: "n1-boot"})
	})
	mux.HandleFunc("POST /v1/bind", func(w http.ResponseWriter, r *http.Request) {
		var b hostapi.BindRequest
		_ = json.NewDecoder(r.Body).Decode(&b)
		_ = json.NewEncoder(w).Encode(cluster.Binding{
			Cluster: b.Cluster, Node: b.Node, Boot: b.Boot, Nonce: b.Nonce, Guest: "g", Life: life, Host: "h1", HostBoot: "boot",
		})
	})
	mux.HandleFunc("POST "+voter.Path, h.Voter)
	web := &http.Server{Handler: mux}
	done := make(chan error, 1)
	go func() { done <- web.Serve(ln) }()
	t.Cleanup(func() {
		_ = web.Close()
		<-done
		_ = os.RemoveAll(dir)
	})
	return path
}

// P22: where the guest has a host, that is enough, also for the only voter.
func TestTheHostConfirmsAVoter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n1, _ := foundOne(t, dir)
	n1.crash()
	h := &hostOf{}
	n1.o.HostChannel = h.open(t)
	n1.run() // counted before, but unknown to this host
	n1.await("n1 is a member, unknown to its host", members(1))
	n1.awaitHost(h)
	n1.crash()
	old := filepath.Join(dir, "old")
	if err := save(n1.o.Data, old); err != nil {
		t.Fatal(err)
	}
	n1.run()
	n1.await("n1 is a member", members(1))
	n1.crash()
	rollBack(t, n1.o.Data, old)
	n1.run()
	n1.wantEnd("the disk of node n1 was rolled back")
}

// awaitHost waits until the host remembers the voter.
func (d *daemon) awaitHost(h *hostOf) {
	d.t.Helper()
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(10 * time.Millisecond) {
		h.mu.Lock()
		count := h.memory.Count
		h.mu.Unlock()
		if count > 0 {
			return
		}
	}
	d.t.Fatal("the host was never told of the voter")
}

func TestOneProcessUsesADataDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n1, _ := foundOne(t, dir)
	err := RunNode(context.Background(), n1.o)
	if err == nil || !strings.Contains(err.Error(), "a node runs with the data directory") {
		t.Errorf("a second daemon: %v", err)
	}
}

func TestWhoConfirmsAStart(t *testing.T) {
	for _, c := range []struct {
		rule  string
		heard heard
		round int
		want  bool
		sure  bool
	}{
		{"the host's word is enough", heard{byHost: true, voters: 3}, 1, true, true},
		{"nobody is there to ask", heard{voters: 1}, 1, true, false},
		{"the host, which is all there is to ask, does not answer", heard{deaf: true, voters: 1}, 100, false, false},
		{"all others, though the host does not answer", heard{deaf: true, voters: 3, answered: 2}, 1, true, true},
		{"all others", heard{voters: 3, answered: 2}, 1, true, true},
		{"one of two others waits for the last one", heard{voters: 3, answered: 1}, 1, false, false},
		{"one of two others is enough for quorum, in the end", heard{voters: 3, answered: 1}, askRounds, true, false},
		{"none of two others is never enough", heard{voters: 3}, 100, false, false},
		{"the other one of two is needed", heard{voters: 2}, 100, false, false},
		{"one of four others is never enough", heard{voters: 5, answered: 1}, 100, false, false},
		{"two of four others, in the end", heard{voters: 5, answered: 2}, askRounds, true, false},
	} {
		if why, sure, ok := c.heard.enough(c.round); ok != c.want || sure != c.sure {
			t.Errorf("%s: %v, sure %v (%s)", c.rule, ok, sure, why)
		}
	}
}

func TestCountsThatCannotBeRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "voter-count")
	if n, err := readCount(file); n != 0 || err != nil {
		t.Errorf("none yet: %d, %v", n, err)
	}
	for text, want := range map[string]uint64{"1\n": 1, "9223372036854775807": 1<<63 - 1} {
		if err := pki.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := readCount(file); n != want || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	for _, bad := range []string{"", "-1", "x", "1 2", "9223372036854775808", strings.Repeat("1", 33)} {
		if err := pki.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := readCount(file); err == nil {
			t.Errorf("%q was read as %d: a voter that forgets its count starts as if for the first time", bad, n)
		}
	}
}

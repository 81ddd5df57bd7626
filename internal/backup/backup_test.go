package backup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// writes are one record of every kind, of a cluster of two nodes.
func writes() []cluster.Write {
	web := cluster.ServiceConfig{Name: "web", Resources: []cluster.Resource{{Name: "app", Agent: "exec"}}}
	return []cluster.Write{
		cluster.Put(cluster.KeyMeta, cluster.Meta{ID: "c1", Name: "demo", Incarnation: 3, Format: cluster.FormatVersion}),
		cluster.Put(cluster.KeyConfig, cluster.Config{Name: "demo", Services: []cluster.ServiceConfig{web, {Name: "late"}}}),
		cluster.Put(cluster.KeyLeader, cluster.Leader{Node: "n1", Boot: "b1", Epoch: 9}),
		cluster.Put(cluster.KeyDisarm, cluster.Disarm{By: "ann", Reason: "work"}),
		cluster.Put(cluster.KeyNode("n1"), cluster.Node{Name: "n1", Member: 1}),
		cluster.Put(cluster.KeyNode("n2"), cluster.Node{Name: "n2", Member: 2}),
		cluster.Put(cluster.KeyHost("h1"), cluster.Host{Name: "h1"}),
		cluster.Put(cluster.KeyBoot("b0"), cluster.Boot{ID: "b0", Node: "n2"}),
		cluster.Put(cluster.KeyBoot("b1"), cluster.Boot{ID: "b1", Node: "n1"}),
		cluster.Put(cluster.KeyBoot("b2"), cluster.Boot{ID: "b2", Node: "n2"}),
		cluster.Put(cluster.KeyEnded("b0"), cluster.Ended{Boot: "b0", Node: "n2", Evidence: cluster.EvidenceFenced}),
		cluster.Put(cluster.KeyCertificate("l", "h1"), cluster.DeathCertificate{Life: "l"}),
		cluster.Put(cluster.KeyAbsence("l", "h1"), cluster.Absence{Life: "l"}),
		cluster.Put(cluster.KeyView("n1"), cluster.View{Node: "n1"}),
		cluster.Put(cluster.KeyAppeal("b1"), cluster.Appeal{Node: "n1"}),
		cluster.Put(cluster.KeyFence("b2"), cluster.Fence{Boot: "b2"}),
		cluster.Put(cluster.KeyFenceReport("b2"), cluster.FenceReport{Boot: "b2"}),
		cluster.Put(cluster.KeyOwner("web"), cluster.Owner{Service: "web", Generation: 7, Node: "n2", Boot: "b9", Want: cluster.WantRun, Definition: web}),
		cluster.Put(cluster.KeyTicket("web"), cluster.Ticket{Service: "web"}),
		cluster.Put(cluster.KeyReport("web"), cluster.Report{Service: "web"}),
		cluster.Put(cluster.KeyProbe("n1"), cluster.Probe{Node: "n1"}),
		cluster.Put(cluster.KeyFailure("web", "n1"), cluster.Failure{Service: "web"}),
		cluster.Put(cluster.KeyStandby("n2"), cluster.Standby{Node: "n2", By: "ann"}),
		cluster.Put(cluster.KeyWish("web"), cluster.Wish{Service: "web", MoveTo: "n1", By: "ann"}),
		cluster.Put(cluster.KeyWish("late"), cluster.Wish{Service: "late", Stopped: true, MoveTo: "n1", By: "ann"}),
		cluster.Put(cluster.KeyPowerOn("b2"), cluster.PowerOn{}),
		cluster.Put(cluster.KeyPowerOnReport("b2"), cluster.PowerOnReport{}),
		cluster.Put(cluster.KeyToken("t1"), cluster.Token{ID: "t1", SecretHash: "00"}),
		cluster.Put(cluster.KeyContradiction("b8"), cluster.Contradiction{Boot: "b8", Node: "n2", Hosts: []cluster.HostName{"h1"}, By: "n1", How: "a beat"}),
	}
}

func kvs(from []cluster.Write) []cluster.KV {
	var out []cluster.KV
	for _, w := range from {
		out = append(out, cluster.KV{Key: w.Key, Value: w.Value, Rev: 5})
	}
	slices.SortFunc(out, func(a, b cluster.KV) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func some(t testing.TB) (*Backup, []byte) {
	t.Helper()
	b, err := New(kvs(writes()), 812, "n1", time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b, data
}

func TestABackupComesBackAsItWas(t *testing.T) {
	b, data := some(t)
	got, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, got); diff != "" {
		t.Error(diff)
	}
}

// What was cut short or changed anywhere is never read as a backup.
func TestDamageIsFoundAtEveryByte(t *testing.T) {
	_, data := some(t)
	for n := range data {
		if _, err := Decode(data[:n]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(data), err)
		}
		flipped := bytes.Clone(data)
		flipped[n] ^= 1 << (n % 8)
		if _, err := Decode(flipped); err == nil {
			t.Fatalf("bit %d of byte %d was changed unnoticed", n%8, n)
		}
	}
	if _, err := Decode(append(bytes.Clone(data), '\n')); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte too many: %v", err)
	}
}

func TestFilesThatAreNoBackup(t *testing.T) {
	_, data := some(t)
	newer := bytes.Replace(data, []byte("ringfence-backup 1\n"), []byte("ringfence-backup 2\n"), 1)
	for what, c := range map[string]struct {
		data []byte
		want error
	}{
		"empty":        {nil, ErrDamaged},
		"newer format": {newer, ErrNewer},
		"tar":          {[]byte("\x1f\x8b\x08 and so on, longer than the magic"), ErrNotABackup},
		"format 0":     {bytes.Replace(data, []byte("backup 1\n"), []byte("backup 0\n"), 1), ErrDamaged},
		"no number":    {[]byte("ringfence-backup one\n"), ErrDamaged},
	} {
		if _, err := Decode(c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	if _, err := Read(endless{}); !errors.Is(err, ErrNotABackup) {
		t.Errorf("without end: %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// A checksum is no proof of content: what it covers is checked as well.
func TestContentThatEncodeWouldNotWrite(t *testing.T) {
	for what, spoil := range map[string]func(b *Backup){
		"no record of the cluster":  func(b *Backup) { b.Records = b.Records[:1]; b.Header.Records = 1 },
		"another count":             func(b *Backup) { b.Header.Records++ },
		"more records than said":    func(b *Backup) { b.Header.Records-- },
		"another incarnation":       func(b *Backup) { b.Header.Incarnation++ },
		"another cluster":           func(b *Backup) { b.Header.Cluster = "c2" },
		"bad name":                  func(b *Backup) { b.Header.Name = "a/b" },
		"no revision":               func(b *Backup) { b.Header.Revision = 0 },
		"a key outside":             func(b *Backup) { b.Records[0].Key = "/other" },
		"keys not sorted":           func(b *Backup) { b.Records[0], b.Records[1] = b.Records[1], b.Records[0] },
		"a key twice":               func(b *Backup) { b.Records[1].Key = b.Records[0].Key },
		"a long key":                func(b *Backup) { b.Records[0].Key = cluster.Prefix + strings.Repeat("a", store.MaxKeyBytes) },
		"a long value":              func(b *Backup) { b.Records[0].Value = make([]byte, store.MaxValueBytes+1) },
		"an empty value":            func(b *Backup) { b.Records[0].Value = nil },
		"a cluster's record of [] ": func(b *Backup) { b.record(cluster.KeyMeta).Value = []byte("[]") },
	} {
		b, _ := some(t)
		spoil(b)
		data, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(data); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := New(nil, 1, "n1", time.Now()); err == nil {
		t.Error("a backup of an empty store was made")
	}
}

func (b *Backup) record(key string) *Record {
	for i := range b.Records {
		if b.Records[i].Key == key {
			return &b.Records[i]
		}
	}
	return nil
}

func TestABackupAboveTheLimitIsNotMade(t *testing.T) {
	b, _ := some(t)
	for i := range 100 {
		b.Records = append(b.Records, Record{Key: fmt.Sprintf("%szz/%03d", cluster.Prefix, i), Value: make([]byte, store.MaxValueBytes)})
	}
	b.Header.Records = len(b.Records)
	if _, err := b.Encode(); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%v", err)
	}
}

// TestWhatBecomesOfEachKind is the table of doc/design/0004-incarnations.md.
func TestWhatBecomesOfEachKind(t *testing.T) {
	b, _ := some(t)
	self := cluster.Node{Name: "n1", Address: "192.0.2.1", Member: 99}
	got, err := b.Carry(Next{Incarnation: 5, Self: self, By: "ann", Reason: "burnt", Verified: true})
	if err != nil {
		t.Fatal(err)
	}
	const word = "declared by ann for incarnation 5: burnt"
	former := writes()
	want := []cluster.Write{
		cluster.Put(cluster.KeyMeta, cluster.Meta{ID: "c1", Name: "demo", Incarnation: 5, Format: cluster.FormatVersion}),
		former[1], former[3], former[6], former[10], former[22], former[len(former)-1], // config, disarm, host, ended, standby, contradiction
		cluster.Put(cluster.KeyNode("n1"), self),
		cluster.Put(cluster.KeyEnded("b1"), cluster.Ended{Boot: "b1", Node: "n1", Evidence: cluster.EvidenceLeave, Detail: "everything was stopped here, verified, before incarnation 5"}),
		cluster.Put(cluster.KeyEnded("b2"), cluster.Ended{Boot: "b2", Node: "n2", Evidence: cluster.EvidenceOperator, Detail: word}),
		cluster.Put(cluster.KeyEnded("b9"), cluster.Ended{Boot: "b9", Node: "n2", Evidence: cluster.EvidenceOperator, Detail: word}),
		cluster.Put(cluster.KeyOwner("web"), cluster.Owner{Service: "web", Generation: 4 * GenerationStep, Reason: "its former owner has ended, " + word}),
		cluster.Put(cluster.KeyOwner("late"), cluster.Owner{Service: "late", Generation: 4 * GenerationStep, Reason: "its former owner has ended, " + word}),
		cluster.Put(cluster.KeyWish("late"), cluster.Wish{Service: "late", Stopped: true, By: "ann"}),
	}
	if last := got[len(got)-1].Key; last != cluster.KeyMeta {
		t.Errorf("%s is written last, want the cluster's record: without it the store is not one", last)
	}
	if diff := cmp.Diff(kvs(want), kvs(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got, err = b.Carry(Next{Incarnation: 5, Self: self, By: "ann", Reason: "burnt"})
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs(got) {
		if kv.Key == cluster.KeyEnded("b1") && strings.Contains(string(kv.Value), string(cluster.EvidenceLeave)) {
			t.Error("the founder's boot has left, though nobody verified what it runs")
		}
	}
}

func TestGenerationsOnlyGrow(t *testing.T) {
	for _, c := range []struct {
		before cluster.Generation
		next   cluster.Incarnation
		want   cluster.Generation
	}{{0, 2, 1_000_000}, {7, 2, 1_000_007}, {1_000_007, 3, 2_000_007}, {7, 4, 3_000_000}} {
		var s cluster.State
		s.Owners = map[cluster.ServiceName]cluster.Rec[cluster.Owner]{"web": {Value: cluster.Owner{Service: "web", Generation: c.before}}}
		got := Next{Incarnation: c.next}.owners(&s)
		want := fmt.Sprintf(`"generation":%d,`, c.want)
		if len(got) != 1 || !strings.Contains(string(got[0].Value), want) {
			t.Errorf("%d in incarnation %d: %s, want %s", c.before, c.next, got[0].Value, want)
		}
	}
}

// TestEveryKindOfRecordHasAFate fails for a kind that somebody added without
// saying what becomes of it in a new incarnation.
func TestEveryKindOfRecordHasAFate(t *testing.T) {
	kinds := map[string]bool{}
	for _, w := range writes() {
		kinds[kind(w.Key)] = true
	}
	if got, want := len(kinds), reflect.TypeFor[cluster.State]().NumField()-1; got != want {
		t.Errorf("this test has %d kinds of records, the state %d: add it to writes, Carry and doc/design/0004-incarnations.md", got, want)
	}
	b, _ := some(t)
	b.Records = append(b.Records, Record{Key: cluster.Prefix + "zz/new", Value: []byte("{}")})
	if _, err := b.Carry(Next{Incarnation: 5}); err == nil || !strings.Contains(err.Error(), "zz/new") {
		t.Errorf("a kind that nobody knows: %v", err)
	}
}

func TestTheFileIsWrittenWholeAndPrivate(t *testing.T) {
	b, data := some(t)
	path := filepath.Join(t.TempDir(), "demo.backup")
	if err := os.WriteFile(path+".new", []byte("of a crash"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, data, false); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if _, err := os.Stat(path + ".new"); err == nil {
		t.Error("the file of the attempt is left behind")
	}
	got, err := ReadFile(path)
	if diff := cmp.Diff(b, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if err := WriteFile(path, []byte("other"), false); !errors.Is(err, ErrExists) {
		t.Errorf("written over: %v", err)
	}
	if err := WriteFile(path, data, true); err != nil {
		t.Error(err)
	}
	dir := filepath.Dir(path)
	if err := WriteFile(dir, data, true); err == nil {
		t.Error("a directory was written over")
	}
	if err := WriteFile(filepath.Join(dir, "none", "x"), data, false); err == nil {
		t.Error("written into a directory that is not there")
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{dir, fifo, filepath.Join(dir, "none")} {
		if _, err := ReadFile(bad); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
	if os.Geteuid() != 0 {
		if err := os.Chmod(path, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(path); !errors.Is(err, os.ErrPermission) {
			t.Errorf("without permission: %v", err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	small, err := New(kvs(writes()[:3]), 7, "n1", time.Unix(1, 0))
	if err != nil {
		f.Fatal(err)
	}
	data, err := small.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-trailerBytes]) // Decode sees it behind a checksum
	f.Add([]byte("ringfence-backup 2\n"))
	f.Add([]byte("ringfence-backup 1\n{}\nsha256 \n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := Decode(data)
		if err != nil {
			// Behind the checksum: what a fuzzer cannot guess.
			b, err = Decode(append(bytes.Clone(data), seal(data)...))
		}
		if err != nil {
			return
		}
		again, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		same, err := Decode(again)
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		if twice, err := same.Encode(); err != nil || !bytes.Equal(again, twice) {
			t.Fatalf("written again it differs: %v\n%s\n%s", err, again, twice)
		}
		_, _ = b.Carry(Next{Incarnation: b.Header.Incarnation + 1, Self: cluster.Node{Name: "n1"}})
	})
}

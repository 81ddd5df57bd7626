package decisions

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/plan"
)

// snapshot is a cluster whose planner has something to order.
func snapshot(t *testing.T, rev cluster.Revision) plan.Snapshot {
	t.Helper()
	s := plan.Snapshot{Self: "n1", Now: 5}
	put := func(key string, record any) {
		rev++
		if err := s.State.Apply(cluster.KV{Key: key, Value: cluster.Put(key, record).Value, Rev: rev}, false, 3); err != nil {
			t.Fatal(err)
		}
	}
	put(cluster.KeyLeader, cluster.Leader{Node: "n1", Boot: "b1", Epoch: 1})
	put(cluster.KeyConfig, cluster.Config{Nodes: []cluster.NodeConfig{{Name: "n1"}}, Services: []cluster.ServiceConfig{{Name: "db"}}})
	put(cluster.KeyBoot("b1"), cluster.Boot{ID: "b1", Node: "n1", Phase: cluster.PhaseMember})
	put(cluster.KeyProbe("n1"), cluster.Probe{Node: "n1", Boot: "b1", Config: s.State.Config.Rev})
	return s
}

func TestASavedDecisionIsMadeAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "decisions")
	log := Open(dir, slog.New(slog.DiscardHandler))
	s := snapshot(t, 0)
	result := plan.Plan(s)
	if len(result.Orders) == 0 {
		t.Fatal("the snapshot orders nothing: nothing is tested")
	}
	log.Save(s, result)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := List(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v", files, err)
	}
	got, err := Load(File(dir, s.State.Rev))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text(t, result), text(t, plan.Plan(got.Snapshot))); diff != "" {
		t.Errorf("planned again (-want +got):\n%s", diff)
	}
}

func text(t *testing.T, v any) string {
	t.Helper()
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTheOldestDecisionsGoFirst(t *testing.T) {
	dir := t.TempDir()
	log := Open(dir, slog.New(slog.DiscardHandler))
	for i := range Kept + 5 {
		s := snapshot(t, cluster.Revision(10*i))
		if err := log.write(Decision{Snapshot: s}); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := List(dir)
	if err != nil || len(files) != Kept || files[0] != File(dir, 54) {
		t.Errorf("%d files, the first %s (%v); want %d and %s", len(files), files[0], err, Kept, File(dir, 54))
	}
}

func TestADamagedFileIsAClearError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.json.gz")
	if err := os.WriteFile(file, []byte("this is certainly no gzip file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || err.Error() != file+": gzip: invalid header" {
		t.Errorf("got %v", err)
	}
}

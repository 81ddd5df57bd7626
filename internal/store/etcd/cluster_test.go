package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/store"
	"ringfence/internal/store/etcd"
	"ringfence/internal/store/storetest"
)

func TestConformanceOfOneVoter(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a")
	a := p.startAll()["a"]
	storetest.Run(t, func(*testing.T) store.Store { return a })
}

func TestConformanceOnAFollowerWhileOneVoterIsDown(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a", "b", "c")
	voters := p.startAll()
	if err := voters["a"].MoveLeader(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	p.close(voters["c"])
	storetest.Run(t, func(*testing.T) store.Store { return voters["b"] })
}

func TestVotersStartOneByOne(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a", "b", "c")
	a := p.start("a")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := a.Load(ctx, ""); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("load of the first of three: %v, want ErrUnavailable", err)
	}
	if _, err := a.Commit(ctx, put("k", "lost")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("commit of the first of three: %v, want ErrUnavailable", err)
	}
	select {
	case <-a.Ready():
		t.Error("the first of three is ready alone")
	default:
	}
	b := p.start("b")
	p.ready(a)
	p.write(b, "k", "1")
	p.want(a, "k=1")
}

func TestCommitsResumeAfterTheLeaderIsGone(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a", "b", "c")
	voters := p.startAll()
	first := p.leader(voters["a"])
	p.write(voters[first], "k", "1")
	p.close(voters[first])
	delete(voters, first)
	for name, s := range voters {
		p.write(s, "k", name)
		p.want(s, "k="+name)
	}
}

// The commits under way when the leader dies must not wait for ever for its
// answer, nor may they say more than is known.
func TestCommitsResumeAfterTheLeaderCrashed(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a", "b", "c")
	voters := p.startAll()
	if err := voters["a"].MoveLeader(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; n < 20; n++ {
		p.write(voters["b"], fmt.Sprintf("k%02d", n), "v")
	}
	voters["a"].HardStop()
	begin := time.Now()
	answered := map[string]bool{}
	for ; ; n++ {
		key := fmt.Sprintf("k%02d", n)
		_, err := voters["b"].Commit(t.Context(), put(key, "v"))
		if err == nil {
			answered[key] = true
			break
		}
		t.Logf("%s after the crash: %v", time.Since(begin).Round(time.Millisecond), err)
		if !errors.Is(err, store.ErrUnknown) && !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("commit: %v", err)
		}
	}
	t.Logf("%s after the crash: committed", time.Since(begin).Round(time.Millisecond))
	kvs, _, err := voters["c"].Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		delete(answered, kv.Key)
	}
	if len(kvs) < 21 || len(answered) != 0 {
		t.Errorf("%d records, missing %v", len(kvs), answered)
	}
}

func TestMoveLeaderFromAnyVoter(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a", "b", "c")
	voters := p.startAll()
	for _, to := range []string{"a", "b", "c", "c", "a"} {
		if err := voters["b"].MoveLeader(t.Context(), to); err != nil {
			t.Fatalf("move to %s: %v", to, err)
		}
		if name, isMe, ok := voters["b"].Leader(); name != to || isMe != (to == "b") || !ok {
			t.Errorf("leader is %q, me %v, ok %v; want %q", name, isMe, ok, to)
		}
		p.write(voters["c"], "k", to)
	}
	if err := voters["b"].MoveLeader(t.Context(), "x"); err == nil {
		t.Error("the lead moved to a voter that is not there")
	}
}

func TestAllVotersRestartFromDisk(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a", "b", "c")
	voters := p.startAll()
	rev := p.write(voters["a"], "k", "1")
	p.close(p.started...)
	for name, c := range p.configs {
		c.New = false // does not matter any more, nor does InitialCluster
		p.configs[name] = c
	}
	voters = p.startAll()
	p.want(voters["b"], "k=1")
	if next := p.write(voters["c"], "k", "2"); next != rev+1 {
		t.Errorf("revision after the restart is %d, want %d", next, rev+1)
	}
	batch := <-voters["a"].Watch(t.Context(), "", rev)
	if batch.Rev != rev || batch.Err != nil {
		t.Errorf("history begins at %d, error %v; want %d", batch.Rev, batch.Err, rev)
	}
}

// A voter that lost its disk has forgotten what it voted for (rule P22).
func TestVoterThatLostItsDiskMustNotBootstrapAgain(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a", "b", "c")
	voters := p.startAll()
	p.close(voters["c"])
	if err := os.RemoveAll(p.configs["c"].DataDir); err != nil {
		t.Fatal(err)
	}
	again, err := etcd.Start(t.Context(), p.configs["c"])
	if err == nil {
		p.close(again)
		t.Fatal("c votes again under its old id")
	}
	t.Logf("refused: %v", err)
}

// P21: a voter that founded another incarnation at its old address is none of
// the former cluster any more, and that one goes on or not without it.
func TestVotersOfAnotherIncarnationNeverMix(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a", "b", "c")
	voters := p.startAll()
	p.write(voters["a"], "k", "former")
	p.close(voters["a"])
	next := p.configs["a"]
	next.DataDir, next.Token = filepath.Join(t.TempDir(), "next"), "test-cluster/2"
	next.InitialCluster = map[string]string{"a": next.InitialCluster["a"]}
	p.configs["a"] = next
	founder := p.start("a")
	p.ready(founder)
	p.write(founder, "k", "next")
	p.write(voters["b"], "other", "former")
	p.want(founder, "k=next")
	for range 5 { // elections of the former cluster
		if _, err := voters["b"].Commit(t.Context(), put("k", "former still")); err != nil {
			t.Error(err)
		}
		name := "c"
		if lead, _, ok := voters["b"].Leader(); ok && lead == "c" {
			name = "b"
		}
		if err := voters["b"].MoveLeader(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	p.want(founder, "k=next")
	if err := voters["b"].MoveLeader(t.Context(), "a"); err == nil {
		t.Error("the founder leads the former cluster")
	}
	if members, err := founder.Members(t.Context()); err != nil || len(members) != 1 {
		t.Errorf("members of the founder: %v, %v", members, err)
	}
}

func TestVotersJoinARunningOneAndOneLeaves(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a")
	a := p.startAll()["a"]
	p.write(a, "k", "1")
	b, idB := p.join(a, "b")
	p.write(b, "k", "2")
	// The one that joined announces the next.
	c, _ := p.join(b, "c")
	p.want(c, "k=2")
	members, err := a.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	votes := map[string]bool{}
	for _, m := range members {
		votes[m.Name] = !m.Learner
	}
	if diff := cmp.Diff(map[string]bool{"a": true, "b": true, "c": true}, votes); diff != "" {
		t.Errorf("voters (-want +got):\n%s", diff)
	}
	p.close(a) // b and c are a quorum
	p.write(c, "k", "3")
	if _, _, err := c.AddVoter(t.Context(), "b", "https://127.0.0.1:1"); err == nil {
		t.Error("a second voter of the name b was let in")
	}
	if _, _, err := c.AddVoter(t.Context(), "d", "http://127.0.0.1:1"); err == nil {
		t.Error("a voter without TLS was let in")
	}
	if idB == 0 {
		t.Error("b has no id")
	}
}

// join lets a voter join by another one, up to its vote.
func (p *plan) join(by *etcd.Server, name string) (*etcd.Server, uint64) {
	p.Helper()
	c := p.config(name)
	url := etcd.PeerURL(c.Address, c.PeerPort)
	id, voters, err := by.AddVoter(p.Context(), name, url)
	if err != nil {
		p.Fatal(err)
	}
	again, _, err := by.AddVoter(p.Context(), name, url)
	if err != nil || again != id {
		p.Errorf("announced again: id %x, error %v; want %x", again, err, id)
	}
	p.write(by, "k2", "the learner costs no quorum")
	p.write(by, "k2", "")
	if _, err := by.Commit(p.Context(), store.Tx{Writes: []cluster.Write{cluster.Remove("k2")}}); err != nil {
		p.Fatal(err)
	}
	c.New, c.InitialCluster = false, voters
	p.configs[name] = c
	s := p.start(name)
	for range 2 {
		if err := by.PromoteWhenReady(p.Context(), id); err != nil {
			p.Fatal(err)
		}
	}
	p.ready(s)
	return s, id
}

func TestRemovedVoterIsToldSo(t *testing.T) {
	t.Parallel()
	p := newPlan(t, "a", "b", "c")
	told := make(chan error, 1)
	c := p.configs["c"]
	c.OnFatal = func(err error) { told <- err }
	p.configs["c"] = c
	voters := p.startAll()
	if err := voters["a"].MoveLeader(t.Context(), "c"); err != nil { // the harder case
		t.Fatal(err)
	}
	members, err := voters["a"].Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.Name != "c" {
			continue
		}
		for range 2 {
			if err := voters["a"].RemoveVoter(t.Context(), m.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	select {
	case err := <-told:
		t.Logf("told: %v", err)
	case <-time.After(hang):
		t.Fatal("c was removed and nobody told it")
	}
	if _, err := voters["c"].Commit(t.Context(), put("k", "1")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("commit by the removed voter: %v, want ErrUnavailable", err)
	}
	p.write(voters["b"], "k", "2")
}

package voter

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
)

var (
	idA = strings.Repeat("a", identityBytes)
	idB = strings.Repeat("b", identityBytes)
)

func claim(identity, run string, previous uint64) Claim {
	return Claim{Cluster: "c", Incarnation: 2, Node: "n1", Identity: identity, Run: run, Count: previous + 1, Previous: previous}
}

func TestJudge(t *testing.T) {
	at := Memory{Incarnation: 2, Identity: idA, Run: "r1", Count: 7}
	rejoined := Memory{Incarnation: 2, Identity: idB, Run: "r1", Count: 7, Former: []string{idA}}
	vouched := func(c Claim) Claim { c.Vouched = true; return c }
	of := func(c Claim, i cluster.Incarnation) Claim { c.Incarnation = i; return c }
	moved := func(m Memory, run string, count uint64) Memory { m.Run, m.Count = run, count; return m }
	for _, c := range []struct {
		rule    string
		memory  Memory
		claim   Claim
		highest cluster.Incarnation
		want    Memory
		known   bool
		refused string
	}{
		{"the first start ever", Memory{}, claim(idA, "r1", 0), 0, Memory{Incarnation: 2, Identity: idA, Run: "r1", Count: 1}, true, ""},
		{"the next start", at, claim(idA, "r2", 7), 2, moved(at, "r2", 8), true, ""},
		{"a start whose claim never arrived lies between", at, claim(idA, "r2", 9), 2, moved(at, "r2", 10), true, ""},
		{"the answer was lost", at, claim(idA, "r1", 6), 2, at, true, ""},
		{"a disk of the last run", at, claim(idA, "r2", 6), 2, at, false, "was rolled back"},
		{"a disk from long ago", at, claim(idA, "r2", 0), 2, at, false, "was rolled back"},
		{"rolled back, whoever vouches", at, vouched(claim(idA, "r2", 3)), 2, at, false, "was rolled back"},
		{"nothing is remembered", Memory{}, claim(idA, "r2", 4), 0, Memory{}, false, ""},
		{"nothing is remembered, others vouch", Memory{}, vouched(claim(idA, "r2", 4)), 0, Memory{Incarnation: 2, Identity: idA, Run: "r2", Count: 5}, true, ""},
		{"the node has joined again", at, claim(idB, "r1", 0), 2, Memory{Incarnation: 2, Identity: idB, Run: "r1", Count: 1, Former: []string{idA}}, true, ""},
		{"its former data comes back", rejoined, claim(idA, "r9", 100), 2, rejoined, false, "has joined again since"},
		{"its former data comes back as new", rejoined, claim(idA, "r9", 0), 2, rejoined, false, "has joined again since"},
		{"another identity that has started elsewhere", at, claim(idB, "r1", 4), 2, at, false, ""},
		{"an older incarnation than its own", at, of(claim(idA, "r2", 7), 1), 0, at, false, "recovered as incarnation 2"},
		{"an older incarnation than the cluster's", Memory{}, of(claim(idA, "r2", 7), 2), 3, Memory{}, false, "recovered as incarnation 3"},
		{"a newer incarnation", at, of(claim(idA, "r2", 7), 3), 2, Memory{Incarnation: 3, Identity: idA, Run: "r2", Count: 8}, true, ""},
		{"a newer incarnation, founded from an old copy", at, of(claim(idA, "r2", 2), 3), 2, Memory{Incarnation: 3, Identity: idA, Run: "r2", Count: 3}, true, ""},
	} {
		if err := c.claim.Check(); err != nil {
			t.Errorf("%s: %v", c.rule, err)
		}
		got, answer, err := c.memory.Judge(c.claim, c.highest)
		if (err != nil) != (c.refused != "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: error %v, want one that says %q", c.rule, err, c.refused)
		}
		if diff := cmp.Diff(c.want, got); diff != "" || answer.Known != c.known {
			t.Errorf("%s: known %v, want %v; memory (-want +got):\n%s", c.rule, answer.Known, c.known, diff)
		}
	}
}

func TestOnlySoManyFormerIdentitiesAreKept(t *testing.T) {
	var m Memory
	for i := range 3 * formerIdentities {
		m, _, _ = m.Judge(claim(fmt.Sprintf("%064d", i), "r", 0), 0)
	}
	if len(m.Former) != formerIdentities || m.Former[formerIdentities-1] != fmt.Sprintf("%064d", 3*formerIdentities-2) {
		t.Errorf("%d are kept, the last %v", len(m.Former), m.Former)
	}
}

func TestClaimsThatAreNone(t *testing.T) {
	for what, spoil := range map[string]func(c *Claim){
		"cluster":     func(c *Claim) { c.Cluster = "" },
		"long":        func(c *Claim) { c.Cluster = cluster.ClusterID(strings.Repeat("c", 65)) },
		"incarnation": func(c *Claim) { c.Incarnation = 0 },
		"node":        func(c *Claim) { c.Node = "a/b" },
		"identity":    func(c *Claim) { c.Identity = "a" },
		"run":         func(c *Claim) { c.Run = "" },
		"long run":    func(c *Claim) { c.Run = strings.Repeat("r", 65) },
		"count":       func(c *Claim) { c.Count = c.Previous },
	} {
		c := claim(idA, "r", 3)
		spoil(&c)
		if c.Check() == nil {
			t.Errorf("%s: %+v is taken", what, c)
		}
	}
}

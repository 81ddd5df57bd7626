package cluster_test

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
)

// recordKinds has one record of every kind with its key, by the name of the
// field of State that holds it.
func recordKinds() map[string]struct {
	key    string
	record any
} {
	type kind = struct {
		key    string
		record any
	}
	return map[string]kind{
		"Meta":    {cluster.KeyMeta, cluster.Meta{ID: "c", Name: "test", Incarnation: 1, Format: cluster.FormatVersion}},
		"Config":  {cluster.KeyConfig, cluster.Config{Name: "test", Services: []cluster.ServiceConfig{{Name: "web", RestartWindow: time.Minute}}}},
		"Leader":  {cluster.KeyLeader, cluster.Leader{Node: "n1", Boot: "b1", Epoch: 7}},
		"Nodes":   {cluster.KeyNode("n1"), cluster.Node{Name: "n1", Address: "192.0.2.1", BeatPort: 1, PeerPort: 2, JoinPort: 3, Member: 4}},
		"Hosts":   {cluster.KeyHost("h1"), cluster.Host{Name: "h1", Address: "192.0.2.9:1", Certificate: "pem", SigningKey: []byte{1}}},
		"Boots":   {cluster.KeyBoot("b1"), cluster.Boot{ID: "b1", Node: "n1", Phase: cluster.PhaseMember, Life: "h:1:2", Places: []cluster.HostName{"h1"}}},
		"Ended":   {cluster.KeyEnded("b1"), cluster.Ended{Boot: "b1", Node: "n1", Evidence: cluster.EvidenceFenced, Detail: "d"}},
		"Certs":   {cluster.KeyCertificate("h:1:2", "h1"), cluster.DeathCertificate{Cluster: "c", Life: "h:1:2", Host: "h1", Seq: 9, Cause: cluster.CauseCrashed}},
		"Contras": {cluster.KeyContradiction("b1"), cluster.Contradiction{Boot: "b1", Node: "n1", Evidence: cluster.EvidenceCertificate, Hosts: []cluster.HostName{"h1"}, By: "n2", How: "beat"}},
		"Absence": {cluster.KeyAbsence("h:1:2", "h1"), cluster.Absence{Cluster: "c", Life: "h:1:2", Host: "h1", Seq: 9, Run: "r", Why: "migrated"}},
		"Views":   {cluster.KeyView("n1"), cluster.View{Node: "n1", Boot: "b1", Silent: map[cluster.BootID]cluster.Silence{"b2": cluster.SilenceLost}}},
		"Appeals": {cluster.KeyAppeal("b1"), cluster.Appeal{Node: "n1", Boot: "b1", Answers: map[cluster.NodeName]cluster.Revision{"n2": 5}}},
		"Fences":  {cluster.KeyFence("b1"), cluster.Fence{Boot: "b1", Node: "n1", Reason: cluster.FenceSilent, Epoch: 7, Attempt: 2, Executor: "n2"}},
		"PowerOn": {cluster.KeyPowerOn("b1"), cluster.PowerOn{Boot: "b1", Node: "n1", Guest: "g1", Host: "h1", Epoch: 2, Attempt: 1, Executor: "n2"}},
		"PowerRp": {cluster.KeyPowerOnReport("b1"), cluster.PowerOnReport{Boot: "b1", Attempt: 1, Executor: "n2", Outcome: cluster.OutcomeDone}},
		"FenceRp": {cluster.KeyFenceReport("b1"), cluster.FenceReport{Boot: "b1", Attempt: 2, Executor: "n2", Outcome: cluster.OutcomeUnknown}},
		"Owners":  {cluster.KeyOwner("web"), cluster.Owner{Service: "web", Generation: 3, Node: "n1", Boot: "b1", Want: cluster.WantRun, Epoch: 7}},
		"Tickets": {cluster.KeyTicket("web"), cluster.Ticket{Service: "web", Generation: 3, Node: "n1", Boot: "b1", Epoch: 7}},
		"Reports": {cluster.KeyReport("web"), cluster.Report{Service: "web", Node: "n1", Boot: "b1", Generation: 3, State: cluster.ReportRunning}},
		"Probes":  {cluster.KeyProbe("n1"), cluster.Probe{Node: "n1", Boot: "b1", Config: 4, Active: map[cluster.ServiceName]string{"web": "why"}}},
		"Failed":  {cluster.KeyFailure("web", "n1"), cluster.Failure{Service: "web", Node: "n1", Count: 2, Detail: "d"}},
		"Disarm":  {cluster.KeyDisarm, cluster.Disarm{By: "me", Reason: "work"}},
		"Standby": {cluster.KeyStandby("n1"), cluster.Standby{Node: "n1", By: "me"}},
		"Wishes":  {cluster.KeyWish("web"), cluster.Wish{Service: "web", MoveTo: "n1", By: "me"}},
		"Tokens":  {cluster.KeyToken("t1"), cluster.Token{ID: "t1", SecretHash: "00", Node: "n1"}},
	}
}

// found returns the record in one field of State, and its name there.
func found(s *cluster.State, field string) (record any, rev cluster.Revision, since time.Duration) {
	v := reflect.ValueOf(s).Elem().FieldByName(field)
	if v.Kind() == reflect.Map {
		for _, key := range v.MapKeys() {
			v = v.MapIndex(key)
			break
		}
	}
	if v.Kind() == reflect.Map { // empty
		return nil, 0, 0
	}
	return v.FieldByName("Value").Interface(), v.FieldByName("Rev").Interface().(cluster.Revision), v.FieldByName("Since").Interface().(time.Duration)
}

func TestEveryKindOfRecordGoesThroughItsKeyIntoTheState(t *testing.T) {
	kinds := recordKinds()
	for field := range reflect.TypeFor[cluster.State]().Fields() {
		if field.Name == "Rev" {
			continue
		}
		kind, ok := kinds[field.Name]
		if !ok {
			t.Errorf("State.%s: this test has no record of its kind", field.Name)
			continue
		}
		t.Run(field.Name, func(t *testing.T) {
			var s cluster.State
			kv := cluster.KV{Key: kind.key, Value: cluster.Put(kind.key, kind.record).Value, Rev: 5}
			if err := s.Apply(kv, false, time.Second); err != nil {
				t.Fatal(err)
			}
			record, rev, since := found(&s, field.Name)
			if diff := cmp.Diff(kind.record, record); diff != "" || rev != 5 || since != time.Second || s.Rev != 5 {
				t.Errorf("revision %d since %v, state at %d; record (-want +got):\n%s", rev, since, s.Rev, diff)
			}
			checkBadValue(t, &s, kind.key, field.Name, kind.record)
			if err := s.Apply(cluster.KV{Key: kind.key, Rev: 7}, true, 0); err != nil {
				t.Fatal(err)
			}
			if _, rev, _ := found(&s, field.Name); rev != 0 || s.Rev != 7 {
				t.Errorf("after its deletion the record has revision %d, the state %d", rev, s.Rev)
			}
		})
	}
	if got, want := len(kinds), reflect.TypeFor[cluster.State]().NumField()-1; got != want {
		t.Errorf("%d kinds are tested, State holds %d", got, want)
	}
}

// checkBadValue: what does not decode is an error that names the record, and
// leaves the former one.
func checkBadValue(t *testing.T, s *cluster.State, key, field string, record any) {
	t.Helper()
	err := s.Apply(cluster.KV{Key: key, Value: []byte("[]"), Rev: 6}, false, 0)
	if err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(key, cluster.Prefix)) {
		t.Errorf("a value that does not decode: %v", err)
	}
	if got, rev, _ := found(s, field); rev != 5 || !cmp.Equal(record, got) {
		t.Errorf("a value that does not decode has replaced the record of revision 5 by one of %d", rev)
	}
}

func TestKeysOfDifferentRecordsDiffer(t *testing.T) {
	keys := map[string]string{}
	for field, kind := range recordKinds() {
		if other := keys[kind.key]; other != "" || !strings.HasPrefix(kind.key, cluster.Prefix) {
			t.Errorf("key %s of %s: outside %s, or also of %s", kind.key, field, cluster.Prefix, other)
		}
		keys[kind.key] = field
	}
	// No key function may be missing above.
	source, err := os.ReadFile("keys.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^(?:func )?\s*Key[A-Z]\w*(?:\(| +=)`).FindAllString(string(source), -1)
	if len(declared) != len(keys) {
		t.Errorf("keys.go declares %d keys, %d are tested: %q", len(declared), len(keys), declared)
	}
}

func TestUnknownRecordsArePassedOver(t *testing.T) {
	var s cluster.State
	for _, key := range []string{"/elsewhere/node/n1", cluster.Prefix + "of-a-later-version/x", cluster.Prefix} {
		if err := s.Apply(cluster.KV{Key: key, Value: []byte("{"), Rev: s.Rev + 1}, false, 0); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if diff := cmp.Diff(cluster.State{Rev: 3}, s); diff != "" {
		t.Errorf("only the revision may move (-want +got):\n%s", diff)
	}
}

func TestCloneDoesNotChangeWithItsOrigin(t *testing.T) {
	s := allKinds(t)
	before, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	clone := s.Clone()
	for _, kind := range recordKinds() {
		if err := s.Apply(cluster.KV{Key: kind.key, Rev: 6}, true, 0); err != nil {
			t.Fatal(err)
		}
	}
	after, err := json.Marshal(clone)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Errorf("the clone changed (-before +after):\n%s", diff)
	}
}

// allKinds is a state with a record of every kind, at revision 5.
func allKinds(t *testing.T) cluster.State {
	t.Helper()
	var s cluster.State
	for _, kind := range recordKinds() {
		apply(t, &s, cluster.KV{Key: kind.key, Value: cluster.Put(kind.key, kind.record).Value, Rev: 5}, false)
	}
	return s
}

func apply(t *testing.T, s *cluster.State, kv cluster.KV, deleted bool) {
	t.Helper()
	if err := s.Apply(kv, deleted, 0); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyHoldsTheRecordOfOneKey(t *testing.T) {
	for field, kind := range recordKinds() {
		t.Run(field, func(t *testing.T) {
			var want cluster.State
			apply(t, &want, cluster.KV{Key: kind.key, Value: cluster.Put(kind.key, kind.record).Value, Rev: 5}, false)
			s := allKinds(t)
			only := s.Only(kind.key)
			apply(t, &s, cluster.KV{Key: kind.key, Rev: 6}, true)
			if diff := cmp.Diff(want, only); diff != "" {
				t.Errorf("of all records, and after a change of its origin (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(cluster.State{Rev: 6}, s.Only(kind.key)); diff != "" {
				t.Errorf("of a record that is gone (-want +got):\n%s", diff)
			}
		})
	}
	s := allKinds(t)
	if diff := cmp.Diff(cluster.State{Rev: 5}, s.Only("/elsewhere")); diff != "" {
		t.Errorf("of a key outside (-want +got):\n%s", diff)
	}
}

// Kind by kind: each is what Detach and Apply find, and nobody else's.
func TestADetachedStateDoesNotChangeItsPlainCopies(t *testing.T) {
	kinds := map[string]string{}
	for field, kind := range recordKinds() {
		name := cluster.KindOf(kind.key)
		if other := kinds[name]; other != "" || name == "" {
			t.Errorf("%s and %s are both of the kind %q", field, other, name)
		}
		kinds[name] = field
		for _, deleted := range []bool{true, false} {
			s := allKinds(t)
			plain, want := s, s.Clone()
			s.Detach(kind.key)
			apply(t, &s, cluster.KV{Key: kind.key, Value: []byte("{}"), Rev: 6}, deleted)
			if diff := cmp.Diff(want, plain); diff != "" {
				t.Errorf("%s, deleted %v: the copy changed (-before +after):\n%s", field, deleted, diff)
			}
			if record, rev, _ := found(&s, field); deleted && record != nil && rev != 0 || !deleted && rev != 6 {
				t.Errorf("%s, deleted %v: the change went elsewhere: %v at %d", field, deleted, record, rev)
			}
		}
	}
}

func TestRecordsOfTwoNamesAreFound(t *testing.T) {
	var s cluster.State
	for _, w := range []cluster.Write{
		cluster.Put(cluster.KeyFailure("web", "n1"), cluster.Failure{Service: "web", Node: "n1", Count: 2}),
		cluster.Put(cluster.KeyCertificate("h:1:2", "h1"), cluster.DeathCertificate{Life: "h:1:2", Host: "h1", Seq: 9}),
	} {
		if err := s.Apply(cluster.KV{Key: w.Key, Value: w.Value, Rev: 5}, false, 0); err != nil {
			t.Fatal(err)
		}
	}
	if f, ok := s.FailureOf("web", "n1"); !ok || f.Value.Count != 2 {
		t.Errorf("failure of web on n1: %+v, %v", f, ok)
	}
	if _, ok := s.FailureOf("n1", "web"); ok {
		t.Error("failure of n1 on web found")
	}
	if c, ok := s.CertificateOf("h:1:2", "h1"); !ok || c.Value.Seq != 9 {
		t.Errorf("certificate: %+v, %v", c, ok)
	}
	if _, ok := s.CertificateOf("h:1:2", "h2"); ok {
		t.Error("a certificate of another host found")
	}
}

package nodeapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/detect"
	"ringfence/internal/hostd/server"
	"ringfence/internal/store/mem"
	"ringfence/internal/wire/hostapi"
)

func TestStatusShowsWhereThingsAre(t *testing.T) {
	b := newBench(t)
	status, err := b.api.Status(t.Context())
	must(t, err)
	n1, _ := status.Member("n1")
	want := NodeStatus{
		Name: "n1", State: "member", Boot: "boot-n1", Hosts: []cluster.HostName{"h1"}, Guest: "4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d10",
		Voter: true, Address: "192.0.2.1", Services: []cluster.ServiceName{"web"}, Why: []string{},
	}
	if diff := cmp.Diff(want, n1); diff != "" {
		t.Error(diff)
	}
	web, _ := status.Service("web")
	if diff := cmp.Diff(ServiceStatus{Name: "web", State: "running", Node: "n1", Generation: 3, Why: []string{"on n1, generation 3: nobody owns it"}}, web); diff != "" {
		t.Error(diff)
	}
	if status.Leader != "n1" || status.Epoch != 4 || !status.Quorum || status.Revision == 0 || status.Cluster != b.id.Cluster {
		t.Errorf("head of the status: %+v", status)
	}
	if diff := cmp.Diff([]string{"certificate ends soon"}, status.Warnings); diff != "" {
		t.Error(diff)
	}
}

func TestAPausedGuestIsExplained(t *testing.T) {
	b := newBench(t)
	b.set(func() {
		b.clock = time.Hour
		b.said = map[cluster.BootID]detect.Said{"boot-n1": {Paused: true, Since: time.Hour - 2*time.Second}}
	})
	status, err := b.api.Status(t.Context())
	must(t, err)
	n1, _ := status.Member("n1")
	const why = "paused by its host for 2s, fenced at 3s (pause_grace)"
	if diff := cmp.Diff([]string{why}, n1.Why); diff != "" {
		t.Error(diff)
	}
	web, err := b.api.Explain(t.Context(), "web")
	must(t, err)
	if last := web.Why[len(web.Why)-1]; last != "n1 is "+why {
		t.Errorf("explain ends with %q", last)
	}
}

func TestStatusWithoutQuorumSaysSo(t *testing.T) {
	b := newBench(t)
	b.set(func() { b.quorum = false })
	status, err := b.api.Status(t.Context())
	must(t, err)
	if status.Quorum || !strings.Contains(status.Warnings[0], "n1 has no quorum") {
		t.Errorf("quorum %v, warnings %q", status.Quorum, status.Warnings)
	}
}

func TestQuorumRisks(t *testing.T) {
	node := func(name, state, host string, voter bool) NodeStatus {
		n := NodeStatus{Name: cluster.NodeName(name), State: state, Voter: voter}
		if host != "" {
			n.Hosts = []cluster.HostName{cluster.HostName(host)}
		}
		return n
	}
	for _, c := range []struct {
		rule  string
		nodes []NodeStatus
		want  []string
	}{
		{
			"three voters on three hosts survive any loss",
			[]NodeStatus{node("a", "member", "h1", true), node("b", "member", "h2", true), node("c", "member", "h3", true)},
			nil,
		},
		{
			"two of three on one host do not",
			[]NodeStatus{node("a", "member", "h1", true), node("b", "member", "h1", true), node("c", "member", "h3", true)},
			[]string{"quorum would not survive the loss of host h1 (voters there: a, b): 1 of 3 voters would be left, 2 are needed; run the voters on more hosts"},
		},
		{
			"with one voter away, each of the others is one too many",
			[]NodeStatus{node("a", "member", "h1", true), node("b", "lost", "h2", true), node("c", "member", "", true)},
			[]string{
				"quorum would not survive the loss of host h1 (voters there: a): 1 of 3 voters would be left, 2 are needed; bring the absent voters back, or replace them (`ringfence node remove --help`)",
				"quorum would not survive the loss of node c (voters there: c): 1 of 3 voters would be left, 2 are needed; bring the absent voters back, or replace them (`ringfence node remove --help`)",
			},
		},
		{
			"a node that does not vote does not count",
			[]NodeStatus{node("a", "member", "h1", true), node("b", "member", "h2", true), node("c", "member", "h3", true), node("d", "member", "h1", false)},
			nil,
		},
		{
			"two voters are always at risk",
			[]NodeStatus{node("a", "member", "h1", true), node("b", "member", "h2", true)},
			[]string{"the store has 2 voters, so the loss of one costs quorum: join nodes, or a witness (`ringfence witness join`), until there are three"},
		},
		{
			"what is lost already is not warned of",
			[]NodeStatus{node("a", "member", "h1", true), node("b", "lost", "h2", true), node("c", "ended", "h3", true)},
			nil,
		},
	} {
		if diff := cmp.Diff(c.want, quorumRisks(c.nodes)); diff != "" {
			t.Errorf("%s:\n%s", c.rule, diff)
		}
	}
}

func TestServiceOrdersBecomeWishes(t *testing.T) {
	b := newBench(t)
	order := ServiceOrder{By: "ann", To: "n2"}
	done, err := b.api.Service(t.Context(), "web", "move", order)
	must(t, err)
	if got := b.state().Wishes["web"].Value; !done.Changed || got != (cluster.Wish{Service: "web", MoveTo: "n2", By: "ann"}) {
		t.Errorf("wish %+v, done %+v", got, done)
	}
	done, err = b.api.Service(t.Context(), "web", "stop", ServiceOrder{By: "bob"})
	must(t, err)
	if got := b.state().Wishes["web"].Value; !done.Changed || got != (cluster.Wish{Service: "web", Stopped: true, By: "bob"}) {
		t.Errorf("wish %+v, done %+v", got, done)
	}
	_, err = b.api.Service(t.Context(), "web", "start", ServiceOrder{By: "bob"})
	must(t, err)
	if _, still := b.state().Wishes["web"]; still {
		t.Error("the wish to stop stands after start")
	}
}

func TestServiceOrdersThatCannotBe(t *testing.T) {
	b := newBench(t)
	b.put(cluster.KeyFailure("web", "n2"), cluster.Failure{Service: "web", Node: "n2", Count: 1, Detail: "exit status 7"})
	call := func(service, action string, o ServiceOrder) error {
		_, err := b.api.Service(t.Context(), service, action, o)
		return err
	}
	refused(t, call("web", "move", ServiceOrder{By: "ann", To: "n3"}), CodeBadRequest, "its nodes are n1, n2")
	refused(t, call("web", "move", ServiceOrder{By: "ann", To: "n2"}), CodeConflict, "failed to run it (exit status 7): run `ringfence service clear web`")
	refused(t, call("nope", "stop", ServiceOrder{By: "ann"}), CodeNotFound, "services are db, web")
	refused(t, call("web", "explode", ServiceOrder{By: "ann"}), CodeNotFound, "allowed are move, start, stop and clear")
	refused(t, call("web", "stop", ServiceOrder{}), CodeBadRequest, "want who asks")
	refused(t, call("web", "stop", ServiceOrder{By: strings.Repeat("x", 600)}), CodeBadRequest, "at most 512 bytes")
	b.set(func() { b.clock = 2 * time.Minute })
	must(t, call("web", "move", ServiceOrder{By: "ann", To: "n2"})) // the failure has expired
}

func TestAnOrderSurvivesAnAnswerThatWasLost(t *testing.T) {
	b := newBench(t)
	b.mem.SetFault(mem.Fault{Commit: mem.CommitUnacknowledged})
	done, err := b.api.Service(t.Context(), "web", "stop", ServiceOrder{By: "ann"})
	must(t, err)
	if !b.state().Wishes["web"].Value.Stopped || done.Message != "web is stopped already, by ann" {
		t.Errorf("wish %+v, message %q", b.state().Wishes["web"], done.Message)
	}
}

func TestWithoutStoreNothingIsPromised(t *testing.T) {
	b := newBench(t)
	b.mem.SetFault(mem.Cut())
	_, err := b.api.Service(t.Context(), "web", "stop", ServiceOrder{By: "ann"})
	refused(t, err, CodeUnavailable, "has this node lost quorum?")
	b.mem.SetFault(mem.Fault{Commit: mem.CommitLost})
	_, err = b.api.Service(t.Context(), "web", "stop", ServiceOrder{By: "ann"})
	refused(t, err, CodeUnknown, "may or may not have been done")
}

func TestConfirmDead(t *testing.T) {
	order := NodeOrder{By: "ann", Boot: "boot-n3", Reason: "burnt"}
	life := cluster.NewLifeID("hb", 3, 1)
	for _, c := range []struct {
		rule       string
		prepare    func(b *bench)
		code, text string
	}{
		{"a silent node that nobody sees is taken as dead", func(b *bench) { b.silent("n3", "n1", "n2") }, "", ""},
		{"heard by the node that is asked", func(b *bench) { b.silent("n3", "n2") }, CodeRefused, "its heartbeats reach n1"},
		{"heard by half of the observers", func(b *bench) { b.silent("n3", "n1") }, CodeRefused, "its heartbeats reach n2"},
		{"an observer that abstains is no witness", func(b *bench) {
			b.silent("n3", "n1")
			b.put(cluster.KeyView("n2"), cluster.View{Node: "n2", Boot: "boot-n2", Abstain: true})
		}, "", ""},
		{"a view of an earlier boot is no witness", func(b *bench) {
			b.silent("n3", "n1")
			b.put(cluster.KeyView("n2"), cluster.View{Node: "n2", Boot: "older", Silent: map[cluster.BootID]cluster.Silence{"boot-n3": cluster.SilenceLost}})
		}, CodeRefused, "its heartbeats reach n2"},
		{"an answer through the store", func(b *bench) {
			b.silent("n3", "n1", "n2")
			b.put(cluster.KeyAppeal("boot-n3"), cluster.Appeal{Node: "n3", Boot: "boot-n3"})
		}, CodeRefused, "answers through the store"},
		{"an old answer counts no more", func(b *bench) {
			b.silent("n3", "n1", "n2")
			b.put(cluster.KeyAppeal("boot-n3"), cluster.Appeal{Node: "n3", Boot: "boot-n3"})
			b.set(func() { b.clock = time.Minute })
		}, "", ""},
		{"a host that has the life, though paused", func(b *bench) {
			b.silent("n3", "n1", "n2")
			b.set(func() { b.guest = &hostapi.Guest{Life: life, State: "paused"} })
		}, CodeRefused, "is paused, in this very life"},
		{"a host that has another life of the guest", func(b *bench) {
			b.silent("n3", "n1", "n2")
			b.set(func() { b.guest = &hostapi.Guest{Life: "other:1:1", State: "running"} })
		}, "", ""},
		{"another boot than the one that stands", func(b *bench) {
			b.silent("n3", "n1", "n2")
			b.put(cluster.KeyBoot("boot-n3"), cluster.Boot{ID: "boot-n3", Node: "n2"})
		}, CodeConflict, "n3 has no boot"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			b := newBench(t)
			c.prepare(b)
			_, err := b.api.Node(t.Context(), "n3", "confirm-dead", order)
			ended, has := b.state().Ended["boot-n3"]
			if c.code != "" {
				refused(t, err, c.code, c.text)
				if has {
					t.Error("refused, and yet there is a tombstone")
				}
				return
			}
			must(t, err)
			want := cluster.Ended{Boot: "boot-n3", Node: "n3", Evidence: cluster.EvidenceOperator, Detail: "confirmed dead by ann: burnt"}
			if diff := cmp.Diff(want, ended.Value); diff != "" {
				t.Error(diff)
			}
		})
	}
	b := newBench(t)
	b.silent("n3", "n1", "n2")
	_, err := b.api.Node(t.Context(), "n3", "confirm-dead", NodeOrder{By: "ann", Boot: "boot-n3"})
	refused(t, err, CodeBadRequest, "say in at most 512 bytes how you know")
	_, err = b.api.Node(t.Context(), "n1", "confirm-dead", NodeOrder{By: "ann", Boot: "boot-n1", Reason: "x"})
	refused(t, err, CodeRefused, "it is alive")
}

func TestConfirmDeadIsVoidWhenAViewChangesMeanwhile(t *testing.T) {
	b := newBench(t)
	b.silent("n3", "n1", "n2")
	s := b.state()
	tx, _, err := confirmDead(NewServer(b.deps), &s, "n3", NodeOrder{By: "ann", Boot: "boot-n3", Reason: "burnt"})
	must(t, err)
	b.put(cluster.KeyView("n2"), cluster.View{Node: "n2", Boot: "boot-n2"}) // hears it again
	if _, err := b.mem.Commit(t.Context(), tx); err == nil {
		t.Error("the word of a person was taken on an outdated view")
	}
}

func TestLeaveKeepsQuorumForTheOthers(t *testing.T) {
	b := newBench(t)
	b.silent("n3", "n1", "n2")
	_, err := b.api.Leave(t.Context(), LeaveOrder{By: "ann"})
	refused(t, err, CodeRefused, "1 voter of 3 would be left, 2 are needed")
	if b.left {
		t.Error("left though refused")
	}
	_, err = b.api.Leave(t.Context(), LeaveOrder{By: "ann", Force: true})
	must(t, err)
	b.set(func() {
		if !b.left {
			t.Error("did not leave though forced")
		}
	})
}

func TestConfig(t *testing.T) {
	b := newBench(t)
	have, err := b.api.Config(t.Context())
	must(t, err)
	same, err := b.api.Apply(t.Context(), ConfigOrder{By: "ann", Config: have.Config})
	must(t, err)
	if same.Changed {
		t.Error("an apply without a change changed something")
	}
	next := have.Config
	next.Services = next.Services[:1]
	stale := have.Revision - 1
	_, err = b.api.Apply(t.Context(), ConfigOrder{By: "ann", Config: next, Expect: &stale})
	refused(t, err, CodeConflict, "somebody else changed the configuration")
	done, err := b.api.Apply(t.Context(), ConfigOrder{By: "ann", Config: next, Expect: &have.Revision})
	must(t, err)
	if got := b.state().Config; got.Rev != done.Revision || len(got.Value.Services) != 1 {
		t.Errorf("configuration at %d: %+v", got.Rev, got.Value)
	}
	next.Nodes = nil
	_, err = b.api.Apply(t.Context(), ConfigOrder{By: "ann", Config: next})
	refused(t, err, CodeBadRequest, "no [[node]]")
	next = testConfig()
	next.Services[0].Resources[0].Params = nil
	_, err = b.api.Apply(t.Context(), ConfigOrder{By: "ann", Config: next})
	refused(t, err, CodeBadRequest, "exec needs params.command")
	next = testConfig()
	next.Name = "other"
	_, err = b.api.Apply(t.Context(), ConfigOrder{By: "ann", Config: next})
	refused(t, err, CodeConflict, `this is cluster "demo"`)
}

func TestHosts(t *testing.T) {
	b := newBench(t)
	record := func(name cluster.HostName) cluster.Host {
		dir := filepath.Join(t.TempDir(), "host")
		must(t, server.Init(dir, name, "192.0.2.9:7411"))
		public, err := server.Public(dir)
		must(t, err)
		return public
	}
	add := func(h cluster.Host, replace bool) error {
		_, err := b.api.AddHost(t.Context(), HostOrder{By: "ann", Host: h, Replace: replace})
		return err
	}
	h1 := record("h1")
	must(t, add(h1, false))
	must(t, add(h1, false))
	other := record("h1")
	refused(t, add(other, false), CodeRefused, "enrolled with another signing key")
	must(t, add(other, true))
	twin := other
	twin.Name = "h9"
	refused(t, add(twin, false), CodeRefused, "host h1 has the same signing key")
	for text, spoil := range map[string]func(*cluster.Host){
		"want host:port":        func(h *cluster.Host) { h.Address = "nowhere" },
		"signing_key has 3":     func(h *cluster.Host) { h.SigningKey = []byte("abc") },
		"certificate: want one": func(h *cluster.Host) { h.Certificate = "x" },
		"letters, digits":       func(h *cluster.Host) { h.Name = "a/b" },
	} {
		bad := record("h5")
		spoil(&bad)
		refused(t, add(bad, false), CodeBadRequest, text)
	}
	_, err := b.api.RemoveHost(t.Context(), "h1")
	refused(t, err, CodeRefused, "n1 run on host h1")
	must(t, add(record("h7"), false))
	_, err = b.api.RemoveHost(t.Context(), "h7")
	must(t, err)
	hosts, err := b.api.Hosts(t.Context())
	must(t, err)
	if len(hosts) != 1 || hosts[0].Name != "h1" || len(hosts[0].Fingerprint) != 64 {
		t.Errorf("hosts %+v", hosts)
	}
}

func TestTokensAreBoundedAndSecret(t *testing.T) {
	b := newBench(t)
	var first NewToken
	for i := range tokenLimit {
		token, err := b.api.NewToken(t.Context())
		must(t, err)
		if i == 0 {
			first = token
		}
	}
	_, err := b.api.NewToken(t.Context())
	refused(t, err, CodeConflict, "there are 32 unused join tokens")
	_, err = b.api.RemoveToken(t.Context(), first.ID)
	must(t, err)
	_, err = b.api.NewToken(t.Context())
	must(t, err)
	secret := strings.Split(first.Text, ".")[2]
	kvs, _, err := b.mem.Load(t.Context(), cluster.Prefix)
	must(t, err)
	for _, kv := range kvs {
		if bytes.Contains(kv.Value, []byte(secret)) {
			t.Errorf("the secret stands in the store, at %s", kv.Key)
		}
	}
	if strings.Contains(b.log.String(), secret) {
		t.Error("the secret stands in the log")
	}
}

func TestBodiesAreBoundedAndStrict(t *testing.T) {
	b := newBench(t)
	post := func(path, body string) error {
		resp, err := b.api.do(t.Context(), http.MethodPost, path, strings.NewReader(body))
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	refused(t, post("/v1/services/web/stop", `{"by":"ann","bye":1}`), CodeBadRequest, `unknown field "bye"`)
	refused(t, post("/v1/services/web/stop", `{"by":"ann"}{}`), CodeBadRequest, "more than one JSON value")
	refused(t, post("/v1/services/web/stop", `{"by":"`+strings.Repeat("x", bodyLimitBytes)+`"}`), CodeBadRequest, "larger than 1048576 bytes")
	refused(t, post("/v1/services/web/stop", `nonsense`), CodeBadRequest, "cannot be read")
	refused(t, post("/v2/anything", `{}`), CodeNotFound, "not part of the API")
}

func TestExplain(t *testing.T) {
	b := newBench(t)
	b.put(cluster.KeyStandby("n2"), cluster.Standby{Node: "n2", By: "ann"})
	b.put(cluster.KeyWish("web"), cluster.Wish{Service: "web", MoveTo: "n2", By: "ann"})
	e, err := b.api.Explain(t.Context(), "web")
	must(t, err)
	e.Events[0].Time, e.Events[0].Revision = time.Time{}, 0
	want := Explanation{
		ServiceStatus: ServiceStatus{
			Name: "web", State: "running", Node: "n1", Generation: 3,
			Why: []string{"on n1, generation 3: nobody owns it", "asked to move to n2, but that is on standby"},
		},
		Boot: "boot-n1", Hosts: []cluster.HostName{"h1"}, Wish: "to move to n2, by ann",
		Nodes:  []Candidate{{Name: "n1"}, {Name: "n2", Bar: "is on standby: run `ringfence node unstandby n2` first"}},
		Events: []Event{{Kind: "wish", Subject: "web", Node: "n2", Text: "web is wished to move to n2, by ann"}},
	}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Error(diff)
	}
	_, err = b.api.Explain(t.Context(), "nope")
	refused(t, err, CodeNotFound, "services are db, web")
}

func TestListen(t *testing.T) {
	dir, err := os.MkdirTemp("", "rf")
	must(t, err)
	defer os.RemoveAll(dir)
	run := filepath.Join(dir, "run")
	path := filepath.Join(run, SocketName)
	ln, err := Listen(path)
	must(t, err)
	for at, want := range map[string]os.FileMode{run: 0o700, path: 0o600} {
		info, err := os.Stat(at)
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", at, info.Mode().Perm(), want)
		}
	}
	_, err = Listen(path)
	wantError(t, err, "a node runs already with the run directory")
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	ln, err = Listen(path) // what a killed daemon left
	must(t, err)
	ln.Close()
	must(t, os.WriteFile(path, []byte("x"), 0o600))
	_, err = Listen(path)
	wantError(t, err, "is no socket")
	must(t, os.Remove(path))
	must(t, os.Chmod(run, 0o755))
	_, err = Listen(path)
	wantError(t, err, "chmod 700")
	_, err = Listen(filepath.Join(dir, strings.Repeat("x", 120)))
	wantError(t, err, "at most 107 are allowed")
}

func wantError(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Fatalf("error %v, want one with %q", err, text)
	}
}

func TestClientSaysWhereNobodyIs(t *testing.T) {
	_, err := Dial("/nonexistent/node.sock").Status(t.Context())
	want := "no node runs here (no socket at /nonexistent/node.sock): start it with `ringfence node run`, or name another with --socket"
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) || err.Error() != want {
		t.Errorf("error %q", err)
	}
}

func TestEventStream(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan Event, 10)
	ended := make(chan error, 1)
	b.put(cluster.KeyStandby("n2"), cluster.Standby{Node: "n2", By: "ann"})
	go func() {
		ended <- b.api.Events(ctx, true, 0, func(e Event) error { got <- e; return nil })
	}()
	before := <-got
	b.put(cluster.KeyStandby("n3"), cluster.Standby{Node: "n3", By: "ann"})
	after := <-got
	if before.Subject != "n2" || after.Subject != "n3" || after.Text != "n3 is on standby, set by ann" {
		t.Errorf("events %+v, then %+v", before, after)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the stream ended with %v", err)
	}
	var since []Event
	must(t, b.api.Events(t.Context(), false, before.Revision, func(e Event) error { since = append(since, e); return nil }))
	if len(since) != 1 || since[0].Subject != "n3" {
		t.Errorf("since %d: %+v", before.Revision, since)
	}
	stop := errors.New("enough")
	if err := b.api.Events(t.Context(), true, 0, func(Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the reader's own error became %v", err)
	}
}

func TestEventStreamEndsWithTheDaemon(t *testing.T) {
	b := newBench(t)
	dir, err := os.MkdirTemp("", "rf")
	must(t, err)
	defer os.RemoveAll(dir)
	ln, err := Listen(filepath.Join(dir, "x.sock"))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- NewServer(b.deps).Serve(ctx, ln) }()
	client := Dial(ln.Addr().String())
	defer client.Close()
	b.put(cluster.KeyStandby("n2"), cluster.Standby{Node: "n2", By: "ann"})
	err = client.Events(t.Context(), true, 0, func(Event) error { cancel(); return nil })
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the stream ended with %v", err)
	}
	must(t, <-served)
}

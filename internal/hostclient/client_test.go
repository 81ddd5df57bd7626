package hostclient

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/hostapi"
)

const guest cluster.GuestID = "00000000-0000-4000-8000-000000000001"

var testKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

var testOrder = hostapi.Order{Cluster: "alpha", Incarnation: 1, Epoch: 1, Decision: "d", Life: "l1"}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// server runs a host that answers with h, and a client enrolled with it.
func server(t *testing.T, h http.HandlerFunc) (*Client, cluster.Host) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	host := cluster.Host{
		Name: "h1", Address: s.Listener.Addr().String(), SigningKey: testKey.Public().(ed25519.PublicKey),
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})),
	}
	c, err := New(host, tls.Certificate{})
	must(t, err)
	t.Cleanup(c.Close)
	return c, host
}

func signed(edit func(*cluster.DeathCertificate)) cluster.DeathCertificate {
	c := cluster.DeathCertificate{Cluster: "alpha", Guest: guest, Life: "l1", Host: "h1", Seq: 1, Cause: cluster.CauseFenced}
	edit(&c)
	c.Signature = ed25519.Sign(testKey, c.SigningBytes())
	return c
}

func same(*cluster.DeathCertificate) {}

func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// Only what the host says for certain is certain.
func TestOutcomesOfOrders(t *testing.T) {
	forged := signed(same)
	forged.Life = "l2"
	unsigned := signed(same)
	unsigned.Signature = nil
	reply := func(o cluster.Outcome, c *cluster.DeathCertificate) string {
		return text(hostapi.Reply{Outcome: o, Certificate: c})
	}
	of := func(edit func(*cluster.DeathCertificate)) *cluster.DeathCertificate { c := signed(edit); return &c }
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   cluster.Outcome
		fails  bool
	}{
		{"done with its certificate", 200, reply("done", of(same)), cluster.OutcomeDone, false},
		{"done without certificate", 200, reply("done", nil), cluster.OutcomeDone, false},
		{"not done", 200, reply("not done", nil), cluster.OutcomeNotDone, false},
		{"unknown", 200, reply("unknown", nil), cluster.OutcomeUnknown, false},
		{"no outcome", 200, "{}", cluster.OutcomeUnknown, true},
		{"an outcome of its own", 200, reply("off", nil), cluster.OutcomeUnknown, true},
		{"a certificate that was changed", 200, reply("done", &forged), cluster.OutcomeUnknown, true},
		{"a certificate without signature", 200, reply("done", &unsigned), cluster.OutcomeUnknown, true},
		{"a certificate of another life", 200, reply("done", of(func(c *cluster.DeathCertificate) { c.Life = "l2" })), cluster.OutcomeUnknown, true},
		{"a certificate of another guest", 200, reply("done", of(func(c *cluster.DeathCertificate) { c.Guest = "g2" })), cluster.OutcomeUnknown, true},
		{"a certificate of another host", 200, reply("done", of(func(c *cluster.DeathCertificate) { c.Host = "h2" })), cluster.OutcomeUnknown, true},
		{"a certificate for another cluster", 200, reply("done", of(func(c *cluster.DeathCertificate) { c.Cluster = "beta" })), cluster.OutcomeUnknown, true},
		{"a refusal", 409, text(hostapi.Error{Code: hostapi.CodeStaleEpoch, Message: "m"}), cluster.OutcomeNotDone, true},
		{"a refusal without reason", 403, "no", cluster.OutcomeUnknown, true},
		{"an internal error", 503, text(hostapi.Error{Code: hostapi.CodeInternal}), cluster.OutcomeUnknown, true},
		{"an internal error that looks like a refusal", 400, text(hostapi.Error{Code: hostapi.CodeInternal}), cluster.OutcomeUnknown, true},
		{"a refusal with a server's status", 500, text(hostapi.Error{Code: hostapi.CodeForbidden}), cluster.OutcomeUnknown, true},
		{"a redirect", 307, "", cluster.OutcomeUnknown, true},
		{"done, without reaching the guest", 204, "", cluster.OutcomeUnknown, true},
		{"no JSON", 200, "done", cluster.OutcomeUnknown, true},
		{"JSON of another type", 200, `{"outcome":7}`, cluster.OutcomeUnknown, true},
		{"a list", 200, `[]`, cluster.OutcomeUnknown, true},
		{"an answer that is too long", 200, reply("done", nil) + strings.Repeat(" ", hostapi.BodyLimitBytes), cluster.OutcomeUnknown, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/guests/"+string(guest)+"/off" || r.Method != http.MethodPost {
					t.Errorf("%s %s", r.Method, r.URL.Path)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			got, err := client.Off(context.Background(), guest, testOrder)
			if got.Outcome != c.want || (err != nil) != c.fails {
				t.Errorf("reply %+v, error %v", got, err)
			}
			var refused *RefusedError
			if errors.As(err, &refused) != (c.want == cluster.OutcomeNotDone && c.fails) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestATimeoutIsUnknown(t *testing.T) {
	reached := make(chan struct{})
	client, _ := server(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(reached)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-reached; cancel() }()
	got, err := client.On(ctx, guest, testOrder)
	if got.Outcome != cluster.OutcomeUnknown || !errors.Is(err, context.Canceled) {
		t.Errorf("reply %+v, error %v", got, err)
	}
}

func TestAnAnswerWithoutEndIsCut(t *testing.T) {
	client, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	if _, err := client.Guests(context.Background()); err == nil || !strings.Contains(err.Error(), "more than 65536 bytes") {
		t.Errorf("error %v", err)
	}
}

// Exactly the enrolled certificate, whoever signed another one.
func TestAnotherCertificateIsNotTheHost(t *testing.T) {
	_, host := server(t, func(http.ResponseWriter, *http.Request) { t.Error("the host was asked") })
	other := httptest.NewUnstartedServer(nil)
	other.Config.ErrorLog = log.New(io.Discard, "", 0)
	other.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	other.StartTLS()
	defer other.Close()
	host.Address = other.Listener.Addr().String()
	c, err := New(host, tls.Certificate{})
	must(t, err)
	defer c.Close()
	if reply, err := c.Off(context.Background(), guest, testOrder); reply.Outcome != cluster.OutcomeUnknown || err == nil || !strings.Contains(err.Error(), "not the enrolled host h1") {
		t.Errorf("reply %+v, error %v", reply, err)
	}
}

func TestNewRefusesABadRecord(t *testing.T) {
	_, good := server(t, nil)
	for name, edit := range map[string]func(*cluster.Host){
		"address":     func(h *cluster.Host) { h.Address = "nowhere" },
		"signing key": func(h *cluster.Host) { h.SigningKey = h.SigningKey[1:] },
		"certificate": func(h *cluster.Host) { h.Certificate = "x" },
	} {
		host := good
		edit(&host)
		if _, err := New(host, tls.Certificate{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestGuestMustBeTheOneAskedFor(t *testing.T) {
	client, _ := server(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, text(hostapi.Guest{ID: "other", State: "off"}))
	})
	if g, err := client.Guest(context.Background(), guest); err == nil || g != (hostapi.Guest{}) {
		t.Errorf("guest %+v, error %v", g, err)
	}
}

func event(name string, v any) string { return fmt.Sprintf("event: %s\ndata: %s\n\n", name, text(v)) }

var hello = event(hostapi.EventHello, hostapi.Hello{Host: "h1", HostBoot: "b", LastSeq: 3})

func TestStream(t *testing.T) {
	cert := signed(same)
	forged := signed(same)
	forged.Cause = cluster.CauseShutdown
	state := hostapi.Guest{ID: guest, State: "running", Life: "l1"}
	good := []Event{{Hello: &hostapi.Hello{Host: "h1", HostBoot: "b", LastSeq: 3}}}
	for _, c := range []struct {
		name, body, says string
		want             []Event
	}{
		{"in order", hello + ":\n\n" + event("certificate", cert) + event("guest", state), "EOF", append(good[:1:1], Event{Certificate: &cert}, Event{Guest: &state})},
		{"an unknown kind is passed over", hello + event("weather", "rain") + event("guest", state), "EOF", append(good[:1:1], Event{Guest: &state})},
		{"carriage returns and other fields", strings.ReplaceAll(hello, "\n", "\r\n") + "retry: 3\r\nid: 7\r\n\r\n", "EOF", good},
		{"without hello", event("certificate", cert), "not with hello", nil},
		{"of another host", event("hello", hostapi.Hello{Host: "h2"}), "another host", nil},
		{"a hello that is null", "event: hello\ndata: null\n\n", "another host", nil},
		{"a forged certificate", hello + event("certificate", forged), "signature does not match", good},
		{"an empty certificate", hello + "event: certificate\ndata: null\n\n", "it is empty", good},
		{"an event of a wrong type", hello + "event: guest\ndata: []\n\n", "guest event", good},
		{"an event without data", hello + "event: guest\n\n", "guest event", good},
		{"a line that is too long", hello + "data: " + strings.Repeat("x", 2*hostapi.EventLimitBytes), "line has more than", good},
		{"many lines that are too long together", hello + strings.Repeat("data: "+strings.Repeat("x", 1000)+"\n", 20), "event has more than", good},
		{"cut in the middle of an event", hello + "event: guest\ndata: {", "EOF", good},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.String() != "/v1/events?since=5" {
					t.Errorf("asked for %s", r.URL)
				}
				_, _ = io.WriteString(w, c.body)
			})
			var got []Event
			err := client.Stream(context.Background(), 5, func(ev Event) error { got = append(got, ev); return nil })
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %q", err, c.says)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAStreamThatIsRefusedSaysWhy(t *testing.T) {
	client, _ := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, text(hostapi.Error{Code: hostapi.CodeForbidden, Message: "not you"}))
	})
	var refused *RefusedError
	if err := client.Stream(context.Background(), 0, nil); !errors.As(err, &refused) || refused.Message != "not you" {
		t.Errorf("error %v", err)
	}
}

// pipe is a transport whose answer is what the test writes.
type pipe struct{ *io.PipeReader }

func (p pipe) RoundTrip(r *http.Request) (*http.Response, error) {
	context.AfterFunc(r.Context(), func() { p.CloseWithError(r.Context().Err()) })
	return &http.Response{StatusCode: http.StatusOK, Body: p.PipeReader}, nil
}

// Three keepalives without a word end the stream; comments keep it, and the
// time that the taker needs is not the host's silence.
func TestASilentStreamIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		c := &Client{host: cluster.Host{Name: "h1"}, events: &http.Client{Transport: pipe{r}}}
		begin := time.Now()
		go func() {
			_, _ = io.WriteString(w, hello) // taken for 10 s
			for range 10 {
				time.Sleep(time.Second)
				_, _ = io.WriteString(w, ":\n\n")
			}
		}()
		err := c.Stream(context.Background(), 0, func(Event) error { time.Sleep(10 * time.Second); return nil })
		if !errors.Is(err, ErrSilent) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(begin); took < 13*time.Second || took > 24*time.Second {
			t.Errorf("lost after %v", took)
		}
	})
}

func TestTheTakersErrorEndsTheStream(t *testing.T) {
	client, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, hello)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	enough := errors.New("enough")
	if err := client.Stream(context.Background(), 0, func(Event) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("error %v", err)
	}
}

// channel runs a host on a unix socket.
func channel(t *testing.T, h http.HandlerFunc) *Channel {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	must(t, err)
	s := &httptest.Server{Listener: ln, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	c := NewChannelSocket(path)
	t.Cleanup(c.Close)
	return c
}

func TestChannel(t *testing.T) {
	req := hostapi.BindRequest{Cluster: "alpha", Node: "db1", Boot: "b1", Nonce: "n1"}
	good := cluster.Binding{Cluster: "alpha", Node: "db1", Boot: "b1", Nonce: "n1", Guest: guest, Life: "l1", Host: "h1", HostBoot: "hb"}
	self := hostapi.Self{Host: "h1", Guest: guest, Life: "l1"}
	answer := func(v any) *Channel {
		return channel(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text(v)) })
	}
	got, err := answer(self).Self(context.Background())
	if diff := cmp.Diff(self, got); diff != "" || err != nil {
		t.Errorf("error %v %s", err, diff)
	}
	bound, err := answer(good).Bind(context.Background(), req)
	if diff := cmp.Diff(good, bound); diff != "" || err != nil {
		t.Errorf("error %v %s", err, diff)
	}
	if _, err := answer(hostapi.Self{Host: "h1", Guest: guest}).Self(context.Background()); err == nil {
		t.Error("a self without life is taken")
	}
	for name, edit := range map[string]func(*cluster.Binding){
		"nonce": func(b *cluster.Binding) { b.Nonce = "old" }, "boot": func(b *cluster.Binding) { b.Boot = "b2" },
		"cluster": func(b *cluster.Binding) { b.Cluster = "beta" }, "node": func(b *cluster.Binding) { b.Node = "db2" },
		"life": func(b *cluster.Binding) { b.Life = "" }, "host": func(b *cluster.Binding) { b.Host = "" },
	} {
		b := good
		edit(&b)
		if _, err := answer(b).Bind(context.Background(), req); err == nil {
			t.Errorf("a binding with a wrong %s is taken", name)
		}
	}
	refuses := channel(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, text(hostapi.Error{Code: hostapi.CodeForbidden, Message: "belongs to cluster beta"}))
	})
	if _, err := refuses.Bind(context.Background(), req); err == nil || err.Error() != "bind this guest: the host refuses (forbidden): belongs to cluster beta" {
		t.Errorf("error %v", err)
	}
}

// FuzzReadEvents: whatever a host sends, reading ends with an error, and no
// event is longer than the limit.
func FuzzReadEvents(f *testing.F) {
	for _, seed := range []string{hello, hello + event("guest", 1), ":\n\n", "data\n\n", "event: hello\n\n\n", "data: a\ndata: b\n\n", "\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first := true
		err := readEvents(strings.NewReader(s), func() {}, func(name string, data []byte) error {
			if first && name != hostapi.EventHello || len(data) > hostapi.EventLimitBytes {
				t.Errorf("event %q with %d bytes", name, len(data))
			}
			first = false
			return nil
		})
		if err == nil {
			t.Error("no error at the end")
		}
	})
}

// FuzzDecode: only 4xx with a code is a refusal, only 200 is an answer.
func FuzzDecode(f *testing.F) {
	f.Add(200, []byte(`{"outcome":"done"}`))
	f.Add(409, []byte(`{"code":"stale_epoch","message":"m"}`))
	f.Add(503, []byte(`{"code":"internal"}`))
	f.Add(200, []byte(`null`))
	f.Fuzz(func(t *testing.T, status int, data []byte) {
		var reply hostapi.Reply
		err := decode("h1", status, data, &reply)
		var refused *RefusedError
		if err == nil && status != 200 || errors.As(err, &refused) && (status < 400 || status > 499 || refused.Code == "") {
			t.Errorf("status %d: error %v", status, err)
		}
	})
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, testKey.Public(), testKey)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: testKey}
}

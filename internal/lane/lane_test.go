package lane

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	wire "ringfence/internal/wire/lane"
)

// testTimeout bounds what a test waits for.
const testTimeout = 20 * time.Second

// half is one direction of a cable. What was written stays there, whoever reads.
type half struct {
	mu   sync.Mutex
	cond *sync.Cond
	buf  []byte
}

// halfBytes is what a direction holds before writers wait.
const halfBytes = 32 << 10

// cable is a serial line: it goes on whichever end is closed and opened again.
type cable struct{ up, down *half }

func newCable() cable {
	make1 := func() *half { h := &half{}; h.cond = sync.NewCond(&h.mu); return h }
	return cable{make1(), make1()}
}

// end is one end of a cable while it is open.
type end struct {
	in, out *half
	mu      sync.Mutex
	closed  bool
}

func (c cable) guest() (io.ReadWriteCloser, error) { return &end{in: c.down, out: c.up}, nil }

func (c cable) host(context.Context) (io.ReadWriteCloser, error) {
	return &end{in: c.up, out: c.down}, nil
}

func (e *end) isClosed() bool { e.mu.Lock(); defer e.mu.Unlock(); return e.closed }

func (e *end) Read(b []byte) (int, error) {
	e.in.mu.Lock()
	defer e.in.mu.Unlock()
	for len(e.in.buf) == 0 {
		if e.isClosed() {
			return 0, os.ErrClosed
		}
		e.in.cond.Wait()
	}
	n := copy(b, e.in.buf)
	e.in.buf = e.in.buf[n:]
	e.in.cond.Broadcast()
	return n, nil
}

func (e *end) Write(b []byte) (n int, err error) {
	e.out.mu.Lock()
	defer e.out.mu.Unlock()
	for len(b) > 0 {
		if e.isClosed() {
			return n, os.ErrClosed
		}
		room := min(len(b), halfBytes-len(e.out.buf))
		if room == 0 {
			e.out.cond.Wait()
			continue
		}
		e.out.buf = append(e.out.buf, b[:room]...)
		b, n = b[room:], n+room
		e.out.cond.Broadcast()
	}
	return n, nil
}

func (e *end) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	for _, h := range []*half{e.in, e.out} {
		h.mu.Lock()
		h.cond.Broadcast()
		h.mu.Unlock()
	}
	return nil
}

// inject puts bytes on the line.
func (h *half) inject(b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf = append(h.buf, b...)
	h.cond.Broadcast()
}

func dialer(t *testing.T, c cable) *Dialer {
	d := NewDialer(c.guest, slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(d.Close)
	return d
}

// serve answers at the host with who it is and what was sent.
func serve(t *testing.T, c cable, who string) (stop func()) {
	l := Listen("vm1", c.host)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			fmt.Fprintf(w, "%s:%s", who, body)
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	stop = sync.OnceFunc(func() { _ = server.Close(); _ = l.Close(); <-done })
	t.Cleanup(stop)
	return stop
}

// ask makes one request over a connection of its own.
func ask(d *Dialer, body string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.Dial(ctx) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://hostd/", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// await asks until the answer is right. A wrong answer is never right.
func await(t *testing.T, d *Dialer, who, body string) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); ; {
		got, err := ask(d, body)
		if err == nil && got == who+":"+body {
			return
		}
		if err == nil && !strings.HasSuffix(got, ":"+body) {
			t.Fatalf("the answer to another question: %.80q", got)
		}
		if time.Now().After(deadline) {
			t.Fatalf("no answer of %s: %.80q, %v", who, got, err)
		}
	}
}

func TestManyConnectionsShareOneStream(t *testing.T) {
	c := newCable()
	serve(t, c, "h1")
	d := dialer(t, c)
	var group sync.WaitGroup
	for n := range 16 {
		group.Go(func() {
			for k := range 5 {
				body := strings.Repeat(fmt.Sprintf("question %d %d. ", n, k), 1+200*k)
				if got, err := ask(d, body); err != nil || got != "h1:"+body {
					t.Errorf("question %d: %d bytes came back, %v", n, len(got), err)
				}
			}
		})
	}
	group.Wait()
}

func TestEitherEndComesBackInTheMiddleOfAFrame(t *testing.T) {
	c := newCable()
	broken, err := wire.Frame{Kind: wire.Data, Session: 99, Stream: 1, Payload: make([]byte, wire.PayloadLimit)}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	stop := serve(t, c, "h1")
	d := NewDialer(c.guest, slog.New(slog.DiscardHandler))
	await(t, d, "h1", "before")
	for n, cut := range []int{1, 23, 24, 25, 4000} {
		who := fmt.Sprintf("h%d", n+2)
		asked := make(chan struct{})
		go func() { defer close(asked); _, _ = ask(d, strings.Repeat("x", 200<<10)) }() // cut off on its way
		stop()
		c.down.inject(broken[:cut])
		stop = serve(t, c, who)
		await(t, d, who, "behind the host's return")
		<-asked

		d.Close()
		c.up.inject(broken[:cut])
		d = NewDialer(c.guest, slog.New(slog.DiscardHandler))
		await(t, d, who, "behind the guest's return")
	}
	d.Close()
}

func TestAGuestWithoutHostWaitsAndSaysWhy(t *testing.T) {
	c := newCable()
	d := dialer(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if conn, err := d.Dial(ctx); err == nil {
		conn.Close()
		t.Error("a connection without a host")
	}
	serve(t, c, "h1")
	await(t, d, "h1", "now it is there")
	d.Close()
	if _, err := d.Dial(t.Context()); err == nil {
		t.Error("a closed dialer dials")
	}
}

func TestASlowReaderIsClosedAndDelaysNobody(t *testing.T) {
	c := newCable()
	l := Listen("vm1", c.host)
	defer l.Close()
	d := dialer(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	slow, err := d.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = far.SetDeadline(time.Now().Add(testTimeout))
	sent := 0
	for err == nil {
		var n int
		n, err = far.Write(make([]byte, wire.PayloadLimit))
		sent += n
	}
	if sent > 4*heldLimit*wire.PayloadLimit {
		t.Errorf("%d bytes went to a connection that nobody reads", sent)
	}
	other, err := d.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	far, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = far.Write([]byte("hello")); far.Close() }()
	_ = other.SetDeadline(time.Now().Add(testTimeout))
	if got, err := io.ReadAll(other); err != nil || string(got) != "hello" {
		t.Errorf("another connection: %q, %v", got, err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	c := newCable()
	l := Listen("vm1", c.host)
	defer l.Close()
	d := dialer(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	for n := range streamLimit {
		conn, err := d.Dial(ctx)
		if err == nil {
			_, err = l.Accept() // it is closed with the listener
		}
		if err != nil {
			t.Fatalf("connection %d: %v", n, err)
		}
		defer conn.Close()
	}
	if _, err := d.Dial(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("one connection too many: %v", err)
	}
}

func TestPortsAreNamed(t *testing.T) {
	for _, name := range []string{"", "../x", "org.ringfence.test.none"} {
		if _, err := OpenPort(name); err == nil {
			t.Errorf("port %q: %v", name, err)
		}
	}
}

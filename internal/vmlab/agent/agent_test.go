package agent

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// timeout bounds what takes no time.
const timeout = 10 * time.Second

// port is one end of a connection as a guest has it: it reads as ended while
// nobody is at the other.
type port struct {
	net.Conn
	idle int // how often it reads as ended
}

func (p *port) Read(b []byte) (int, error) {
	if p.idle > 0 {
		p.idle--
		return 0, io.EOF
	}
	n, err := p.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		err = net.ErrClosed // the guest has ended, as far as Serve knows
	}
	return n, err
}

// guest serves requests on a socket and returns a client of it.
func guest(t *testing.T, obey func(Request) Reply) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "port")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := listener.Accept()
		if err == nil {
			_ = Serve(&port{Conn: conn, idle: 2}, obey) // it ends with the client
			_ = conn.Close()
		}
	}()
	client, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		_ = listener.Close()
		<-ended
	})
	return client
}

func TestEachRequestGetsItsOwnReply(t *testing.T) {
	slow := make(chan struct{})
	client := guest(t, func(r Request) Reply {
		if r.Argv[0] == "slow" {
			<-slow
		}
		return Reply{Code: len(r.Argv), Stdout: []byte(r.Argv[0])}
	})
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	first := make(chan string)
	go func() {
		r, err := client.Run(ctx, "slow")
		first <- string(r.Stdout) + errText(err)
	}()
	if r, err := client.Run(ctx, "fast", "x"); err != nil || string(r.Stdout) != "fast" || r.Code != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	close(slow)
	if got := <-first; got != "slow" {
		t.Errorf("the slow request got %q", got)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestFailuresAreTold(t *testing.T) {
	client := guest(t, func(r Request) Reply {
		if r.Write == "much" {
			return Reply{Stdout: make([]byte, LineLimitBytes)}
		}
		return Reply{Failure: "no such file"}
	})
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	if err := client.Write(ctx, "a", nil); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a failure: %v", err)
	}
	if err := client.Write(ctx, "much", nil); err == nil || !strings.Contains(err.Error(), "too much") {
		t.Errorf("too long a reply: %v", err)
	}
	if err := client.Write(ctx, "a", make([]byte, LineLimitBytes)); err == nil {
		t.Error("too long a request was sent")
	}
	done, stop := context.WithCancel(ctx)
	stop()
	if _, err := client.Run(done, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
}

func TestGuestThatEndsEndsRequests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "port")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	client, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan error)
	go func() { asked <- client.Write(ctx, "a", nil) }()
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := <-asked; !errors.Is(err, ErrGone) {
		t.Errorf("the guest ended: %v", err)
	}
	<-client.Gone()
}

func TestRequestsHaveALimit(t *testing.T) {
	endless := struct {
		io.Reader
		io.Writer
	}{endlessReader{}, io.Discard}
	if err := Serve(endless, nil); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("an endless request: %v", err)
	}
}

type endlessReader struct{}

func (endlessReader) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

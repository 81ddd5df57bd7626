// Package hostdtest lets a real client (hostclient) and a real hostd (Handler of
// hostd.Daemon) meet in one process without sockets: the simulator and tests
// that run under testing/synctest call it. It vouches for the caller in place of
// TLS, so nothing that serves a network may use it.
//
// Invariants: a request has at most one answer, in order and not changed; what
// the handler has flushed can be read before it returns; when the client gives a
// request up, the handler's context ends and its writes fail.
package hostdtest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"ringfence/internal/hostd"
)

// bufferBytes is what a handler can write before it waits for the client.
const bufferBytes = 4 << 10

// Transport is an http.RoundTripper that hands requests to a handler. A network
// with faults stands in front of it, as another RoundTripper: it can refuse and
// delay requests, end their contexts and wrap the bodies of answers. As with any
// RoundTripper, answers must be read to their end or closed.
type Transport struct {
	// Handler answers, each request in a goroutine of its own.
	Handler http.Handler
	// Caller is who sends every request.
	Caller hostd.Caller

	wg sync.WaitGroup
}

// Wait returns when every handler has. The caller sends no more requests.
func (t *Transport) Wait() { t.wg.Wait() }

// RoundTrip hands the request over and returns when the head of the answer is
// there, or with the error of the request's context.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(hostd.WithCaller(context.Background(), t.Caller))
	near, far := net.Pipe()
	w := &answer{header: http.Header{}, conn: far, head: make(chan head, 1)}
	w.out = bufio.NewWriterSize(started{w}, bufferBytes)
	giveUp := context.AfterFunc(r.Context(), func() { cancel(); _ = near.Close() })
	t.wg.Go(func() {
		defer cancel()
		defer far.Close()
		t.Handler.ServeHTTP(w, served(ctx, r, t.Caller, body))
		w.finish()
	})
	select {
	case h := <-w.head:
		return &http.Response{
			Status: fmt.Sprintf("%d %s", h.status, http.StatusText(h.status)), StatusCode: h.status,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: h.header, ContentLength: -1, Request: r,
			Body: &answerBody{conn: near, ctx: r.Context(), close: func() { giveUp(); cancel() }},
		}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

func readBody(r *http.Request) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	defer r.Body.Close()
	return io.ReadAll(r.Body)
}

// served is the request as the handler sees it: it shares nothing with r but
// what is sent.
func served(ctx context.Context, r *http.Request, who hostd.Caller, body []byte) *http.Request {
	in := r.Clone(ctx)
	in.RequestURI, in.RemoteAddr = r.URL.RequestURI(), who.Remote
	in.Body, in.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return in
}

type head struct {
	status int
	header http.Header
}

// answer is the http.ResponseWriter of one request. It has what hostd asks of an
// http.ResponseController: Flush and deadlines. Only the handler uses it.
type answer struct {
	header http.Header
	first  head // what WriteHeader has fixed
	conn   net.Conn
	out    *bufio.Writer
	head   chan head // one slot, filled with the first bytes that leave
	sent   bool
}

// Header returns what the head will have; WriteHeader takes a copy.
func (w *answer) Header() http.Header { return w.header }

// WriteHeader fixes the head; the first call counts.
func (w *answer) WriteHeader(status int) {
	if w.first.status == 0 {
		w.first = head{status, w.header.Clone()}
	}
}

// Write adds to the body; it waits for the client when the buffer is full.
func (w *answer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.out.Write(p)
}

// FlushError sends what was written.
func (w *answer) FlushError() error {
	w.begin()
	return w.out.Flush()
}

// SetReadDeadline does nothing: the request has arrived as a whole.
func (w *answer) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline bounds the waits for the client.
func (w *answer) SetWriteDeadline(t time.Time) error { return w.conn.SetWriteDeadline(t) }

// begin sends the head, once.
func (w *answer) begin() {
	if w.sent {
		return
	}
	w.sent = true
	w.WriteHeader(http.StatusOK)
	w.head <- w.first
}

// finish sends what is left. A client that is gone misses it.
func (w *answer) finish() { _ = w.FlushError() }

// started sends the head before the first bytes of the body.
type started struct{ w *answer }

func (s started) Write(p []byte) (int, error) {
	s.w.begin()
	return s.w.conn.Write(p)
}

// answerBody is the client's end of an answer.
type answerBody struct {
	conn  net.Conn
	ctx   context.Context
	close func()
}

// Read reads what the handler has sent; once the request is given up, it returns
// why.
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.conn.Read(p)
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = b.ctx.Err()
	}
	return n, err
}

// Close gives the rest of the answer up.
func (b *answerBody) Close() error {
	b.close()
	return b.conn.Close()
}

package sim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"ringfence/internal/hostd"
	"ringfence/internal/hostd/hostdtest"
)

// Bounds of a connection between a node and a host.
const (
	dialLimit   = 3 * time.Second // until a dead path is noticed
	wirePoll    = 50 * time.Millisecond
	requestMost = 64 << 10 // bytes
)

// wire is the way from a program to the API of a host. It stands in for TCP
// and TLS: what it loses is lost with an error, or arrives late, or twice.
type wire struct {
	p *program
	h *host
}

// RoundTrip implements http.RoundTripper.
func (t wire) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.p.gate(); err != nil {
		return nil, err
	}
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(io.LimitReader(req.Body, requestMost)); err != nil {
			return nil, err
		}
		_ = req.Body.Close()
	}
	ctx := req.Context()
	if err := t.pass(ctx, t.p.name, t.h.name); err != nil {
		return nil, err
	}
	again := func(ctx context.Context) *http.Request {
		r := req.Clone(ctx)
		r.Body = io.NopCloser(bytes.NewReader(body))
		return r
	}
	fates := t.p.w.net.fates()
	if len(fates) == 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if len(fates) > 1 && req.Method == http.MethodPost { // repeated: nobody reads this answer
		t.p.w.later(fates[1], func() { t.drop(again(t.p.w.ctx)) })
	}
	began := t.p.w.now()
	if delay := fates[0]; delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done(): // it arrives, though its sender has given up
			t.p.w.later(delay-(t.p.w.now()-began), func() { t.drop(again(t.p.w.ctx)) })
			return nil, ctx.Err()
		}
	}
	return t.answer(again(ctx))
}

// pass waits until the path is open; a dead one is an error after a while.
func (t wire) pass(ctx context.Context, from, to string) error {
	time.Sleep(t.p.w.net.latency())
	for began := t.p.w.now(); !t.p.w.net.open(from, to) || !t.h.isUp(); {
		if t.p.w.now()-began > dialLimit {
			return errors.New("sim: no route to host")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.p.ctx.Done():
			return errGone
		case <-time.After(wirePoll):
		}
	}
	return nil
}

// drop has the host handle a request whose answer nobody reads.
func (t wire) drop(req *http.Request) {
	if resp, err := t.ask(req); err == nil {
		_ = resp.Body.Close()
	}
}

// ask has the host handle a request now.
func (t wire) ask(req *http.Request) (*http.Response, error) {
	d := t.h.serving()
	if d == nil {
		return nil, errors.New("sim: connection refused")
	}
	return (&hostdtest.Transport{
		Handler: d.Handler(), Caller: hostd.Caller{Cluster: clusterID, Name: t.p.name, Remote: t.p.name},
	}).RoundTrip(req)
}

// answer asks and carries the answer back.
func (t wire) answer(req *http.Request) (*http.Response, error) {
	resp, err := t.ask(req)
	if err != nil {
		return nil, err
	}
	err = t.pass(req.Context(), t.h.name, t.p.name)
	if err == nil {
		err = t.p.gate()
	}
	if err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	resp.Body = received{resp.Body, t, req.Context()}
	return resp, nil
}

// received is the body of an answer as the program reads it: what has arrived
// is handed out once the path is open.
type received struct {
	io.ReadCloser
	t   wire
	ctx context.Context
}

// Read implements io.Reader.
func (b received) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if lost := b.t.pass(b.ctx, b.t.h.name, b.t.p.name); lost != nil {
		return 0, lost
	}
	if gone := b.t.p.gate(); gone != nil {
		return 0, gone
	}
	return n, err
}

package observe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"ringfence/internal/demo/trace"
)

// replyLimitBytes bounds the answer of the service.
const replyLimitBytes = 4 << 10

// ask sends a question each interval until ctx ends, and waits for the last.
func ask(ctx context.Context, address string, interval time.Duration, lines *printer) {
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var questions sync.WaitGroup
	defer questions.Wait()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		questions.Go(func() {
			if a := question(ctx, client, address); ctx.Err() == nil {
				lines.print(trace.Observation{Answer: &a})
			}
		})
	}
}

// question asks once.
func question(ctx context.Context, client *http.Client, address string) trace.Answer {
	a := trace.Answer{Sent: trace.Now()}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	id, err := get(ctx, client, address)
	a.Done = trace.Now()
	if err != nil {
		a.Failure = failure(err)
		return a
	}
	a.From = &id
	return a
}

func get(ctx context.Context, client *http.Client, address string) (trace.Identity, error) {
	var id trace.Identity
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return id, err
	}
	reply, err := client.Do(r)
	if err != nil {
		return id, err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return id, fmt.Errorf("status %d", reply.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(reply.Body, replyLimitBytes)).Decode(&id); err != nil {
		return id, err
	}
	return id, id.Check()
}

// failureLimitBytes keeps lines short.
const failureLimitBytes = 120

// failure says in short why there was no answer.
func failure(err error) string {
	var at *url.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), os.IsTimeout(err):
		return "no answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH):
		return "nobody has the address"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection broke"
	case errors.As(err, &at):
		err = at.Err
	}
	text := err.Error()
	return text[:min(len(text), failureLimitBytes)]
}

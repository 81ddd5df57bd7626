package hostdtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/hostd"
	"ringfence/internal/hostd/hostdtest"
)

// exchange sends one request to a handler in a bubble of synctest.
func exchange(t *testing.T, h http.HandlerFunc, test func(ask func(context.Context) (*http.Response, error))) {
	synctest.Test(t, func(t *testing.T) {
		transport := &hostdtest.Transport{Handler: h, Caller: hostd.Caller{Remote: "n1"}}
		test(func(ctx context.Context) (*http.Response, error) {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://192.0.2.7:7411/v1/x?since=3", strings.NewReader("question"))
			if err != nil {
				t.Fatal(err)
			}
			return (&http.Client{Transport: transport}).Do(r)
		})
		transport.Wait()
	})
}

func TestAnAnswerArrivesAsItWasGiven(t *testing.T) {
	exchange(t, func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		w.Header().Set("X-Test", "kept")
		w.WriteHeader(http.StatusConflict)
		_, _ = fmt.Fprint(w, r.Method, r.RequestURI, r.RemoteAddr, string(data), err)
		w.WriteHeader(http.StatusOK)
		w.Header().Set("X-Test", "too late")
		_, _ = io.WriteString(w, strings.Repeat("x", 100_000))
	}, func(ask func(context.Context) (*http.Response, error)) {
		res, err := ask(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		data, err := io.ReadAll(res.Body)
		if want := "POST/v1/x?since=3n1question<nil>" + strings.Repeat("x", 100_000); err != nil || string(data) != want {
			t.Errorf("answer of %d bytes, want %d; error %v", len(data), len(want), err)
		}
		if res.StatusCode != http.StatusConflict || res.Header.Get("X-Test") != "kept" {
			t.Errorf("head %s %v", res.Status, res.Header)
		}
	})
}

// What is flushed can be read while the handler goes on.
func TestAStreamFlows(t *testing.T) {
	var lines chan string
	exchange(t, func(w http.ResponseWriter, _ *http.Request) {
		rc := http.NewResponseController(w)
		if err := rc.Flush(); err != nil {
			t.Error(err)
		}
		for line := range lines {
			_, err := fmt.Fprintln(w, line)
			if err := errors.Join(err, rc.Flush()); err != nil {
				t.Error(err)
			}
		}
	}, func(ask func(context.Context) (*http.Response, error)) {
		lines = make(chan string) // of the bubble
		res, err := ask(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		in := bufio.NewReader(res.Body)
		for _, want := range []string{"one", "two", "three"} {
			lines <- want
			if got, err := in.ReadString('\n'); err != nil || got != want+"\n" {
				t.Errorf("line %q, error %v, want %q", got, err, want)
			}
		}
		close(lines)
		if rest, err := io.ReadAll(in); err != nil || len(rest) != 0 {
			t.Errorf("rest %q, error %v", rest, err)
		}
	})
}

func TestAClientThatGivesUpEndsTheHandler(t *testing.T) {
	var failed error
	exchange(t, func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		_, _ = io.WriteString(w, "nobody reads this")
		failed = http.NewResponseController(w).Flush()
	}, func(ask func(context.Context) (*http.Response, error)) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		if _, err := ask(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
	if failed == nil {
		t.Error("the handler could write")
	}
	exchange(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}, func(ask func(context.Context) (*http.Response, error)) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		res, err := ask(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if _, err := io.ReadAll(res.Body); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

func TestAClientThatDoesNotReadMeetsTheWriteDeadline(t *testing.T) {
	var failed error
	exchange(t, func(w http.ResponseWriter, _ *http.Request) {
		rc := http.NewResponseController(w)
		if err := errors.Join(rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Now().Add(time.Second))); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, "unread")
		failed = rc.Flush()
	}, func(ask func(context.Context) (*http.Response, error)) {
		res, err := ask(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		time.Sleep(time.Minute)
	})
	if !errors.Is(failed, os.ErrDeadlineExceeded) {
		t.Errorf("error %v", failed)
	}
}

package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/fencevirt"
	"ringfence/internal/fencevirt/conf"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/mem"
)

// lister is a hypervisor that does not answer before a time.
type lister struct {
	hypervisor.Driver
	until time.Time
}

var errDown = errors.New("connection refused")

func (l *lister) List(context.Context) ([]hypervisor.Guest, error) {
	if time.Now().Before(l.until) {
		return nil, errDown
	}
	return nil, nil
}

// oldServer notes what it is told.
type oldServer struct {
	said    chan string
	refuses error
}

func (s *oldServer) Run(ctx context.Context) error {
	s.said <- "run"
	<-ctx.Done()
	return nil
}

func (s *oldServer) Reload(cfg fencevirt.Config) error {
	s.said <- fmt.Sprint("reload ", cfg.Listeners[0].Dir)
	return s.refuses
}

func (s *oldServer) Status() fencevirt.Status { return fencevirt.Status{} }

func (s *oldServer) Close() error {
	s.said <- "close"
	return nil
}

const serialConf = `fence_virtd { listener = "serial"; backend = "libvirt"; }
listeners { serial { path = "%s"; nothing = "x"; } } backends { libvirt { uri = "%s"; } }`

// TestABadFileKeepsTheOldOne: whatever is wrong with the file at a reload, the
// server goes on with what it had, and the log says so.
func TestABadFileKeepsTheOldOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.conf")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	server := &oldServer{said: make(chan string, 10)}
	reload, states := make(chan struct{}), make(chan string, 10)
	o := HostdOptions{
		Load: func() (conf.File, error) { return conf.Read(path) }, Reload: reload,
		Ready: func() { states <- "ready" }, Reloading: func() { states <- "reloading" }, Log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	write(fmt.Sprintf(serialConf, "/a", "test:///x"))
	file, err := o.Load()
	if err != nil {
		t.Fatal(err)
	}
	serve := func(fencevirt.Config, hypervisor.Driver, *slog.Logger) (fenceVirtServer, error) { return server, nil }
	parts, err := openParts(t.Context(), o, file, &lister{}, serve)
	if err != nil || len(parts) != 1 {
		t.Fatal(parts, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- runParts(ctx, parts) }()
	said := []string{<-server.said} // it runs
	go func() { reloadParts(ctx, o, parts); ended <- nil }()
	again := func(text string) {
		write(text)
		reload <- struct{}{}
		for _, want := range []string{"reloading", "ready"} {
			if got := <-states; got != want {
				t.Errorf("state %s, want %s", got, want)
			}
		}
	}
	again(fmt.Sprintf(serialConf, "/b", "test:///x"))
	again("no configuration")
	again(fmt.Sprintf(serialConf, "/c", "test:///other"))
	server.refuses = errors.New("no such socket")
	again(fmt.Sprintf(serialConf, "/d", "test:///x"))
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for len(server.said) > 0 {
		said = append(said, <-server.said)
	}
	if diff := cmp.Diff([]string{"run", "reload /b", "reload /d"}, said); diff != "" {
		t.Error(diff)
	}
	for _, want := range []string{
		"f.conf:1:4: found \\\"configuration\\\" after \\\"no\\\"", "other hypervisor URIs need a restart", "no such socket", "unknown key",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, log.String())
		}
	}
}

// TestStartsWhollyOrNotAtAll: what was opened is closed when the rest cannot be.
func TestStartsWhollyOrNotAtAll(t *testing.T) {
	server := &oldServer{said: make(chan string, 10)}
	o := HostdOptions{
		Load: func() (conf.File, error) { return conf.File{}, nil }, Data: filepath.Join(t.TempDir(), "none"), Log: slog.New(slog.DiscardHandler),
	}
	serve := func(fencevirt.Config, hypervisor.Driver, *slog.Logger) (fenceVirtServer, error) { return server, nil }
	if _, err := openParts(t.Context(), o, conf.File{}, &lister{}, serve); err == nil {
		t.Fatal("a host directory that is missing is no fault")
	}
	if got := <-server.said; got != "close" {
		t.Error(got)
	}
	o.Data = ""
	if _, err := openParts(t.Context(), o, conf.File{}, &lister{}, serve); err == nil || !strings.Contains(err.Error(), "nothing to serve") {
		t.Errorf("got %v", err)
	}
}

// TestWaitsForTheHypervisor: only where it was told to.
func TestWaitsForTheHypervisor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		after := func(d time.Duration) *lister { return &lister{until: time.Now().Add(d)} }
		took := func(ctx context.Context, d *lister, wait bool) (time.Duration, error) {
			began := time.Now()
			err := awaitHypervisor(ctx, d, wait, log)
			return time.Since(began), err
		}
		if d, err := took(t.Context(), after(time.Second), false); err != nil || d > time.Second+firstAskPause {
			t.Errorf("a driver that connects: %v after %s", err, d)
		}
		if d, err := took(t.Context(), after(time.Hour), false); !errors.Is(err, errDown) || d != firstAnswerLimit {
			t.Errorf("one that is away: %v after %s", err, d)
		}
		if d, err := took(t.Context(), after(time.Minute), true); err != nil || d > time.Minute+waitPause {
			t.Errorf("one that is waited for: %v after %s", err, d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 17*time.Second)
		defer cancel()
		if d, err := took(ctx, after(time.Hour), true); !errors.Is(err, context.DeadlineExceeded) || d != 17*time.Second {
			t.Errorf("the end: %v after %s", err, d)
		}
	})
}

// TestDoctorCanAskWhatIsServed while the server runs, and no longer.
func TestDoctorCanAskWhatIsServed(t *testing.T) {
	cfg := fencevirt.Config{Version: "v9", Listeners: []fencevirt.Listener{{
		Kind: fencevirt.KindTCP, Where: "f:1", Address: netip.MustParseAddr("127.0.0.1"), Keys: []fencevirt.Key{{}},
	}}}
	server, err := serveFenceVirt(cfg, mem.New("boot"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	socket := fmt.Sprintf("@ringfence/test-%d", os.Getpid())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runWithStatus(ctx, server, socket, slog.New(slog.DiscardHandler)) }()
	var status fencevirt.Status
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if status, err = fencevirt.AskStatus(t.Context(), socket); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if status.PID != os.Getpid() || status.Version != "v9" || len(status.Listeners) != 1 || status.Listeners[0].Where != "f:1" {
		t.Errorf("%+v", status)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := fencevirt.AskStatus(t.Context(), socket); err == nil {
		t.Error("it is answered after its end")
	}
}

package doctor

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"ringfence/internal/cluster"
	"ringfence/internal/fencevirt"
	"ringfence/internal/fencevirt/conf"
	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/libvirt/libvirttest"
)

// station is a host with a real daemon over a model of a hypervisor, and a fake
// libvirtd for doctor to ask.
type station struct {
	t      testing.TB
	config string // path
	host   *mem.Driver
	socket string
}

// settings are what differs between daemons.
type settings struct {
	key      string // content; "": testKey
	listener string // lines of [[listener]] and below it; "": multicast on br0
	keyLines string // lines of [[listener.key]]
	notRun   bool
	other    string // what runs instead of the configuration, as listener
	uris     string // a list in TOML; "": the fake libvirtd
}

func idOf(name string) cluster.GuestID { return cluster.GuestID(libvirttest.UUIDOf(name).String()) }

// newStation starts a daemon that has the guests n1, which is on, and off1.
func newStation(t testing.TB, s settings) *station {
	t.Helper()
	if s.key == "" {
		s.key = testKey
	}
	if s.listener == "" {
		s.listener = "kind = \"multicast\"\ninterfaces = [\"br0\"]"
	}
	st := &station{t: t, host: mem.New("boot", mem.Guest{ID: idOf("n1"), Name: "n1"}, mem.Guest{ID: idOf("off1"), Name: "off1"})}
	_, err := st.host.On(t.Context(), idOf("n1"))
	must(t, err)
	st.socket = fakeLibvirt(t, "n1", "off1")
	if s.uris == "" {
		s.uris = fmt.Sprintf("[%q]", uriOf(st.socket))
	}
	key := keyFile(t, s.key)
	text := func(listener string) string {
		return fmt.Sprintf("[hypervisor]\nuris = %s\n[[listener]]\n%s\n[[listener.key]]\nfile = %q\n%s\n", s.uris, listener, key, s.keyLines)
	}
	dir := t.TempDir()
	st.config = filepath.Join(dir, "hostd.toml")
	must(t, os.WriteFile(st.config, []byte(text(s.listener)), 0o600))
	if s.notRun {
		return st
	}
	runs := st.config
	if s.other != "" {
		runs = filepath.Join(dir, "other.toml")
		must(t, os.WriteFile(runs, []byte(text(s.other)), 0o600))
	}
	file, err := conf.Read(runs)
	must(t, err)
	st.run(file.Server)
	return st
}

// run runs a daemon as app does, until the test ends.
func (s *station) run(cfg fencevirt.Config) {
	log := slog.New(slog.NewTextHandler(s.t.Output(), nil))
	cfg.Version = "v0.0.0-test"
	server, err := fencevirt.New(cfg, s.host, log)
	must(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended, told := make(chan error, 1), make(chan struct{})
	go func() { ended <- server.Run(ctx) }()
	go func() {
		defer close(told)
		fencevirt.ServeStatus(ctx, fencevirt.StatusSocket, server, log)
	}()
	s.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
		<-told
	})
	eventually(s.t, "the daemon tells its status", func() bool {
		_, err := fencevirt.AskStatus(context.Background(), fencevirt.StatusSocket)
		return err == nil
	})
}

// examine has doctor look at the host. No hypervisor of the machine is asked.
func (s *station) examine(others ...string) Diagnosis {
	s.t.Helper()
	return s.examineFor("", others...)
}

func (s *station) examineFor(target string, others ...string) Diagnosis {
	s.t.Helper()
	return Host(s.t.Context(), HostOptions{Config: s.config, Target: target, OtherURIs: append([]string{}, others...)})
}

// fakeLibvirt is a libvirtd with guests, behind a socket.
func fakeLibvirt(t testing.TB, guests ...string) (socket string) {
	t.Helper()
	server := libvirttest.New(t)
	for _, name := range guests {
		server.Add(libvirttest.Guest{Name: name})
	}
	dir, err := os.MkdirTemp("", "rf") // a short path, for sockets
	must(t, err)
	socket = filepath.Join(dir, "sock")
	ln, err := net.Listen("unix", socket)
	must(t, err)
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			server.Serve(conn)
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-accepting
		os.RemoveAll(dir)
	})
	return socket
}

func uriOf(socket string) string { return "qemu+unix:///system?socket=" + socket }

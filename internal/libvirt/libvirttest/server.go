package libvirttest

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"ringfence/internal/libvirt"
	"ringfence/internal/wire/virnet"
)

// flavour is what differs between hypervisors.
type flavour struct {
	name    string // what Type answers
	driver  string // of the URI
	xmlType string
	details bool // reasons, details, other events than lifecycle; reset and jobs
}

// Server is one libvirtd with any number of connections. It is safe for concurrent
// use.
type Server struct {
	t       testing.TB
	flavour flavour
	wait    sync.WaitGroup

	mu       sync.Mutex // guards what follows
	guests   []*Guest
	files    map[string]*Guest // what was saved, by path
	lastID   int32
	conns    map[*conn]bool
	dials    int
	down     error // why nobody can connect
	hook     func(Call) Answer
	counts   map[virnet.Proc]int
	auths    []virnet.Auth
	features map[int32]bool
	pongs    int
}

// New returns a server with QEMU as hypervisor, which ends with the test.
func New(t testing.TB) *Server {
	return newServer(t, flavour{name: "QEMU", driver: "qemu", xmlType: "qemu", details: true})
}

// NewXen returns a server with Xen as hypervisor.
func NewXen(t testing.TB) *Server {
	s := newServer(t, flavour{name: "Xen", driver: "xen", xmlType: "xen"})
	s.Add(Guest{Name: "Domain-0", State: libvirt.StateRunning, Transient: true})
	return s
}

func newServer(t testing.TB, f flavour) *Server {
	s := &Server{
		t: t, flavour: f, files: map[string]*Guest{}, conns: map[*conn]bool{}, counts: map[virnet.Proc]int{},
		auths:    []virnet.Auth{virnet.AuthNone},
		features: map[int32]bool{virnet.FeatureKeepalive: true, virnet.FeatureEventCallback: true, virnet.FeatureCloseCallback: true},
	}
	t.Cleanup(s.Close)
	return s
}

// isDomain0 reports whether it is Xen's own guest, with ID 0 and UUID 0.
func (s *Server) isDomain0(g *Guest) bool { return s.flavour.driver == "xen" && g.Name == "Domain-0" }

// URI returns a URI for clients; they need Dial with it.
func (s *Server) URI() libvirt.URI {
	uri, err := libvirt.ParseURI(s.flavour.driver + ":///system")
	if err != nil {
		s.t.Fatal(err)
	}
	return uri
}

// Dial is for libvirt.Options.Dial: it connects by a pipe, wherever to.
func (s *Server) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	err := s.down
	s.dials++
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	s.Serve(ours)
	return theirs, nil
}

// Serve serves one connection until it ends, and returns at once.
func (s *Server) Serve(raw net.Conn) {
	c := &conn{
		s: s, raw: raw, out: make(chan []byte, outLimit), done: make(chan struct{}), slots: make(chan struct{}, callLimit), serials: map[uint32]bool{},
	}
	s.mu.Lock()
	s.conns[c] = true
	s.mu.Unlock()
	s.wait.Go(c.read)
	s.wait.Go(c.write)
}

// Dials returns how often somebody tried to connect.
func (s *Server) Dials() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

// Count returns how often a procedure was called.
func (s *Server) Count(p virnet.Proc) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[p]
}

// Pongs returns how many answers to pings came.
func (s *Server) Pongs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pongs
}

// Stop drops all connections and refuses new ones until Restart, as a libvirtd
// that has ended. Guests stay.
func (s *Server) Stop() { s.setDown(errors.New("libvirttest: connection refused")) }

// Restart lets clients connect again.
func (s *Server) Restart() { s.setDown(nil) }

func (s *Server) setDown(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
	if err != nil {
		s.drop()
	}
}

// Drop drops all connections; new ones are welcome.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
}

func (s *Server) drop() {
	for c := range s.conns {
		c.close()
	}
}

// Freeze stops to read and to write on all connections, as a libvirtd that hangs.
func (s *Server) Freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.frozen.Store(true)
	}
}

// Raw writes bytes on all connections, whatever they are.
func (s *Server) Raw(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.send(b)
	}
}

// Close drops all connections and waits until nothing is left. Tests get it as a
// cleanup.
func (s *Server) Close() {
	s.Stop()
	s.wait.Wait()
}

// Authenticate makes the server want one of the ways.
func (s *Server) Authenticate(ways ...virnet.Auth) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auths = ways
}

// Lack takes a feature of the protocol away.
func (s *Server) Lack(feature int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.features, feature)
}

// Call is a call that came in.
type Call struct {
	Proc virnet.Proc
	N    int // this is the N'th of its procedure, from 1
}

// Answer says what becomes of a call; the zero value answers it as usual.
type Answer struct {
	Hang  bool          // no answer ever
	Drop  bool          // the connection ends, and the call has no effect
	After time.Duration // the call takes effect and is answered later; others overtake it
	Fail  *virnet.Error // this answer, and no effect
	Raw   []byte        // these bytes in place of an answer
	// Garbled makes the call take effect, and Body the body of its answer.
	Garbled bool
	Body    []byte
	// Lose makes the call take effect, and ends the connection without an answer.
	Lose bool
}

// Hook sets who decides what becomes of each call, nil for nobody. It must not
// call the server.
func (s *Server) Hook(hook func(Call) Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

func (s *Server) decide(p virnet.Proc) Answer {
	s.mu.Lock()
	s.counts[p]++
	c, hook := Call{p, s.counts[p]}, s.hook
	s.mu.Unlock()
	if hook == nil {
		return Answer{}
	}
	return hook(c)
}

// Emit tells an event about a guest, which need not be one of the server's, to all
// who registered for it.
func (s *Server) Emit(d libvirt.Domain, e virnet.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.Domain = d
	s.broadcast(e)
}

// tell tells an event of the server's own.
func (s *Server) tell(g *Guest, e virnet.Event) {
	if !s.flavour.details {
		if e.Proc != virnet.ProcEventLifecycle {
			return
		}
		e.Detail = 0
	}
	e.Domain = g.domain()
	s.broadcast(e)
}

func (s *Server) broadcast(e virnet.Event) {
	for c := range s.conns {
		c.event(e)
	}
}
